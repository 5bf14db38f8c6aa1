//! The leader's lease: while a majority votes for nobody else, what the leader knows as decided is
//! all that is decided, and it may answer reads alone (Ongaro, "Consensus: Bridging Theory and
//! Practice", §6.4; "Paxos Made Live", §5.2). The rules are §M7 and §M8.
//!
//! With each Heartbeat the leader asks for a lease of the least election time-out. Who answers
//! votes and pre-votes for nobody else for as long, counted from the receipt. The leader counts
//! from when it *sent* the Heartbeat, and for [`SHARE`] of the time: so a replica's clock may run
//! up to twice as fast as the leader's. Nothing else in this protocol depends on clocks.
//!
//! A leader whose clock stands still while others elect a new one would read what is long
//! overwritten. So the clock has to go on while a machine is suspended, and whoever answers reads
//! it once more after the read (`Protocol::lease_end`). A virtual machine's clocks may all stand
//! still while it is paused, and nothing inside it can tell: there, leases have to be off
//! ([`Settings::leases`](crate::types::Settings::leases)). Grants go on all the same: they keep a
//! leader that lives in its place.
//!
//! A grant outlives a crash: the longest one ever is recorded before the first is told, and a
//! replica that comes back waits as long before it votes.
//!
//! A majority that promises a ballot to another has a member in common with the one that granted:
//! no new leader, so no decision but this leader's own; and this leader alone counts votes, so
//! nobody knows of a decision before it does. What earlier leaders decided lies at or below the
//! barrier that phase 1 found, and is decided again before the first read. (Raft has to append an
//! entry to know as much; here it is known from the start, and often nothing has to be decided.)

use std::time::Duration;

use super::{Fx, Message, MultiPaxos, Record, Role};
use crate::protocol::{Path, View};
use crate::types::{Ballot, ReplicaId, Slot, Time, Written};

/// Of what it was granted, a leader uses one part in so many.
const SHARE: u32 = 2;
/// No lease is longer, however far the members are apart.
const LONGEST: Duration = Duration::from_secs(30);

/// What this replica granted.
#[derive(Debug, Default)]
pub(super) struct Grant {
    to: Option<ReplicaId>,
    until: Time,
    /// The longest one on record, and the record's token.
    longest: Duration,
    written: Written,
    /// Nobody is voted for before: an earlier life may have granted until then.
    not_before: Time,
}

impl Grant {
    pub(super) fn restore(&mut self, lease: Duration) {
        self.longest = self.longest.max(lease);
    }

    pub(super) fn record(&self) -> Option<Record> {
        (!self.longest.is_zero()).then_some(Record::Granted { lease: self.longest })
    }

    /// A new life begins: what an earlier one granted may still hold.
    pub(super) fn wait_out(&mut self, now: Time) {
        self.not_before = now + self.longest;
    }

    /// From when on this replica may vote for `candidate`.
    pub(super) fn free_for(&self, candidate: ReplicaId) -> Time {
        match self.to {
            Some(leader) if leader != candidate => self.until.max(self.not_before),
            _ => self.not_before,
        }
    }
}

impl MultiPaxos {
    /// The least time-out after which a silent leader is replaced, and what it is granted.
    pub(super) fn election_timeout(&self, view: &View) -> Duration {
        let timing = &self.settings.timing;
        timing.suspect.max(view.slowest_round_trip() * 4 + timing.gossip * 2).min(LONGEST)
    }

    /// Whether a vote for `candidate` breaks no word given to a leader.
    pub(super) fn may_vote(&self, view: &View, candidate: ReplicaId) -> bool {
        let leads = matches!(self.role, Role::Leader(_)) && candidate != self.me();
        !leads && self.grant.free_for(candidate) <= view.now
    }

    pub(super) fn send_heartbeat(&mut self, view: &View, fx: &mut Fx) {
        let (ballot, commit, me) = (self.promised, self.log.commit(), self.me());
        let (saved, gossip) = (self.saved, self.settings.timing.gossip);
        let (lease, others) = (self.election_timeout(view), self.others());
        let Role::Leader(leading) = &mut self.role else { return };
        if view.now < leading.next_heartbeat || others.is_empty() {
            return;
        }
        leading.next_heartbeat = view.now + gossip;
        leading.peers[me.index()].saved = saved;
        leading.peers.iter_mut().for_each(|peer| peer.told = peer.told.max(commit));
        let forget = leading.peers.iter().map(|peer| peer.saved).min().unwrap_or_default();
        self.forgettable = self.forgettable.max(forget);
        let (forget, barrier, sent) = (self.forgettable, leading.barrier, view.now);
        let heartbeat = Message::Heartbeat { ballot, commit, forget, barrier, sent, lease };
        fx.send(Written::default(), others, heartbeat);
    }

