//! The open ballot at its coordinator: collisions are found by looking at the votes, and recovered
//! from in the ballot's second round (§F5; the paper's §3.2, coordinated recovery). What is stuck
//! is pushed on (§F7).

use std::collections::BTreeMap;
use std::time::Duration;

use super::lead::{Lead, Stage};
use super::round::{Pick, pick};
use super::{FastPaxos, Fx, Message, Round};
use crate::protocol::log::Choice;
use crate::protocol::{Path, View};
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Time};

/// How many slots are looked after at a time.
const AT_ONCE: usize = 64;

/// A ballot after phase 1.
///
/// Invariant: a slot is in `assigned` from the one time that the coordinator names its choice of
/// the second round until it is decided.
#[derive(Debug)]
pub(super) struct Opened {
    is_fast: bool,
    /// Anybody's slots, or in a classic ballot the coordinator's to give away, begin here.
    from: Slot,
    /// The next slot to give away.
    next: Slot,
    assigned: BTreeMap<Slot, Assigned>,
    /// The slots of `assigned`, by what is in them.
    named: BTreeMap<InstanceId, Slot>,
    /// Slots of the fast round that somebody has voted in.
    watched: BTreeMap<Slot, Watched>,
}

#[derive(Debug)]
struct Assigned {
    choice: Choice,
    sent: Time,
    is_recovery: bool,
}

#[derive(Debug)]
struct Watched {
    since: Time,
    /// When acceptors were last asked to vote and to show what they have voted for.
    asked: Option<Time>,
    /// What they have shown.
    shown: Vec<Choice>,
}

impl Opened {
    pub(super) fn new(is_fast: bool, from: Slot) -> Opened {
        Opened {
            is_fast,
            from,
            next: from,
            assigned: BTreeMap::new(),
            named: BTreeMap::new(),
            watched: BTreeMap::new(),
        }
    }

    fn watch(&mut self, slot: Slot, now: Time) -> &mut Watched {
        let watched = Watched { since: now, asked: None, shown: Vec::new() };
        self.watched.entry(slot).or_insert(watched)
    }
}

impl FastPaxos {
    fn opened(&mut self) -> Option<(Ballot, &mut Opened)> {
        match self.coordinator.lead.as_mut() {
            Some(Lead { ballot, stage: Stage::Open(opened), .. }) => Some((*ballot, opened)),
            _ => None,
        }
    }

    /// Says that the ballot is open.
    pub(super) fn announce(&mut self, view: &View, fx: &mut Fx) {
        let Some((ballot, opened)) = self.opened() else { return };
        let open = Message::Open { ballot, is_fast: opened.is_fast, from: opened.from };
        fx.send(self.reserve.written(), self.all(), open);
        self.coordinator.lead.as_mut().expect("it leads").sent = view.now;
    }

    /// Whether a proposal is in no slot, decided or assigned, as far as is known here.
    pub(super) fn is_nowhere(&self, name: InstanceId) -> bool {
        let assigned = match &self.coordinator.lead {
            Some(Lead { stage: Stage::Open(opened), .. }) => opened.named.contains_key(&name),
            _ => false,
        };
        !assigned && self.log.slot_of(name).is_none()
    }

    /// Phase 2a of the second round: once a slot and ballot.
    pub(super) fn assign_slot(
        &mut self,
        view: &View,
        slot: Slot,
        choice: Choice,
        is_recovery: bool,
        fx: &mut Fx,
    ) {
        let Some((ballot, opened)) = self.opened() else { return };
        opened.named.insert(choice.proposal, slot);
        opened.watched.remove(&slot);
        let assigned = Assigned { choice: choice.clone(), sent: view.now, is_recovery };
        let twice = opened.assigned.insert(slot, assigned).is_some();
        assert!(!twice, "one choice a slot and ballot: {slot}");
        fx.send(self.reserve.written(), self.all(), Message::Accept { ballot, slot, choice });
    }

    /// In a classic ballot the coordinator gives away the slots: whether it has.
    pub(super) fn assign(&mut self, view: &View, choice: &Choice, fx: &mut Fx) -> bool {
        let Some((_, opened)) = self.opened() else { return false };
        if opened.is_fast {
            return false;
        }
        if !opened.named.contains_key(&choice.proposal) {
            let slot = opened.next;
            if self.log.is_open(slot) {
                self.opened().expect("it leads").1.next += 1;
                self.assign_slot(view, slot, choice.clone(), false, fx);
            }
        }
        true
    }

