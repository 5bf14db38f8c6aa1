//! The coordinator: elected by time-outs, runs phase 1 for the whole log, finishes what it finds,
//! and opens the ballot (§F2). `collide` handles later collisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::collide::{Known, Opened, nop};
use super::mode::Mode;
use super::round::{Pick, Sizes, pick};
use super::{Message, Path, Round, Step};
use crate::protocol::log::{Choice, HORIZON};
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Time};

/// This replica's state as a coordinator, or while it waits to become one.
#[derive(Debug)]
pub(super) struct Coordinator {
    rng: ChaCha8Rng,
    lead: Option<Lead>,
    /// The highest ballot seen.
    highest: Ballot,
    /// When to become coordinator, unless another is heard; `None` before the first tick.
    deadline: Option<Time>,
    /// Whether the deadline was moved up because the coordinator is suspected.
    is_hurried: bool,
    mode: Mode,
}

/// A ballot led by this replica.
#[derive(Debug)]
enum Lead {
    /// Phase 1.
    Asking(Asking),
    /// Phase 1 is done.
    Open(Opened),
}

impl Lead {
    fn ballot(&self) -> Ballot {
        match self {
            Lead::Asking(asking) => asking.ballot,
            Lead::Open(opened) => opened.ballot,
        }
    }
}

/// An acceptor's report about a slot: its last vote, or, without a round, a decision.
type Report = (Option<Round>, Choice);

/// The answers to phase 1 so far.
#[derive(Debug)]
struct Asking {
    ballot: Ballot,
    /// When Prepare was last sent.
    sent: Time,
    /// Whether the ballot will be fast.
    is_fast: bool,
    /// Per acceptor that promised: the end of its decided prefix, and the slots it reports.
    promises: BTreeMap<ReplicaId, (Slot, Vec<Slot>)>,
    reports: BTreeMap<Slot, BTreeMap<ReplicaId, Report>>,
}

impl Asking {
    /// The acceptors whose promises and reports have all arrived.
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

/// What a majority reported about the slots of earlier ballots, in slot order.
#[derive(Debug)]
pub(super) struct Findings {
    /// The number of acceptors that reported.
    pub(super) asked: usize,
    pub(super) slots: Vec<(Slot, Vec<Report>)>,
}

impl Coordinator {
    pub(super) fn new(seed: u64) -> Coordinator {
        Coordinator {
            rng: ChaCha8Rng::seed_from_u64(seed),
            lead: None,
            highest: Ballot::OWNER,
            deadline: None,
            is_hurried: false,
            mode: Mode::default(),
        }
    }

    /// The ballot that it has opened, if any.
    pub(super) fn opened(&mut self) -> Option<&mut Opened> {
        match &mut self.lead {
            Some(Lead::Open(opened)) => Some(opened),
            _ => None,
        }
    }

    /// Another replica leads or is about to: waits for a random time before trying.
    pub(super) fn follow(&mut self, s: &Step<'_>) {
        let timing = s.cx.timing();
        let timeout = timing.suspect + s.view.slowest_round_trip() * 2;
        let part = timing.patience_to_stand(s.cx.me(), self.rng.random::<f64>());
        let timeout = timeout + timeout.mul_f64(part);
        self.deadline = Some(s.view.now + timeout);
        self.is_hurried = false;
    }

    /// Another replica has a higher ballot.
    pub(super) fn step_down_below(&mut self, ballot: Ballot) {
        self.highest = self.highest.max(ballot);
        if self.lead.as_ref().is_some_and(|lead| lead.ballot() < ballot) {
            self.lead = None;
        }
    }

    pub(super) fn on_rejected(&mut self, s: &Step<'_>, ballot: Ballot) {
        let led = self.lead.is_some();
        self.step_down_below(ballot);
        if led && self.lead.is_none() {
            self.follow(s);
        }
    }

    /// Time passed.
    pub(super) fn drive(&mut self, s: &mut Step<'_>, known: Known<'_>) {
        let promised = known.votes.promised();
        match &mut self.lead {
            None => self.wait(s, promised, known.proposer.coordinator(s.cx.me())),
            Some(Lead::Open(opened)) => {
                let is_fast = self.mode.wants_fast(s.view, Sizes::new(s.cx.n()));
                if is_fast != opened.is_fast {
                    s.fx.hit(if is_fast { Path::FastAgain } else { Path::ToClassic });
                    self.campaign(s, promised, is_fast);
                } else if opened.is_lost(s) {
                    // Another phase 1 finds the votes.
                    self.campaign(s, promised, is_fast);
                } else {
                    opened.drive(s, known);
                }
            }
            Some(Lead::Asking(asking)) => {
                if s.view.now.since(asking.sent) >= s.cx.retransmit_after(s.view) {
                    s.fx.hit(Path::Retransmit);
                    let prepare = Message::Prepare { ballot: asking.ballot };
                    s.fx.send(s.reserve.written(), s.cx.all(), prepare);
                    asking.sent = s.view.now;
                }
            }
        }
    }

