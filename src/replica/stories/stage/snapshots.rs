//! Snapshots and cuts on the stage (PROTOCOL.md §8a).

use super::{Actor, Stage, name, replica};
use crate::execute::Executor;
use crate::protocol::Protocol;
use crate::protocol::epaxos::{Message, Path, ProtocolSnapshot, Record};
use crate::types::{Deps, Durable, Executed, LogPosition, Optimisations, Retention, Timing};

/// A snapshot from which this or another replica can start.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::replica::stories) struct Snapshot {
    pub(in crate::replica::stories) executed: Executed,
    pub(in crate::replica::stories) shared: ProtocolSnapshot,
    pub(in crate::replica::stories) own: Vec<Record>,
    /// The number of log records that it replaces.
    position: usize,
}

impl Actor {
    fn snapshot(&self) -> Snapshot {
        let executed = self.executor.done();
        let (shared, own) = self.protocol.snapshot(&executed);
        Snapshot { executed, shared, own, position: self.log.len() }
    }

    /// Executes what follows from restored records.
    fn take_in(&mut self) {
        let everything = Durable::flushed(LogPosition::new(u64::MAX));
        for (id, batch) in self.fx.learned.drain(..) {
            self.executor.on_learned(id, &batch);
        }
        for decision in super::release(&mut self.fx.decisions, everything) {
            self.executor.on_committed(decision.clone());
            self.decided.push(decision);
        }
        while let Some(component) = self.executor.next_ready() {
            self.executed.extend(component.instances.iter().map(|(id, _)| *id));
        }
        self.protocol.on_executed(self.executor.executed());
    }
}

impl Stage {
    /// Replicas with durable logs that propose to drop all they may.
    pub(in crate::replica::stories) fn durable(n: usize) -> Stage {
        Stage::keeping(n, Optimisations::NONE, Retention { volatile: false, keep: 0 })
    }

    /// `at` writes a snapshot, which is durable at once.
    pub(in crate::replica::stories) fn save(&mut self, at: usize) -> Snapshot {
        let actor = &mut self.actors[at - 1];
        let snapshot = actor.snapshot();
        actor.protocol.on_snapshot(&snapshot.executed);
        snapshot
    }

    /// The snapshot that `at` would take now.
    pub(in crate::replica::stories) fn look(&self, at: usize) -> Snapshot {
        self.actors[at - 1].snapshot()
    }

    /// `at` installs another's snapshot; returns whether it did. Its own commands in there that it
    /// has not executed are proposed again: there are no sessions here to tell whether they were
    /// executed.
    pub(in crate::replica::stories) fn install(&mut self, at: usize, snapshot: &Snapshot) -> bool {
        let actor = &mut self.actors[at - 1];
        let Snapshot { executed, shared, .. } = snapshot.clone();
        if !actor.protocol.may_install(&executed, &actor.executor.done()) {
            return false;
        }
        for (id, batch) in &actor.own {
            if executed.contains(*id) && !actor.executor.is_executed(*id) {
                actor.returned.extend(batch.commands().iter().cloned());
            }
        }
        actor.executor = Executor::starting_from(&executed);
        actor.executed.retain(|id| executed.contains(*id));
        actor.protocol.install(&actor.view, shared, &executed, &mut actor.fx);
        self.apply_effects(at);
        true
    }

    /// The replica `at` as it would restart: from a snapshot and the log after it, or from all of
    /// the log.
    pub(super) fn reborn(&self, at: usize, snapshot: Option<&Snapshot>) -> Actor {
        let (old, n) = (&self.actors[at - 1], self.actors.len());
        let mut actor = Actor::new(replica(at), n, self.optimisations, self.retention);
        let mut records = old.log.clone();
        if let Some(Snapshot { executed, shared, own, position }) = snapshot.cloned() {
            actor.protocol.restore_snapshot(shared, &executed);
            actor.executor = Executor::starting_from(&executed);
            actor.protocol.on_executed(actor.executor.executed());
            records = own.into_iter().chain(records.split_off(position)).collect();
        }
        for record in records {
            actor.protocol.restore(record, &mut actor.fx);
            actor.take_in();
        }
        actor.fx.start_at(LogPosition::new(old.log.len() as u64));
        actor.log.clone_from(&old.log);
        actor.view = old.view.clone();
        self.plant.iter().for_each(|plant| actor.protocol.plant(*plant));
        actor
    }

