//! The invariants that must hold after every step (PROTOCOL.md §2, §6). They are checked from
//! outside, using only what replicas write, execute and answer. `world` calls them.
//!
//! Read in this order: `order`, `truncation`, this file, and `lives` for crashes.
//!
//! All checks are incremental: a step is compared with what is known, so that a check costs in
//! proportion to the step.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::report::{Breach, Broken};
use super::subject::{Noted, Subject, noted};
use crate::machine::{Applied, Kv, Outcome, Refusal, StateMachine as _, decode};
use crate::replica::{Execution, Record};
use crate::types::{
    Access, Ballot, Batch, ClientId, Command, Deps, ExecutionOrder, InstanceId, KeyHash,
    Optimisations, ReplicaId, ReplicaSet, RequestId, Slot, Value,
};

/// A command: its id and a hash of its content.
pub(super) type Content = (RequestId, KeyHash);

/// A client's command, even if the client used the id for others, too.
pub(super) fn content(request: RequestId, payload: &[u8]) -> Content {
    (request, KeyHash::of(payload))
}

/// What one replica has shown in its current life.
#[derive(Clone, Debug, Default)]
struct Seen {
    committed: FxHashSet<InstanceId>,
    executed: FxHashSet<InstanceId>,
    /// In a log, the highest slot executed in this life that is not a `Nop`.
    reached: Slot,
    /// Instances with a record here but no decision.
    open: BTreeSet<InstanceId>,
    applied: FxHashSet<Content>,
    /// Commands refused because of their age in this life.
    refused: FxHashSet<Content>,
}

/// Committed instances that use one key, by owner.
type Users = Vec<BTreeMap<Slot, Access>>;

/// Invariants:
///
/// 1. `decided` holds everything that any replica has ever committed, in any life. An entry leaves
///    it only if its owner alone knew it and lost it before it was durable.
/// 2. `keys`, `everything` and `all` hold the decided instances that are not `Nop`, by footprint.
#[derive(Debug)]
pub(super) struct Checks {
    n: usize,
    order: ExecutionOrder,
    asked: FxHashSet<Content>,
    /// Reads answered without a proposal.
    read: FxHashSet<Content>,
    proposed: FxHashMap<InstanceId, Arc<Batch>>,
    decided: FxHashMap<InstanceId, (Value, Deps)>,
    keys: FxHashMap<KeyHash, Users>,
    everything: Users,
    all: Users,
    /// The replicas that have ever committed each instance.
    committers: FxHashMap<InstanceId, ReplicaSet>,
    seen: Vec<Seen>,
    orders: Orders,
    /// What replicas may send before it is durable.
    optimisations: Optimisations,
    /// The life of the leader in which each recovery began.
    led: FxHashMap<(InstanceId, Ballot), u32>,
    truncation: Truncation,
}

impl Checks {
    pub(super) fn new(n: usize, order: ExecutionOrder) -> Checks {
        Checks {
            n,
            order,
            asked: FxHashSet::default(),
            read: FxHashSet::default(),
            proposed: FxHashMap::default(),
            decided: FxHashMap::default(),
            keys: FxHashMap::default(),
            everything: vec![BTreeMap::new(); n],
            all: vec![BTreeMap::new(); n],
            committers: FxHashMap::default(),
            seen: (0..n).map(|_| Seen::default()).collect(),
            orders: Orders::new(n),
            optimisations: Optimisations::NONE,
            led: FxHashMap::default(),
            truncation: Truncation::new(n),
        }
    }

    /// The same checks for replicas with these optimisations.
    pub(super) fn of(self, optimisations: Optimisations) -> Checks {
        Checks { optimisations, ..self }
    }

    /// A client sends a command.
    pub(super) fn asked(&mut self, command: &Command) {
        self.asked.insert(content(command.request, &command.payload));
    }

    /// A replica appends a record.
    pub(super) fn written<P: Subject>(
        &mut self,
        at: ReplicaId,
        record: &Record<P::Record>,
    ) -> Result<(), Breach> {
        let noted = noted::<P>(record);
        self.is_kept(at, noted)?;
        match noted {
            Noted::Proposed(id, batch) if id.replica == at => self.propose(id, batch)?,
            Noted::Decided(id, value, deps) => return self.commit(at, id, value, deps),
            _ => {}
        }
        let seen = &mut self.seen[at.index()];
        if let Some(id) = noted.instance().filter(|id| !seen.committed.contains(id)) {
            seen.open.insert(id);
        }
        Ok(())
    }

