//! The proposer: takes the lowest slot it knows to be free through both phases, and another if that
//! slot turns out to be taken (§P1, §P3). It works on several slots at a time, each independently.
//!
//! A value of this replica waits in one slot at a time. It leaves a slot only if the slot has
//! decided another value, or if no acceptor was asked to vote for it there. So it is decided twice
//! only if a crash or a snapshot came between.
//!
//! A proposer that loses a slot before its value was put to the vote has hindered no other and need
//! not wait: it takes another slot, and the proposer of the highest ballot finishes this one. Two
//! measures prevent that the same proposer always loses. First, the more slots a value has lost,
//! the higher its ballots begin. Second, such a value aims ahead. A distant proposer hears late
//! which slots are taken, and its requests arrive late, so the lowest slot that it considers free
//! never is. So it skips as many free slots as others have filled during its last attempt. If a
//! value was put to the vote, its proposer has to stay, and backs off for a random time if another
//! is at work there (§P5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::acceptor::Acceptor;
use super::learner::Learner;
use super::{Message, Path, Step, rules};
use crate::protocol::log::Choice;
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value};

/// The most slots in which a replica proposes at a time.
const PIPELINE: usize = 16;
/// How many slots after the decided prefix are checked for ones that others left undecided.
const GAPS: Slot = 128;
/// First rounds are drawn from this many, so that not the same one of two proposers always wins.
const FIRST_ROUNDS: u32 = 8;
/// Losses beyond this number do not raise a value's ballots further.
const MOST_LOSSES: u32 = 8;
/// The longest back-off is two round trips doubled this often: enough for eight proposers to finish
/// both phases one after the other.
const MOST_DOUBLINGS: u32 = 3;

/// The values and slots of a replica's proposer.
///
/// Invariant: each name in `own` is in `queue`, or is the `mine` of exactly one attempt.
#[derive(Debug)]
pub(super) struct Proposer {
    rng: ChaCha8Rng,
    /// Own values not known to be decided.
    own: BTreeMap<InstanceId, Own>,
    /// Those of them that are in no slot.
    queue: VecDeque<InstanceId>,
    attempts: BTreeMap<Slot, Attempt>,
    /// The number of decisions learned for others' values.
    others: u64,
    /// How many slots others fill while this replica tries to get one.
    ahead: u64,
    /// Since when no other proposer was heard in an open slot.
    quiet: BTreeMap<Slot, Time>,
    /// A random delay that this replica adds before it fills gaps.
    gap_jitter: Duration,
}

/// A value of this replica.
#[derive(Debug)]
struct Own {
    batch: Arc<Batch>,
    /// How many slots it has lost.
    losses: u32,
}

/// A slot in which this replica leads a ballot.
#[derive(Debug)]
struct Attempt {
    ballot: Ballot,
    phase: Phase,
    /// This replica's value that is to go into this slot, if any.
    mine: Option<InstanceId>,
    /// Whether acceptors were asked to vote for it.
    is_exposed: bool,
    /// How often another proposer interfered here.
    collisions: u32,
    /// Whether later slots wait for this one. Then it has to be decided, with any value.
    is_gap: bool,
    /// The value of [`Proposer::others`] when the ballot began.
    others: u64,
    /// When it last sent a message.
    sent: Time,
}

#[derive(Debug)]
enum Phase {
    /// Phase 1, with the vote of the highest ballot found so far.
    Prepare { promises: ReplicaSet, found: Option<(Ballot, Choice)> },
    /// Phase 2.
    Accept { choice: Choice },
    /// Another proposer is at work, with a higher ballot; starts phase 1 again later.
    BackOff { until: Time, above: Ballot },
}

/// What the other parts know, for reading.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) acceptor: &'a Acceptor,
    pub(super) learner: &'a Learner,
}

impl Known<'_> {
    /// The highest ballot seen in a slot; `None` if no proposer is known to have used it.
    fn ballot(self, slot: Slot) -> Option<Ballot> {
        self.acceptor.promised(slot).max(self.learner.ballot(slot))
    }
}

impl Proposer {
    pub(super) fn new(seed: u64) -> Proposer {
        Proposer {
            rng: ChaCha8Rng::seed_from_u64(seed),
            own: BTreeMap::new(),
            queue: VecDeque::new(),
            attempts: BTreeMap::new(),
            others: 0,
            ahead: 0,
            quiet: BTreeMap::new(),
            gap_jitter: Duration::ZERO,
        }
    }