    /// The snapshot of `at` after a restart, and whether its conflict index would be the same.
    pub(in crate::replica::stories) fn look_reborn(
        &self,
        at: usize,
        from: Option<&Snapshot>,
    ) -> (Snapshot, bool) {
        let (was, is) = (&self.actors[at - 1], self.reborn(at, from));
        let same = was.protocol.conflict_index() == is.protocol.conflict_index();
        (is.snapshot(), same)
    }

    /// `at` stops, and restarts from a snapshot and the log after it.
    pub(in crate::replica::stories) fn restart_from(&mut self, at: usize, snapshot: &Snapshot) {
        self.actors[at - 1] = self.reborn(at, Some(snapshot));
        let actor = &mut self.actors[at - 1];
        actor.protocol.resume(&actor.view, &mut actor.fx);
        self.apply_effects(at);
    }

    /// `at` proposes that all drop everything up to here.
    pub(in crate::replica::stories) fn cut(&mut self, at: usize, cut: Deps) {
        let actor = &mut self.actors[at - 1];
        actor.protocol.cut_unasked(&actor.view, cut, &mut actor.fx);
        self.apply_effects(at);
    }

    /// These replicas write snapshots, agree to drop all that is in the first one's, and drop it.
    #[track_caller]
    pub(in crate::replica::stories) fn truncate(&mut self, replicas: &[usize]) {
        let snapshots: Vec<_> = replicas.iter().map(|at| self.save(*at)).collect();
        self.cut(replicas[0], snapshots[0].executed.floor().clone());
        self.deliver_among(replicas);
        self.gossip(replicas);
        self.gossip(replicas);
        let dropped = |at: &usize| self.actors[at - 1].protocol.dropped();
        let cut = snapshots[0].executed.floor();
        assert!(replicas.iter().all(|at| dropped(at) == cut), "all have it, so all drop it");
        self.lose_all();
    }

    /// The snapshot that `at` has asked for since the last call.
    pub(in crate::replica::stories) fn wanted(&mut self, at: usize) -> Option<Deps> {
        self.actors[at - 1].fx.needs_snapshot.take()
    }

    /// The established cut known to `at`.
    pub(in crate::replica::stories) fn established(&self, at: usize) -> &Deps {
        self.actors[at - 1].protocol.established_cut()
    }

    /// How often `at` took a path.
    pub(in crate::replica::stories) fn count(&self, at: usize, path: Path) -> u64 {
        self.actors[at - 1].fx.paths.count(path)
    }

    /// The number of recoveries that `at` leads.
    pub(in crate::replica::stories) fn recovering(&self, at: usize) -> usize {
        self.actors[at - 1].protocol.footprint().recoveries
    }

    /// The messages on their way.
    pub(in crate::replica::stories) fn under_way(
        &self,
    ) -> impl Iterator<Item = &(usize, usize, Message)> {
        self.post.iter()
    }

    /// Delivers or loses one message on its way.
    pub(in crate::replica::stories) fn happen(&mut self, index: usize, lost: bool) {
        let (from, to, message) = self.post.swap_remove(index);
        if !lost {
            self.hear(from, to, message);
        }
    }

    /// Delivers the oldest message of this name between these two.
    #[track_caller]
    pub(in crate::replica::stories) fn happen_between(
        &mut self,
        kind: &str,
        from: usize,
        to: usize,
    ) {
        let found = self.post.iter().position(|(sender, receiver, message)| {
            (*sender, *receiver) == (from, to) && name(message) == kind
        });
        let (_, _, message) = self.post.remove(found.expect("it is under way"));
        self.hear(from, to, message);
    }

    /// Time passes for one replica; none of its messages arrive yet.
    pub(in crate::replica::stories) fn wait(&mut self, at: usize) {
        let actor = &mut self.actors[at - 1];
        actor.view.now = actor.view.now + Timing::default().patience;
        actor.protocol.on_tick(&actor.view, &mut actor.fx);
        self.apply_effects(at);
    }
}
