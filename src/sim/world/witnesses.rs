//! Compares what two replicas remember of a third, as real ones do when they connect
//! (`types::Known::agrees`). Before `meetings`.
//!
//! No older copy takes part in these worlds, because the harm would be done before it is found. So
//! any two replicas always agree. What a replica would remember of a copy is tried separately,
//! against what the replicas do remember.

use super::freshness::{breach, has};
use super::sabotage::Forget;
use super::state::World;
use crate::sim::report::Breach;
use crate::sim::report::Counter;
use crate::sim::subject::Subject;
use crate::types::{Known, LogPosition, ReplicaId};

/// The life of a copy; no replica of a world has it.
const OF_A_COPY: u64 = u64::MAX;

impl<P: Subject> World<'_, P> {
    /// A replica that is back compares its memory with all replicas that are up.
    pub(super) fn agrees_with_all(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let ours = &self.hosts[me.index()].fresh.register;
        let mut compared = false;
        for other in ReplicaId::all(self.plan.replicas) {
            let host = &self.hosts[other.index()];
            if other == me || !host.alive {
                continue;
            }
            for third in ReplicaId::all(self.plan.replicas).filter(|it| *it != me && *it != other) {
                let theirs = host.fresh.register.of(third);
                let Some((ours, theirs)) = ours.of(third).zip(theirs) else { continue };
                compared = true;
                if !ours.agrees(&theirs) {
                    let detail = format!("{other} refuses {me}: of {third}, {theirs:?}, {ours:?}");
                    return Err(breach(detail));
                }
            }
        }
        if compared {
            self.counters.hit(Counter::MemoriesCompared);
        }
        Ok(())
    }

    /// Supposes that an older copy of this disk starts where it reaches only replicas that cannot
    /// recognise it. Those that have heard more must refuse any replica that has heard it, once the
    /// copy is longer than the original was at the beginning of the life that they remember.
    pub(in crate::sim) fn would_be_told_apart(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let host = &self.hosts[me.index()];
        // A refused replica has the chain of its copy instead of the original's.
        if !host.alive {
            return Ok(());
        }
        let fresh = &host.fresh;
        let others = self.hosts.iter().enumerate().filter(|(at, it)| *at != me.index() && it.alive);
        let mut found = false;
        for (at, other) in others {
            let Some(known) = other.fresh.register.of(me) else { continue };
            let life = fresh.chain.lives().iter().find(|began| began.life == known.life);
            let before =
                life.expect("it takes part, so it has had every life that is remembered").at;
            for copy in &fresh.copies {
                let end = LogPosition::new(copy.records.len() as u64);
                if has(&copy.records, other.fresh.heard[me.index()]) || end >= known.held {
                    continue;
                }
                let held = LogPosition::new(end.max(before).records() + 1);
                let (directory, began) = (fresh.directory, Some(end));
                let of_copy = Known { directory, life: OF_A_COPY, began, held };
                let skipped = self.sabotage.forget == Some(Forget::Third);
                if skipped || known.agrees(&of_copy) {
                    let other = ReplicaId::from_index(at);
                    let detail =
                        format!("{other} remembers {known:?} of {me}, and {of_copy:?} too");
                    return Err(breach(detail));
                }
                found = true;
            }
        }
        if found {
            self.counters.hit(Counter::OlderToldApart);
        }
        Ok(())
    }
}
