//! The leader's side of its lease: requests one with each Heartbeat, counts the grants, and so
//! knows whether it may answer reads alone (§M7). `lease` explains why that is safe.

use super::Leader;
use crate::protocol::View;
use crate::protocol::multipaxos::lease::{Asked, LONGEST, SHARE, election_timeout};
use crate::protocol::multipaxos::log::Log;
use crate::protocol::multipaxos::step::Step;
use crate::protocol::multipaxos::{Context, Message, rules};
use crate::types::{Ballot, ReplicaId, Slot, Time, Written};

impl Leader {
    pub(super) fn send_heartbeat(&mut self, s: &mut Step<'_>) {
        let (others, commit) = (s.cx.others(), s.log.commit());
        if s.view.now < self.next_heartbeat || others.is_empty() {
            return;
        }
        self.next_heartbeat = s.view.now + s.cx.timing().gossip;
        self.peers[s.cx.me().index()].saved = s.log.saved();
        self.peers.iter_mut().for_each(|peer| peer.told = peer.told.max(commit));
        let forget = self.peers.iter().map(|peer| peer.saved).min().unwrap_or_default();
        let heartbeat = Message::Heartbeat {
            ballot: s.promised.ballot(),
            commit,
            forget: s.log.note_forgettable(forget),
            barrier: self.barrier,
            sent: s.view.now,
            lease: election_timeout(s.cx, s.view),
        };
        s.fx.send(Written::default(), others, heartbeat);
    }

    /// A member granted a lease, and reports how far it has executed.
    pub(in crate::protocol::multipaxos) fn on_heartbeat_ok(
        &mut self,
        s: &Step<'_>,
        from: ReplicaId,
        ballot: Ballot,
        granted: Asked,
        saved: Slot,
    ) {
        let (now, lease) = (s.view.now, granted.lease.min(LONGEST));
        let sent = if s.cx.rules.leases_count_from_asking() { granted.sent } else { now };
        if ballot != s.promised.ballot() || sent > now {
            return;
        }
        let peer = &mut self.peers[from.index()];
        peer.heard = now;
        peer.lease = peer.lease.max(sent + lease / SHARE);
        // No member can have executed undecided slots.
        peer.saved = peer.saved.max(saved.min(s.log.commit()));
    }

    /// Until when a majority votes for no other candidate; zero if no majority has granted a lease.
    pub(in crate::protocol::multipaxos) fn lease_until(&self, cx: &Context) -> Option<Time> {
        let others = rules::quorum(cx) - 1;
        if others == 0 {
            return Some(Time::from_nanos(u64::MAX));
        }
        let leases = cx.others().iter().map(|who| self.peers[who.index()].lease);
        let mut leases: Vec<Time> = leases.collect();
        leases.sort_unstable();
        leases.len().checked_sub(others).map(|at| leases[at])
    }

    /// Whether no other replica can lead.
    pub(in crate::protocol::multipaxos) fn holds_lease(&self, cx: &Context, view: &View) -> bool {
        self.lease_until(cx).is_some_and(|until| view.now < until)
    }

    /// The slot up to which everything was decided when the clock was read for `view.now`; no
    /// replica knew of a later decision. So a read is linearizable if it arrived *before* the clock
    /// was read.
    pub(in crate::protocol::multipaxos) fn read_point(
        &self,
        cx: &Context,
        view: &View,
        log: &Log,
    ) -> Option<Slot> {
        let barrier = if cx.rules.reads_wait_for_the_barrier() { self.barrier } else { 0 };
        let commit = log.commit();
        let may_read = !cx.rules.reads_need_a_lease() || self.holds_lease(cx, view);
        (commit >= barrier && may_read).then_some(commit)
    }
}
