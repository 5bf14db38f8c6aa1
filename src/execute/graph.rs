//! The known, unexecuted instances, and the conflict graph over them.
//!
//! Between the executor's decisions and `order`, which walks the graph. The graph is never stored:
//! an instance's edges are looked up in `index` when they are followed. So an instance that is
//! executed or decided `Nop` disappears from all edges at once.
//!
//! # The edges of an instance
//!
//! Per owner and key, only the edges needed to *reach* every covered conflicting instance
//! (PROTOCOL.md §6). An owner's later instance always covers its own earlier conflicting ones. So
//! the edges go
//!
//! - from a read: to the owner's last covered write of the key;
//! - from a write: to that, and to each covered read after it, because reads do not order each
//!   other. If another write of the instance's own owner covers a read, the read is reached through
//!   that write;
//! - from any instance: to the owner's last covered instance that touches everything;
//! - from one that touches everything: to that, and to each covered instance after it.

use std::cell::Cell;
use std::sync::Arc;

use petgraph::visit::{GraphBase, GraphRef, IntoNeighbors, IntoNodeIdentifiers, NodeIndexable};

use super::index::{Index, KeyEntry};
use super::node::{Node, node_at};
use super::window::{Place, Window};
use crate::types::{
    Access, Batch, Deps, Executed, InstanceId, KeyHash, ReplicaId, ReplicaSet, Slot,
};

/// An instance whose payload is known.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) batch: Arc<Batch>,
    /// Set once it is committed.
    pub(super) deps: Option<Deps>,
    /// The edge at which [`View::resuming`] continues.
    cursor: Cell<Cursor>,
}

impl Instance {
    /// The last slot of `owner` that it waits for. Of its own owner's slots only earlier ones
    /// count: a later one that conflicts covers this one (PROTOCOL.md §4.2).
    pub(super) fn bound(&self, deps: &Deps, owner: ReplicaId) -> Slot {
        let covered = deps.slot(owner);
        if owner == self.id.replica { covered.min(self.id.slot - 1) } else { covered }
    }
}

/// The known, unexecuted instances.
#[derive(Debug)]
pub(super) struct Store {
    instances: Vec<Option<Instance>>,
    free: Vec<Node>,
    windows: Vec<Window>,
    index: Index,
}

impl Store {
    /// A store that knows only what is executed.
    pub(super) fn starting_from(executed: &Executed) -> Store {
        let owners = executed.floor().iter();
        let window = |(owner, floor)| Window::starting_from(floor, executed.above(owner));
        let windows: Vec<_> = owners.map(window).collect();
        Store { windows, ..Store::new(executed.floor().len()) }
    }

    pub(super) fn new(n: usize) -> Store {
        Store {
            instances: Vec::new(),
            free: Vec::new(),
            windows: (0..n).map(|_| Window::new()).collect(),
            index: Index::new(n),
        }
    }

    /// The number of owners.
    pub(super) fn owners(&self) -> usize {
        self.windows.len()
    }

    pub(super) fn window(&self, owner: ReplicaId) -> &Window {
        &self.windows[owner.index()]
    }

    pub(super) fn window_mut(&mut self, owner: ReplicaId) -> &mut Window {
        &mut self.windows[owner.index()]
    }

    pub(super) fn place(&self, id: InstanceId) -> Place {
        self.window(id.replica).place(id.slot)
    }

    pub(super) fn instance(&self, node: Node) -> &Instance {
        self.instances[node as usize].as_ref().expect("a node in use holds an instance")
    }

    pub(super) fn instance_mut(&mut self, node: Node) -> &mut Instance {
        self.instances[node as usize].as_mut().expect("a node in use holds an instance")
    }

    /// Adds an instance that was unknown. The caller sets its place in its window.
    pub(super) fn insert(&mut self, id: InstanceId, batch: Arc<Batch>) -> Node {
        let node = self.free.pop().unwrap_or_else(|| {
            self.instances.push(None);
            node_at(self.instances.len() - 1)
        });
        self.index.insert(id, batch.footprint(), node);
        let cursor = Cell::new(Cursor::default());
        self.instances[node as usize] = Some(Instance { id, batch, deps: None, cursor });
        node
    }