    /// How many own proposals are in progress.
    pub(super) fn undecided(&self) -> usize {
        self.own.len()
    }

    /// A value has lost its slot.
    fn give_back(&mut self, mine: Option<InstanceId>) {
        let Some(name) = mine else { return };
        if let Some(own) = self.own.get_mut(&name) {
            own.losses = own.losses.saturating_add(1);
            self.queue.push_front(name);
        }
    }

    /// Another proposer is at work in a slot.
    pub(super) fn hear(&mut self, slot: Slot, now: Time) {
        if let Some(since) = self.quiet.get_mut(&slot) {
            *since = now;
        }
    }

    fn losses(&self, mine: Option<InstanceId>) -> u32 {
        mine.and_then(|name| self.own.get(&name)).map_or(0, |own| own.losses)
    }

    /// Phase 1 of an attempt has ended, with success or not.
    fn look_ahead(&mut self, others_before: u64) {
        self.ahead = self.others.saturating_sub(others_before).min(PIPELINE as u64);
    }

    pub(super) fn propose(
        &mut self,
        s: &mut Step<'_>,
        known: Known<'_>,
        batch: Arc<Batch>,
    ) -> InstanceId {
        let name = s.reserve.name(s.fx);
        self.own.insert(name, Own { batch, losses: 0 });
        self.queue.push_back(name);
        self.start_proposals(s, known);
        name
    }

    /// Takes slots for the waiting values.
    pub(super) fn start_proposals(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        while self.attempts.len() < PIPELINE {
            let Some(name) = self.queue.front() else { return };
            let has_lost = self.losses(Some(*name)) > 0;
            let ahead = if has_lost { self.ahead } else { 0 };
            let Some(slot) = self.free_slot(s, known, ahead) else { return };
            let mine = self.queue.pop_front();
            self.prepare(s, known, slot, mine, Ballot::OWNER);
        }
    }

    /// The lowest slot that no proposer is known to have used, after skipping `but` of them.
    fn free_slot(&self, s: &Step<'_>, known: Known<'_>, mut but: u64) -> Option<Slot> {
        let mut slot = s.log.known() + 1;
        while !s.log.is_beyond(slot) {
            let is_free = s.log.is_open(slot)
                && !self.attempts.contains_key(&slot)
                && known.ballot(slot).is_none();
            if is_free && but == 0 {
                return Some(slot);
            }
            but -= u64::from(is_free);
            slot += 1;
        }
        None
    }

    /// Phase 1a, in a ballot above `above` and above all seen here.
    fn prepare(
        &mut self,
        s: &mut Step<'_>,
        known: Known<'_>,
        slot: Slot,
        mine: Option<InstanceId>,
        above: Ballot,
    ) {
        let above = above.max(known.ballot(slot).unwrap_or_default());
        let skip = if above.is_owner() { self.first_round(mine) } else { 0 };
        let Some(ballot) = s.reserve.ballot(above, skip, s.fx) else {
            self.attempts.remove(&slot);
            self.give_back(mine);
            return;
        };
        s.fx.hit(Path::Prepare);
        let phase = Phase::Prepare { promises: ReplicaSet::EMPTY, found: None };
        let before = self.attempts.get(&slot);
        let is_exposed = before.is_some_and(|before| before.is_exposed);
        let collisions = before.map_or(0, |before| before.collisions);
        let is_gap = before.is_some_and(|before| before.is_gap);
        let (others, sent) = (self.others, s.view.now);
        let attempt = Attempt { ballot, phase, mine, is_exposed, collisions, is_gap, others, sent };
        self.attempts.insert(slot, attempt);
        s.log.see(slot);
        s.fx.send(s.reserve.written(), s.cx.all(), Message::Prepare { slot, ballot });
    }

    /// The round of the first ballot in a slot, from 0; the more a value has lost, the higher.
    fn first_round(&mut self, mine: Option<InstanceId>) -> u32 {
        let losses = self.losses(mine).min(MOST_LOSSES);
        losses * FIRST_ROUNDS + self.rng.random_range(0..FIRST_ROUNDS)
    }