    /// Starts phase 1 once no coordinator was heard for long enough.
    fn wait(&mut self, s: &mut Step<'_>, promised: Ballot, coordinator: Option<ReplicaId>) {
        let (now, me, timing) = (s.view.now, s.cx.me(), s.cx.timing());
        let Some(deadline) = self.deadline else {
            // In a new cluster the first coordinator is fixed.
            let (is_new, head_start) = (promised.is_owner(), timing.head_start(me));
            let begins = is_new && timing.leader.map_or(me.index() == 0, |leader| leader == me);
            if begins {
                self.deadline = Some(now);
            } else {
                self.follow(s);
                let deadline = self.deadline.as_mut().expect("it was just set");
                *deadline = *deadline + if is_new { head_start } else { Duration::ZERO };
            }
            return;
        };
        let is_gone = coordinator.is_some_and(|who| s.view.suspected.contains(who));
        if is_gone && !self.is_hurried {
            let soon = timing.retransmit + s.view.slowest_round_trip();
            let part = timing.patience_to_stand(me, self.rng.random::<f64>());
            let soon = now + soon.mul_f64(part);
            self.deadline = Some(deadline.min(soon));
            self.is_hurried = true;
        } else if now >= deadline {
            let is_fast = self.mode.wants_fast(s.view, Sizes::new(s.cx.n()));
            self.campaign(s, promised, is_fast);
        }
    }

    /// Phase 1a, in a ballot above all seen.
    fn campaign(&mut self, s: &mut Step<'_>, promised: Ballot, is_fast: bool) {
        self.follow(s);
        let above = self.highest.max(promised);
        let Some(ballot) = s.reserve.ballot(above, 0, s.fx) else { return };
        s.fx.hit(Path::Campaign);
        self.highest = ballot;
        let (promises, reports) = (BTreeMap::new(), BTreeMap::new());
        let sent = s.view.now;
        self.lead = Some(Lead::Asking(Asking { ballot, sent, is_fast, promises, reports }));
        s.fx.send(s.reserve.written(), s.cx.all(), Message::Prepare { ballot });
    }

    fn asking(&mut self, ballot: Ballot) -> Option<&mut Asking> {
        match &mut self.lead {
            Some(Lead::Asking(asking)) if asking.ballot == ballot => Some(asking),
            _ => None,
        }
    }

    /// Phase 1b. If it completes phase 1, the ballot is open: returns what was found, to be
    /// finished by [`Coordinator::finish`] before the ballot is announced.
    pub(super) fn on_promise(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        ballot: Ballot,
        promise: (Slot, Vec<Slot>),
    ) -> Option<Findings> {
        self.asking(ballot)?.promises.insert(from, promise);
        self.try_open(s)
    }

    /// Whether phase 1 of this ballot is in progress.
    pub(super) fn is_asking(&mut self, ballot: Ballot) -> bool {
        self.asking(ballot).is_some()
    }

    /// A part of phase 1b; returns the same as [`Coordinator::on_promise`].
    pub(super) fn on_report(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        (ballot, slot): (Ballot, Slot),
        report: Report,
    ) -> Option<Findings> {
        self.asking(ballot)?.reports.entry(slot).or_default().insert(from, report);
        self.try_open(s)
    }

    /// Phase 1 is done once a majority has answered in full.
    fn try_open(&mut self, s: &mut Step<'_>) -> Option<Findings> {
        let Some(Lead::Asking(asking)) = &mut self.lead else { return None };
        let complete = asking.complete();
        if complete.len() < Sizes::new(s.cx.n()).classic {
            return None;
        }
        let known = asking.promises.iter().filter(|(who, _)| complete.contains(who));
        let known = known.map(|(_, (known, _))| *known).max().unwrap_or(0).max(s.log.known());
        let last = asking.reports.last_key_value().map_or(0, |(slot, _)| *slot).max(known);
        if last > s.log.known().saturating_add(HORIZON / 2) {
            // It lags too far to lead: it catches up first, and another replica leads.
            self.lead = None;
            return None;
        }
        s.fx.hit(Path::Elected);
        s.log.see(last);
        let slots = (known + 1..=last).map(|slot| {
            let reports = asking.reports.remove(&slot).into_iter().flatten();
            let reports = reports.filter(|(who, _)| complete.contains(who));
            (slot, reports.map(|(_, report)| report).collect())
        });
        let slots = slots.collect();
        let opened = Opened::new(asking.ballot, asking.is_fast, last + 1, s.view.now);
        self.lead = Some(Lead::Open(opened));
        Some(Findings { asked: complete.len(), slots })
    }

    /// Finishes a slot of earlier ballots by what phase 1 found there. Returns a decision if there
    /// is one; the caller learns it.
    pub(super) fn finish(
        &mut self,
        s: &mut Step<'_>,
        slot: Slot,
        asked: usize,
        reports: &[Report],
    ) -> Option<Choice> {
        let opened = self.opened()?;
        if !s.log.is_open(slot) {
            return None;
        }
        if let Some((_, choice)) = reports.iter().find(|(round, _)| round.is_none()) {
            return Some(choice.clone());
        }
        let votes = reports.iter();
        let votes = votes.filter_map(|(round, choice)| Some(((*round)?, choice.proposal)));
        let votes: Vec<_> = votes.filter(|_| s.cx.rules.found_votes_bind()).collect();
        let find = |name: InstanceId| {
            let report = reports.iter().find(|(_, choice)| choice.proposal == name);
            report.map(|(_, choice)| choice.clone())
        };
        let choice = match pick(Sizes::new(s.cx.n()), asked, &votes) {
            Pick::Forced(name) => find(name),
            Pick::Free(names) => {
                names.into_iter().filter(|name| opened.is_nowhere(s, *name)).find_map(find)
            }
        };
        let choice = choice.unwrap_or_else(|| nop(s));
        opened.assign(s, slot, choice, false);
        None
    }

    /// A slot is decided. `is_fast`: by the votes of a fast round.
    pub(super) fn on_decided(&mut self, slot: Slot, is_fast: bool) {
        if let Some(opened) = self.opened()
            && let Some(collided) = opened.on_decided(slot, is_fast)
        {
            self.mode.note(collided);
        }
    }
}
