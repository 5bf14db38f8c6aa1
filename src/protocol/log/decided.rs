//! The decisions that are kept, and how far the decided prefix is known (§L3, §L7).

use std::collections::BTreeMap;

use super::choice::{decision, log_floor};
use super::marks::Marks;
use super::{Choice, HORIZON, LogRecord, Path};
use crate::protocol::{Effects, View};
use crate::types::{
    Deps, Executed, InstanceId, MAX_SLOT, ReplicaId, Settings, Slot, Time, Value, Written,
};

/// The state of a slot here.
#[derive(Debug)]
pub(in crate::protocol) enum Standing<'a> {
    /// It is decided, and dropped.
    Dropped,
    /// It is decided.
    Decided(&'a Choice),
    /// It may be voted in.
    Open,
    /// There is no such slot, or it is too far ahead.
    Beyond,
}

/// The decisions of one replica.
///
/// Invariants:
///
/// 1. `floor <= known`; everything up to `floor` is decided, durably executed here, and dropped.
/// 2. Everything between `floor` and `known` is in `entries`, and slot `known + 1` is not.
/// 3. `names` holds the names in `entries`, each with its lowest slot.
#[derive(Debug)]
pub(in crate::protocol) struct DecidedLog {
    pub(super) settings: Settings,
    pub(super) floor: Slot,
    pub(super) known: Slot,
    /// The highest slot known to be in use.
    pub(super) seen: Slot,
    /// Up to here the state machine got everything from an earlier life or a snapshot.
    given: Slot,
    pub(super) entries: BTreeMap<Slot, Choice>,
    names: BTreeMap<InstanceId, Slot>,
    pub(super) bytes: usize,
    pub(super) marks: Marks,
}

impl DecidedLog {
    pub(in crate::protocol) fn new(settings: &Settings) -> DecidedLog {
        DecidedLog {
            marks: Marks::new(settings.quorums.n),
            settings: settings.clone(),
            floor: 0,
            known: 0,
            seen: 0,
            given: 0,
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Every decision up to here is known.
    pub(in crate::protocol) fn known(&self) -> Slot {
        self.known
    }

    /// Decisions up to here are dropped.
    pub(in crate::protocol) fn floor(&self) -> Slot {
        self.floor
    }

    /// The highest slot known to be in use.
    pub(in crate::protocol) fn seen(&self) -> Slot {
        self.seen
    }

    /// Notes that a slot is in use. A slot beyond the horizon is ignored until the prefix has
    /// grown.
    pub(in crate::protocol) fn see(&mut self, slot: Slot) {
        if slot <= self.known.saturating_add(HORIZON) {
            self.seen = self.seen.max(slot);
        }
    }

    pub(in crate::protocol) fn standing(&self, slot: Slot) -> Standing<'_> {
        if slot == 0 || slot > MAX_SLOT || slot > self.known.saturating_add(HORIZON) {
            return Standing::Beyond;
        }
        if slot <= self.floor {
            return Standing::Dropped;
        }
        self.entries.get(&slot).map_or(Standing::Open, Standing::Decided)
    }

    /// Whether this replica may vote in the slot: it is not decided.
    pub(in crate::protocol) fn is_open(&self, slot: Slot) -> bool {
        matches!(self.standing(slot), Standing::Open)
    }

    /// Whether the slot is too far ahead for a vote.
    pub(in crate::protocol) fn is_beyond(&self, slot: Slot) -> bool {
        matches!(self.standing(slot), Standing::Beyond)
    }

    /// The slot in which a proposal was decided, while that is kept.
    pub(in crate::protocol) fn slot_of(&self, proposal: InstanceId) -> Option<Slot> {
        self.names.get(&proposal).copied()
    }

    /// The decisions above a slot.
    pub(in crate::protocol) fn above(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Choice)> {
        self.entries.range(slot + 1..).map(|(slot, choice)| (*slot, choice))
    }

    /// A decision became known. Returns whether it is new. `is_voted`: the last vote on record here
    /// is for it, so its record can leave out the value.
    ///
    /// It may be announced and executed before it is durable here: a quorum stores it durably.
    ///
    /// # Panics
    /// If a different decision of the slot is known.
    pub(in crate::protocol) fn learn<M, R: From<LogRecord>>(
        &mut self,
        slot: Slot,
        choice: &Choice,
        is_voted: bool,
        fx: &mut Effects<M, R>,
    ) -> bool {
        if !self.take(slot, choice, fx) {
            return false;
        }
        let value = (!is_voted).then(|| choice.value.clone());
        let proposal = choice.proposal;
        fx.append(R::from(LogRecord::Decided { slot, proposal, value }));
        true
    }

    /// Restores a decision of an earlier life. `voted` is the last vote on record.
    pub(in crate::protocol) fn restore<M, R>(
        &mut self,
        slot: Slot,
        proposal: InstanceId,
        value: Option<Value>,
        voted: Option<&Choice>,
        fx: &mut Effects<M, R>,
    ) {
        let voted = || voted.filter(|choice| choice.proposal == proposal);
        let value = value.or_else(|| voted().map(|choice| choice.value.clone()));
        if let Some(value) = value {
            self.take(slot, &Choice { proposal, value }, fx);
        }
    }

    fn take<M, R>(&mut self, slot: Slot, choice: &Choice, fx: &mut Effects<M, R>) -> bool {
        match self.standing(slot) {
            Standing::Dropped | Standing::Beyond => return false,
            Standing::Decided(decided) => {
                assert!(decided == choice, "one decision a slot: {slot} {decided:?} {choice:?}");
                return false;
            }
            Standing::Open => {}
        }
        self.bytes += choice.weight();
        self.see(slot);
        let first = self.names.entry(choice.proposal).or_insert(slot);
        *first = slot.min(*first);
        self.entries.insert(slot, choice.clone());
        if slot > self.given {
            self.put_out(slot, choice, fx);
        }
        self.advance();
        true
    }

    fn put_out<M, R>(&self, slot: Slot, choice: &Choice, fx: &mut Effects<M, R>) {
        let Choice { proposal, value } = choice.clone();
        let decision = decision(self.settings.quorums.n, slot, proposal, value);
        fx.decide(Written::default(), decision);
    }

    fn advance(&mut self) {
        while self.entries.contains_key(&(self.known + 1)) {
            self.known += 1;
        }
    }

    /// Drops decisions up to `to`, at most `at_most` of them.
    pub(super) fn drop_to(&mut self, to: Slot, at_most: usize) {
        for _ in 0..at_most {
            if self.floor >= to {
                return;
            }
            self.floor += 1;
            if let Some(choice) = self.entries.remove(&self.floor) {
                self.bytes -= choice.weight();
                if self.names.get(&choice.proposal) == Some(&self.floor) {
                    self.names.remove(&choice.proposal);
                }
            }
        }
    }

    /// Roughly how many bytes of memory the decisions take.
    pub(in crate::protocol) fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// The records for a snapshot of this replica: all decisions that are kept.
    pub(in crate::protocol) fn records(&self) -> impl Iterator<Item = LogRecord> + '_ {
        self.entries.iter().map(|(slot, choice)| LogRecord::Decided {
            slot: *slot,
            proposal: choice.proposal,
            value: Some(choice.value.clone()),
        })
    }

