//! What happened in worlds whose members change, counted.

use std::ops::AddAssign;

/// What happened.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    /// Epochs that ended, at one replica each.
    pub(super) ended: usize,
    /// Changes that took effect.
    pub(super) changes: usize,
    /// Replicas that fetched the state of a later epoch: new ones, and late ones.
    pub(super) newcomers: usize,
    pub(super) late: usize,
    pub(super) retired: usize,
    /// Instances that observers were fed, and states that they fetched although they had one.
    pub(super) fed: usize,
    pub(super) fetched: usize,
    pub(super) restarts: usize,
    /// Restarts that read how an epoch ended from the log.
    pub(super) replayed: usize,
    pub(super) superseded: usize,
    /// Machines that were lost for good, and replaced.
    pub(super) lost: usize,
    /// Restarts whose newest snapshot was damaged, and those of them that were refused.
    pub(super) damaged: usize,
    pub(super) refused: usize,
    /// Snapshots that failed.
    pub(super) failed: usize,
    pub(super) answered: usize,
    /// Reads that were answered without a proposal.
    pub(super) reads: usize,
    /// Requests that had no effect, and were not repeated.
    pub(super) denied: usize,
    /// Schedules at whose end there was no quorum.
    pub(super) excused: usize,
}

impl Tally {
    pub(super) fn paths(&self) -> [(&'static str, usize); 14] {
        [
            ("answered", self.answered),
            ("ended", self.ended),
            ("changes", self.changes),
            ("newcomers", self.newcomers),
            ("late", self.late),
            ("retired", self.retired),
            ("fed", self.fed),
            ("fetched by observers", self.fetched),
            ("restarts", self.restarts),
            ("superseded", self.superseded),
            ("lost", self.lost),
            ("denied", self.denied),
            ("damaged", self.damaged),
            ("failed snapshots", self.failed),
        ]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.ended += other.ended;
        self.changes += other.changes;
        self.newcomers += other.newcomers;
        self.late += other.late;
        self.retired += other.retired;
        self.fed += other.fed;
        self.fetched += other.fetched;
        self.restarts += other.restarts;
        self.replayed += other.replayed;
        self.superseded += other.superseded;
        self.lost += other.lost;
        self.damaged += other.damaged;
        self.refused += other.refused;
        self.failed += other.failed;
        self.answered += other.answered;
        self.reads += other.reads;
        self.denied += other.denied;
        self.excused += other.excused;
    }
}