    /// A slot is decided.
    pub(super) fn note_lead_decided(&mut self, slot: Slot, is_fast: bool) {
        let Some((_, opened)) = self.opened() else { return };
        opened.watched.remove(&slot);
        let assigned = opened.assigned.remove(&slot);
        if let Some(assigned) = &assigned {
            opened.named.remove(&assigned.choice.proposal);
        }
        let collided = assigned.is_some_and(|assigned| assigned.is_recovery);
        if opened.is_fast && slot >= opened.from && (is_fast || collided) {
            self.coordinator.mode.note(collided);
        }
    }

    /// Everything up to `slot` is decided, and how is not known.
    pub(super) fn forget_lead_to(&mut self, slot: Slot) {
        let Some((_, opened)) = self.opened() else { return };
        opened.assigned = opened.assigned.split_off(&(slot + 1));
        opened.watched = opened.watched.split_off(&(slot + 1));
        opened.named.retain(|_, at| *at > slot);
        opened.next = opened.next.max(slot + 1);
    }

    /// An acceptor has shown what it voted for.
    pub(super) fn note_shown(&mut self, ballot: Ballot, slot: Slot, choice: Choice) {
        let Some((led, opened)) = self.opened() else { return };
        if let Some(watched) = opened.watched.get_mut(&slot).filter(|_| led == ballot)
            && watched.shown.iter().all(|shown| shown.proposal != choice.proposal)
        {
            watched.shown.push(choice);
        }
    }

    /// The votes of the fast round, if the slot is one in which a collision may be recovered from.
    fn votes_of(&mut self, slot: Slot) -> Option<Vec<(ReplicaId, InstanceId)>> {
        let (ballot, opened) = self.opened()?;
        if !opened.is_fast || slot < opened.from || opened.assigned.contains_key(&slot) {
            return None;
        }
        Some(self.learner.votes(slot, Round::anybodys(ballot)).collect())
    }

    /// A vote was counted: a collision is one as soon as nothing can get a fast quorum any more of
    /// those who have not voted and may be alive.
    pub(super) fn look_for_collision(
        &mut self,
        view: &View,
        slot: Slot,
        round: Round,
        fx: &mut Fx,
    ) {
        if round.is_coordinated || !self.log.is_open(slot) {
            return;
        }
        let Some(votes) = self.votes_of(slot) else { return };
        if let Some((_, opened)) = self.opened() {
            opened.watch(slot, view.now);
        }
        if votes.len() < self.sizes.classic {
            return;
        }
        let best = votes.iter().map(|(_, name)| votes.iter().filter(|v| v.1 == *name).count());
        let best = best.max().unwrap_or(0);
        let silent = ReplicaId::all(self.sizes.n).filter(|who| {
            !view.suspected.contains(*who) && votes.iter().all(|(voter, _)| voter != who)
        });
        if best + silent.count() < self.sizes.fast {
            fx.hit(Path::FastCollision);
            self.recover(view, slot, fx);
        }
    }

    /// §3.3: the votes of the fast round are the promises of the second one. Picks what may have
    /// been chosen; if nothing can have been, the value with the most votes that is nowhere else.
    fn recover(&mut self, view: &View, slot: Slot, fx: &mut Fx) {
        let Some(votes) = self.votes_of(slot) else { return };
        let Some((ballot, _)) = self.opened() else { return };
        let round = Round::anybodys(ballot);
        let named: Vec<_> = votes.iter().map(|(_, name)| (round, *name)).collect();
        let picked = pick(self.sizes, votes.len(), &named);
        #[cfg(test)]
        let picked = self.forget_forced_if_planted(picked);
        let choice = match picked {
            Pick::Forced(name) => {
                let Some(choice) = self.shown(slot, name) else {
                    self.suggest(view, slot, fx);
                    return;
                };
                fx.hit(Path::FastForced);
                choice
            }
            Pick::Free(names) => {
                let names = names.into_iter().filter(|name| self.is_nowhere(*name));
                let choice = names.filter_map(|name| self.shown(slot, name)).next();
                choice.unwrap_or_else(|| self.nop(fx))
            }
        };
        self.assign_slot(view, slot, choice, true, fx);
    }

    /// What a name stands for that was voted for in a slot, if that was seen.
    fn shown(&self, slot: Slot, name: InstanceId) -> Option<Choice> {
        let shown = match &self.coordinator.lead {
            Some(Lead { stage: Stage::Open(opened), .. }) => {
                opened.watched.get(&slot).map(|watched| &watched.shown)
            }
            _ => None,
        };
        let shown = shown.into_iter().flatten().find(|choice| choice.proposal == name);
        shown.cloned().or_else(|| self.choice_of(slot, name))
    }

