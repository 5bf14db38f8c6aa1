//! Decisions in, commands in execution order out (PROTOCOL.md §6).
//!
//! The [`Executor`] is told what is learned and decided, in any order, and yields components: sets
//! of instances to execute together, in an order that is the same at every replica for any two
//! commands that conflict.
//!
//! To read in this order: `node` numbers the instances; `window` knows each owner's slots, and
//! `index` who touches which key; `graph` holds the instances, and finds their edges in both;
//! `order` finds the components; this file is the executor. `log` stands apart, and `either` comes
//! last.
//!
//! An instance passes three gates, each at most once:
//!
//! 1. *committed*; until then it is something others may wait on;
//! 2. everything it covers is *known*: until then it might conflict with what it has not seen. It
//!    waits, per owner, for a slot number, and is woken once for each;
//! 3. everything it depends on is executed, or part of its component: the work of `order`.
//!
//! Protocols that agree on one sequence have [`LogExecutor`] instead; [`AnyExecutor`] is either.

mod either;
mod graph;
mod index;
mod log;
mod node;
mod order;
mod window;

#[cfg(test)]
mod tests;

pub use either::AnyExecutor;
pub use log::{InLog, LogExecutor};

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use petgraph::dot::{Config, Dot};
use petgraph::graph::DiGraph;
use petgraph::visit::{IntoNeighbors, IntoNodeIdentifiers};

use crate::types::{Batch, Decision, Deps, Executed, InstanceId, ReplicaId, Slot, Value};
use graph::{Store, View};
use node::Node;
use order::{Explored, Order};
use window::Place;

/// How many unknown slots an owner [`Executor::blockers`] names at a time.
const UNKNOWN_NAMED: u64 = 64;

/// Instances that are executed together: each of them depends on all the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    /// By slot, then by owner; at least one.
    pub instances: Vec<(InstanceId, Arc<Batch>)>,
}

/// Orders decided instances for execution.
///
/// 1. A component is yielded after everything that its instances depend on.
/// 2. Two conflicting commands are yielded in the same order wherever the same decisions were made.
/// 3. Memory is bounded by what is known and not executed (at its highest: freed places are
///    kept for reuse), plus one entry for each slot executed after a gap; of those in the
///    snapshot it started from, one for each range.
#[derive(Debug)]
pub struct Executor {
    store: Store,
    order: Order,
    /// Per owner: committed instances for which its slots must be known up to one that is not.
    gates: Vec<BTreeSet<(Slot, Node)>>,
    /// Knots that wait on nothing and are to be explored.
    woken: VecDeque<Node>,
    ready: VecDeque<Component>,
    /// Instances not committed that committed ones wait on.
    blocking: BTreeSet<InstanceId>,
    executed: Deps,
    pending: usize,
    largest: usize,
}

impl Executor {
    /// An executor of a cluster of `n` owners that has executed nothing.
    pub fn new(n: usize) -> Executor {
        Executor {
            store: Store::new(n),
            order: Order::default(),
            gates: vec![BTreeSet::new(); n],
            woken: VecDeque::new(),
            ready: VecDeque::new(),
            blocking: BTreeSet::new(),
            executed: Deps::none(n),
            pending: 0,
            largest: 0,
        }
    }

    /// An executor that starts where the state of a snapshot ends.
    pub fn starting_from(executed: &Executed) -> Executor {
        Executor {
            store: Store::starting_from(executed),
            executed: executed.floor().clone(),
            ..Executor::new(executed.floor().len())
        }
    }

    /// Forgets all it knows and starts where the state of a snapshot ends.
    pub fn start_again(&mut self, executed: &Executed) {
        let largest = self.largest;
        *self = Executor { largest, ..Executor::starting_from(executed) };
    }

    /// What was taken by [`Executor::next_ready`] or decided `Nop`.
    pub fn done(&self) -> Executed {
        let mut done = Executed::up_to(self.executed.clone());
        for owner in ReplicaId::all(self.store.owners()) {
            for (first, last) in self.store.window(owner).done_above() {
                assert!(done.extend(owner, first, last), "ranges ascend behind the prefix");
            }
        }
        done
    }

