//! The coordinator: elected by time-outs, does phase 1 for the whole log, finishes what it finds,
//! and opens the ballot (§F2). What collides in it afterwards is for `collide`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;

use super::collide::Opened;
use super::mode::Mode;
use super::round::{Pick, pick};
use super::{FastPaxos, Fx, Message, Round};
use crate::protocol::log::{Choice, HORIZON};
use crate::protocol::{Path, View};
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Time, Value};

/// What this replica does as a coordinator, or until it becomes one.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    pub(super) lead: Option<Lead>,
    /// The highest ballot that anybody here has heard of.
    highest: Ballot,
    /// When to take the lead, unless somebody is heard to have it; `None` before the first tick.
    deadline: Option<Time>,
    /// Whether the deadline was moved up because the coordinator is suspected.
    is_hurried: bool,
    pub(super) mode: Mode,
}

/// A ballot of this replica.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// When something was last said.
    pub(super) sent: Time,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Phase 1.
    Asking(Asking),
    /// Phase 1 is done.
    Open(Opened),
}

/// The answers of phase 1 so far.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Whether the ballot is to be fast.
    is_fast: bool,
    /// Who has promised, up to where it knows all decisions, and of which slots it reports.
    promises: BTreeMap<ReplicaId, (Slot, Vec<Slot>)>,
    reports: BTreeMap<Slot, BTreeMap<ReplicaId, (Option<Round>, Choice)>>,
}

impl Asking {
    /// Those whose promises are here with everything that belongs to them.
    fn complete(&self) -> BTreeSet<ReplicaId> {
        let is_here = |who: ReplicaId, slot: Slot| {
            self.reports.get(&slot).is_some_and(|reports| reports.contains_key(&who))
        };
        let complete = self
            .promises
            .iter()
            .filter(|(who, (_, reported))| reported.iter().all(|slot| is_here(**who, *slot)));
        complete.map(|(who, _)| *who).collect()
    }
}

impl FastPaxos {
    /// Somebody leads or is about to: this replica does not try for a while, at random.
    pub(super) fn follow(&mut self, view: &View) {
        let (timing, me) = (&self.settings.timing, self.settings.me);
        let timeout = timing.suspect + view.slowest_round_trip() * 2;
        let part = timing.patience_to_stand(me, self.rng.random::<f64>());
        let timeout = timeout + timeout.mul_f64(part);
        self.coordinator.deadline = Some(view.now + timeout);
        self.coordinator.is_hurried = false;
    }

    /// Somebody has a higher ballot.
    pub(super) fn step_down_below(&mut self, ballot: Ballot) {
        self.coordinator.highest = self.coordinator.highest.max(ballot);
        if self.coordinator.lead.as_ref().is_some_and(|lead| lead.ballot < ballot) {
            self.coordinator.lead = None;
        }
    }

    pub(super) fn on_rejected(&mut self, view: &View, ballot: Ballot) {
        let led = self.coordinator.lead.is_some();
        self.step_down_below(ballot);
        if led && self.coordinator.lead.is_none() {
            self.follow(view);
        }
    }

    /// Time passed.
    pub(super) fn drive_lead(&mut self, view: &View, fx: &mut Fx) {
        match &self.coordinator.lead {
            None => self.wait_for_lead(view, fx),
            Some(Lead { stage: Stage::Open(_), .. }) => self.drive_open(view, fx),
            Some(Lead { ballot, sent, .. }) => {
                if view.now.since(*sent) >= self.retransmit_after(view) {
                    fx.hit(Path::Retransmit);
                    let ballot = *ballot;
                    fx.send(self.reserve.written(), self.all(), Message::Prepare { ballot });
                    self.coordinator.lead.as_mut().expect("it leads").sent = view.now;
                }
            }
        }
    }

    fn wait_for_lead(&mut self, view: &View, fx: &mut Fx) {
        let Some(deadline) = self.coordinator.deadline else {
            // In a new cluster it is clear who begins.
            let (me, timing) = (self.settings.me, &self.settings.timing);
            let (is_new, head_start) = (self.votes.promised.is_owner(), timing.head_start(me));
            let begins = is_new && timing.leader.map_or(me.index() == 0, |leader| leader == me);
            if begins {
                self.coordinator.deadline = Some(view.now);
            } else {
                self.follow(view);
                let deadline = self.coordinator.deadline.as_mut().expect("it was just set");
                *deadline = *deadline + if is_new { head_start } else { Duration::ZERO };
            }
            return;
        };
        let is_gone = self.coordinator_now().is_some_and(|who| view.suspected.contains(who));
        if is_gone && !self.coordinator.is_hurried {
            let soon = self.settings.timing.retransmit + view.slowest_round_trip();
            let (timing, me) = (&self.settings.timing, self.settings.me);
            let part = timing.patience_to_stand(me, self.rng.random::<f64>());
            let soon = view.now + soon.mul_f64(part);
            self.coordinator.deadline = Some(deadline.min(soon));
            self.coordinator.is_hurried = true;
        } else if view.now >= deadline {
            let is_fast = self.coordinator.mode.wants_fast(view, self.sizes);
            self.campaign(view, is_fast, fx);
        }
    }

