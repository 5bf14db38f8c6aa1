//! The open ballot at its coordinator: finds collisions from the votes, and recovers in the
//! ballot's second round (§F5; the paper's §3.2, coordinated recovery). It also finishes slots that
//! make no progress (§F7).

use std::collections::BTreeMap;
use std::time::Duration;

use super::learner::Learner;
use super::proposer::Proposer;
use super::round::{Pick, Sizes, pick};
use super::votes::Votes;
use super::{Message, Path, Round, Step};
use crate::protocol::log::Choice;
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Time, Value};

/// How many slots are handled at a time.
const AT_ONCE: usize = 64;

/// A ballot after phase 1.
///
/// Invariant: a slot is in `assigned` from the one time that the coordinator names its choice in
/// the second round until the slot is decided.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) ballot: Ballot,
    pub(super) is_fast: bool,
    /// When the ballot was last announced as open.
    announced: Time,
    /// The first slot open to all proposers; in a classic ballot, the first that the coordinator
    /// assigns.
    from: Slot,
    /// The next slot to assign.
    next: Slot,
    assigned: BTreeMap<Slot, Assigned>,
    /// The slots of `assigned`, by the name of their choice.
    named: BTreeMap<InstanceId, Slot>,
    /// The slots of the fast round in which an acceptor has voted.
    watched: BTreeMap<Slot, Watched>,
}

/// A slot whose choice the coordinator has named.
#[derive(Debug)]
struct Assigned {
    choice: Choice,
    sent: Time,
    is_recovery: bool,
}

/// A slot of the fast round.
#[derive(Debug)]
struct Watched {
    since: Time,
    /// When acceptors were last asked to vote and to show their votes.
    asked: Option<Time>,
    /// The choices they have shown.
    shown: Vec<Choice>,
}

/// What the other parts know, for reading.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) votes: &'a Votes,
    pub(super) learner: &'a Learner,
    pub(super) proposer: &'a Proposer,
}

impl Known<'_> {
    /// The choice with this name that was voted for in a slot, if it is known here.
    pub(super) fn choice_of(&self, slot: Slot, name: InstanceId) -> Option<Choice> {
        let voted = self.votes.choice_of(slot, name).cloned();
        voted.or_else(|| self.proposer.choice_of(name))
    }
}

