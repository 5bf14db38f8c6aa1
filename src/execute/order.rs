//! Strongly connected components of a graph that becomes known piece by piece.
//!
//! Between `graph`, whose edges it follows, and the executor, which feeds it nodes and takes
//! components. This is Tarjan's depth-first search in its path-based form, with one difference. A
//! search that meets a node whose edges are unknown is not thrown away; it stays until that node is
//! decided. Any number of searches may be standing. So every edge is followed once, in whatever
//! order decisions arrive.
//!
//! Nodes known to reach each other are merged into a *knot*. A knot's members are explored one edge
//! at a time; when an edge leads out of the knot, the knot *waits* on the node at its end. Each
//! knot waits on at most one node, so the knots form trees. A tree's root is either being explored
//! or waits for a decision. When a root's edge leads to a knot of its own tree, that closes a
//! cycle: the knots on the path up to the root become one. When a root has no more edges, it is a
//! component, and everything it depends on was complete before it.
//!
//! Deviation: PROTOCOL.md §6 parks a whole stack on one blocker and searches it again once that is
//! executed. A long queue after a barrier that waits for many instances in turn would make this
//! quadratic. Here the queue waits for the barrier, and only the barrier is examined.
//!
//! Generic over petgraph's traits: the graph is the conflict graph of the store or, in tests, any
//! petgraph graph.

use petgraph::visit::{IntoNeighbors, NodeIndexable};

use super::node::{Node, node_at};

/// No node.
const NONE: Node = Node::MAX;

/// A node's position in its knot. For a knot's leader, also the knot's position in its tree.
#[derive(Clone, Debug)]
struct Link {
    /// A member nearer to the leader; the leader points to itself.
    toward_leader: Node,
    /// The next member, in a ring.
    next_member: Node,
    /// The next member that may have unexplored edges.
    next_open: Node,
    // The fields below are used in leaders only.
    open_first: Node,
    open_last: Node,
    /// The node, in another knot, that this knot waits on.
    waits_on: Node,
    /// The previous and next knot that wait on a node of the same knot.
    sibling_before: Node,
    sibling_behind: Node,
    /// The knots that wait on a node of this one.
    waiter_first: Node,
    waiter_last: Node,
}

/// The result of exploring a knot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Explored {
    /// It waits on this node.
    Waits(Node),
    /// It is a component, led by this node; everything it depends on is complete.
    Complete(Node),
}

/// The knots, and which waits on which.
///
/// 1. `waits_on` of a leader is in another knot, and these edges between knots form a forest.
/// 2. A knot is in the list of waiters of the knot it waits on, and in no other.
/// 3. Only a tree's root is explored, and at that moment it waits on nothing.
#[derive(Debug, Default)]
pub(super) struct Order {
    links: Vec<Link>,
    /// Edges followed and steps taken through the forest. Tests measure effort by it.
    work: u64,
}

impl Order {
    /// Adds a node, alone in its knot and waiting on nothing. Others may wait on it. It is explored
    /// only when [`Order::explore`] is called for it.
    pub(super) fn admit(&mut self, node: Node) {
        let link = Link {
            toward_leader: node,
            next_member: node,
            next_open: NONE,
            open_first: node,
            open_last: node,
            waits_on: NONE,
            sibling_before: NONE,
            sibling_behind: NONE,
            waiter_first: NONE,
            waiter_last: NONE,
        };
        let at = node as usize;
        if at >= self.links.len() {
            // The links of nodes never admitted are never read.
            self.links.resize(at + 1, link.clone());
        }
        self.links[at] = link;
    }

    /// Explores a knot that waits on nothing, until it waits or is a component.
    ///
    /// `graph` must return each member's edges starting from the one followed last, without edges
    /// to complete components.
    pub(super) fn explore<G>(&mut self, graph: G, leader: Node) -> Explored
    where
        G: IntoNeighbors + NodeIndexable,
    {
        assert!(self.link(leader).waits_on == NONE, "only what waits on nothing is explored");
        loop {
            let member = self.link(leader).open_first;
            if member == NONE {
                return Explored::Complete(leader);
            }
            for target in graph.neighbors(graph.from_index(member as usize)) {
                self.work += 1;
                let target = node_at(graph.to_index(target));
                let knot = self.leader(target);
                if knot == leader {
                    continue;
                }
                if !self.is_below(knot, leader) {
                    self.wait(leader, knot, target);
                    return Explored::Waits(target);
                }
                self.merge_up(knot, leader);
            }
            // Merging appends to the list, so the member is still first.
            let next = self.link(member).next_open;
            let link = self.link_mut(leader);
            link.open_first = next;
            if next == NONE {
                link.open_last = NONE;
            }
        }
    }

