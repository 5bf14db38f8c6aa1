//! What the simulator counts, and its final report.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::plan::Overrides;
use super::subject::Subject;
use crate::protocol::Paths;
use crate::types::{ExecutionOrder, Time};

macro_rules! counters {
    ($($variant:ident = $name:literal,)*) => {
        /// Something that the world does or observes, apart from the protocol's paths.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Counter { $($variant,)* }

        impl Counter {
            pub(super) const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    Dropped = "fault_drop",
    Duplicated = "fault_duplicate",
    Late = "fault_late",
    Reordered = "fault_reorder",
    ClientDropped = "fault_client_drop",
    Halves = "fault_partition_halves",
    Isolated = "fault_partition_isolated",
    OneWay = "fault_partition_one_way",
    Bridge = "fault_partition_bridge",
    Ring = "fault_partition_majorities_ring",
    Flapping = "fault_partition_flapping",
    LinkCut = "fault_link_cut",
    Muted = "fault_muted",
    KeptRecover = "fault_recover_kept_from_owner",
    LostCommit = "fault_commit_lost",
    LostPreAccept = "fault_pre_accept_lost",
    LostVote = "fault_vote_lost",
    LostRecovery = "fault_recovery_lost",
    Crash = "fault_crash",
    CrashProposing = "fault_crash_proposing",
    Pause = "fault_pause",
    PauseLosing = "fault_pause_losing",
    SlowFlush = "fault_slow_disk",
    Skewed = "fault_clock",
    Duel = "fault_duel",
    DuelOfTwo = "fault_duel_of_two",
    Deafened = "fault_duel_deaf_owners",
    Batched = "several_inputs_a_step",
    Component = "component_above_one",
    LargeBatch = "batch_above_one",
    Retried = "client_retried_elsewhere",
    Doubled = "client_asked_two_at_once",
    GaveUp = "client_gave_up",
    SecondTime = "command_met_again",
    Everything = "everything_executed",
    SeveralKeys = "several_keys_executed",
    Twin = "client_used_an_id_twice",
    TwinAnswered = "answer_to_another_command_of_its_id",
    EraEnd = "era_end_proposed",
    Close = "close_proposed",
    LateRetry = "command_arrives_late",
    RefusedLate = "command_refused_for_its_age",
    RefusedAgain = "command_refused_that_was_executed",
    Expired = "client_session_expired",
    QuietTrim = "all_trimmed_when_quiet",
    ReadUnproposed = "read_not_proposed",
    Restart = "restart",
    RestartAtOnce = "restart_without_pause",
    RestartSome = "restart_some",
    RestartAll = "restart_all",
    RestartAgain = "restart_again",
    RestartProposing = "restart_proposing",
    RestartVoting = "restart_voting",
    RestartRecovering = "restart_recovering",
    UnsyncedLost = "restart_unsynced_lost",
    OpenProposals = "restart_with_open_proposals",
    CommitLost = "restart_own_commit_lost",
    ExecutedAgain = "restart_executed_again",
    PlainWorld = "world_not_optimised",
    SilentWorld = "world_with_silent_orphans",
    ReservingWorld = "world_with_reserved_slots",
    QuickWorld = "world_with_both",
    Killed = "disk_process_killed",
    PowerLost = "disk_power_lost",
    TornFlush = "disk_stopped_within_flush",
    Untold = "disk_more_left_than_was_known",
    FlushFailed = "disk_flush_failed",
    WriteFailed = "disk_write_failed",
    ReadFailed = "disk_read_failed_at_start",
    StopStarting = "disk_stopped_while_starting",
    DiskFull = "disk_full",
    StoodStill = "disk_full_stands_still",
    WentOnFull = "disk_full_goes_on",
    RefusedFull = "disk_full_client_refused",
    FlipHarmless = "disk_bit_flip_without_effect",
    FlipOlder = "disk_bit_flip_older_snapshot_taken",
    FlipUnsealed = "disk_bit_flip_not_to_be_told_from_torn",
    FlipRefused = "disk_bit_flip_start_refused",
    Wiped = "disk_wiped_stays_away",
    SnapshotTaken = "snapshot_taken",
    SnapshotFailed = "snapshot_failed",
    SnapshotCut = "snapshot_cut_short_by_a_crash",
    SnapshotFirst = "snapshot_first_behind_an_installed_one",
    SnapshotInstalled = "snapshot_installed",
    SnapshotStart = "snapshot_started_from",
    LogCut = "snapshot_log_cut",
    Absence = "absence",
    LostTransfer = "snapshot_piece_lost",
    TransferDisturbed = "snapshot_transfer_disturbed_by_a_crash",
    InstalledRecovering = "snapshot_installed_while_recovering",
    InstalledOpen = "snapshot_installed_with_open_proposals",
    InstallRefused = "snapshot_install_refused",
    OlderRefused = "older_disk_refused",
    OlderHarmless = "older_disk_without_effect",
    OlderUnknown = "older_disk_that_nobody_can_tell",
    OlderWentOn = "older_disk_that_went_on_alone",
    OlderToldApart = "older_disk_that_two_would_remember_otherwise",
    MemoriesCompared = "memories_of_a_third_compared",
}

impl Counter {
    /// Whether only worlds with restarts can hit it.
    pub(super) fn needs_restarts(self) -> bool {
        self as usize >= Counter::Restart as usize
    }

    /// Whether worlds of protocol `P` can hit it.
    pub(super) fn is_met_by<P: Subject>(self) -> bool {
        match self {
            Counter::ReadUnproposed => P::HAS_LEASES,
            // These need owners and conflicts.
            Counter::Component
            | Counter::KeptRecover
            | Counter::OpenProposals
            | Counter::CommitLost
            | Counter::InstalledRecovering
            | Counter::InstalledOpen
            | Counter::SilentWorld
            | Counter::ReservingWorld
            | Counter::QuickWorld => P::ORDER == ExecutionOrder::Dependencies,
            _ => true,
        }
    }
}

/// How often each [`Counter`] was hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Counters(Vec<u64>);

impl Default for Counters {
    fn default() -> Counters {
        Counters(vec![0; Counter::ALL.len()])
    }
}

impl Counters {
    pub(super) fn hit(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (*counter, self.0[*counter as usize]))
    }
}

/// The promise that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Two replicas committed different things in one instance (PROTOCOL.md §2).
    Agreement,
    /// Neither of two conflicting committed instances covers the other (PROTOCOL.md §2).
    Visibility,
    /// Something was committed or executed that its owner never proposed there (PROTOCOL.md §2).
    Integrity,
    /// Conflicting commands were executed in different orders, or before they were committed.
    Order,
    /// A command had its effect twice at one replica.
    Once,
    /// Something pending did not finish after the end of the faults.
    Liveness,
    /// Replicas that executed the same commands have different states.
    Divergence,
    /// No order explains what clients were told.
    Linearizability,
    /// Something that every replica has executed was not forgotten.
    Memory,
    /// Something that some member lacks was dropped or forgotten (PROTOCOL.md §8a).
    Truncation,
    /// Encoding and decoding changes a message.
    Wire,
    /// Two lives of a replica used the same ballot (PROTOCOL.md §5.1).
    Ballot,
    /// A replica accepts one that lacks what it has heard, or could not recognise such a one.
    Freshness,
    /// Something durable is missing, or damage was not noticed.
    Storage,
    /// An assertion failed in the code under test.
    Panic,
}