    /// Removes an instance from the graph. The caller sets its new place.
    pub(super) fn remove(&mut self, node: Node) -> (InstanceId, Arc<Batch>) {
        let instance = self.instances[node as usize].take();
        let instance = instance.expect("a node in use holds an instance");
        self.index.remove(instance.id, instance.batch.footprint());
        self.free.push(node);
        (instance.id, instance.batch)
    }

    /// Whether it holds no instance.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty() && self.instances.iter().all(Option::is_none)
    }
}

/// The conflict graph of a [`Store`], for petgraph's algorithms.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    store: &'a Store,
    resuming: bool,
}

impl<'a> View<'a> {
    /// Each instance with all its edges.
    pub(super) fn whole(store: &'a Store) -> View<'a> {
        View { store, resuming: false }
    }

    /// Each instance with its edges from the one followed last on, if that still exists. For
    /// `order` only: following an edge moves the instance's cursor.
    pub(super) fn resuming(store: &'a Store) -> View<'a> {
        View { store, resuming: true }
    }
}

impl GraphBase for View<'_> {
    type NodeId = Node;
    type EdgeId = (Node, Node);
}

impl GraphRef for View<'_> {}

impl NodeIndexable for View<'_> {
    fn node_bound(&self) -> usize {
        self.store.instances.len()
    }

    fn to_index(&self, node: Node) -> usize {
        node as usize
    }

    fn from_index(&self, index: usize) -> Node {
        node_at(index)
    }
}

impl<'a> IntoNodeIdentifiers for View<'a> {
    type NodeIdentifiers = Box<dyn Iterator<Item = Node> + 'a>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        let nodes = (0..).zip(&self.store.instances);
        Box::new(nodes.filter(|(_, instance)| instance.is_some()).map(|(node, _)| node))
    }
}

impl<'a> IntoNeighbors for View<'a> {
    type Neighbors = Edges<'a>;

    fn neighbors(self, node: Node) -> Edges<'a> {
        let instance = self.store.instance(node);
        let cursor = if self.resuming { instance.cursor.get() } else { Cursor::default() };
        let mut edges = Edges {
            store: self.store,
            resuming: self.resuming,
            instance,
            cursor,
            entry: None,
            owners: ReplicaSet::EMPTY,
            at: None,
        };
        edges.enter_part();
        edges
    }
}

/// How far the edges of an instance were followed. Edges are ordered by *part* of the footprint
/// (first everything, then each key), then by owner (its own first), then by stage.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    part: usize,
    turn: usize,
    stage: EdgeStage,
    /// In stage `Rest`: continue above this slot.
    after: Slot,
}

/// The instances of one owner on one key that are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum EdgeStage {
    /// The last covered one that orders all before it.
    #[default]
    Last,
    /// Each covered one after that.
    Rest,
}

/// The edges of an instance: to conflicting, covered, known, unexecuted instances.
pub(super) struct Edges<'a> {
    store: &'a Store,
    resuming: bool,
    instance: &'a Instance,
    cursor: Cursor,
    /// The key of the current part.
    entry: Option<&'a KeyEntry>,
    /// The owners with an instance in the current part.
    owners: ReplicaSet,
    /// The slot of the edge returned last.
    at: Option<Slot>,
}

impl Iterator for Edges<'_> {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        let deps = self.instance.deps.as_ref()?;
        if let Some(slot) = self.at.take() {
            self.cursor.stage = EdgeStage::Rest;
            self.cursor.after = slot;
        }
        let found = loop {
            if self.cursor.part > self.keys().len() {
                break None;
            }
            let found = self.look(deps);
            if found.is_some() {
                break found;
            }
            self.move_on();
        };
        self.at = found.map(|(slot, _)| slot);
        if self.resuming {
            self.instance.cursor.set(self.cursor);
        }
        found.map(|(_, node)| node)
    }
}