    /// Integrity, first half: only commands that a client sent, and only once in each slot.
    fn propose(&mut self, id: InstanceId, batch: &Arc<Batch>) -> Result<(), Breach> {
        self.check_asked(id, batch)?;
        if self.proposed.insert(id, batch.clone()).is_some_and(|before| before != *batch) {
            return Err((Broken::Integrity, format!("{id} was proposed twice")));
        }
        Ok(())
    }

    fn check_asked(&self, id: InstanceId, batch: &Batch) -> Result<(), Breach> {
        for command in batch.commands() {
            if !self.asked.contains(&content(command.request, &command.payload)) {
                let detail = format!("{id} proposes {:?}, asked by nobody", command.request);
                return Err((Broken::Integrity, detail));
            }
        }
        Ok(())
    }

    fn commit(
        &mut self,
        at: ReplicaId,
        id: InstanceId,
        value: &Value,
        deps: &Deps,
    ) -> Result<(), Breach> {
        let seen = &mut self.seen[at.index()];
        seen.open.remove(&id);
        if !seen.committed.insert(id) {
            return Err((Broken::Agreement, format!("{at} commits {id} twice")));
        }
        self.committers.entry(id).or_insert(ReplicaSet::EMPTY).insert(at);
        if let Some((before, covered)) = self.decided.get(&id) {
            if before == value && covered == deps {
                return Ok(());
            }
            let (before, now) = (Brief(before), Brief(value));
            let detail = format!("{id} is {before:?} {covered:?}, {at} commits {now:?} {deps:?}");
            return Err((Broken::Agreement, detail));
        }
        self.decided.insert(id, (value.clone(), deps.clone()));
        let Some(batch) = value.batch() else { return Ok(()) };
        if self.proposed.get(&id).is_none_or(|proposed| proposed != batch) {
            let detail = format!("{at} commits in {id} what its owner did not propose there");
            return Err((Broken::Integrity, detail));
        }
        self.check_visibility(id, batch, deps)?;
        self.enter(id, batch);
        Ok(())
    }