    /// Grants the leader that was just heard its lease.
    pub(super) fn on_heartbeat(
        &mut self,
        view: &View,
        from: ReplicaId,
        (sent, lease): (Time, Duration),
        forget: Slot,
        fx: &mut Fx,
    ) {
        let lease = lease.min(LONGEST);
        if lease > self.grant.longest {
            // Somewhat more, so that not every slower round trip leaves a record.
            let lease = (lease * 5 / 4).min(LONGEST);
            self.grant.longest = lease;
            self.grant.written = fx.append(Record::Granted { lease });
        }
        if self.grant.to != Some(from) {
            self.grant.until = Time::ZERO;
        }
        self.grant.to = Some(from);
        self.grant.until = self.grant.until.max(view.now + lease);
        self.forgettable = self.forgettable.max(forget);
        let (ballot, saved) = (self.promised, self.saved);
        let after = self.grant.written.max(self.promise_written);
        fx.answer(after, from, Message::HeartbeatOk { ballot, sent, lease, saved });
    }

    /// A member granted a lease, and says how far it is.
    pub(super) fn on_heartbeat_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        (sent, lease): (Time, Duration),
        saved: Slot,
    ) {
        let (promised, commit) = (self.promised, self.log.commit());
        #[cfg(test)]
        let sent = if self.planted(super::Plant::LeaseFromReceipt) { view.now } else { sent };
        let Role::Leader(leading) = &mut self.role else { return };
        if ballot != promised || sent > view.now {
            return;
        }
        let peer = &mut leading.peers[from.index()];
        peer.heard = view.now;
        peer.lease = peer.lease.max(sent + lease.min(LONGEST) / SHARE);
        // Nobody can have executed what is not decided.
        peer.saved = peer.saved.max(saved.min(commit));
    }

    /// Until when a majority votes for nobody else, if this replica leads.
    pub(super) fn lease_until(&self) -> Option<Time> {
        let leading = self.leading()?;
        let others = self.quorum() - 1;
        if others == 0 {
            return Some(Time::from_nanos(u64::MAX));
        }
        let mut leases: Vec<Time> =
            self.others().iter().map(|who| leading.peers[who.index()].lease).collect();
        leases.sort_unstable();
        leases.len().checked_sub(others).map(|at| leases[at])
    }

    /// Whether this replica leads, and nobody else can.
    pub(super) fn holds_lease(&self, view: &View) -> bool {
        self.lease_until().is_some_and(|until| view.now < until)
    }

    /// Everything up to here was decided when `view.now` was read from the clock, and nothing else
    /// was known anywhere. So a read is linearizable if it arrived *before* the clock was read.
    pub(super) fn lease_read_point(&self, view: &View) -> Option<Slot> {
        let barrier = self.leading()?.barrier;
        #[cfg(test)]
        let barrier = if self.planted(super::Plant::NoBarrier) { 0 } else { barrier };
        let commit = self.log.commit();
        #[cfg(test)]
        if self.planted(super::Plant::ExpiredLease) {
            return (commit >= barrier).then_some(commit);
        }
        (commit >= barrier && self.holds_lease(view)).then_some(commit)
    }

    /// Somebody has promised a higher ballot, so it cannot vote at this one.
    pub(super) fn on_reject(&mut self, view: &View, ballot: Ballot, fx: &mut Fx) {
        self.election.note(ballot);
        if ballot <= self.promised {
            return;
        }
        match &self.role {
            Role::Follower => {}
            // No other leader can be: whoever promised it was a candidate that came to nothing. A
            // ballot above brings it back.
            Role::Leader(_) if self.holds_lease(view) => {
                fx.hit(Path::MpLedAgain);
                self.start_phase_1(view, fx);
            }
            Role::Leader(_) => {
                fx.hit(Path::MpSteppedDown);
                self.follow_nobody();
                self.postpone_election(view);
            }
            // It asks at a higher one, later.
            Role::Candidate(_) => {}
        }
    }
}
