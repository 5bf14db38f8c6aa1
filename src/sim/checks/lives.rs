//! What outlives a crash, and what does not: a replica is checked anew in each life, against what
//! all lives of all replicas have shown.

use rustc_hash::FxHashSet;

use super::{Access, Breach, Broken, Checks, Content, Seen};
use crate::replica::Record;
use crate::sim::checks::order::Position;
use crate::sim::subject::{Noted, Subject, noted};
use crate::types::{Executed, InstanceId, ReplicaId, ReplicaSet};

/// What a replica had executed when a snapshot was taken.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Shown {
    executed: FxHashSet<InstanceId>,
    applied: FxHashSet<Content>,
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
        seen.reached = inside.floor().slot(InstanceId::LOG);
        self.orders.start_from(at, &shown.order);
    }

    /// A replica has stopped: `kept` is what it can read of its records, `lost` what it cannot.
    /// Whether a decision is lost that nobody else knew.
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
        // Nobody was told of a slot that has no record: it is free again. Not so if it was
        // reserved.
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
                // Fast: the owner alone knew, and it may become something else now; unless the
                // owner may have told of it already.
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

    /// A replica begins with these records, of its log or of its own snapshot: the latter may hold
    /// what came with another's and was never in the log.
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

    /// A replica says something in one of its lives.
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

    /// Whether a replica has a proposal of its own that is not decided.
    pub(in crate::sim) fn has_open_proposal(&self, at: ReplicaId) -> bool {
        self.seen[at.index()].open.iter().any(|id| id.replica == at)
    }
}
