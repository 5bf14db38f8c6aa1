//! What outlives a crash, and what does not: a replica is checked anew in each life, against what
//! all lives of all replicas have shown.

use rustc_hash::FxHashSet;

use super::{Access, Breach, Broken, Checks, Seen};
use crate::protocol::epaxos::{Message, Record};
use crate::sim::order::Position;
use crate::types::{Executed, InstanceId, ReplicaId, ReplicaSet, RequestId};

/// What a replica had executed when a snapshot was taken.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Shown {
    executed: FxHashSet<InstanceId>,
    applied: FxHashSet<RequestId>,
    order: Position,
}

impl Checks {
    /// What a snapshot of a replica stands for.
    pub(in crate::sim) fn shown(&self, at: ReplicaId) -> Shown {
        let seen = &self.seen[at.index()];
        let (executed, applied) = (seen.executed.clone(), seen.applied.clone());
        Shown { executed, applied, order: self.orders.position(at) }
    }

    /// A replica starts from a snapshot, or goes on from another one's: what is in it is decided,
    /// and known, whether there are records of it or not.
    pub(in crate::sim) fn start_from(&mut self, at: ReplicaId, shown: &Shown, inside: &Executed) {
        let seen = &mut self.seen[at.index()];
        seen.open.retain(|id| !inside.contains(*id));
        seen.committed.extend(&shown.executed);
        seen.executed.clone_from(&shown.executed);
        seen.applied.clone_from(&shown.applied);
        self.orders.start_from(at, &shown.order);
    }

    /// A replica has stopped: `kept` is what it can read of its records, `lost` what it cannot.
    /// Whether a decision is lost that nobody else knew.
    pub(in crate::sim) fn stopped(
        &mut self,
        at: ReplicaId,
        kept: &[Record],
        lost: &[Record],
    ) -> bool {
        let mut seen = Seen::default();
        for record in kept {
            let Some(id) = record.instance() else { continue };
            if matches!(record, Record::Committed { .. }) {
                seen.open.remove(&id);
                seen.committed.insert(id);
            } else if !seen.committed.contains(&id) {
                seen.open.insert(id);
            }
        }
        self.seen[at.index()] = seen;
        self.orders.begin_anew(at);
        let mut unknown = false;
        let reserved = kept.iter().filter_map(|record| match record {
            Record::Reserved { up_to } => Some(*up_to),
            _ => None,
        });
        let reserved = reserved.max().unwrap_or(0);
        // Nobody was told of a slot that has no record: it is free again. Not so if it was
        // reserved.
        let own = kept.iter().filter_map(|record| match record {
            Record::PreAccepted { id, .. } if id.replica == at => Some(*id),
            _ => None,
        });
        let own: FxHashSet<InstanceId> = own.collect();
        let taken = |id: &InstanceId| id.slot <= reserved || own.contains(id);
        self.proposed.retain(|id, _| id.replica != at || taken(id));
        let own = lost.iter().filter(|record| record.instance().is_some_and(|id| id.replica == at));
        for record in own {
            if let Record::Committed { id, .. } = record {
                let before = kept.iter().chain(lost).filter(|it| it.instance() == Some(*id));
                let voted = before.clone().any(|it| matches!(it, Record::Accepted { .. }));
                // Fast: the owner alone knew, and it may become something else now; unless the
                // owner may have told of it already.
                let alone = self.committers.get(id) == Some(&ReplicaSet::from_iter([at]));
                if alone && !voted {
                    if !self.optimisations.silent_orphans {
                        self.forget(*id);
                    }
                    unknown = true;
                }
            }
        }
        unknown
    }

    fn forget(&mut self, id: InstanceId) {
        self.committers.remove(&id);
        let Some((value, _)) = self.decided.remove(&id) else { return };
        let Some(batch) = value.batch() else { return };
        let owner = id.replica.index();
        self.all[owner].remove(&id.slot);
        self.everything[owner].remove(&id.slot);
        for (key, _) in batch.footprint().keys().unwrap_or_default() {
            if let Some(users) = self.keys.get_mut(key) {
                let access: Option<Access> = users[owner].remove(&id.slot);
                assert!(access.is_some(), "what was decided was entered");
            }
        }
    }

    /// A replica says something in one of its lives. A recovery is never taken up by another one
    /// (protocol.md §5.1): what was promised to the one would count for the other.
    pub(in crate::sim) fn said(&mut self, life: u32, message: &Message) -> Result<(), Breach> {
        let Message::Recover { id, ballot } = message else { return Ok(()) };
        if *self.led.entry((*id, *ballot)).or_insert(life) == life {
            return Ok(());
        }
        Err((Broken::Ballot, format!("{id} is recovered at {ballot:?} in two lives")))
    }

    /// Whether a replica has a proposal of its own that is not decided.
    pub(in crate::sim) fn has_open_proposal(&self, at: ReplicaId) -> bool {
        self.seen[at.index()].open.iter().any(|id| id.replica == at)
    }
}
