//! The proposer: takes the lowest slot it knows to be free through both phases, and another one if
//! that slot turns out to be somebody else's (§P1, §P3). Several slots at a time, each for itself.
//!
//! An own value waits in one slot at a time. It leaves a slot for another only when the slot has
//! decided something else, or no acceptor was ever asked to vote for it there: so it is decided
//! twice only if a crash or a snapshot came between.
//!
//! Who loses a slot before its value was put to the vote has hindered nobody and need not wait: it
//! goes on to another slot, and the proposer of the highest ballot finishes this one. Two things
//! see to it that not always the same one loses. A value's ballots begin the higher the more slots
//! it has lost. And it then aims ahead: a proposer far away hears late which slots are taken, and
//! what it asks for arrives late, so that the lowest slot that it takes for free never is. It lets
//! as many free slots pass as others have filled during its last attempt. Who has been voted for
//! has to stay, and backs off for a time at random if another one is at work there (§P5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::acceptor::Acceptor;
use super::learner::Learner;
use super::{Message, Step, rules};
use crate::protocol::Path;
use crate::protocol::log::Choice;
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet, Slot, Time, Value};

/// The most slots that a replica proposes in at a time.
const PIPELINE: usize = 16;
/// How many slots after the decided prefix are looked at for what others left undecided.
const GAPS: Slot = 128;
/// First rounds are drawn from so many, lest it is always the same one of two proposers who wins.
const FIRST_ROUNDS: u32 = 8;
/// Losing more slots than this raises a value's ballots no further.
const MOST_LOSSES: u32 = 8;
/// The longest back-off is 2 round trips, doubled so often: time for eight proposers to get through
/// both phases one after the other.
const MOST_DOUBLINGS: u32 = 3;

/// What a replica proposes.
///
/// Invariant: each name in `own` is in `queue`, or the `mine` of exactly one attempt.
#[derive(Debug)]
pub(super) struct Proposer {
    rng: ChaCha8Rng,
    /// Own values that are not decided as far as is known here.
    own: BTreeMap<InstanceId, Own>,
    /// Those that are in no slot.
    queue: VecDeque<InstanceId>,
    attempts: BTreeMap<Slot, Attempt>,
    /// Decisions for others' values that were learned.
    others: u64,
    /// How many slots others fill while this replica tries to get one.
    ahead: u64,
    /// Since when no other proposer was heard to be at work in an open slot.
    quiet: BTreeMap<Slot, Time>,
    /// How much later than it might this replica fills gaps.
    gap_jitter: Duration,
}

/// An own value.
#[derive(Debug)]
struct Own {
    batch: Arc<Batch>,
    /// How many slots it has lost.
    losses: u32,
}

/// A slot that this replica leads a ballot of.
#[derive(Debug)]
struct Attempt {
    ballot: Ballot,
    phase: Phase,
    /// The own value that is to go in here.
    mine: Option<InstanceId>,
    /// Whether acceptors were asked to vote for it.
    is_exposed: bool,
    /// How often another proposer was in the way here.
    collisions: u32,
    /// Whether what is behind waits for this slot: it has to be decided, whatever with.
    is_gap: bool,
    /// What [`Proposer::others`] was when the ballot began.
    others: u64,
    /// When something was last said.
    sent: Time,
}

#[derive(Debug)]
enum Phase {
    /// Phase 1, with the vote of the highest ballot so far.
    Prepare { promises: ReplicaSet, found: Option<(Ballot, Choice)> },
    /// Phase 2.
    Accept { choice: Choice },
    /// Another proposer is at work, with a ballot above the own one; phase 1 again later.
    BackOff { until: Time, above: Ballot },
}

/// What the other parts know, lent to look at.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) acceptor: &'a Acceptor,
    pub(super) learner: &'a Learner,
}

