//! The leader: gives proposals their slots, counts the votes, and tells what is decided (§M2, §M4).
//!
//! Its Accepts need not wait for its own record: what it must not do after a crash is to propose
//! another value at the same ballot, and no ballot is led in two lives. Its own vote counts once it
//! is durable, like any other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::message::{Entry, Proposal, take_run, weight};
use super::{Fx, Message, MultiPaxos, Role};
use crate::protocol::{Path, View};
use crate::types::{Ballot, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value, Written};

/// The most slots under way.
const WINDOW: usize = 1024;
/// How many slots have to be free before more than that many waiting proposals get any.
const AT_LEAST: usize = 128;
/// The bytes under way after which no more slots are opened.
const WINDOW_BYTES: usize = 16 << 20;
/// The bytes of waiting proposals after which others' are turned away. They come again.
const QUEUE_BYTES: usize = 64 << 20;

/// A slot that is proposed and not decided.
#[derive(Debug)]
struct UnderWay {
    voters: ReplicaSet,
    /// When it was sent last, and how often again.
    sent: Time,
    tries: u32,
    bytes: usize,
}

/// What a leader knows of another member.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// When it last answered.
    pub(super) heard: Time,
    /// It votes for nobody else until then, as counted here.
    pub(super) lease: Time,
    /// What it was told is decided.
    pub(super) told: Slot,
    /// What it has executed for good.
    pub(super) saved: Slot,
}

/// What a replica knows as the leader of its promised ballot.
///
/// Invariants:
///
/// 1. `under_way` holds exactly the slots above the log's `commit` and below `next`.
/// 2. `names` holds the names of all that is in the log or in `queue`.
/// 3. Whatever any earlier ballot chose lies at or below `barrier`.
#[derive(Debug)]
pub(super) struct Leading {
    next: Slot,
    pub(super) barrier: Slot,
    under_way: BTreeMap<Slot, UnderWay>,
    bytes_under_way: usize,
    queue: VecDeque<Proposal>,
    queue_bytes: usize,
    pub(super) names: FxHashSet<InstanceId>,
    pub(super) peers: Vec<Peer>,
    pub(super) next_heartbeat: Time,
}

impl Leading {
    /// How many other members answered in the last while.
    fn answering(&self, me: ReplicaId, now: Time, patience: Duration) -> usize {
        let others = self.peers.iter().enumerate().filter(|(index, _)| *index != me.index());
        others.filter(|(_, peer)| peer.heard + patience >= now).count()
    }
}

impl MultiPaxos {
    /// Phase 1 is over: everything that may have been chosen is proposed again, `suffix` from the
    /// first slot not known decided on, and then what waits.
    pub(super) fn start_leading(&mut self, view: &View, suffix: Vec<Entry>, fx: &mut Fx) {
        fx.hit(Path::MpElected);
        let first = self.log.commit() + 1;
        // Votes that phase 1 found outdone are in nobody's log any more.
        let decided = self.log.from(1).take_while(|(slot, _)| *slot < first);
        let names = decided.map(|(_, accepted)| accepted.entry.proposal).collect();
        let peer = Peer { heard: view.now, lease: Time::ZERO, told: 0, saved: 0 };
        self.role = Role::Leader(Box::new(Leading {
            next: first,
            barrier: self.log.commit() + suffix.len() as Slot,
            under_way: BTreeMap::new(),
            bytes_under_way: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            names,
            peers: vec![peer; self.n()],
            next_heartbeat: view.now,
        }));
        self.leader = Some(self.me());
        self.drive_leadership(view, fx);
        let mut suffix = suffix.into_iter().peekable();
        while suffix.peek().is_some() {
            let run = take_run(&mut suffix, |entry| weight(&entry.value));
            self.propose_run(view, run, fx);
        }
        for proposal in self.waiting() {
            self.enqueue(proposal, fx);
        }
        self.pump(view, fx);
    }

    /// A proposal waits for its slot, unless it has one already.
    pub(super) fn enqueue(&mut self, proposal: Proposal, fx: &mut Fx) {
        let Role::Leader(leading) = &mut self.role else { return };
        if leading.names.contains(&proposal.name) {
            fx.hit(Path::MpDuplicate);
            return;
        }
        let mine = proposal.name.replica == self.settings.me;
        if !mine && leading.queue_bytes >= QUEUE_BYTES {
            return;
        }
        leading.queue_bytes += weight(&Value::Batch(proposal.batch.clone()));
        leading.names.insert(proposal.name);
        leading.queue.push_back(proposal);
    }

    /// Proposes what waits, as far as the window allows.
    pub(super) fn pump(&mut self, view: &View, fx: &mut Fx) {
        loop {
            let Role::Leader(leading) = &mut self.role else { return };
            let room = WINDOW.saturating_sub(leading.under_way.len());
            if leading.queue.is_empty() {
                return;
            }
            // Once proposals have to wait, they leave in runs.
            let crowded = room < leading.queue.len().min(AT_LEAST);
            if crowded || leading.bytes_under_way >= WINDOW_BYTES {
                fx.hit(Path::MpWindowFull);
                return;
            }
            let (queue, queue_bytes) = (&mut leading.queue, &mut leading.queue_bytes);
            let mut waiting = std::iter::from_fn(|| queue.pop_front()).take(room).map(|proposal| {
                let value = Value::Batch(proposal.batch);
                *queue_bytes -= weight(&value);
                Entry { proposal: proposal.name, value }
            });
            let run = take_run(&mut waiting, |entry| weight(&entry.value));
            self.propose_run(view, run, fx);
        }
    }

