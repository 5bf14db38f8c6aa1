//! Turns decisions into an execution order (PROTOCOL.md §6).
//!
//! The [`Executor`] receives payloads and decisions in any order, and yields components: sets of
//! instances to execute together. Any two conflicting commands come in the same order at every
//! replica.
//!
//! Read in this order: `node` numbers the instances; `window` holds each owner's slots, and `index`
//! the instances by key; `graph` holds the instances and finds their edges in both; `order` finds
//! the components; this file is the executor. `log` is separate from these, and `either` combines
//! both.
//!
//! An instance passes three gates, each at most once:
//!
//! 1. *committed*. Until then others may wait on it.
//! 2. Everything it covers is *known*. Until then an unknown instance might conflict with it. It
//!    waits, per owner, for a slot number, and is woken once for each.
//! 3. Everything it depends on is executed, or part of its component: the work of `order`.
//!
//! Protocols that agree on one sequence use [`LogExecutor`] instead; [`AnyExecutor`] is either.

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

/// How many unknown slots of an owner [`Executor::blockers`] returns at a time.
const UNKNOWN_NAMED: u64 = 64;

/// Instances that are executed together: each depends, directly or not, on all the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    /// Ordered by slot, then by owner; at least one.
    pub instances: Vec<(InstanceId, Arc<Batch>)>,
}

/// Orders decided instances for execution.
///
/// 1. A component is yielded after everything that its instances depend on.
/// 2. If two replicas get the same decisions, they yield any two conflicting commands in the same
///    order.
/// 3. Memory is bounded by the largest number of instances known and not executed at a time (freed
///    entries are reused), plus one entry for each slot executed after a gap. A snapshot it started
///    from takes one entry for each range after a gap.
#[derive(Debug)]
pub struct Executor {
    store: Store,
    order: Order,
    /// Per owner, the committed instances that wait until the owner's slots are known up to a
    /// number.
    gates: Vec<BTreeSet<(Slot, Node)>>,
    /// Knots that wait on nothing and have to be explored.
    woken: VecDeque<Node>,
    ready: VecDeque<Component>,
    /// Instances that are not committed and on which committed ones wait.
    blocking: BTreeSet<InstanceId>,
    executed: Deps,
    pending: usize,
    largest: usize,
}

impl Executor {
    /// An executor for a cluster of `n` owners that has executed nothing.
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

    /// An executor that continues from a snapshot that has executed `executed`.
    pub fn starting_from(executed: &Executed) -> Executor {
        Executor {
            store: Store::starting_from(executed),
            executed: executed.floor().clone(),
            ..Executor::new(executed.floor().len())
        }
    }

    /// Forgets everything and continues from a snapshot that has executed `executed`.
    pub fn start_again(&mut self, executed: &Executed) {
        let largest = self.largest;
        *self = Executor { largest, ..Executor::starting_from(executed) };
    }

    /// Everything taken by [`Executor::next_ready`] or decided `Nop`.
    pub fn done(&self) -> Executed {
        let mut done = Executed::up_to(self.executed.clone());
        for owner in ReplicaId::all(self.store.owners()) {
            for (first, last) in self.store.window(owner).done_above() {
                assert!(done.extend(owner, first, last), "ranges ascend after the prefix");
            }
        }
        done
    }

    /// The payload of an instance became known, from any message.
    ///
    /// Instances that cover it need the payload to tell whether they conflict with it. Repeated
    /// calls have no effect, nor calls after the decision.
    pub fn on_learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        if self.store.place(id) == Place::Unknown {
            self.insert(id, batch);
            self.explore_woken();
        }
    }

    /// An instance was decided.
    ///
    /// # Panics
    /// If the decision contradicts an earlier one for the same instance or the payload learned for
    /// it, or if an instance does not cover its owner's earlier conflicting ones. In both cases the
    /// protocol has broken a promise, and replicas would diverge silently.
    pub fn on_committed(&mut self, decision: Decision) {
        let Decision { id, value, deps, .. } = decision;
        assert_eq!(deps.len(), self.store.owners(), "vectors of one cluster have one length");
        let held = match self.store.place(id) {
            // Too late to compare: executed instances are forgotten here.
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

    /// The next component in execution order, which then counts as executed. `None` until more is
    /// decided.
    pub fn next_ready(&mut self) -> Option<Component> {
        let component = self.ready.pop_front()?;
        for (id, _) in &component.instances {
            self.finish(*id);
        }
        self.pending -= component.instances.len();
        Some(component)
    }

    /// Per owner: everything up to here was taken by [`Executor::next_ready`] or decided `Nop`.
    pub fn executed(&self) -> &Deps {
        &self.executed
    }

    /// Whether the instance was taken by [`Executor::next_ready`] or decided `Nop`.
    pub fn is_executed(&self, id: InstanceId) -> bool {
        self.store.place(id) == Place::Done
    }

    /// The instance that a committed instance ultimately waits for: one that is not committed, or
    /// not even known here. `None` if `id` is not committed or does not wait.
    ///
    /// For diagnosis only: it follows the chain of waiting instances, however long.
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

    /// The instances that committed ones wait for. First those known here but not committed, by id.
    /// Then, for each owner, the first few that are unknown.
    ///
    /// A blocked instance has one blocker at a time, so deciding these may reveal more.
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

    /// The largest component so far, in instances.
    pub fn largest_component(&self) -> usize {
        self.largest
    }

    /// How many instances are committed and not yet taken by [`Executor::next_ready`].
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// The conflict graph of known, unexecuted instances, in Graphviz's language. A question mark
    /// marks instances that are not committed. For diagnosis of a blocked replica.
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

    /// Wakes a committed instance, or parks it if it covers an unknown slot.
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

    /// Sets the place of an instance, and wakes instances for which an owner's slots are now known.
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

    /// An instance is executed, or decided as `Nop`.
    fn finish(&mut self, id: InstanceId) {
        self.put(id, Place::Done);
        self.executed.raise(id.replica, self.store.window(id.replica).executed());
    }

    /// A knot is complete or gone: wakes the knots that wait on it.
    fn wake_waiters(&mut self, leader: Node) {
        while let Some(waiter) = self.order.release_next(leader) {
            self.woken.push_back(waiter);
        }
    }

    /// Explores the woken knots until each waits or is complete.
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

    /// Removes a component from the graph and queues it.
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
