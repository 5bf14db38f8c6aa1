//! What replicas forget and drop, compared with what all of them surely have (PROTOCOL.md §8a). No
//! replica forgets what a member lacks, a dropped instance never gets a record again, and what a
//! member has reported as safe stays safe.

use super::{Breach, Broken, Checks};
use crate::sim::subject::Noted;
use crate::types::{Deps, Executed, ReplicaId};

/// The positions of all replicas.
#[derive(Debug)]
pub(super) struct Truncation {
    /// Up to where each replica has executed everything for good: in a durable snapshot or, if the
    /// whole log is kept, in any of its lives.
    safe: Vec<Deps>,
    /// Up to where each replica has no records in its current life.
    dropped: Vec<Deps>,
    /// Up to where each replica has forgotten conflicts in its current life.
    forgotten: Vec<Deps>,
}

impl Truncation {
    pub(super) fn new(n: usize) -> Truncation {
        let nothing = vec![Deps::none(n); n];
        Truncation { safe: nothing.clone(), dropped: nothing.clone(), forgotten: nothing }
    }
}

impl Checks {
    /// A replica has a new durable snapshot and will report it.
    pub(in crate::sim) fn saved(
        &mut self,
        at: ReplicaId,
        executed: &Executed,
    ) -> Result<(), Breach> {
        let safe = &mut self.truncation.safe[at.index()];
        let (before, now) = (safe.clone(), executed.floor());
        safe.clone_from(now);
        if now.includes(&before) {
            return Ok(());
        }
        Err(truncation(format!("{at} had a snapshot of {before:?}, and then one of {now:?}")))
    }

    /// A replica has executed everything up to here for good: in its whole log, or in the snapshot
    /// it starts from.
    pub(in crate::sim) fn is_safe(&mut self, at: ReplicaId, executed: &Deps) {
        self.truncation.safe[at.index()].merge(executed);
    }

    /// A replica begins a life. Records that it dropped or forgot earlier may be back.
    pub(in crate::sim) fn keeps_all(&mut self, at: ReplicaId) {
        let Truncation { dropped, forgotten, .. } = &mut self.truncation;
        dropped[at.index()] = Deps::none(self.n);
        forgotten[at.index()] = Deps::none(self.n);
    }

    /// A replica has come back from some snapshot. With the log, it must have everything reported
    /// as safe.
    pub(in crate::sim) fn is_back(&self, at: ReplicaId, executed: &Deps) -> Result<(), Breach> {
        let safe = &self.truncation.safe[at.index()];
        if executed.includes(safe) {
            return Ok(());
        }
        Err(truncation(format!("{at} had a snapshot of {safe:?}, and comes back at {executed:?}")))
    }

    /// A replica appends a record.
    pub(in crate::sim) fn is_kept(&self, at: ReplicaId, noted: Noted<'_>) -> Result<(), Breach> {
        let dropped = &self.truncation.dropped[at.index()];
        match noted.instance() {
            Some(id) if dropped.covers(id) => {
                Err(truncation(format!("{at} writes of {id} and has dropped {dropped:?}")))
            }
            _ => Ok(()),
        }
    }

    /// After a step: up to where a replica has no records.
    pub(in crate::sim) fn drops(&mut self, at: ReplicaId, dropped: &Deps) {
        let before = &mut self.truncation.dropped[at.index()];
        if before != dropped {
            before.clone_from(dropped);
        }
    }

    /// Whether a replica has forgotten more than before.
    pub(in crate::sim) fn forgets(&mut self, at: ReplicaId, floor: &Deps) -> bool {
        let before = &mut self.truncation.forgotten[at.index()];
        let more = before != floor;
        if more {
            before.clone_from(floor);
        }
        more
    }

    /// Whether every member surely has what this replica has forgotten.
    pub(in crate::sim) fn all_have(&self, at: ReplicaId) -> Result<(), Breach> {
        let floor = &self.truncation.forgotten[at.index()];
        for other in ReplicaId::all(self.n) {
            let safe = &self.truncation.safe[other.index()];
            if !safe.includes(floor) {
                let detail = format!("{at} has forgotten {floor:?}, and {other} has {safe:?}");
                return Err(truncation(detail));
            }
        }
        Ok(())
    }
}

fn truncation(detail: String) -> Breach {
    (Broken::Truncation, detail)
}