/// A broken promise and the details.
pub(super) type Breach = (Broken, String);

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The promise.
    pub broken: Broken,
    /// The details.
    pub detail: String,
    /// When it was noticed, in simulated time.
    pub at: Time,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.broken, self.at, self.detail)
    }
}

/// The result of one seed's world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// A hash of everything that happened: equal for equal seeds.
    pub trace: u64,
    /// How long the world lasted.
    pub simulated: Duration,
    /// Operations that clients got an answer to.
    pub operations: u64,
    /// The longest that a client waited for an answer.
    pub slowest: Duration,
    /// What went wrong, if anything.
    pub violation: Option<Violation>,
    pub(super) paths: Paths,
    pub(super) counters: Counters,
    pub(super) largest_component: usize,
}

impl Verdict {
    /// How often the counter with this name was hit.
    #[cfg(test)]
    pub(super) fn count(&self, name: &str) -> u64 {
        let found = self.counters.iter().find(|(counter, _)| counter.name() == name);
        found.expect("a counter of this name").1
    }
}

/// A seed that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What went wrong.
    pub violation: Violation,
    /// The command line that reproduces it.
    pub reproduce: String,
    /// The smallest failing world of the same seed, if it was searched for.
    pub shrunk: Option<(Overrides, Violation)>,
}

/// The result of a run of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds that failed; `failures` describes the first of them.
    pub violations: u64,
    /// The described failures, by seed.
    pub failures: Vec<Failure>,
    /// How long the worlds lasted, in simulated time.
    pub simulated: Duration,
    /// How long the run took, summed over all threads.
    pub busy: Duration,
    /// Operations that clients got an answer to.
    pub operations: u64,
    /// The largest component executed.
    pub largest_component: usize,
    /// A hash of all traces, the same for any number of threads.
    pub trace: u64,
    /// How often each path, fault and sight occurred.
    pub paths: BTreeMap<&'static str, u64>,
    /// Paths that a run of this size must take and did not.
    pub never: Vec<&'static str>,
}

impl Summary {
    /// Whether nothing failed and every required path was taken.
    pub fn is_good(&self) -> bool {
        self.violations == 0 && self.never.is_empty()
    }

    /// Simulated hours.
    pub fn hours(&self) -> f64 {
        self.simulated.as_secs_f64() / 3600.0
    }

    /// Simulated hours per hour of one core.
    pub fn hours_per_hour(&self) -> f64 {
        self.simulated.as_secs_f64() / self.busy.as_secs_f64().max(1e-9)
    }

    /// Adds a seed's result; the order does not matter.
    pub(super) fn add(&mut self, verdict: &Verdict, busy: Duration) {
        self.seeds += 1;
        self.violations += u64::from(verdict.violation.is_some());
        self.simulated += verdict.simulated;
        self.busy += busy;
        self.operations += verdict.operations;
        self.largest_component = self.largest_component.max(verdict.largest_component);
        let mix =
            (verdict.seed ^ verdict.trace.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.trace = self.trace.wrapping_add(mix ^ (mix >> 29));
        for (path, count) in verdict.paths.iter() {
            *self.paths.entry(path).or_default() += count;
        }
        for (counter, count) in verdict.counters.iter() {
            *self.paths.entry(counter.name()).or_default() += count;
        }
    }

    /// The summary as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let failure = |failure: &Failure| {
            serde_json::json!({
                "seed": failure.seed,
                "violation": failure.violation.to_string(),
                "reproduce": failure.reproduce,
                "shrunk": failure.shrunk.as_ref().map(|(overrides, _)| overrides.to_string()),
            })
        };
        serde_json::json!({
            "seeds": self.seeds,
            "violations": self.violations,
            "simulated_hours": self.hours(),
            "simulated_hours_per_hour": self.hours_per_hour(),
            "operations": self.operations,
            "largest_component": self.largest_component,
            "trace": format!("{:016x}", self.trace),
            "paths": self.paths,
            "never_reached": self.never,
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    }
}