    /// Phase 2a for the next slots.
    fn propose_run(&mut self, view: &View, entries: Vec<Entry>, fx: &mut Fx) {
        let (ballot, commit, me) = (self.promised, self.log.commit(), self.me());
        let others = self.others();
        for entry in &entries {
            self.note_proposed(entry.proposal);
        }
        let Role::Leader(leading) = &mut self.role else { return };
        let first = leading.next;
        let last = first + entries.len() as Slot - 1;
        leading.next = last + 1;
        leading.peers.iter_mut().for_each(|peer| peer.told = peer.told.max(commit));
        for (slot, entry) in (first..).zip(&entries) {
            let bytes = weight(&entry.value);
            leading.bytes_under_way += bytes;
            leading.names.insert(entry.proposal);
            let voters = ReplicaSet::EMPTY;
            leading.under_way.insert(slot, UnderWay { voters, sent: view.now, tries: 0, bytes });
        }
        // What another replica calls it, that one has made durable itself.
        let after = self.own.written();
        let votes = (first..).zip(entries.iter().cloned()).collect();
        fx.send(after, others, Message::Accept { ballot, commit, first, entries });
        let written = self.accept_all(ballot, votes, fx).expect("a run is not empty");
        fx.answer(written, me, Message::AcceptOk { ballot, first, last });
    }

    /// Phase 2b: counts votes.
    pub(super) fn on_accept_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        (first, last): (Slot, Slot),
        fx: &mut Fx,
    ) {
        let promised = self.promised;
        let Role::Leader(leading) = &mut self.role else { return };
        if ballot != promised || first > last {
            return;
        }
        leading.peers[from.index()].heard = view.now;
        for (_, under_way) in leading.under_way.range_mut(first..=last) {
            under_way.voters.insert(from);
        }
        self.decide_some(view, fx);
    }

    /// Decides what a majority voted for, in the order of the slots.
    fn decide_some(&mut self, view: &View, fx: &mut Fx) {
        let quorum = self.quorum();
        let mut waiting = ReplicaSet::EMPTY;
        let mut any = false;
        while let Role::Leader(leading) = &mut self.role
            && let Some(next) = leading.under_way.first_entry()
            && next.get().voters.len() >= quorum
        {
            assert!(*next.key() == self.log.commit() + 1, "slots under way follow each other");
            leading.bytes_under_way -= next.remove().bytes;
            waiting.insert(self.decide_next(fx));
            any = true;
        }
        if any {
            self.pump(view, fx);
            self.tell(waiting, fx);
        }
    }

    /// Tells those what is decided, unless an Accept did.
    fn tell(&mut self, to: ReplicaSet, fx: &mut Fx) {
        let (ballot, commit, me) = (self.promised, self.log.commit(), self.me());
        let Role::Leader(leading) = &mut self.role else { return };
        let behind = |who: &ReplicaId| leading.peers[who.index()].told < commit && *who != me;
        let behind: ReplicaSet = to.iter().filter(behind).collect();
        if behind.is_empty() {
            return;
        }
        behind.iter().for_each(|who| leading.peers[who.index()].told = commit);
        fx.hit(Path::MpCommitTold);
        fx.send(Written::default(), behind, Message::Commit { ballot, commit });
    }

    /// What a leader does as time passes.
    pub(super) fn drive_leadership(&mut self, view: &View, fx: &mut Fx) {
        let me = self.me();
        let patience = self.election_timeout(view) * 2;
        let Some(leading) = self.leading() else { return };
        if 1 + leading.answering(me, view.now, patience) < self.quorum() {
            // It cannot decide anything; perhaps those that do not hear it can.
            fx.hit(Path::MpSteppedDown);
            self.follow_nobody();
            self.postpone_election(view);
            return;
        }
        self.send_heartbeat(view, fx);
        self.resend(view, fx);
        self.tell(self.others(), fx);
    }

    /// Sends again what was not answered for too long, to those who did not answer.
    fn resend(&mut self, view: &View, fx: &mut Fx) {
        let waits: Vec<Duration> = (0..=4).map(|tries| self.resend_after(view, tries)).collect();
        let (ballot, commit, after) = (self.promised, self.log.commit(), self.own.written());
        let others = self.others();
        let Role::Leader(leading) = &mut self.role else { return };
        let overdue = |slot: &UnderWay| slot.sent + waits[slot.tries.min(4) as usize] <= view.now;
        let mut run: Vec<Entry> = Vec::new();
        let mut first = None;
        let mut voters = ReplicaSet::EMPTY;
        // One run at a time: what else is overdue comes with the next tick.
        let mut bytes = 0;
        for (slot, under_way) in &mut leading.under_way {
            match first {
                None if !overdue(under_way) => continue,
                None => (first, voters) = (Some(*slot), under_way.voters),
                Some(_) if !overdue(under_way) || under_way.voters != voters => break,
                Some(_) => {}
            }
            under_way.sent = view.now;
            under_way.tries += 1;
            bytes += under_way.bytes;
            let accepted = self.log.get(*slot).expect("the leader votes for what it proposes");
            run.push(accepted.entry.clone());
            if bytes >= super::message::RUN_BYTES || run.len() == super::MAX_RUN {
                break;
            }
        }
        let Some(first) = first else { return };
        let to: ReplicaSet = others.iter().filter(|who| !voters.contains(*who)).collect();
        fx.hit(Path::MpResent);
        fx.send(after, to, Message::Accept { ballot, commit, first, entries: run });
    }
}