    /// The members of the knot that `leader` leads.
    pub(super) fn members(&self, leader: Node) -> impl Iterator<Item = Node> + '_ {
        let mut next = Some(leader);
        std::iter::from_fn(move || {
            let node = next?;
            let behind = self.link(node).next_member;
            next = (behind != leader).then_some(behind);
            Some(node)
        })
    }

    /// Takes the first knot that waits on a leader's knot; it then waits on nothing and has to be
    /// explored again. Call it for a knot that is complete, or a node that was decided `Nop`.
    pub(super) fn release_next(&mut self, leader: Node) -> Option<Node> {
        let first = self.link(leader).waiter_first;
        if first == NONE {
            return None;
        }
        self.leave(leader, first);
        Some(first)
    }

    /// The leader of the root of the node's tree: the knot on which the whole tree waits.
    pub(super) fn root(&self, node: Node) -> Node {
        let mut at = node;
        loop {
            while self.link(at).toward_leader != at {
                at = self.link(at).toward_leader;
            }
            match self.link(at).waits_on {
                NONE => return at,
                up => at = up,
            }
        }
    }

    /// Edges followed and steps taken so far.
    #[cfg(test)]
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    fn link(&self, node: Node) -> &Link {
        &self.links[node as usize]
    }

    fn link_mut(&mut self, node: Node) -> &mut Link {
        &mut self.links[node as usize]
    }

    /// The leader of a node's knot. Halves the path to it for the next call.
    fn leader(&mut self, node: Node) -> Node {
        let mut at = node;
        loop {
            let up = self.link(at).toward_leader;
            if up == at {
                return at;
            }
            let above = self.link(up).toward_leader;
            self.link_mut(at).toward_leader = above;
            self.work += 1;
            at = above;
        }
    }

    /// Whether `knot` waits, directly or not, on the root `top`.
    ///
    /// It climbs from `knot` and searches the tree of `top` in turns, so it costs the smaller of
    /// the two. As with merging the smaller set into the larger, that keeps the total cost low.
    fn is_below(&mut self, knot: Node, top: Node) -> bool {
        let mut up = knot;
        let mut down = top;
        loop {
            match self.link(up).waits_on {
                NONE => return false,
                target => up = self.leader(target),
            }
            if up == top {
                return true;
            }
            match self.next_in_tree(down, top) {
                None => return false,
                Some(next) if next == knot => return true,
                Some(next) => down = next,
            }
            self.work += 1;
        }
    }

    /// The knot after `at` in the tree of `top`, parents before children.
    fn next_in_tree(&mut self, at: Node, top: Node) -> Option<Node> {
        let below = self.link(at).waiter_first;
        if below != NONE {
            return Some(below);
        }
        let mut at = at;
        while at != top {
            let Link { sibling_behind, waits_on, .. } = *self.link(at);
            if sibling_behind != NONE {
                return Some(sibling_behind);
            }
            at = self.leader(waits_on);
        }
        None
    }

    /// Merges the knots from `knot` up to the root `top` into one, led by `top`.
    fn merge_up(&mut self, knot: Node, top: Node) {
        let mut at = knot;
        while at != top {
            let target = self.link(at).waits_on;
            let above = self.leader(target);
            self.leave(above, at);
            self.merge(top, at);
            self.work += 1;
            at = above;
        }
    }

    /// Moves everything that `other` leads to `leader`.
    fn merge(&mut self, leader: Node, other: Node) {
        let from = self.link(other).clone();
        let into = self.link_mut(leader);
        let (open_last, waiter_last) = (into.open_last, into.waiter_last);
        let ring = std::mem::replace(&mut into.next_member, from.next_member);
        if from.open_first != NONE {
            into.open_last = from.open_last;
            if open_last == NONE {
                into.open_first = from.open_first;
            }
        }
        if from.waiter_first != NONE {
            into.waiter_last = from.waiter_last;
            if waiter_last == NONE {
                into.waiter_first = from.waiter_first;
            }
        }
        if from.open_first != NONE && open_last != NONE {
            self.link_mut(open_last).next_open = from.open_first;
        }
        if from.waiter_first != NONE && waiter_last != NONE {
            self.link_mut(waiter_last).sibling_behind = from.waiter_first;
            self.link_mut(from.waiter_first).sibling_before = waiter_last;
        }
        let link = self.link_mut(other);
        link.next_member = ring;
        link.toward_leader = leader;
    }

    /// Makes the root `leader` wait on `target`, a member of `knot`.
    fn wait(&mut self, leader: Node, knot: Node, target: Node) {
        let last = self.link(knot).waiter_last;
        let link = self.link_mut(leader);
        link.waits_on = target;
        link.sibling_before = last;
        link.sibling_behind = NONE;
        if last == NONE {
            self.link_mut(knot).waiter_first = leader;
        } else {
            self.link_mut(last).sibling_behind = leader;
        }
        self.link_mut(knot).waiter_last = leader;
    }

    /// Ends the wait of `waiter` on a member of `knot`.
    fn leave(&mut self, knot: Node, waiter: Node) {
        let link = self.link_mut(waiter);
        let (before, behind) = (link.sibling_before, link.sibling_behind);
        link.waits_on = NONE;
        link.sibling_before = NONE;
        link.sibling_behind = NONE;
        if before == NONE {
            self.link_mut(knot).waiter_first = behind;
        } else {
            self.link_mut(before).sibling_behind = behind;
        }
        if behind == NONE {
            self.link_mut(knot).waiter_last = before;
        } else {
            self.link_mut(behind).sibling_before = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use petgraph::algo::tarjan_scc;
    use petgraph::graph::{DiGraph, NodeIndex};
    use petgraph::visit::NodeFiltered;
    use proptest::prelude::*;

    use super::*;

    /// The components of a graph whose nodes are decided in the given order, as they complete.
    fn components(graph: &DiGraph<(), ()>, decided: &[Node]) -> Vec<Vec<Node>> {
        let complete = RefCell::new(vec![false; graph.node_count()]);
        let view = NodeFiltered::from_fn(graph, |node| !complete.borrow()[node.index()]);
        let mut order = Order::default();
        let mut found = Vec::new();
        (0..decided.len()).for_each(|node| order.admit(Node::try_from(node).unwrap()));
        for node in decided {
            let mut woken = VecDeque::from([*node]);
            while let Some(leader) = woken.pop_front() {
                if let Explored::Complete(leader) = order.explore(&view, leader) {
                    let mut members: Vec<Node> = order.members(leader).collect();
                    members.iter().for_each(|at| complete.borrow_mut()[*at as usize] = true);
                    woken.extend(std::iter::from_fn(|| order.release_next(leader)));
                    members.sort_unstable();
                    found.push(members);
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_graph_learned_piecemeal_has_petgraphs_components(
            (decided, edges) in (1..40u32).prop_flat_map(|n| (
                Just((0..n).collect::<Vec<Node>>()).prop_shuffle(),
                prop::collection::vec((0..n, 0..n), 0..80),
            )),
        ) {
            let mut graph = DiGraph::<(), ()>::new();
            decided.iter().for_each(|_| { graph.add_node(()); });
            for (a, b) in &edges {
                graph.add_edge(NodeIndex::new(*a as usize), NodeIndex::new(*b as usize), ());
            }
            let found = components(&graph, &decided);
            let place = |node| found.iter().position(|members| members.contains(&node));
            for (a, b) in edges {
                prop_assert!(place(b) <= place(a), "dependencies come first");
            }
            let index = |node: NodeIndex| Node::try_from(node.index()).unwrap();
            let mut expected: Vec<Vec<Node>> = tarjan_scc(&graph)
                .into_iter()
                .map(|members| members.into_iter().map(index).collect())
                .collect();
            expected.iter_mut().for_each(|members| members.sort_unstable());
            expected.sort();
            let mut found = found;
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
