//! What outlives a crash, and what does not: a replica is checked anew in each life, against what
//! all lives of all replicas have shown.

use super::{Access, Checks, Seen};
use crate::protocol::epaxos::Record;
use crate::types::{InstanceId, ReplicaId, ReplicaSet};

impl Checks {
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
            let Some(id) = id(record) else { continue };
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
        let own = lost.iter().filter(|record| id(record).is_some_and(|id| id.replica == at));
        for record in own {
            match record {
                // Nobody was told of it: the slot is free again. Not so if it was reserved.
                Record::PreAccepted { id, .. } if id.slot > reserved => {
                    self.proposed.remove(id);
                }
                Record::Committed { id, .. } => {
                    let before = kept.iter().chain(lost).filter(|it| self::id(it) == Some(*id));
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
                _ => {}
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

    /// Whether a replica has a proposal of its own that is not decided.
    pub(in crate::sim) fn has_open_proposal(&self, at: ReplicaId) -> bool {
        self.seen[at.index()].open.iter().any(|id| id.replica == at)
    }
}

/// The instance that a record is about, if it is about one.
fn id(record: &Record) -> Option<InstanceId> {
    match record {
        Record::PreAccepted { id, .. }
        | Record::Accepted { id, .. }
        | Record::Joined { id, .. }
        | Record::Validated { id, .. }
        | Record::Learned { id, .. }
        | Record::Committed { id, .. } => Some(*id),
        Record::Reserved { .. } | Record::Agreed { .. } => None,
    }
}
