//! A stage: replicas of one protocol that agrees on a log, without the rest of a replica. The test
//! delivers messages, flushes records and moves clocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::protocol::{Effects, Outgoing, Paths, Protocol, View};
use crate::types::{
    Batch, ClientId, Command, Decision, Deps, Durable, Executed, Footprint, Held, InstanceId,
    LogPosition, Optimisations, Quorums, ReplicaId, ReplicaSet, RequestId, Retention, Settings,
    Slot, Timing,
};

/// The round trip between any two replicas.
pub(in crate::protocol) const ROUND_TRIP: Duration = Duration::from_millis(20);

pub(in crate::protocol) fn replica(number: usize) -> ReplicaId {
    ReplicaId::from_index(number - 1)
}

/// A batch of one command, identified by `tag`.
pub(in crate::protocol) fn batch(tag: u64) -> Arc<Batch> {
    Batch::new(vec![Command {
        request: RequestId::new(ClientId(7), tag),
        floor: 0,
        origin: replica(1),
        footprint: Footprint::write(b"k"),
        payload: Bytes::copy_from_slice(&tag.to_le_bytes()),
    }])
}

pub(in crate::protocol) fn settings(me: usize, n: usize, retention: Retention) -> Settings {
    Settings {
        me: replica(me),
        quorums: Quorums::new(n).expect("a supported size"),
        seed: me as u64,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention,
        leases: true,
    }
}

/// All messages since the last call, whether durable or not, each with its receivers.
pub(in crate::protocol) fn said<M, R>(fx: &mut Effects<M, R>) -> Vec<(Vec<u8>, M)> {
    let all = Durable::flushed(fx.end());
    let said = fx.messages.drain(..).filter_map(|held| held.release(all).ok());
    said.map(|out| (out.to.iter().map(|to| to.number()).collect(), out.message)).collect()
}

/// What a replica's disk holds besides its log.
struct Snapshot<P: Protocol> {
    executed: Executed,
    shared: P::Snapshot,
    own: Vec<P::Record>,
}

impl<P: Protocol> Clone for Snapshot<P> {
    fn clone(&self) -> Snapshot<P> {
        let Snapshot { executed, shared, own } = self;
        Snapshot { executed: executed.clone(), shared: shared.clone(), own: own.clone() }
    }
}

/// One replica and its surroundings.
pub(in crate::protocol) struct Actor<P: Protocol> {
    pub(in crate::protocol) protocol: P,
    pub(in crate::protocol) fx: Effects<P::Message, P::Record>,
    pub(in crate::protocol) view: View,
    pub(in crate::protocol) is_up: bool,
    /// Whether its disk makes no progress.
    stalled: bool,
    snapshot: Option<Snapshot<P>>,
    /// The log after the snapshot, and the number of records before it.
    log: Vec<P::Record>,
    base: usize,
    /// How many records of `log` are durable.
    flushed: usize,
    held: Vec<Held<Outgoing<P::Message>>>,
    decided: BTreeMap<Slot, Decision>,
    executed: Slot,
    /// Own proposals of this life that are not decided, with their tags.
    pending: BTreeMap<InstanceId, u64>,
    pub(in crate::protocol) needs: Option<Slot>,
}

/// The replicas, numbered from 1, and all messages on their way.
pub(in crate::protocol) struct Stage<P: Protocol> {
    make: Box<dyn Fn(Settings) -> P>,
    retention: Retention,
    pub(in crate::protocol) actors: Vec<Actor<P>>,
    pub(in crate::protocol) post: VecDeque<(usize, usize, P::Message)>,
    /// The decision of each slot, at any replica in any life.
    pub(in crate::protocol) truth: BTreeMap<Slot, Decision>,
    pub(in crate::protocol) paths: Paths,
    /// All tags ever proposed, and those whose proposer did not lose them.
    proposed: BTreeSet<u64>,
    pub(in crate::protocol) broken: Option<String>,
}

