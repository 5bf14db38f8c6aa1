//! What survives a crash and what does not. Each life of a replica is checked from its start,
//! against what all lives of all replicas have shown.

use rustc_hash::FxHashSet;

use super::{Access, Breach, Broken, Checks, Content, Seen};
use crate::replica::Record;
use crate::sim::checks::order::Position;
use crate::sim::subject::{Noted, Subject, noted};
use crate::types::{Executed, InstanceId, ReplicaId, ReplicaSet};

/// What a replica had executed when it took a snapshot.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Shown {
    executed: FxHashSet<InstanceId>,
    applied: FxHashSet<Content>,
    order: Position,
}

impl Checks {
    /// What a snapshot of this replica covers now.
    pub(in crate::sim) fn shown(&self, at: ReplicaId) -> Shown {
        let seen = &self.seen[at.index()];
        let (executed, applied) = (seen.executed.clone(), seen.applied.clone());
        Shown { executed, applied, order: self.orders.position(at) }
    }

    /// A replica starts from a snapshot or installs another's. Everything in it is decided and
    /// known here, even without records.
    pub(in crate::sim) fn start_from(&mut self, at: ReplicaId, shown: &Shown, inside: &Executed) {
        let seen = &mut self.seen[at.index()];
        seen.open.retain(|id| !inside.contains(*id));
        seen.committed.extend(&shown.executed);
        seen.executed.clone_from(&shown.executed);
        seen.applied.clone_from(&shown.applied);
        seen.reached = inside.floor().slot(InstanceId::LOG);
        self.orders.start_from(at, &shown.order);
    }

    /// A replica has stopped. It can still read the records `kept` and not `lost`. Returns whether
    /// a decision is lost that no other replica knew.
    pub(in crate::sim) fn stopped<P: Subject>(
        &mut self,
        at: ReplicaId,
        kept: &[Record<P::Record>],
        lost: &[Record<P::Record>],
    ) -> bool {
        self.seen[at.index()] = Seen::default();
        self.reads::<P>(at, kept);
        self.orders.begin_anew(at);
        let mut unknown = false;
        let reserved = kept.iter().filter_map(|record| match noted::<P>(record) {
            Noted::Reserved(up_to) => Some(up_to),
            _ => None,
        });
        let reserved = reserved.max().unwrap_or(0);
        // No other replica was told of a slot without a record, so the slot is free again, unless
        // it was reserved.
        let own = kept.iter().filter_map(|record| match noted::<P>(record) {
            Noted::Proposed(id, _) if id.replica == at => Some(id),
            _ => None,
        });
        let own: FxHashSet<InstanceId> = own.collect();
        let taken = |id: &InstanceId| id.slot <= reserved || own.contains(id);
        self.proposed.retain(|id, _| id.replica != at || taken(id));
        for noted in lost.iter().map(noted::<P>) {
            if let Noted::Decided(id, ..) = noted
                && id.replica == at
            {
                let noted = kept.iter().chain(lost).map(crate::sim::subject::noted::<P>);
                let mut before = noted.filter(|it| it.instance() == Some(id));
                let voted = before.any(|it| matches!(it, Noted::Voted(_)));
                // On the fast path only the owner knew the decision, which may now change, unless
                // the owner may have announced it.
                let alone = self.committers.get(&id) == Some(&ReplicaSet::from_iter([at]));
                if alone && !voted {
                    if !self.optimisations.silent_orphans {
                        self.forget(id);
                    }
                    unknown = true;
                }
            }
        }
        unknown
    }

    /// A replica starts with these records, from its log or its own snapshot. The snapshot may
    /// contain records that came with another replica's snapshot and were never in the log.
    pub(in crate::sim) fn reads<P: Subject>(
        &mut self,
        at: ReplicaId,
        records: &[Record<P::Record>],
    ) {
        let seen = &mut self.seen[at.index()];
        for noted in records.iter().map(noted::<P>) {
            let Some(id) = noted.instance() else { continue };
            if matches!(noted, Noted::Decided(..)) {
                seen.open.remove(&id);
                seen.committed.insert(id);
            } else if !seen.committed.contains(&id) {
                seen.open.insert(id);
            }
        }
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

    /// A replica sends a message in one of its lives.
    pub(in crate::sim) fn said<P: Subject>(
        &mut self,
        life: u32,
        message: &P::Message,
    ) -> Result<(), Breach> {
        let Some((id, ballot)) = P::leads(message) else { return Ok(()) };
        if *self.led.entry((id, ballot)).or_insert(life) == life {
            return Ok(());
        }
        Err((Broken::Ballot, format!("{id} is recovered at {ballot:?} in two lives")))
    }

    /// Whether a replica has an undecided proposal of its own.
    pub(in crate::sim) fn has_open_proposal(&self, at: ReplicaId) -> bool {
        self.seen[at.index()].open.iter().any(|id| id.replica == at)
    }
}
