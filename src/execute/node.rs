//! Node numbers: `window`, `index` and `order` store a number in place of an instance. Only `graph`
//! knows which instance a number stands for.

/// An instance's number at this replica. Numbers are dense, and are reused once an instance has
/// left.
pub(super) type Node = u32;

/// The node number for an index into the table of instances.
pub(super) fn node_at(index: usize) -> Node {
    Node::try_from(index).expect("instances in memory fit 32 bits")
}