    /// Phase 1a, in a ballot above all that were heard of.
    pub(super) fn campaign(&mut self, view: &View, is_fast: bool, fx: &mut Fx) {
        self.follow(view);
        let above = self.coordinator.highest.max(self.votes.promised);
        let Some(ballot) = self.reserve.ballot(above, 0, fx) else { return };
        fx.hit(Path::FastCampaign);
        self.coordinator.highest = ballot;
        let stage = Stage::Asking(Asking { is_fast, ..Asking::default() });
        self.coordinator.lead = Some(Lead { ballot, stage, sent: view.now });
        fx.send(self.reserve.written(), self.all(), Message::Prepare { ballot });
    }

    fn asking(&mut self, ballot: Ballot) -> Option<&mut Asking> {
        match self.coordinator.lead.as_mut() {
            Some(Lead { ballot: led, stage: Stage::Asking(asking), .. }) if *led == ballot => {
                Some(asking)
            }
            _ => None,
        }
    }

    /// Phase 1b.
    pub(super) fn on_promise(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        (known, reported): (Slot, Vec<Slot>),
        fx: &mut Fx,
    ) {
        let Some(asking) = self.asking(ballot) else { return };
        asking.promises.insert(from, (known, reported));
        self.try_open(view, fx);
    }

    /// Part of phase 1b, or an answer to a suggestion.
    pub(super) fn on_report(
        &mut self,
        view: &View,
        from: ReplicaId,
        (ballot, slot): (Ballot, Slot),
        (round, choice): (Option<Round>, Choice),
        fx: &mut Fx,
    ) {
        if let Some(asking) = self.asking(ballot) {
            asking.reports.entry(slot).or_default().insert(from, (round, choice));
            self.try_open(view, fx);
        } else if let Some(round) = round {
            let proposal = choice.proposal;
            self.note_shown(ballot, slot, choice);
            self.on_voted(view, from, (slot, round), proposal, fx);
        }
    }

    /// Phase 1 is done once a majority has answered in full.
    fn try_open(&mut self, view: &View, fx: &mut Fx) {
        let quorum = self.sizes.classic;
        let Some(Lead { ballot, stage: Stage::Asking(asking), .. }) = &mut self.coordinator.lead
        else {
            return;
        };
        let complete = asking.complete();
        if complete.len() < quorum {
            return;
        }
        let (ballot, asking) = (*ballot, std::mem::take(asking));
        let known = asking.promises.iter().filter(|(who, _)| complete.contains(who));
        let known = known.map(|(_, (known, _))| *known).max().unwrap_or(0).max(self.log.known());
        let last = asking.reports.last_key_value().map_or(0, |(slot, _)| *slot).max(known);
        if last > self.log.known().saturating_add(HORIZON / 2) {
            // Too far behind to lead: it catches up first, and somebody else leads.
            self.coordinator.lead = None;
            return;
        }
        fx.hit(Path::FastElected);
        self.log.see(last);
        let opened = Opened::new(asking.is_fast, last + 1);
        self.coordinator.lead = Some(Lead { ballot, stage: Stage::Open(opened), sent: view.now });
        for slot in known + 1..=last {
            let reports = asking.reports.get(&slot).into_iter().flatten();
            let reports = reports.filter(|(who, _)| complete.contains(who));
            let reports: Vec<_> = reports.map(|(_, report)| report.clone()).collect();
            self.finish(view, slot, complete.len(), &reports, fx);
        }
        self.announce(view, fx);
    }

    /// Finishes a slot of earlier ballots by what phase 1 has found there.
    fn finish(
        &mut self,
        view: &View,
        slot: Slot,
        asked: usize,
        reports: &[(Option<Round>, Choice)],
        fx: &mut Fx,
    ) {
        if !self.log.is_open(slot) {
            return;
        }
        if let Some((_, choice)) = reports.iter().find(|(round, _)| round.is_none()) {
            self.learn(view, slot, choice, false, fx);
            return;
        }
        let votes: Vec<_> = reports
            .iter()
            .filter_map(|(round, choice)| Some(((*round)?, choice.proposal)))
            .collect();
        let find = |name: InstanceId| {
            let report = reports.iter().find(|(_, choice)| choice.proposal == name);
            report.map(|(_, choice)| choice.clone())
        };
        #[cfg(test)]
        let votes = if self.plant == Some(super::Plant::IgnoreFound) { Vec::new() } else { votes };
        let choice = match pick(self.sizes, asked, &votes) {
            Pick::Forced(name) => find(name),
            Pick::Free(names) => names.into_iter().filter(|n| self.is_nowhere(*n)).find_map(find),
        };
        let choice = choice.unwrap_or_else(|| self.nop(fx));
        self.assign_slot(view, slot, choice, false, fx);
    }

    pub(super) fn nop(&mut self, fx: &mut Fx) -> Choice {
        fx.hit(Path::FastNop);
        Choice { proposal: self.reserve.name(fx), value: Value::Nop }
    }

    /// How long to wait for an answer.
    pub(super) fn retransmit_after(&self, view: &View) -> Duration {
        self.settings.timing.retransmit.max(view.slowest_trip() * 2)
    }
}
