//! Who may be gone for good: as many as all the rest can do without.

use crate::sim::subject::Subject;
use crate::sim::world::state::World;
use crate::types::{Quorums, ReplicaId};

impl<P: Subject> World<'_, P> {
    /// Somebody who may die: as many as all the rest can do without.
    pub(super) fn victim(&mut self) -> Option<ReplicaId> {
        let chosen = self.any();
        let host = &self.hosts[chosen.index()];
        (self.may_lose_one() && host.alive && host.doom.is_none()).then_some(chosen)
    }

    /// Whether more may be gone for good.
    pub(super) fn may_lose_one(&self) -> bool {
        self.hosts.iter().filter(|host| host.is_gone()).count() < self.expendable()
    }

    /// How many may be gone for good: f; fewer where owners that come back are silent about their
    /// orphans. Each of those counts as a failure itself, and orphans of two owners that conflict
    /// must not both keep `|Rmax| = |Q| - e` disjoint votes among the rest: then each waits for the
    /// other, rightly, since either may have been fast.
    fn expendable(&self) -> usize {
        let Quorums { n, f, e } = self.quorums();
        if self.plan.optimisations.silent_orphans { (f - 1).min(n - 2 * e - 1) } else { f }
    }
}
