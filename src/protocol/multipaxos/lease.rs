//! The leader's lease. While a majority votes for no other candidate, the decisions known to the
//! leader are all there are, and it may answer reads alone (Ongaro, "Consensus: Bridging Theory and
//! Practice", §6.4; "Paxos Made Live", §5.2). The rules are §M7 and §M8.
//!
//! With each Heartbeat the leader requests a lease of the least election time-out. A replica that
//! answers gives votes and pre-votes to no other candidate for that long, counted from the receipt.
//! The leader counts from when it *sent* the Heartbeat, and uses only one part in [`SHARE`] of the
//! time. So a replica's clock may run up to twice as fast as the leader's. Nothing else in this
//! protocol depends on clocks.
//!
//! If a leader's clock stops while others elect a new leader, it would read overwritten values. So
//! the clock must continue while a machine is suspended, and the caller reads it again after the
//! read (`Protocol::lease_end`). The clocks of a virtual machine may all stop while it is paused,
//! unnoticed inside it. There, leases have to be off
//! ([`Settings::leases`](crate::types::Settings::leases)). Leases are granted all the same: they
//! keep a live leader in place.
//!
//! A grant survives a crash: the longest one ever is recorded before the first is announced, and a
//! restarted replica waits that long before it votes.
//!
//! Two majorities share a member. So while a majority has granted a lease, no majority promises
//! another ballot: there is no new leader, and only this leader's decisions. It alone counts votes,
//! so no replica knows of a decision before it does. What earlier leaders decided is at or below
//! the barrier that phase 1 found, and is decided again before the first read. (In Raft a leader
//! has to append an entry to know this; here it is known from the start, and often nothing has to
//! be decided.)

//!
//! This file has the members' side; the leader's is in `leader/lease.rs`.

use std::time::Duration;

use super::step::Step;
use super::{Context, Message, Record};
use crate::protocol::View;
use crate::types::{ReplicaId, Slot, Time, Written};

/// A leader uses one part in this many of a grant.
pub(super) const SHARE: u32 = 2;
/// No lease is longer, however long the round trips are.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// The least time-out after which a silent leader is replaced; also the length of a lease.
pub(super) fn election_timeout(cx: &Context, view: &View) -> Duration {
    let timing = cx.timing();
    timing.suspect.max(view.slowest_round_trip() * 4 + timing.gossip * 2).min(LONGEST)
}

/// The lease that a Heartbeat requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When it was sent, on the leader's clock.
    pub(super) sent: Time,
    /// The requested length.
    pub(super) lease: Duration,
}

/// The lease that this replica granted.
#[derive(Debug, Default)]
pub(super) struct Grant {
    to: Option<ReplicaId>,
    until: Time,
    /// The longest lease on record, and the record's token.
    longest: Duration,
    written: Written,
    /// No vote before this time: an earlier life may have granted a lease until then.
    not_before: Time,
}

impl Grant {
    pub(super) fn restore(&mut self, lease: Duration) {
        self.longest = self.longest.max(lease);
    }

    pub(super) fn record(&self) -> Option<Record> {
        (!self.longest.is_zero()).then_some(Record::Granted { lease: self.longest })
    }

    /// A new life begins: a lease of an earlier one may still hold.
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

    /// Grants the lease to the leader that was just heard. Every member has durably executed
    /// everything up to `forget`.
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
            // Somewhat longer, so that not every slower round trip needs a new record.
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