    /// Asks all to vote in a slot, for what has the most votes there, or for nothing; and to show
    /// what they have voted for.
    fn suggest(&mut self, view: &View, slot: Slot, fx: &mut Fx) {
        let Some(votes) = self.votes_of(slot) else { return };
        let patience = self.patience(view);
        let Some((ballot, opened)) = self.opened() else { return };
        let asked = &mut opened.watch(slot, view.now).asked;
        if asked.is_some_and(|asked| view.now.since(asked) < patience) {
            return;
        }
        *asked = Some(view.now);
        fx.hit(Path::FastSuggested);
        let round = Round::anybodys(ballot);
        let named: Vec<_> = votes.iter().map(|(_, name)| (round, *name)).collect();
        let names = match pick(self.sizes, votes.len(), &named) {
            Pick::Forced(name) => vec![name],
            Pick::Free(names) => names,
        };
        let choice = names.into_iter().find_map(|name| self.shown(slot, name));
        let choice = choice.unwrap_or_else(|| self.nop(fx));
        fx.send(self.reserve.written(), self.all(), Message::Suggest { ballot, slot, choice });
    }

    /// Time passed: says again that it leads and what it wants, and looks after what is stuck.
    pub(super) fn drive_open(&mut self, view: &View, fx: &mut Fx) {
        let is_fast = self.coordinator.mode.wants_fast(view, self.sizes);
        let sent = self.coordinator.lead.as_ref().map_or(view.now, |lead| lead.sent);
        let Some((_, opened)) = self.opened() else { return };
        let (was_fast, from) = (opened.is_fast, opened.from);
        if is_fast != was_fast {
            fx.hit(if is_fast { Path::FastAgain } else { Path::FastToClassic });
            self.campaign(view, is_fast, fx);
            return;
        }
        // What a majority knew to be decided in phase 1 is fetched. If nobody is left who knows,
        // another phase 1 finds the votes.
        let first = self.log.known() + 1;
        let is_lost = first < from
            && self.log.is_open(first)
            && !self.opened().is_some_and(|(_, opened)| opened.assigned.contains_key(&first));
        if is_lost && self.log.stuck_for(view) >= self.retransmit_after(view) * 6 {
            self.campaign(view, is_fast, fx);
            return;
        }
        if view.now.since(sent) >= self.settings.timing.gossip {
            self.announce(view, fx);
        }
        self.assign_again(view, fx);
        self.push_stuck(view, fx);
    }

    fn assign_again(&mut self, view: &View, fx: &mut Fx) {
        let again = self.retransmit_after(view);
        let (all, written) = (self.all(), self.reserve.written());
        let Some((ballot, opened)) = self.opened() else { return };
        let late = opened.assigned.iter_mut();
        let late = late.filter(|(_, assigned)| view.now.since(assigned.sent) >= again);
        for (slot, assigned) in late.take(AT_ONCE) {
            assigned.sent = view.now;
            fx.hit(Path::Retransmit);
            let (slot, choice) = (*slot, assigned.choice.clone());
            fx.send(written, all, Message::Accept { ballot, slot, choice });
        }
    }

    /// In a classic ballot: somebody has voted, in a ballot before, in a slot that is not given
    /// away yet, and nothing else comes to be given it.
    fn give_away_seen(&mut self, view: &View, fx: &mut Fx) {
        if self.log.stuck_for(view) < self.retransmit_after(view) * 4 {
            return;
        }
        let seen = self.log.seen();
        for _ in 0..AT_ONCE {
            let Some((_, opened)) = self.opened().filter(|(_, opened)| opened.next <= seen) else {
                return;
            };
            let slot = opened.next;
            opened.next += 1;
            if self.log.is_open(slot) {
                let nop = self.nop(fx);
                self.assign_slot(view, slot, nop, false, fx);
            }
        }
    }

    /// How long a slot may take in the fast round.
    fn patience(&self, view: &View) -> Duration {
        view.slowest_round_trip() + self.settings.timing.tick * 2
    }

    /// Slots of the fast round that don't get on: with the votes of a majority they are recovered
    /// from, else more votes are asked for.
    fn push_stuck(&mut self, view: &View, fx: &mut Fx) {
        let patience = self.patience(view);
        let Some((_, opened)) = self.opened() else { return };
        if !opened.is_fast {
            self.give_away_seen(view, fx);
            return;
        }
        let first = opened.from.max(self.log.known() + 1);
        let open = (first..=self.log.seen()).filter(|slot| self.log.is_open(*slot));
        let open: Vec<Slot> = open.take(AT_ONCE).collect();
        for slot in open {
            let Some(votes) = self.votes_of(slot) else { continue };
            let classic = self.sizes.classic;
            let Some((_, opened)) = self.opened() else { return };
            if view.now.since(opened.watch(slot, view.now).since) < patience {
                continue;
            }
            if votes.len() >= classic {
                fx.hit(Path::FastTimedOut);
                self.recover(view, slot, fx);
            } else {
                self.suggest(view, slot, fx);
            }
        }
    }
}