impl<P: Protocol + Debug> Stage<P> {
    pub(in crate::protocol) fn new(
        n: usize,
        retention: Retention,
        make: impl Fn(Settings) -> P + 'static,
    ) -> Stage<P> {
        let actors = (1..=n).map(|me| Actor::new(make(settings(me, n, retention)), n)).collect();
        Stage {
            make: Box::new(make),
            retention,
            actors,
            post: VecDeque::new(),
            truth: BTreeMap::new(),
            paths: Paths::default(),
            proposed: BTreeSet::new(),
            broken: None,
        }
    }

    pub(in crate::protocol) fn n(&self) -> usize {
        self.actors.len()
    }

    pub(in crate::protocol) fn at(&mut self, at: usize) -> &mut Actor<P> {
        &mut self.actors[at - 1]
    }

    /// `at` proposes a batch of its own.
    pub(in crate::protocol) fn propose(&mut self, at: usize, tag: u64) -> InstanceId {
        self.proposed.insert(tag);
        let actor = self.at(at);
        let name = actor.protocol.propose(&actor.view, batch(tag), &mut actor.fx);
        let old = actor.pending.insert(name, tag);
        assert_eq!(old, None, "a name was used twice in one life");
        self.apply_effects(at);
        name
    }

    /// One tick of `at`'s clock.
    pub(in crate::protocol) fn tick(&mut self, at: usize) {
        let actor = self.at(at);
        if actor.is_up {
            actor.view.now = actor.view.now + Timing::default().tick;
            actor.protocol.on_tick(&actor.view, &mut actor.fx);
            self.apply_effects(at);
        }
    }

    /// Delivers the `index`-th message on its way.
    pub(in crate::protocol) fn deliver(&mut self, index: usize) {
        let (from, to, message) = self.post.remove(index).expect("it is under way");
        self.hear(from, to, message);
    }

    pub(in crate::protocol) fn hear(&mut self, from: usize, to: usize, message: P::Message) {
        let actor = self.at(to);
        if actor.is_up {
            actor.protocol.on_message(&actor.view, replica(from), message, &mut actor.fx);
            self.apply_effects(to);
        }
    }

    /// Delivers all messages for which `which` is true, and those that follow from them.
    pub(in crate::protocol) fn deliver_all(
        &mut self,
        which: impl Fn(usize, usize, &P::Message) -> bool,
    ) {
        let mut left = 1_000_000;
        while let Some(index) = self.post.iter().position(|(f, t, m)| which(*f, *t, m)) {
            self.deliver(index);
            left -= 1;
            assert!(left > 0, "they talk for ever without time passing");
        }
    }

    /// Delivers the messages now on their way, but none that follow: one message delay.
    pub(in crate::protocol) fn delay(&mut self) {
        for (from, to, message) in std::mem::take(&mut self.post) {
            self.hear(from, to, message);
        }
    }