    /// A promise arrived; a majority of them starts phase 2a.
    pub(super) fn on_promise(
        &mut self,
        s: &mut Step<'_>,
        known: Known<'_>,
        from: ReplicaId,
        slot: Slot,
        ballot: Ballot,
        vote: Option<(Ballot, Choice)>,
    ) {
        let quorum = rules::quorum(s);
        let Some(attempt) = self.attempts.get_mut(&slot) else { return };
        let Phase::Prepare { promises, found } = &mut attempt.phase else { return };
        if attempt.ballot != ballot {
            return;
        }
        promises.insert(from);
        if let Some(vote) = vote
            && found.as_ref().is_none_or(|(highest, _)| *highest < vote.0)
        {
            *found = Some(vote);
        }
        if promises.len() >= quorum {
            let found = found.take().map(|(_, choice)| choice);
            let others = attempt.others;
            self.look_ahead(others);
            let found = found.filter(|_| s.cx.rules.found_votes_bind());
            self.accept(s, known, slot, found);
        }
    }

    /// Phase 2a: a value that was found has to be proposed again; otherwise the proposer may
    /// choose.
    fn accept(&mut self, s: &mut Step<'_>, known: Known<'_>, slot: Slot, found: Option<Choice>) {
        let attempt = self.attempts.get_mut(&slot).expect("it was in phase 1");
        let own = |name: InstanceId| {
            let batch = self.own.get(&name)?.batch.clone();
            Some(Choice { proposal: name, value: Value::Batch(batch) })
        };
        let mut leaves = None;
        let choice = if let Some(found) = found {
            if attempt.mine != Some(found.proposal) {
                s.fx.hit(Path::Adopted);
                if !attempt.is_exposed {
                    leaves = attempt.mine.take();
                }
            }
            found
        } else if let Some(choice) = attempt.mine.and_then(own) {
            attempt.is_exposed = true;
            choice
        } else {
            s.fx.hit(Path::Nop);
            Choice { proposal: s.reserve.name(s.fx), value: Value::Nop }
        };
        let ballot = attempt.ballot;
        attempt.sent = s.view.now;
        attempt.phase = Phase::Accept { choice: choice.clone() };
        s.fx.send(s.reserve.written(), s.cx.all(), Message::Accept { slot, ballot, choice });
        self.give_back(leaves);
        self.start_proposals(s, known);
    }

    /// Another proposer has a higher ballot: one of the two has to yield, and it is this one.
    pub(super) fn on_rejected(
        &mut self,
        s: &mut Step<'_>,
        known: Known<'_>,
        slot: Slot,
        ballot: Ballot,
    ) {
        let Some(attempt) = self.attempts.get_mut(&slot) else { return };
        if attempt.ballot >= ballot || matches!(attempt.phase, Phase::BackOff { .. }) {
            return;
        }
        s.fx.hit(Path::Collision);
        let others = attempt.others;
        // If no vote was requested, this replica's value can leave: the other proposer leads the
        // slot now.
        let leaves = if attempt.is_exposed { None } else { attempt.mine.take() };
        if attempt.mine.is_some() || attempt.is_gap {
            attempt.collisions = attempt.collisions.saturating_add(1);
            let collisions = attempt.collisions;
            let until = s.view.now + self.back_off(s, collisions);
            let attempt = self.attempts.get_mut(&slot).expect("it was found there");
            attempt.phase = Phase::BackOff { until, above: ballot };
        } else {
            self.attempts.remove(&slot);
        }
        self.look_ahead(others);
        self.give_back(leaves);
        self.start_proposals(s, known);
    }

    /// A random time that grows with the number of collisions. Usually it is long enough for the
    /// other proposer to finish both phases.
    fn back_off(&mut self, s: &Step<'_>, collisions: u32) -> Duration {
        let (shortest, longest) = Proposer::back_off_bounds(s, collisions);
        shortest / 2 + longest.mul_f64(self.rng.random::<f64>())
    }

    fn back_off_bounds(s: &Step<'_>, collisions: u32) -> (Duration, Duration) {
        let doublings = collisions.saturating_sub(1).min(MOST_DOUBLINGS);
        let shortest = s.view.slowest_round_trip().max(s.cx.timing().tick / 2);
        (shortest, shortest * (2 << doublings))
    }

    /// Round trips may be shorter now than when a back-off began. So none lasts longer than it
    /// could if it began now.
    fn shorten_back_offs(&mut self, s: &Step<'_>) {
        let (shortest, longest) = Proposer::back_off_bounds(s, u32::MAX);
        let latest = s.view.now + shortest / 2 + longest;
        for attempt in self.attempts.values_mut() {
            if let Phase::BackOff { until, .. } = &mut attempt.phase {
                *until = (*until).min(latest);
            }
        }
    }

