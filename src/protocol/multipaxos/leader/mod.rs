//! The leader: assigns slots to proposals, counts votes, and announces decisions (§M2, §M4).
//!
//! Its Accepts do not wait for its own record. After a crash it must not propose another value at
//! the same ballot, and it cannot: no ballot is led in two lives. Its own vote counts once it is
//! durable, like any other. `lease` has the leader's side of the lease.

mod lease;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::lease::election_timeout;
use super::message::{Entry, MAX_RUN, Proposal, RUN_BYTES, take_run};
use super::step::Step;
use super::{Message, acceptor, learner, rules};
use crate::protocol::log::weight;
use crate::protocol::multipaxos::Path;
use crate::types::{Ballot, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value, Written};

/// The most undecided slots at a time.
const WINDOW: usize = 1024;
/// How many slots have to be free before proposals from a longer queue get any.
const AT_LEAST: usize = 128;
/// No more slots are opened while this many bytes are undecided.
const WINDOW_BYTES: usize = 16 << 20;
/// While this many bytes of proposals wait, others' proposals are ignored. They are forwarded
/// again.
const QUEUE_BYTES: usize = 64 << 20;

/// A slot that is proposed and not decided.
#[derive(Debug)]
struct UnderWay {
    voters: ReplicaSet,
    /// When it was last sent, and how often it was resent.
    sent: Time,
    tries: u32,
    bytes: usize,
}

/// What a leader knows of another member.
#[derive(Clone, Debug)]
struct Peer {
    /// When it last answered.
    heard: Time,
    /// Until then, on this replica's clock, it votes for no other candidate.
    lease: Time,
    /// How far it was told that all is decided.
    told: Slot,
    /// How far it has durably executed.
    saved: Slot,
}

/// A replica as the leader of its promised ballot.
///
/// Invariants:
///
/// 1. It leads only the ballot that it has promised, after a majority promised it in this life. So
///    it proposes one value for each slot and ballot.
/// 2. `under_way` holds exactly the slots above the log's `commit` and below `next`.
/// 3. `names` holds the names of all proposals in the log or in `queue`.
/// 4. Every value that an earlier ballot chose is at or below `barrier`.
#[derive(Debug)]
pub(super) struct Leader {
    next: Slot,
    barrier: Slot,
    under_way: BTreeMap<Slot, UnderWay>,
    bytes_under_way: usize,
    queue: VecDeque<Proposal>,
    queue_bytes: usize,
    names: FxHashSet<InstanceId>,
    peers: Vec<Peer>,
    next_heartbeat: Time,
}

impl Leader {
    /// Phase 1 is done: proposes again everything that may have been chosen, and then what waits.
    /// `suffix` begins at the first slot not known to be decided.
    pub(super) fn start(s: &mut Step<'_>, suffix: Vec<Entry>) -> Leader {
        s.fx.hit(Path::Elected);
        let commit = s.log.commit();
        // Votes that phase 1 superseded are in no replica's log any more.
        let decided = s.log.from(1).take_while(|(slot, _)| *slot <= commit);
        let names = decided.map(|(_, accepted)| accepted.entry.proposal).collect();
        let now = s.view.now;
        let mut leader = Leader {
            next: commit + 1,
            barrier: commit + suffix.len() as Slot,
            under_way: BTreeMap::new(),
            bytes_under_way: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            names,
            peers: vec![Peer { heard: now, lease: Time::ZERO, told: 0, saved: 0 }; s.cx.n()],
            next_heartbeat: now,
        };
        s.promised.lead(s.cx.me());
        leader.remind(s);
        let mut suffix = suffix.into_iter().peekable();
        while suffix.peek().is_some() {
            let run = take_run(&mut suffix, |entry| weight(&entry.value));
            leader.propose_run(s, run);
        }
        for proposal in s.proposals.waiting(s.cx.me()) {
            leader.enqueue(s, proposal);
        }
        leader.pump(s);
        leader
    }

    /// Assigns slots to own or forwarded proposals, unless they have one already.
    pub(super) fn propose(&mut self, s: &mut Step<'_>, proposals: Vec<Proposal>) {
        for proposal in proposals {
            self.enqueue(s, proposal);
        }
        self.pump(s);
    }

    fn enqueue(&mut self, s: &mut Step<'_>, proposal: Proposal) {
        if self.names.contains(&proposal.name) {
            s.fx.hit(Path::Duplicate);
            return;
        }
        let mine = proposal.name.replica == s.cx.me();
        if !mine && self.queue_bytes >= QUEUE_BYTES {
            return;
        }
        self.queue_bytes += weight(&Value::Batch(proposal.batch.clone()));
        self.names.insert(proposal.name);
        self.queue.push_back(proposal);
    }

    /// Proposes what waits, as far as the window allows.
    fn pump(&mut self, s: &mut Step<'_>) {
        loop {
            let room = WINDOW.saturating_sub(self.under_way.len());
            if self.queue.is_empty() {
                return;
            }
            // Once proposals have to wait, they are proposed in runs.
            let crowded = room < self.queue.len().min(AT_LEAST);
            if crowded || self.bytes_under_way >= WINDOW_BYTES {
                s.fx.hit(Path::WindowFull);
                return;
            }
            let (queue, queue_bytes) = (&mut self.queue, &mut self.queue_bytes);
            let mut waiting = std::iter::from_fn(|| queue.pop_front()).take(room).map(|proposal| {
                let value = Value::Batch(proposal.batch);
                *queue_bytes -= weight(&value);
                Entry { proposal: proposal.name, value }
            });
            let run = take_run(&mut waiting, |entry| weight(&entry.value));
            self.propose_run(s, run);
        }
    }