    /// Visibility. Only instances that `id` does not cover need checking; each of them must cover
    /// `id`.
    fn check_visibility(&self, id: InstanceId, batch: &Batch, deps: &Deps) -> Result<(), Breach> {
        let check = |users: &Users, access: Access| {
            for (owner, covered) in deps.iter() {
                for (slot, other) in users[owner.index()].range(covered + 1..) {
                    let conflicts = access == Access::Write || *other == Access::Write;
                    let other = InstanceId::new(owner, *slot);
                    let theirs = &self.decided[&other].1;
                    if conflicts && other != id && !theirs.covers(id) {
                        let detail = format!(
                            "{id} {deps:?} and {other} {theirs:?} conflict, and neither covers \
                             the other"
                        );
                        return Err((Broken::Visibility, detail));
                    }
                }
            }
            Ok(())
        };
        let Some(keys) = batch.footprint().keys() else { return check(&self.all, Access::Write) };
        check(&self.everything, Access::Write)?;
        for (key, access) in keys {
            if let Some(users) = self.keys.get(key) {
                check(users, *access)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, id: InstanceId, batch: &Batch) {
        let owner = id.replica.index();
        self.all[owner].insert(id.slot, Access::Write);
        let Some(keys) = batch.footprint().keys() else {
            self.everything[owner].insert(id.slot, Access::Write);
            return;
        };
        for (key, access) in keys {
            let users = self.keys.entry(*key).or_insert_with(|| vec![BTreeMap::new(); self.n]);
            users[owner].insert(id.slot, *access);
        }
    }

    /// A read is answered without a proposal.
    pub(super) fn is_read(&mut self, read: &Command) {
        self.read.insert(content(read.request, &read.payload));
    }

    /// Whether this read was ever answered without a proposal.
    pub(super) fn was_read(&self, content: Content) -> bool {
        self.read.contains(&content)
    }

    /// A slot of a log is executed. So it is decided for all replicas in all their lives, whatever
    /// the records say. A wrong `Nop` shows when another replica executes a command there.
    fn decide_slot(
        &mut self,
        at: ReplicaId,
        id: InstanceId,
        batch: &Arc<Batch>,
    ) -> Result<(), Breach> {
        let seen = &mut self.seen[at.index()];
        if id.replica != InstanceId::LOG || id.slot <= seen.reached {
            let detail = format!("{at} executes {id} behind slot {}", seen.reached);
            return Err((Broken::Order, detail));
        }
        seen.reached = id.slot;
        seen.committed.insert(id);
        if let Some((before, _)) = self.decided.get(&id) {
            if before.batch() == Some(batch) {
                return Ok(());
            }
            let (before, now) = (Brief(before), Value::Batch(batch.clone()));
            let detail = format!("{id} is {before:?}, {at} executes {:?}", Brief(&now));
            return Err((Broken::Agreement, detail));
        }
        self.check_asked(id, batch)?;
        self.decided.insert(id, (Value::Batch(batch.clone()), Deps::none(self.n)));
        Ok(())
    }

    /// A replica executes an instance.
    pub(super) fn executed(&mut self, at: ReplicaId, execution: &Execution) -> Result<(), Breach> {
        let Execution { id, batch, .. } = execution;
        if self.order == ExecutionOrder::Log {
            self.decide_slot(at, *id, batch)?;
        }
        let seen = &mut self.seen[at.index()];
        if !seen.committed.contains(id) {
            let detail = format!("{at} executes {id}, which is not committed there");
            return Err((Broken::Order, detail));
        }
        if !seen.executed.insert(*id) {
            return Err((Broken::Once, format!("{at} executes {id} twice")));
        }
        if self.decided[id].0.batch() != Some(batch) {
            return Err((Broken::Integrity, format!("{at} executes something else in {id}")));
        }
        self.orders.executed(at, *id, batch.footprint())
    }

    /// A replica applied a command of an instance, with this result.
    pub(super) fn applied(
        &mut self,
        at: ReplicaId,
        command: &Command,
        applied: &Applied,
    ) -> Result<(), Breach> {
        let seen = &mut self.seen[at.index()];
        let content = content(command.request, &command.payload);
        if matches!(applied.outcome, Outcome::Refused(Refusal::Expired { .. })) {
            seen.refused.insert(content);
            return Ok(());
        }
        let upkeep = command.request.client == ClientId::CLUSTER;
        if upkeep || reads(&command.payload) {
            // A read may be repeated. A command of the cluster takes effect if it is next in order.
            seen.applied.insert(content);
            return Ok(());
        }
        if applied.first && seen.refused.contains(&content) {
            let detail = format!("{at} applies {:?}, which it had refused", applied.request);
            return Err((Broken::Once, detail));
        }
        let new = seen.applied.insert(content);
        if applied.first && !new {
            return Err((Broken::Once, format!("{at} applies {:?} twice", applied.request)));
        }
        if !applied.first && new {
            let detail = format!("{at} takes {:?} for a retry, and it is none", applied.request);
            return Err((Broken::Once, detail));
        }
        Ok(())
    }

    /// The first instance for which a replica has a record but no decision.
    pub(super) fn open(&self, at: ReplicaId) -> Option<InstanceId> {
        self.seen[at.index()].open.first().copied()
    }

    /// Whether two replicas have executed the same instances and commands.
    pub(super) fn executed_alike(&self, a: ReplicaId, b: ReplicaId) -> bool {
        let (a, b) = (&self.seen[a.index()], &self.seen[b.index()]);
        a.executed == b.executed && a.applied == b.applied
    }

    /// Whether a replica executed a command.
    pub(super) fn has_applied(&self, at: ReplicaId, content: Content) -> bool {
        self.seen[at.index()].applied.contains(&content)
    }

    /// The number of replicas that executed a command.
    pub(super) fn applied_at(&self, content: Content) -> usize {
        self.seen.iter().filter(|seen| seen.applied.contains(&content)).count()
    }
}

/// Whether an encoded command of the store is read-only.
fn reads(payload: &[u8]) -> bool {
    decode(payload).is_ok_and(|command| Kv::footprint(&command).is_read_only())
}

/// A short form of a value.
struct Brief<'a>(&'a Value);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.batch() {
            None => write!(f, "Nop"),
            Some(batch) => {
                f.debug_list().entries(batch.commands().iter().map(|it| it.request)).finish()
            }
        }
    }
}

mod lives;
mod order;
mod truncation;

pub(super) use lives::Shown;
use order::Orders;
use truncation::Truncation;
#[cfg(test)]
mod tests;
