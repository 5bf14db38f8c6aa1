//! One replica of a measurement: its inbox, its records, and whether it runs.

use crate::protocol::Protocol;
use crate::replica::{Core, Input, Limits, Output, Record};
use crate::types::{Durable, LogPosition, Quorums, ReplicaId, Retention, Settings, Time, Timing};

use super::Setup;

/// A replica and its disk.
///
/// Invariants:
///
/// 1. Everything that arrives while the replica is busy waits in `inbox` and is taken in one step.
/// 2. At most one flush is under way; it covers everything appended before it began.
pub(super) struct Machine<P: Protocol> {
    settings: Settings,
    make: fn(Settings) -> P,
    pub(super) core: Core<P>,
    pub(super) alive: bool,
    /// How often it has stopped. Events for an earlier life are ignored.
    pub(super) life: u32,
    pub(super) inbox: Vec<Input<P::Message>>,
    /// The replica is busy until then.
    pub(super) free_at: Time,
    /// Whether a step is already scheduled.
    pub(super) called: bool,
    /// The earliest scheduled wake-up for `Core::wake`.
    pub(super) wake_at: Option<Time>,
    /// All records that can be read after a crash, if there will be one.
    log: Option<Vec<Record<P::Record>>>,
    pub(super) appended: u64,
    flushed: u64,
    pub(super) flushing: bool,
}

impl<P: Protocol> Machine<P> {
    pub(super) fn new(setup: &Setup, me: ReplicaId, make: fn(Settings) -> P) -> Machine<P> {
        let back = setup.crash.is_some_and(|crash| crash.back.is_some());
        let settings = Settings {
            me,
            quorums: Quorums::new(setup.one_way.len()).expect("a supported number of sites"),
            seed: setup.seed.wrapping_mul(64) + u64::from(me.number()),
            timing: Timing::default(),
            optimisations: setup.optimisations,
            retention: Retention { volatile: !back, ..Retention::default() },
            leases: true,
        };
        Machine {
            core: Core::new(settings.clone(), Limits::default(), make(settings.clone())),
            settings,
            make,
            alive: true,
            life: 0,
            inbox: Vec::new(),
            free_at: Time::ZERO,
            called: false,
            wake_at: None,
            log: back.then(Vec::new),
            appended: 0,
            flushed: 0,
            flushing: false,
        }
    }

    /// Adds new records.
    pub(super) fn append(&mut self, records: &mut Vec<Record<P::Record>>) {
        self.appended += records.len() as u64;
        match &mut self.log {
            Some(log) => log.append(records),
            None => records.clear(),
        }
    }

    /// How much of the log is durable.
    pub(super) fn held(&self) -> LogPosition {
        LogPosition::new(self.flushed)
    }

    /// Whether there is nothing to flush.
    pub(super) fn is_durable(&self) -> bool {
        self.flushed == self.appended
    }

    /// Everything before a position is durable.
    pub(super) fn flushed(&mut self, position: u64) -> Input<P::Message> {
        self.flushed = position;
        Input::Durable(Durable::flushed(LogPosition::new(position)))
    }

    /// Stops the replica, which loses everything in memory.
    pub(super) fn stop(&mut self) {
        self.alive = false;
        self.life += 1;
        self.inbox.clear();
        self.called = false;
        self.wake_at = None;
        self.flushing = false;
        let kept = usize::try_from(self.flushed).expect("what is in memory can be counted");
        self.log.iter_mut().for_each(|log| log.truncate(kept));
        self.appended = self.flushed;
    }

    /// Restarts the replica from its log. `out` receives the results.
    pub(super) fn come_back(&mut self, now: Time, out: &mut Output<P::Message, P::Record>) {
        let protocol = (self.make)(self.settings.clone());
        self.core = Core::new(self.settings.clone(), Limits::default(), protocol);
        for record in self.log.iter().flatten() {
            self.core.restore(record.clone(), out);
        }
        out.clear();
        self.core.resume(now, Durable::flushed(LogPosition::new(self.flushed)), out);
        self.alive = true;
        self.free_at = now;
    }
}