    /// The payload of an instance became known, by whatever message.
    ///
    /// Without it, instances that cover this one cannot tell whether they conflict with it. To
    /// learn an instance again, or after it was decided, changes nothing.
    pub fn on_learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        if self.store.place(id) == Place::Unknown {
            self.insert(id, batch);
            self.explore_woken();
        }
    }

    /// An instance was decided.
    ///
    /// # Panics
    /// When the decision contradicts an earlier one for the same instance, or the payload learned
    /// for it; or when an instance does not cover its owner's earlier conflicting ones. Both are
    /// broken promises of the protocol, after which replicas would diverge in silence.
    pub fn on_committed(&mut self, decision: Decision) {
        let Decision { id, value, deps, .. } = decision;
        assert_eq!(deps.len(), self.store.owners(), "vectors of one cluster have one length");
        let held = match self.store.place(id) {
            // Too late to compare with: what is executed is forgotten here.
            Place::Done | Place::Ready => return,
            Place::Held(node) => Some(node),
            Place::Unknown => None,
        };
        if let Some(Some(before)) = held.map(|node| &self.store.instance(node).deps) {
            assert_eq!(*before, deps, "{id} is decided once (Agreement)");
        }
        match value {
            Value::Nop => self.commit_nop(id, held),
            Value::Batch(batch) => {
                let node = held.unwrap_or_else(|| self.insert(id, &batch));
                self.commit_batch(node, &batch, deps);
            }
        }
        self.explore_woken();
    }

    /// The next component in execution order, from now on executed. `None` until more is decided.
    pub fn next_ready(&mut self) -> Option<Component> {
        let component = self.ready.pop_front()?;
        for (id, _) in &component.instances {
            self.finish(*id);
        }
        self.pending -= component.instances.len();
        Some(component)
    }

    /// Per owner: everything up to here was taken by [`Executor::next_ready`] or decided `Nop`,
    /// without a gap.
    pub fn executed(&self) -> &Deps {
        &self.executed
    }

    /// Whether the instance was taken by [`Executor::next_ready`] or decided `Nop`.
    pub fn is_executed(&self, id: InstanceId) -> bool {
        self.store.place(id) == Place::Done
    }

    /// What a committed instance waits for in the end: an instance not committed, or not even
    /// known here. `None` when it is not committed, or waits for nothing (any more).
    ///
    /// Follows the chain of waiting instances, however long: for people, not for every message.
    pub fn blocker(&self, id: InstanceId) -> Option<InstanceId> {
        let Place::Held(node) = self.store.place(id) else { return None };
        self.store.instance(node).deps.as_ref()?;
        let root = self.store.instance(self.order.root(node));
        let Some(deps) = &root.deps else { return Some(root.id) };
        deps.iter().find_map(|(owner, _)| {
            let known = self.store.window(owner).known();
            (root.bound(deps, owner) > known).then(|| InstanceId::new(owner, known + 1))
        })
    }

    /// The instances that hold up committed ones: first those known here but not committed, in
    /// their order, then, of each owner, the first few that are not known at all.
    ///
    /// A blocked instance names one blocker at a time, so when these are decided there may be more.
    pub fn blockers(&self) -> impl Iterator<Item = InstanceId> + '_ {
        let unknown = self.gates.iter().enumerate().flat_map(|(owner, gate)| {
            let owner = ReplicaId::from_index(owner);
            let window = self.store.window(owner);
            let first = window.known() + 1;
            let last = gate.last().map_or(0, |(bound, _)| *bound);
            (first..=last.min(first.saturating_add(UNKNOWN_NAMED - 1)))
                .filter(|slot| window.place(*slot) == Place::Unknown)
                .map(move |slot| InstanceId::new(owner, slot))
        });
        self.blocking.iter().copied().chain(unknown)
    }

    /// The number of instances in the largest component so far.
    pub fn largest_component(&self) -> usize {
        self.largest
    }

    /// The number of instances committed and not yet taken by [`Executor::next_ready`].
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// The conflict graph of what is known and not executed, in Graphviz's language; instances
    /// not committed are marked with a question mark. For people with a stuck replica.
    pub fn dot(&self) -> String {
        let view = View::whole(&self.store);
        let mut graph = DiGraph::<String, &str>::new();
        let mut nodes: Vec<Node> = view.node_identifiers().collect();
        nodes.sort_unstable_by_key(|node| self.store.instance(*node).id);
        let mut drawn = rustc_hash::FxHashMap::default();
        for node in &nodes {
            let instance = self.store.instance(*node);
            let mark = if instance.deps.is_some() { "" } else { "?" };
            drawn.insert(*node, graph.add_node(format!("{}{mark}", instance.id)));
        }
        for node in &nodes {
            for target in view.neighbors(*node) {
                graph.add_edge(drawn[node], drawn[&target], "");
            }
        }
        Dot::with_config(&graph, &[Config::EdgeNoLabel]).to_string()
    }

    fn insert(&mut self, id: InstanceId, batch: &Arc<Batch>) -> Node {
        let node = self.store.insert(id, Arc::clone(batch));
        self.order.admit(node);
        self.put(id, Place::Held(node));
        node
    }

    fn commit_nop(&mut self, id: InstanceId, held: Option<Node>) {
        if let Some(node) = held {
            assert!(self.store.instance(node).deps.is_none(), "{id} is decided once (Agreement)");
            self.blocking.remove(&id);
            self.wake_waiters(node);
            self.store.remove(node);
        }
        self.finish(id);
    }

    fn commit_batch(&mut self, node: Node, batch: &Arc<Batch>, deps: Deps) {
        let instance = self.store.instance_mut(node);
        let same = Arc::ptr_eq(&instance.batch, batch) || instance.batch == *batch;
        assert!(same, "{} has one payload, its owner's (Integrity)", instance.id);
        if instance.deps.is_some() {
            return;
        }
        instance.deps = Some(deps);
        let id = instance.id;
        self.blocking.remove(&id);
        self.pending += 1;
        self.pass_gates(node);
    }

    /// Wakes a committed instance, or parks it where something it covers is not known.
    fn pass_gates(&mut self, node: Node) {
        let instance = self.store.instance(node);
        let deps = instance.deps.as_ref().expect("only committed instances come to the gates");
        let closed = ReplicaId::all(deps.len()).find_map(|owner| {
            let bound = instance.bound(deps, owner);
            (bound > self.store.window(owner).known()).then_some((owner, bound))
        });
        match closed {
            Some((owner, bound)) => {
                self.gates[owner.index()].insert((bound, node));
            }
            None => self.woken.push_back(node),
        }
    }

    /// Says where an instance is from now on, and lets through whom that lets through.
    fn put(&mut self, id: InstanceId, place: Place) {
        let window = self.store.window_mut(id.replica);
        if !window.put(id.slot, place) {
            return;
        }
        let known = window.known();
        let gate = id.replica.index();
        while self.gates[gate].first().is_some_and(|(bound, _)| *bound <= known) {
            let (_, node) = self.gates[gate].pop_first().expect("there is a first");
            self.pass_gates(node);
        }
    }

    /// An instance is executed, or a `Nop`.
    fn finish(&mut self, id: InstanceId) {
        self.put(id, Place::Done);
        self.executed.raise(id.replica, self.store.window(id.replica).executed());
    }

    /// Lets those that wait on a knot look again: it is out of their way.
    fn wake_waiters(&mut self, leader: Node) {
        while let Some(waiter) = self.order.release_next(leader) {
            self.woken.push_back(waiter);
        }
    }

    /// Explores what was woken until all of it waits or is ready.
    fn explore_woken(&mut self) {
        while let Some(node) = self.woken.pop_front() {
            match self.order.explore(View::resuming(&self.store), node) {
                Explored::Waits(on) => {
                    let instance = self.store.instance(on);
                    if instance.deps.is_none() {
                        self.blocking.insert(instance.id);
                    }
                }
                Explored::Complete(leader) => self.emit(leader),
            }
        }
    }

    /// Takes a component out of the graph and queues it.
    fn emit(&mut self, leader: Node) {
        let mut instances: Vec<_> =
            self.order.members(leader).map(|node| self.store.remove(node)).collect();
        for (id, _) in &instances {
            self.store.window_mut(id.replica).put(id.slot, Place::Ready);
        }
        self.wake_waiters(leader);
        instances.sort_unstable_by_key(|(id, _)| id.execution_key());
        self.largest = self.largest.max(instances.len());
        self.ready.push_back(Component { instances });
    }
}