    /// A slot is decided: a value of this replica that was meant for it and lost goes elsewhere.
    pub(super) fn on_decided(&mut self, s: &mut Step<'_>, slot: Slot, name: InstanceId) {
        if self.own.remove(&name).is_some() {
            s.fx.own_commits.push((name, false));
            self.queue.retain(|queued| *queued != name);
        }
        self.others += u64::from(name.replica != s.cx.me());
        if let Some(attempt) = self.attempts.remove(&slot) {
            self.give_back(attempt.mine);
        }
    }

    /// A snapshot holds everything up to `slot`. Own values may or may not be in it; the caller
    /// proposes them again. Later slots in which acceptors were asked to vote for one are still
    /// finished.
    pub(super) fn let_own_go(&mut self, slot: Slot) {
        self.own.clear();
        self.queue.clear();
        self.attempts = self.attempts.split_off(&(slot + 1));
        self.attempts.values_mut().for_each(|attempt| attempt.mine = None);
    }

    /// Time passed: resends messages that may be lost, and ends back-offs.
    pub(super) fn drive(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        let again = s.cx.retransmit_after(s.view);
        self.shorten_back_offs(s);
        let slots: Vec<Slot> = self.attempts.keys().copied().collect();
        for slot in slots {
            let Some(attempt) = self.attempts.get_mut(&slot) else { continue };
            let (ballot, mine) = (attempt.ballot, attempt.mine);
            let message = match &attempt.phase {
                Phase::BackOff { until, above } => {
                    let above = *above;
                    if *until <= s.view.now {
                        self.prepare(s, known, slot, mine, above);
                    }
                    continue;
                }
                _ if s.view.now.since(attempt.sent) < again => continue,
                Phase::Prepare { .. } => Message::Prepare { slot, ballot },
                Phase::Accept { choice } => {
                    Message::Accept { slot, ballot, choice: choice.clone() }
                }
            };
            attempt.sent = s.view.now;
            s.fx.hit(Path::Retransmit);
            s.fx.send(s.reserve.written(), s.cx.all(), message);
        }
        self.fill_gaps(s, known);
        self.start_proposals(s, known);
    }

    /// Nothing can be executed after a slot that its proposer left undecided. A replica that sees
    /// no progress in a slot for long decides it, with the value it finds there, a value of this
    /// replica, or a `Nop`. Each slot has its own timer: if a crash leaves many, none has to wait
    /// for those before it.
    fn fill_gaps(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        let first = s.log.known() + 1;
        let last = s.log.seen().min(s.log.known() + GAPS);
        self.quiet = self.quiet.split_off(&first);
        let mut fills = false;
        for slot in first..=last {
            let Some(patience) = self.gap_patience(s, known, slot) else {
                self.quiet.remove(&slot);
                continue;
            };
            let since = *self.quiet.entry(slot).or_insert(s.view.now);
            if s.view.now.since(since) < patience + self.gap_jitter {
                continue;
            }
            s.fx.hit(Path::Gap);
            let mine = self.queue.pop_front();
            self.prepare(s, known, slot, mine, Ballot::OWNER);
            if let Some(attempt) = self.attempts.get_mut(&slot) {
                attempt.is_gap = true;
            }
            fills = true;
        }
        if fills {
            let most = s.cx.retransmit_after(s.view) * 2;
            self.gap_jitter = most.mul_f64(self.rng.random::<f64>());
        }
    }

    /// How long a gap is left to others: to a live proposer to finish it, or to be fetched if a
    /// member knows it. `None` if the slot is no gap.
    fn gap_patience(&self, s: &Step<'_>, known: Known<'_>, slot: Slot) -> Option<Duration> {
        if !s.log.is_open(slot) || self.attempts.contains_key(&slot) {
            return None;
        }
        let leader = known.ballot(slot).map(|ballot| ballot.leader(s.cx.me()));
        let is_led =
            leader.is_some_and(|leader| leader != s.cx.me() && !s.view.suspected.contains(leader));
        let is_waited_for = is_led || s.log.is_known_elsewhere(slot, s.view);
        Some(s.cx.retransmit_after(s.view) * if is_waited_for { 6 } else { 2 })
    }
}
