//! Checks that conflicting instances are executed in the same order everywhere (PROTOCOL.md §6).
//! Used by `checks`.

use rustc_hash::FxHashMap;

use crate::sim::report::{Breach, Broken};
use crate::types::{Access, Footprint, InstanceId, KeyHash, ReplicaId};

/// What instances can conflict on. An instance that conflicts with everything writes `Everything`;
/// every other instance reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::sim) enum Scope {
    Everything,
    Key(KeyHash),
}

/// The order of execution on one scope, as far as the most advanced replica.
#[derive(Debug, Default)]
struct Line {
    writes: Vec<InstanceId>,
    /// How many writes came before each read.
    reads: FxHashMap<InstanceId, usize>,
}

/// How many writes of each scope a replica has executed.
pub(in crate::sim) type Position = FxHashMap<Scope, usize>;

/// The orders of execution at all replicas, compared.
#[derive(Debug)]
pub(in crate::sim) struct Orders {
    lines: FxHashMap<Scope, Line>,
    /// How many writes of each scope each replica has executed.
    positions: Vec<Position>,
}

impl Orders {
    pub(in crate::sim) fn new(n: usize) -> Orders {
        Orders { lines: FxHashMap::default(), positions: vec![FxHashMap::default(); n] }
    }

    /// How far a replica has executed.
    pub(in crate::sim) fn position(&self, at: ReplicaId) -> Position {
        self.positions[at.index()].clone()
    }

    /// A replica continues from this position.
    pub(in crate::sim) fn start_from(&mut self, at: ReplicaId, position: &Position) {
        self.positions[at.index()].clone_from(position);
    }

    /// A replica starts from nothing.
    pub(in crate::sim) fn begin_anew(&mut self, at: ReplicaId) {
        self.positions[at.index()].clear();
    }

    /// A replica executes an instance.
    pub(in crate::sim) fn executed(
        &mut self,
        at: ReplicaId,
        id: InstanceId,
        footprint: &Footprint,
    ) -> Result<(), Breach> {
        match footprint.keys() {
            None => self.write(at, id, Scope::Everything),
            Some(keys) => {
                self.read(at, id, Scope::Everything)?;
                for (key, access) in keys {
                    match access {
                        Access::Read => self.read(at, id, Scope::Key(*key))?,
                        Access::Write => self.write(at, id, Scope::Key(*key))?,
                    }
                }
                Ok(())
            }
        }
    }

    fn write(&mut self, at: ReplicaId, id: InstanceId, scope: Scope) -> Result<(), Breach> {
        let position = self.positions[at.index()].entry(scope).or_default();
        let line = self.lines.entry(scope).or_default();
        match line.writes.get(*position) {
            None => line.writes.push(id),
            Some(expected) if *expected == id => {}
            Some(expected) => {
                let detail = format!("{at} executes {id} where others executed {expected}");
                return Err((Broken::Order, detail));
            }
        }
        *position += 1;
        Ok(())
    }

    fn read(&mut self, at: ReplicaId, id: InstanceId, scope: Scope) -> Result<(), Breach> {
        let position = self.positions[at.index()].get(&scope).copied().unwrap_or(0);
        let line = self.lines.entry(scope).or_default();
        let expected = *line.reads.entry(id).or_insert(position);
        if expected != position {
            let detail = format!(
                "{at} executes {id} behind {position} conflicting ones, others behind {expected}"
            );
            return Err((Broken::Order, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Slot;

    fn run(steps: &[(usize, usize, Slot, &Footprint)]) -> Result<(), Breach> {
        let mut orders = Orders::new(3);
        steps.iter().try_for_each(|(at, owner, slot, footprint)| {
            let id = InstanceId::new(ReplicaId::from_index(*owner), *slot);
            orders.executed(ReplicaId::from_index(*at), id, footprint)
        })
    }

    #[test]
    fn what_does_not_conflict_may_change_places() {
        let (read, other) = (Footprint::read(b"k"), Footprint::write(b"other"));
        let steps = [
            (0, 0, 1, &read),
            (0, 1, 1, &read),
            (0, 2, 1, &other),
            (1, 2, 1, &other),
            (1, 1, 1, &read),
            (1, 0, 1, &read),
        ];
        assert_eq!(run(&steps), Ok(()));
    }

    #[test]
    fn conflicting_ones_may_not() {
        let (write, read) = (Footprint::write(b"k"), Footprint::read(b"k"));
        let swapped = |first: &Footprint, second: &Footprint| {
            run(&[(0, 0, 1, first), (0, 1, 1, second), (1, 1, 1, second), (1, 0, 1, first)])
        };
        for (first, second) in [
            (&write, &write),
            (&write, &read),
            (&read, &write),
            (&Footprint::Everything, &read),
            (&read, &Footprint::Everything),
            (&Footprint::Everything, &Footprint::Everything),
        ] {
            let (broken, _) = swapped(first, second).expect_err("two orders");
            assert_eq!(broken, Broken::Order, "{first:?} {second:?}");
        }
        assert_eq!(swapped(&read, &read), Ok(()));
    }

    #[test]
    fn an_order_may_be_incomplete_but_not_have_holes() {
        let write = Footprint::write(b"k");
        assert_eq!(run(&[(0, 0, 1, &write), (0, 1, 1, &write), (1, 0, 1, &write)]), Ok(()));
        assert!(run(&[(0, 0, 1, &write), (0, 1, 1, &write), (1, 1, 1, &write)]).is_err());
    }
}
