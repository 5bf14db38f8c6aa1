//! What chaos alone needs of the stage: it acts at random, so each action checks whether it
//! applies.

use super::Stage;
use super::snapshots::Snapshot;
use crate::protocol::epaxos::Phase;
use crate::protocol::{Paths, Protocol};
use crate::types::{Decision, InstanceId, Optimisations, Retention, Timing};

impl Stage {
    /// Replicas with durable logs and these optimisations, which propose to drop all they may.
    pub(in crate::replica::stories) fn chaotic(n: usize, optimisations: Optimisations) -> Stage {
        Stage::keeping(n, optimisations, Retention { volatile: false, keep: 0 })
    }

    /// `at` writes a snapshot if all its records are durable: a snapshot never gets ahead of the
    /// log.
    pub(in crate::replica::stories) fn try_save(&mut self, at: usize) -> Option<Snapshot> {
        let actor = &self.actors[at - 1];
        (actor.flushed == actor.log.len()).then(|| self.save(at))
    }

    /// Everything that `at` has decided in this life.
    pub(in crate::replica::stories) fn decisions(&self, at: usize) -> &[Decision] {
        &self.actors[at - 1].decided
    }

    /// `at` recovers an instance, unless it knows the decision.
    pub(in crate::replica::stories) fn recover_open(&mut self, at: usize, id: InstanceId) {
        let committed = self.inspect(at, id).is_some_and(|i| i.phase == Phase::Committed);
        if !committed && !self.actors[at - 1].protocol.dropped().covers(id) {
            self.recover(at, id);
        }
    }

    /// Whether `at` has returned commands to propose again.
    pub(in crate::replica::stories) fn has_returned(&self, at: usize) -> bool {
        !self.actors[at - 1].returned.is_empty()
    }

    /// It is time for `at` to gossip; none of its messages arrive yet.
    pub(in crate::replica::stories) fn tell(&mut self, at: usize) {
        let actor = &mut self.actors[at - 1];
        actor.view.now = actor.view.now + Timing::default().gossip;
        actor.protocol.on_tick(&actor.view, &mut actor.fx);
        self.apply_effects(at);
    }

    /// `at` stops, and restarts from what is durable: a snapshot, if there is one, and the log.
    pub(in crate::replica::stories) fn crash(&mut self, at: usize, from: Option<&Snapshot>) {
        let old = &mut self.actors[at - 1];
        old.log.truncate(old.flushed);
        let paths = old.fx.paths.clone();
        let mut actor = self.reborn(at, from);
        actor.flushed = actor.log.len();
        actor.fx.paths = paths;
        actor.protocol.resume(&actor.view, &mut actor.fx);
        self.actors[at - 1] = actor;
        self.apply_effects(at);
    }

    /// Whether its owner has lost every trace of having proposed it.
    pub(in crate::replica::stories) fn is_forgotten(&self, id: InstanceId) -> bool {
        let owner = usize::from(id.replica.number());
        let seen = self.inspect(owner, id).is_some_and(|i| i.phase != Phase::Initial);
        !seen && !self.actors[owner - 1].executor.is_executed(id)
    }

    /// Whether its owner may have committed it in an earlier life without knowing.
    pub(in crate::replica::stories) fn is_orphan(&self, id: InstanceId) -> bool {
        let owner = usize::from(id.replica.number());
        let earlier = !self.actors[owner - 1].own.contains_key(&id);
        let open = self.inspect(owner, id).is_some_and(|i| i.phase == Phase::PreAccepted);
        self.optimisations.silent_orphans && earlier && open
    }

    /// Whether `at` has executed it, or knows that it is a `Nop`.
    pub(in crate::replica::stories) fn is_done(&self, at: usize, id: InstanceId) -> bool {
        self.actors[at - 1].executor.is_executed(id)
    }

    /// How often all replicas took each path, in all lives.
    pub(in crate::replica::stories) fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        self.actors.iter().for_each(|actor| paths.add(&actor.fx.paths));
        paths
    }
}
