//! Which replicas may be gone for good: as many as the rest can do without.

use crate::sim::subject::Subject;
use crate::sim::world::state::World;
use crate::types::{Quorums, ReplicaId};

impl<P: Subject> World<'_, P> {
    /// A replica that may die, if the rest can do without it.
    pub(super) fn victim(&mut self) -> Option<ReplicaId> {
        let chosen = self.any();
        let host = &self.hosts[chosen.index()];
        (self.may_lose_one() && host.alive && host.doom.is_none()).then_some(chosen)
    }

    /// Whether one more replica may be gone for good.
    pub(super) fn may_lose_one(&self) -> bool {
        self.hosts.iter().filter(|host| host.is_gone()).count() < self.expendable()
    }

    /// How many replicas may be gone for good: f, or fewer if owners that come back stay silent
    /// about their orphans. Each of those counts as a failure itself. Suppose that conflicting
    /// orphans of two owners both keep `|Rmax| = |Q| - e` disjoint votes among the rest. Then each
    /// recovery rightly waits for the other, because either may have been fast. This must not
    /// happen.
    fn expendable(&self) -> usize {
        let Quorums { n, f, e } = self.quorums();
        if self.plan.optimisations.silent_orphans { (f - 1).min(n - 2 * e - 1) } else { f }
    }
}