impl Opened {
    pub(super) fn new(ballot: Ballot, is_fast: bool, from: Slot, now: Time) -> Opened {
        Opened {
            ballot,
            is_fast,
            announced: now,
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

    /// Announces that the ballot is open.
    pub(super) fn announce(&mut self, s: &mut Step<'_>) {
        let open = Message::Open { ballot: self.ballot, is_fast: self.is_fast, from: self.from };
        s.fx.send(s.reserve.written(), s.cx.all(), open);
        self.announced = s.view.now;
    }

    /// Whether a proposal is in no slot, decided or assigned, as far as is known here.
    pub(super) fn is_nowhere(&self, s: &Step<'_>, name: InstanceId) -> bool {
        !self.named.contains_key(&name) && s.log.slot_of(name).is_none()
    }

    /// Phase 2a of the second round; once for each slot and ballot.
    pub(super) fn assign(
        &mut self,
        s: &mut Step<'_>,
        slot: Slot,
        choice: Choice,
        is_recovery: bool,
    ) {
        self.named.insert(choice.proposal, slot);
        self.watched.remove(&slot);
        let assigned = Assigned { choice: choice.clone(), sent: s.view.now, is_recovery };
        let twice = self.assigned.insert(slot, assigned).is_some();
        assert!(!twice, "one choice a slot and ballot: {slot}");
        let accept = Message::Accept { ballot: self.ballot, slot, choice };
        s.fx.send(s.reserve.written(), s.cx.all(), accept);
    }

    /// In a classic ballot the coordinator assigns the slots. Returns whether it handled the value.
    pub(super) fn give_away(&mut self, s: &mut Step<'_>, choice: &Choice) -> bool {
        if self.is_fast {
            return false;
        }
        if !self.named.contains_key(&choice.proposal) {
            let slot = self.next;
            if s.log.is_open(slot) {
                self.next += 1;
                self.assign(s, slot, choice.clone(), false);
            }
        }
        true
    }

    /// A slot is decided. If that is evidence about fast rounds, returns whether it had collided.
    pub(super) fn on_decided(&mut self, slot: Slot, is_fast: bool) -> Option<bool> {
        self.watched.remove(&slot);
        let assigned = self.assigned.remove(&slot);
        if let Some(assigned) = &assigned {
            self.named.remove(&assigned.choice.proposal);
        }
        let collided = assigned.is_some_and(|assigned| assigned.is_recovery);
        let counts = self.is_fast && slot >= self.from && (is_fast || collided);
        counts.then_some(collided)
    }

    /// Everything up to `slot` is decided; the decisions are unknown.
    pub(super) fn forget_to(&mut self, slot: Slot) {
        self.assigned = self.assigned.split_off(&(slot + 1));
        self.watched = self.watched.split_off(&(slot + 1));
        self.named.retain(|_, at| *at > slot);
        self.next = self.next.max(slot + 1);
    }

    /// An acceptor has shown its vote.
    pub(super) fn note_shown(&mut self, ballot: Ballot, slot: Slot, choice: Choice) {
        if let Some(watched) = self.watched.get_mut(&slot).filter(|_| self.ballot == ballot)
            && watched.shown.iter().all(|shown| shown.proposal != choice.proposal)
        {
            watched.shown.push(choice);
        }
    }

    /// The votes of the fast round, if this slot may be recovered from a collision.
    fn votes_of(&self, known: Known<'_>, slot: Slot) -> Option<Vec<(ReplicaId, InstanceId)>> {
        if !self.is_fast || slot < self.from || self.assigned.contains_key(&slot) {
            return None;
        }
        Some(known.learner.votes(slot, Round::anybodys(self.ballot)).collect())
    }

    /// A vote was counted. There is a collision as soon as no value can get a fast quorum any more
    /// from the acceptors that have not voted and are not suspected.
    pub(super) fn look_for_collision(
        &mut self,
        s: &mut Step<'_>,
        known: Known<'_>,
        slot: Slot,
        round: Round,
    ) {
        if round.is_coordinated || !s.log.is_open(slot) {
            return;
        }
        let Some(votes) = self.votes_of(known, slot) else { return };
        self.watch(slot, s.view.now);
        let sizes = Sizes::new(s.cx.n());
        if votes.len() < sizes.classic {
            return;
        }
        let best = votes.iter().map(|(_, name)| votes.iter().filter(|v| v.1 == *name).count());
        let best = best.max().unwrap_or(0);
        let silent = ReplicaId::all(sizes.n).filter(|who| {
            !s.view.suspected.contains(*who) && votes.iter().all(|(voter, _)| voter != who)
        });
        if best + silent.count() < sizes.fast {
            s.fx.hit(Path::Collision);
            self.recover(s, known, slot);
        }
    }

    /// §3.3: the votes of the fast round are the promises for the second one. Picks the value that
    /// may have been chosen. If there is none, picks the one with the most votes that is in no
    /// other slot.
    fn recover(&mut self, s: &mut Step<'_>, known: Known<'_>, slot: Slot) {
        let Some(votes) = self.votes_of(known, slot) else { return };
        let choice = match self.pick(s, &votes) {
            Pick::Forced(name) if s.cx.rules.forced_values_are_picked() => {
                let Some(choice) = self.shown(known, slot, name) else {
                    return self.suggest(s, known, slot);
                };
                s.fx.hit(Path::Forced);
                choice
            }
            Pick::Forced(_) => nop(s),
            Pick::Free(names) => {
                let names = names.into_iter().filter(|name| self.is_nowhere(s, *name));
                let choice = names.filter_map(|name| self.shown(known, slot, name)).next();
                choice.unwrap_or_else(|| nop(s))
            }
        };
        self.assign(s, slot, choice, true);
    }

    /// What the votes of the fast round leave for the coordinator to pick.
    fn pick(&self, s: &Step<'_>, votes: &[(ReplicaId, InstanceId)]) -> Pick {
        let round = Round::anybodys(self.ballot);
        let named: Vec<_> = votes.iter().map(|(_, name)| (round, *name)).collect();
        pick(Sizes::new(s.cx.n()), votes.len(), &named)
    }

    /// The choice with this name that was voted for in a slot, if it was seen.
    fn shown(&self, known: Known<'_>, slot: Slot, name: InstanceId) -> Option<Choice> {
        let shown = self.watched.get(&slot).into_iter().flat_map(|watched| &watched.shown);
        let mut shown = shown.filter(|choice| choice.proposal == name);
        shown.next().cloned().or_else(|| known.choice_of(slot, name))
    }

    /// Asks all to vote in a slot, for the value with the most votes there or for a `Nop`, and to
    /// show their votes.
    fn suggest(&mut self, s: &mut Step<'_>, known: Known<'_>, slot: Slot) {
        let Some(votes) = self.votes_of(known, slot) else { return };
        let (now, patience) = (s.view.now, patience(s));
        let asked = &mut self.watch(slot, now).asked;
        if asked.is_some_and(|asked| now.since(asked) < patience) {
            return;
        }
        *asked = Some(now);
        s.fx.hit(Path::Suggested);
        let names = match self.pick(s, &votes) {
            Pick::Forced(name) => vec![name],
            Pick::Free(names) => names,
        };
        let choice = names.into_iter().find_map(|name| self.shown(known, slot, name));
        let choice = choice.unwrap_or_else(|| nop(s));
        let suggest = Message::Suggest { ballot: self.ballot, slot, choice };
        s.fx.send(s.reserve.written(), s.cx.all(), suggest);
    }

    /// Whether a decision that a majority knew in phase 1 is lost: it is not here, and no replica
    /// sends it.
    pub(super) fn is_lost(&self, s: &Step<'_>) -> bool {
        let first = s.log.known() + 1;
        first < self.from
            && s.log.is_open(first)
            && !self.assigned.contains_key(&first)
            && s.log.stuck_for(s.view) >= s.cx.retransmit_after(s.view) * 6
    }

    /// Time passed: repeats its announcements and requests, and finishes slots without progress.
    pub(super) fn drive(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        if s.view.now.since(self.announced) >= s.cx.timing().gossip {
            self.announce(s);
        }
        self.assign_again(s);
        if self.is_fast {
            self.push_stuck(s, known);
        } else {
            self.give_away_seen(s);
        }
    }

    fn assign_again(&mut self, s: &mut Step<'_>) {
        let (now, again) = (s.view.now, s.cx.retransmit_after(s.view));
        let late = self.assigned.iter_mut();
        let late = late.filter(|(_, assigned)| now.since(assigned.sent) >= again);
        for (slot, assigned) in late.take(AT_ONCE) {
            assigned.sent = now;
            s.fx.hit(Path::Retransmit);
            let (ballot, slot, choice) = (self.ballot, *slot, assigned.choice.clone());
            s.fx.send(s.reserve.written(), s.cx.all(), Message::Accept { ballot, slot, choice });
        }
    }

    /// In a classic ballot, after a while without progress: an acceptor voted, in an earlier
    /// ballot, in a slot that is not assigned yet, and no value comes to fill it.
    fn give_away_seen(&mut self, s: &mut Step<'_>) {
        if s.log.stuck_for(s.view) < s.cx.retransmit_after(s.view) * 4 {
            return;
        }
        let seen = s.log.seen();
        for _ in 0..AT_ONCE {
            if self.next > seen {
                return;
            }
            let slot = self.next;
            self.next += 1;
            if s.log.is_open(slot) {
                let nop = nop(s);
                self.assign(s, slot, nop, false);
            }
        }
    }

    /// Slots of the fast round without progress: recovers those with votes from a majority, and
    /// asks for more votes in the others.
    fn push_stuck(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        let (now, patience) = (s.view.now, patience(s));
        let first = self.from.max(s.log.known() + 1);
        let open = (first..=s.log.seen()).filter(|slot| s.log.is_open(*slot));
        let open: Vec<Slot> = open.take(AT_ONCE).collect();
        for slot in open {
            let Some(votes) = self.votes_of(known, slot) else { continue };
            if now.since(self.watch(slot, now).since) < patience {
                continue;
            }
            if votes.len() >= Sizes::new(s.cx.n()).classic {
                s.fx.hit(Path::TimedOut);
                self.recover(s, known, slot);
            } else {
                self.suggest(s, known, slot);
            }
        }
    }
}

/// A `Nop` with a new name.
pub(super) fn nop(s: &mut Step<'_>) -> Choice {
    s.fx.hit(Path::Nop);
    Choice { proposal: s.reserve.name(s.fx), value: Value::Nop }
}

/// How long a slot may take in the fast round.
fn patience(s: &Step<'_>) -> Duration {
    s.view.slowest_round_trip() + s.cx.timing().tick * 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::View;
    use crate::protocol::fast_paxos::{Fx, rules};
    use crate::protocol::log::Core;
    use crate::protocol::log::tests::stage::{batch, replica, said, settings};
    use crate::types::{Retention, Written};

    /// The messages of the coordinator of three after votes in slot 1 of the fast round: replica 1
    /// for its own value, replica 2 for `second`.
    fn voted(second: InstanceId, suspects: Option<usize>) -> Vec<(Vec<u8>, Message)> {
        let mut core = Core::<rules::Rules>::new(settings(1, 3, Retention::default()));
        let (mut view, mut fx) = (View::new(3), Fx::default());
        view.suspected = suspects.into_iter().map(replica).collect();
        let ballot = Ballot::OWNER.next_for(replica(1));
        let round = Round::anybodys(ballot);
        let mut opened = Opened::new(ballot, true, 1, view.now);
        let (mut votes, proposer) = (Votes::default(), Proposer::default());
        votes.cast(1, round, own(), Written::default());
        let mut learner = Learner::default();
        let s = &mut core.step(&view, &mut fx);
        for (from, name) in [(1, own().proposal), (2, second)] {
            let is_chosen = learner.on_voted(s, replica(from), (1, round), name);
            assert_eq!(is_chosen, Some(false));
            let (votes, learner, proposer) = (&votes, &learner, &proposer);
            opened.look_for_collision(s, Known { votes, learner, proposer }, 1, round);
        }
        said(s.fx)
    }

    fn own() -> Choice {
        let proposal = InstanceId::new(replica(1), 1);
        Choice { proposal, value: Value::Batch(batch(1)) }
    }

    #[test]
    fn votes_for_two_values_are_a_collision_as_soon_as_neither_can_win() {
        let ballot = Ballot::OWNER.next_for(replica(1));
        let accept = Message::Accept { ballot, slot: 1, choice: own() };
        let other = InstanceId::new(replica(2), 1);
        assert_eq!(voted(other, None), [(vec![1, 2, 3], accept.clone())]);
        assert_eq!(voted(own().proposal, None), [], "the third may vote for it, too");
        assert_eq!(voted(own().proposal, Some(3)), [(vec![1, 2, 3], accept)], "it will not");
    }
}