    /// Time passes for all replicas, and every message arrives.
    pub(in crate::protocol) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_nanos() / Timing::default().tick.as_nanos() {
            for at in 1..=self.n() {
                self.tick(at);
            }
            self.deliver_all(|_, _, _| true);
        }
    }

    /// From now on all others suspect `dead`, or no longer do.
    pub(in crate::protocol) fn suspect(&mut self, dead: usize, is_suspected: bool) {
        for at in (1..=self.n()).filter(|at| *at != dead) {
            let suspected = &mut self.at(at).view.suspected;
            if is_suspected {
                suspected.insert(replica(dead));
            } else {
                suspected.remove(replica(dead));
            }
        }
    }

    /// From now on nothing that `at` writes becomes durable; or everything waiting does.
    pub(in crate::protocol) fn stall(&mut self, at: usize, is_stalled: bool) {
        self.at(at).stalled = is_stalled;
        if self.at(at).is_up {
            self.apply_effects(at);
        }
    }

    /// `at` stops; of the records not durable, `kept` reached the disk.
    pub(in crate::protocol) fn crash(&mut self, at: usize, kept: usize) {
        let actor = self.at(at);
        let survive = actor.log.len().min(actor.flushed.saturating_add(kept));
        actor.log.truncate(survive);
        actor.flushed = survive;
        actor.is_up = false;
        actor.held.clear();
        actor.pending.clear();
    }

    /// `at` restarts with what was durable.
    pub(in crate::protocol) fn restart(&mut self, at: usize) {
        let n = self.n();
        let fresh = (self.make)(settings(at, n, self.retention));
        let old = std::mem::replace(self.at(at), Actor::new(fresh, n));
        let actor = self.at(at);
        actor.view = old.view;
        (actor.snapshot, actor.log, actor.base) = (old.snapshot, old.log, old.base);
        actor.flushed = actor.log.len();
        if let Some(snapshot) = actor.snapshot.clone() {
            actor.protocol.restore_snapshot(snapshot.shared, &snapshot.executed);
            actor.executed = snapshot.executed.floor().slot(InstanceId::LOG);
            for record in snapshot.own {
                actor.protocol.restore(record, &mut actor.fx);
            }
        }
        for record in actor.log.clone() {
            actor.protocol.restore(record, &mut actor.fx);
        }
        assert!(actor.fx.records.is_empty() && actor.fx.messages.is_empty());
        actor.fx.start_at(LogPosition::new((actor.base + actor.log.len()) as u64));
        actor.protocol.resume(&actor.view, &mut actor.fx);
        self.apply_effects(at);
    }

    /// `at` writes a snapshot of everything it has executed, and cuts its log.
    pub(in crate::protocol) fn save(&mut self, at: usize) {
        let n = self.n();
        let actor = self.at(at);
        if !actor.is_up || actor.stalled {
            return;
        }
        let mut floor = Deps::none(n);
        floor.set(InstanceId::LOG, actor.executed);
        let executed = Executed::up_to(floor);
        let (shared, own) = actor.protocol.snapshot(&executed);
        actor.base += actor.log.len();
        actor.log.clear();
        actor.flushed = 0;
        actor.protocol.on_snapshot(&executed);
        actor.snapshot = Some(Snapshot { executed, shared, own });
        self.apply_effects(at);
    }

    /// `at` installs the snapshot of `from`, if it needs one and that is far enough. Returns
    /// whether.
    pub(in crate::protocol) fn install(&mut self, at: usize, from: usize) -> bool {
        let n = self.n();
        let Some(snapshot) = self.at(from).snapshot.clone() else { return false };
        let actor = self.at(at);
        let theirs = snapshot.executed.floor().slot(InstanceId::LOG);
        if !actor.is_up || actor.stalled || actor.needs.is_none_or(|needs| theirs < needs) {
            return false;
        }
        let mut here = Deps::none(n);
        here.set(InstanceId::LOG, actor.executed);
        if !actor.protocol.may_install(&snapshot.executed, &Executed::up_to(here)) {
            return false;
        }
        actor.executed = theirs;
        actor.decided = actor.decided.split_off(&(theirs + 1));
        let Snapshot { executed, shared, .. } = snapshot;
        actor.protocol.install(&actor.view, shared, &executed, &mut actor.fx);
        actor.needs = None;
        let again = std::mem::take(&mut actor.pending);
        self.apply_effects(at);
        self.save(at);
        for tag in again.into_values() {
            self.propose(at, tag);
        }
        true
    }

    /// Carries out a replica's effects.
    pub(in crate::protocol) fn apply_effects(&mut self, at: usize) {
        loop {
            let actor = self.at(at);
            actor.log.append(&mut actor.fx.records);
            if !actor.stalled {
                actor.flushed = actor.log.len();
            }
            for (name, _) in std::mem::take(&mut actor.fx.own_commits) {
                actor.pending.remove(&name);
            }
            assert!(actor.fx.returned.is_empty(), "these protocols give nothing back");
            if let Some(needs) = actor.fx.needs_snapshot.take() {
                actor.needs = Some(needs.slot(InstanceId::LOG));
            }
            let decisions = std::mem::take(&mut actor.fx.decisions);
            let durable = Durable::flushed(LogPosition::new((actor.base + actor.flushed) as u64));
            actor.held.append(&mut actor.fx.messages);
            let (mut later, mut now) = (Vec::new(), Vec::new());
            for held in std::mem::take(&mut actor.held) {
                match held.release(durable) {
                    Ok(outgoing) => now.push(outgoing),
                    Err(held) => later.push(held),
                }
            }
            actor.held = later;
            for held in decisions {
                let decision = held.release(durable).expect("decisions wait for nothing");
                self.decided(at, decision);
            }
            self.execute(at);
            if now.is_empty() {
                break;
            }
            now.into_iter().for_each(|outgoing| self.send(at, &outgoing));
        }
        let paths = std::mem::take(&mut self.at(at).fx.paths);
        self.paths.add(&paths);
    }

    fn send(&mut self, at: usize, outgoing: &Outgoing<P::Message>) {
        let mut to: ReplicaSet = outgoing.to;
        if to.remove(replica(at)) {
            let actor = self.at(at);
            let message = outgoing.message.clone();
            actor.protocol.on_message(&actor.view, replica(at), message, &mut actor.fx);
        }
        for peer in to.iter() {
            self.post.push_back((at, peer.index() + 1, outgoing.message.clone()));
        }
    }

    fn decided(&mut self, at: usize, decision: Decision) {
        let slot = decision.id.slot;
        let truth = self.truth.entry(slot).or_insert_with(|| decision.clone());
        if (&truth.proposal, &truth.value) != (&decision.proposal, &decision.value) {
            self.broken = Some(format!("slot {slot}: {truth:?} and at {at} {decision:?}"));
        }
        if let Some(batch) = decision.value.batch()
            && !self.proposed.contains(&batch.commands()[0].request.sequence)
        {
            self.broken = Some(format!("nobody proposed {decision:?}"));
        }
        let actor = self.at(at);
        if slot > actor.executed {
            actor.decided.insert(slot, decision);
        }
    }

    fn execute(&mut self, at: usize) {
        let n = self.n();
        let actor = self.at(at);
        let before = actor.executed;
        while actor.decided.remove(&(actor.executed + 1)).is_some() {
            actor.executed += 1;
        }
        if actor.executed > before {
            let mut executed = Deps::none(n);
            executed.set(InstanceId::LOG, actor.executed);
            actor.protocol.on_executed(&executed);
        }
    }

    pub(in crate::protocol) fn executed(&self, at: usize) -> Slot {
        self.actors[at - 1].executed
    }

    /// The tags of undecided proposals, with their proposers.
    pub(in crate::protocol) fn pending(&self) -> Vec<(usize, u64)> {
        let actors = self.actors.iter().zip(1..).filter(|(actor, _)| actor.is_up);
        let tags = actors.flat_map(|(actor, at)| actor.pending.values().map(move |tag| (at, *tag)));
        tags.collect()
    }

    /// The slots in which a tag was decided.
    pub(in crate::protocol) fn slots_of(&self, tag: u64) -> Vec<Slot> {
        let is_it = |decision: &Decision| {
            let batch = decision.value.batch();
            batch.is_some_and(|batch| batch.commands()[0].request.sequence == tag)
        };
        self.truth.iter().filter(|(_, d)| is_it(d)).map(|(slot, _)| *slot).collect()
    }
}

impl<P: Protocol> Actor<P> {
    fn new(protocol: P, n: usize) -> Actor<P> {
        let mut view = View::new(n);
        view.round_trips = vec![ROUND_TRIP; n];
        Actor {
            protocol,
            fx: Effects::default(),
            view,
            is_up: true,
            stalled: false,
            snapshot: None,
            log: Vec::new(),
            base: 0,
            flushed: 0,
            held: Vec::new(),
            decided: BTreeMap::new(),
            executed: 0,
            pending: BTreeMap::new(),
            needs: None,
        }
    }
}
