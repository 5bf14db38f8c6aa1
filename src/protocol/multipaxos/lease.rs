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

//!
//! Here is what members do; the leader's side is in `leader/lease.rs`.

use std::time::Duration;

use super::step::Step;
use super::{Context, Message, Record};
use crate::protocol::View;
use crate::types::{ReplicaId, Slot, Time, Written};

/// Of what it was granted, a leader uses one part in so many.
pub(super) const SHARE: u32 = 2;
/// No lease is longer, however far the members are apart.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// The least time-out after which a silent leader is replaced, and what it is granted.
pub(super) fn election_timeout(cx: &Context, view: &View) -> Duration {
    let timing = cx.timing();
    timing.suspect.max(view.slowest_round_trip() * 4 + timing.gossip * 2).min(LONGEST)
}

/// What a Heartbeat asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When, on the leader's clock.
    pub(super) sent: Time,
    /// For how long.
    pub(super) lease: Duration,
}

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
    pub(super) fn resume(&mut self, cx: &Context, now: Time) {
        if cx.rules.grants_outlive_a_crash() {
            self.not_before = now + self.longest;
        } else {
            *self = Grant::default();
        }
    }

    /// From when on this replica may vote for `candidate`.
    pub(super) fn free_for(&self, candidate: ReplicaId) -> Time {
        match self.to {
            Some(leader) if leader != candidate => self.until.max(self.not_before),
            _ => self.not_before,
        }
    }

    /// Grants the leader that was just heard its lease; everything up to `forget` is executed for
    /// good by every member.
    pub(super) fn on_heartbeat(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        asked: Asked,
        forget: Slot,
    ) {
        let Asked { sent, lease } = asked;
        let lease = lease.min(LONGEST);
        if lease > self.longest {
            // Somewhat more, so that not every slower round trip leaves a record.
            let lease = (lease * 5 / 4).min(LONGEST);
            self.longest = lease;
            self.written = s.fx.append(Record::Granted { lease });
        }
        if self.to != Some(from) {
            self.until = Time::ZERO;
        }
        self.to = Some(from);
        self.until = self.until.max(s.view.now + lease);
        s.log.note_forgettable(forget);
        let (ballot, saved) = (s.promised.ballot(), s.log.saved());
        let after = self.written.max(s.promised.written());
        s.fx.answer(after, from, Message::HeartbeatOk { ballot, sent, lease, saved });
    }
}
