//! The numbers of instances: what `window`, `index` and `order` keep in place of an instance. Only
//! `graph` knows which instance a number stands for.

/// An instance's number here, given again once it has left: dense, and meaningful only to this
/// replica.
pub(super) type Node = u32;

/// The number of the instance at this place of a table.
pub(super) fn node_at(index: usize) -> Node {
    Node::try_from(index).expect("instances in memory fit 32 bits")
}