    /// Starts from a snapshot of this replica in which everything up to `floor` is dropped.
    ///
    /// # Panics
    /// If the snapshot contradicts itself.
    pub(in crate::protocol) fn restore_snapshot(&mut self, floor: Slot, executed: &Executed) {
        self.given = log_floor(executed);
        assert!(floor <= self.given, "only what is executed is dropped");
        self.floor = floor;
        self.known = floor;
        self.seen = self.seen.max(self.given);
        self.saved_here(self.given);
    }

    /// All records are restored: what the snapshot holds without a record counts as dropped.
    pub(in crate::protocol) fn resume(&mut self, now: Time) {
        if self.known < self.given {
            self.skip_to(self.given);
        }
        self.marks.start(now);
    }

    /// Whether another replica's snapshot may replace the state here. Executed slots are a prefix,
    /// so the snapshot that is further holds everything the other has.
    pub(in crate::protocol) fn may_install(executed: &Executed, here: &Executed) -> bool {
        log_floor(executed) > log_floor(here)
    }

    /// Installs another replica's snapshot; decisions outside it appear in the effects again. Its
    /// slots are dropped here, since not all of their decisions may be known.
    pub(in crate::protocol) fn install<M, R>(
        &mut self,
        executed: &Executed,
        fx: &mut Effects<M, R>,
    ) {
        fx.hit(Path::Installed);
        self.given = self.given.max(log_floor(executed));
        self.skip_to(self.given);
        self.marks.gossip_now();
        for (slot, choice) in &self.entries {
            self.put_out(*slot, choice, fx);
        }
    }

    fn skip_to(&mut self, slot: Slot) {
        self.drop_to(self.known.min(slot), usize::MAX);
        let above = self.entries.split_off(&(slot + 1));
        let gone = std::mem::replace(&mut self.entries, above);
        self.bytes -= gone.values().map(Choice::weight).sum::<usize>();
        self.names.retain(|_, at| *at > slot);
        self.floor = self.floor.max(slot);
        self.known = self.known.max(slot);
        self.seen = self.seen.max(slot);
        self.advance();
    }

    /// A snapshot of this replica is durable.
    pub(in crate::protocol) fn on_snapshot(&mut self, executed: &Executed) {
        self.saved_here(log_floor(executed));
    }

    /// Everything up to here is durably executed here.
    fn saved_here(&mut self, slot: Slot) {
        self.marks.note(self.settings.me, 0, slot);
    }

    /// Everything up to here is executed here.
    pub(in crate::protocol) fn executed_here(&mut self, executed: &Deps) {
        if self.settings.retention.volatile {
            self.saved_here(executed.slot(InstanceId::LOG));
        }
    }

    /// Whether an unsuspected member has said that it knows this decision.
    pub(in crate::protocol) fn is_known_elsewhere(&self, slot: Slot, view: &View) -> bool {
        let members = ReplicaId::all(self.settings.quorums.n);
        let mut live = members.filter(|who| !view.suspected.contains(*who));
        live.any(|who| self.marks.known_at(who) >= slot)
    }
}