impl Known<'_> {
    /// The highest ballot that was heard of in a slot; `None` if nobody is known to have touched
    /// it.
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

    /// How many own proposals are under way.
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

    /// The first phase of an attempt has come to an end, this way or the other.
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

    /// Takes slots for what waits.
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

    /// The lowest slot that nobody is known to have touched, but for so many.
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

    /// Phase 1a, in a ballot above `above` and all that is known of here.
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
        s.fx.hit(Path::PaxosPrepare);
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

    /// The round of the first ballot in a slot, from 0, for whoever loses often above all others.
    fn first_round(&mut self, mine: Option<InstanceId>) -> u32 {
        let losses = self.losses(mine).min(MOST_LOSSES);
        losses * FIRST_ROUNDS + self.rng.random_range(0..FIRST_ROUNDS)
    }

    /// A promise arrived; with a majority of them phase 2a.
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

    /// Phase 2a: what was found has to be proposed again; else one may choose.
    fn accept(&mut self, s: &mut Step<'_>, known: Known<'_>, slot: Slot, found: Option<Choice>) {
        let attempt = self.attempts.get_mut(&slot).expect("it was in phase 1");
        let own = |name: InstanceId| {
            let batch = self.own.get(&name)?.batch.clone();
            Some(Choice { proposal: name, value: Value::Batch(batch) })
        };
        let mut leaves = None;
        let choice = if let Some(found) = found {
            if attempt.mine != Some(found.proposal) {
                s.fx.hit(Path::PaxosAdopted);
                if !attempt.is_exposed {
                    leaves = attempt.mine.take();
                }
            }
            found
        } else if let Some(choice) = attempt.mine.and_then(own) {
            attempt.is_exposed = true;
            choice
        } else {
            s.fx.hit(Path::PaxosNop);
            Choice { proposal: s.reserve.name(s.fx), value: Value::Nop }
        };
        let ballot = attempt.ballot;
        attempt.sent = s.view.now;
        attempt.phase = Phase::Accept { choice: choice.clone() };
        s.fx.send(s.reserve.written(), s.cx.all(), Message::Accept { slot, ballot, choice });
        self.give_back(leaves);
        self.start_proposals(s, known);
    }

    /// Another proposer has a higher ballot: one of both has to give way, and this one is asked to.
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
        s.fx.hit(Path::PaxosCollision);
        let others = attempt.others;
        // Not exposed, the own value has lost nothing: the other one leads the slot now.
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

    /// A time at random that is the longer the more collisions there were: long enough for the
    /// other one to get through both phases, more often than not.
    fn back_off(&mut self, s: &Step<'_>, collisions: u32) -> Duration {
        let (shortest, longest) = Proposer::back_off_bounds(s, collisions);
        shortest / 2 + longest.mul_f64(self.rng.random::<f64>())
    }

    fn back_off_bounds(s: &Step<'_>, collisions: u32) -> (Duration, Duration) {
        let doublings = collisions.saturating_sub(1).min(MOST_DOUBLINGS);
        let shortest = s.view.slowest_round_trip().max(s.cx.timing().tick / 2);
        (shortest, shortest * (2 << doublings))
    }

    /// What was far away when a back-off began may be near by now: none lasts for longer than it
    /// could if it began here.
    fn shorten_back_offs(&mut self, s: &Step<'_>) {
        let (shortest, longest) = Proposer::back_off_bounds(s, u32::MAX);
        let latest = s.view.now + shortest / 2 + longest;
        for attempt in self.attempts.values_mut() {
            if let Phase::BackOff { until, .. } = &mut attempt.phase {
                *until = (*until).min(latest);
            }
        }
    }

    /// A slot is decided: what had to go in there and did not goes elsewhere.
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

    /// A snapshot holds everything up to `slot`. Own values may be in it or not: whoever installed
    /// it proposes them again. A slot after it in which acceptors were asked to vote for one is
    /// finished all the same.
    pub(super) fn let_own_go(&mut self, slot: Slot) {
        self.own.clear();
        self.queue.clear();
        self.attempts = self.attempts.split_off(&(slot + 1));
        self.attempts.values_mut().for_each(|attempt| attempt.mine = None);
    }

    /// Time passed: says again what may have been lost, and ends back-offs.
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

    /// Nothing can be executed after a slot that its proposer left undecided. Whoever sees one in
    /// which nothing happens for long decides it, with what it finds there, an own value, or a
    /// `Nop`. Each slot is quiet for itself: of many that are left behind, after a crash, none has
    /// to wait for those before it.
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
            s.fx.hit(Path::PaxosGap);
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

    /// How long a gap is left to others: to its proposer if that lives, to be fetched if somebody
    /// has it. `None` if there is none.
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