    /// Phase 2a for the next slots.
    fn propose_run(&mut self, s: &mut Step<'_>, entries: Vec<Entry>) {
        let (ballot, commit, me) = (s.promised.ballot(), s.log.commit(), s.cx.me());
        let first = self.next;
        let last = first + entries.len() as Slot - 1;
        self.next = last + 1;
        self.peers.iter_mut().for_each(|peer| peer.told = peer.told.max(commit));
        for (slot, entry) in (first..).zip(&entries) {
            s.proposals.note_proposed(me, entry.proposal, ballot);
            let bytes = weight(&entry.value);
            self.bytes_under_way += bytes;
            self.names.insert(entry.proposal);
            let (voters, sent) = (ReplicaSet::EMPTY, s.view.now);
            self.under_way.insert(slot, UnderWay { voters, sent, tries: 0, bytes });
        }
        // Another replica's names are durable there before it forwards them.
        let after = s.proposals.written();
        let votes = (first..).zip(entries.iter().cloned()).collect();
        s.fx.send(after, s.cx.others(), Message::Accept { ballot, commit, first, entries });
        let written = acceptor::record_votes(s, votes).expect("a run is not empty");
        s.fx.answer(written, me, Message::AcceptOk { ballot, first, last });
    }

    /// Phase 2b: counts votes, and decides what a majority voted for, in slot order.
    pub(super) fn on_accept_ok(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        ballot: Ballot,
        (first, last): (Slot, Slot),
    ) {
        if ballot != s.promised.ballot() || first > last {
            return;
        }
        self.peers[from.index()].heard = s.view.now;
        for (_, under_way) in self.under_way.range_mut(first..=last) {
            under_way.voters.insert(from);
        }
        let quorum = rules::quorum(s.cx);
        let mut waiting = ReplicaSet::EMPTY;
        while let Some(next) = self.under_way.first_entry()
            && next.get().voters.len() >= quorum
        {
            assert!(*next.key() == s.log.commit() + 1, "slots under way follow each other");
            self.bytes_under_way -= next.remove().bytes;
            waiting.insert(learner::decide_next(s));
        }
        if !waiting.is_empty() {
            self.pump(s);
            self.tell(s, waiting);
        }
    }

    /// Announces decisions to these replicas, unless an Accept did.
    fn tell(&mut self, s: &mut Step<'_>, to: ReplicaSet) {
        let (ballot, commit, me) = (s.promised.ballot(), s.log.commit(), s.cx.me());
        let behind = |who: &ReplicaId| self.peers[who.index()].told < commit && *who != me;
        let behind: ReplicaSet = to.iter().filter(behind).collect();
        if behind.is_empty() {
            return;
        }
        behind.iter().for_each(|who| self.peers[who.index()].told = commit);
        s.fx.hit(Path::CommitTold);
        s.fx.send(Written::default(), behind, Message::Commit { ballot, commit });
    }

    /// Whether a majority answered recently. Without one this leader cannot decide anything, but
    /// perhaps the replicas that do not hear it can.
    pub(super) fn is_heard(&self, s: &Step<'_>) -> bool {
        let patience = election_timeout(s.cx, s.view) * 2;
        let heard = |who: &ReplicaId| self.peers[who.index()].heard + patience >= s.view.now;
        1 + s.cx.others().iter().filter(heard).count() >= rules::quorum(s.cx)
    }

    /// The leader's periodic messages: a heartbeat, resends, and decisions.
    pub(super) fn remind(&mut self, s: &mut Step<'_>) {
        self.send_heartbeat(s);
        self.resend(s);
        self.tell_all(s);
    }

    /// Announces all decisions.
    pub(in crate::protocol::multipaxos) fn tell_all(&mut self, s: &mut Step<'_>) {
        self.tell(s, s.cx.others());
    }

    /// Resends to each replica the slots that it has not answered for too long.
    fn resend(&mut self, s: &mut Step<'_>) {
        let waits: Vec<Duration> = (0..=4).map(|tries| s.cx.resend_after(s.view, tries)).collect();
        let (ballot, commit, now) = (s.promised.ballot(), s.log.commit(), s.view.now);
        let overdue = |slot: &UnderWay| slot.sent + waits[slot.tries.min(4) as usize] <= now;
        let mut run: Vec<Entry> = Vec::new();
        let mut first = None;
        let mut voters = ReplicaSet::EMPTY;
        // One run at a time: the next tick sends the rest.
        let mut bytes = 0;
        for (slot, under_way) in &mut self.under_way {
            match first {
                None if !overdue(under_way) => continue,
                None => (first, voters) = (Some(*slot), under_way.voters),
                Some(_) if !overdue(under_way) || under_way.voters != voters => break,
                Some(_) => {}
            }
            under_way.sent = now;
            under_way.tries += 1;
            bytes += under_way.bytes;
            let accepted = s.log.get(*slot).expect("the leader votes for what it proposes");
            run.push(accepted.entry.clone());
            if bytes >= RUN_BYTES || run.len() == MAX_RUN {
                break;
            }
        }
        let Some(first) = first else { return };
        let others = s.cx.others();
        let to: ReplicaSet = others.iter().filter(|who| !voters.contains(*who)).collect();
        s.fx.hit(Path::Resent);
        let accept = Message::Accept { ballot, commit, first, entries: run };
        s.fx.send(s.proposals.written(), to, accept);
    }

    /// These entries were dropped from the log.
    pub(super) fn forget(&mut self, gone: &[Entry]) {
        for entry in gone {
            self.names.remove(&entry.proposal);
        }
    }
}