impl<'a> Edges<'a> {
    /// The parts of the footprint after part 0.
    fn keys(&self) -> &'a [(KeyHash, Access)] {
        self.instance.batch.footprint().keys().unwrap_or_default()
    }

    /// The owner at the cursor: its own owner first, then the others in order.
    fn owner(&self) -> ReplicaId {
        self.owner_at(self.cursor.turn)
    }

    fn owner_at(&self, turn: usize) -> ReplicaId {
        let own = self.instance.id.replica;
        match turn {
            0 => own,
            turn if turn <= own.index() => ReplicaId::from_index(turn - 1),
            turn => ReplicaId::from_index(turn),
        }
    }

    /// The edge at the cursor, if there is one.
    fn look(&self, deps: &Deps) -> Option<(Slot, Node)> {
        let owner = self.owner();
        let bound = self.instance.bound(deps, owner);
        let own = owner == self.instance.id.replica;
        // The owner must have counted all its earlier proposals, so check all of them.
        let limit = if own { self.instance.id.slot - 1 } else { bound };
        let found = match self.cursor.stage {
            EdgeStage::Last => self.last(owner, limit),
            EdgeStage::Rest => {
                let after = self.cursor.after.max(self.reached_through_own(deps, owner));
                self.first_behind(owner, after, limit)
            }
        };
        if let Some((slot, _)) = found {
            assert!(
                slot <= bound,
                "an owner's instance covers its own earlier conflicting ones \
                 (PROTOCOL.md §4.1): {} does not cover slot {slot}",
                self.instance.id,
            );
        }
        found
    }

    /// The owner's last instance up to `bound` that conflicts with all of its kind before it.
    fn last(&self, owner: ReplicaId, bound: Slot) -> Option<(Slot, Node)> {
        if self.cursor.part > 0 {
            return self.entry?.owner(owner)?.writes.last_until(bound);
        }
        self.store.index.everything(owner).last_until(bound)
    }

    /// The owner's first instance above `after` and up to `bound` that conflicts with the instance,
    /// apart from those that [`Edges::last`] finds.
    fn first_behind(&self, owner: ReplicaId, after: Slot, bound: Slot) -> Option<(Slot, Node)> {
        let Some(key) = self.cursor.part.checked_sub(1) else {
            if self.instance.batch.footprint().keys().is_some() {
                return None;
            }
            // Up to the known frontier, there are no more slots to examine than instances.
            return self.store.window(owner).first_held(after, bound);
        };
        if self.keys()[key].1 == Access::Read {
            return None;
        }
        self.entry?.owner(owner)?.reads.first_between(after, bound)
    }

    /// The slot up to which `owner` is covered by an earlier instance of the same owner as this
    /// one, if there is an edge to that and it conflicts with all that this one does here.
    fn reached_through_own(&self, deps: &Deps, owner: ReplicaId) -> Slot {
        let own = self.instance.id.replica;
        if owner == own {
            return 0;
        }
        let before = self.last(own, self.instance.bound(deps, own));
        let before = before.and_then(|(_, node)| self.store.instance(node).deps.as_ref());
        before.map_or(0, |deps| deps.slot(owner))
    }

    /// Moves to the next stage, owner, or part.
    fn move_on(&mut self) {
        let next = Cursor { stage: EdgeStage::Last, after: 0, ..self.cursor };
        if self.cursor.stage == EdgeStage::Last {
            self.cursor = Cursor { stage: EdgeStage::Rest, ..next };
            return;
        }
        let mut turns = self.cursor.turn + 1..self.store.owners();
        match turns.find(|turn| self.owners.contains(self.owner_at(*turn))) {
            Some(turn) => self.cursor = Cursor { turn, ..next },
            None => {
                self.cursor = Cursor { part: self.cursor.part + 1, turn: 0, ..next };
                self.enter_part();
            }
        }
    }

    /// Looks up the key of the current part.
    fn enter_part(&mut self) {
        let touches_all = self.instance.batch.footprint().keys().is_none();
        if self.cursor.part == 0 && !touches_all && !self.store.index.has_barriers() {
            // No known instance touches everything, and no unknown one is covered.
            self.cursor = Cursor { part: 1, ..Cursor::default() };
        }
        let Some(key) = self.cursor.part.checked_sub(1) else {
            self.owners = ReplicaSet::all(self.store.owners());
            return;
        };
        self.entry = self.keys().get(key).and_then(|(key, _)| self.store.index.key(*key));
        self.owners = self.entry.map_or(ReplicaSet::EMPTY, KeyEntry::owners);
    }
}
