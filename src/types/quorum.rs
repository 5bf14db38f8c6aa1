//! Quorum sizes (PROTOCOL.md §1) and sets of replicas.

use std::fmt;

use super::{MAX_REPLICAS, ReplicaId};

/// The sizes that follow from the number of replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorums {
    /// The number of replicas.
    pub n: usize,
    /// The number of crashed replicas that the cluster survives: `(n - 1) / 2`, rounded down.
    pub f: usize,
    /// The number of crashed replicas under which the fast path still works: the largest `e <= f`
    /// with `n >= 2e + f - 1`.
    pub e: usize,
}

/// There is no cluster of this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster has between 1 and {MAX_REPLICAS} replicas, not {0}")]
pub struct UnsupportedSize(pub usize);

impl Quorums {
    /// The sizes for `n` replicas.
    ///
    /// # Errors
    /// If `n` is 0 or above [`MAX_REPLICAS`].
    pub fn new(n: usize) -> Result<Quorums, UnsupportedSize> {
        if n == 0 || n > MAX_REPLICAS {
            return Err(UnsupportedSize(n));
        }
        let f = (n - 1) / 2;
        let e = (0..=f).rev().find(|e| n + 1 >= 2 * e + f).expect("e = 0 always fits");
        Ok(Quorums { n, f, e })
    }

    /// The size of a slow quorum: `n - f`.
    pub const fn slow(&self) -> usize {
        self.n - self.f
    }

    /// The size of a fast quorum: `n - e`.
    pub const fn fast(&self) -> usize {
        self.n - self.e
    }
}

/// A set of replicas.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReplicaSet(u64);

impl ReplicaSet {
    /// No replica.
    pub const EMPTY: ReplicaSet = ReplicaSet(0);

    /// Every replica of a cluster of `n`.
    pub fn all(n: usize) -> ReplicaSet {
        ReplicaId::all(n).collect()
    }

    /// The set with these bits; the lowest is replica 1.
    pub const fn from_bits(bits: u64) -> ReplicaSet {
        ReplicaSet(bits & !(1 << MAX_REPLICAS))
    }

    /// A bit for each replica; the lowest is replica 1.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Adds a replica. Returns whether it was missing.
    pub fn insert(&mut self, replica: ReplicaId) -> bool {
        let missing = !self.contains(replica);
        self.0 |= 1 << replica.index();
        missing
    }

    /// Removes a replica. Returns whether it was present.
    pub fn remove(&mut self, replica: ReplicaId) -> bool {
        let present = self.contains(replica);
        self.0 &= !(1 << replica.index());
        present
    }

    /// Whether the replica is in the set.
    pub const fn contains(self, replica: ReplicaId) -> bool {
        self.0 & (1 << replica.index()) != 0
    }

    /// The number of replicas in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The replicas in either set.
    #[must_use]
    pub const fn union(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 | other.0)
    }

    /// The replicas in order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = left.checked_ilog2().map(|_| left.trailing_zeros())?;
            left &= left - 1;
            Some(ReplicaId::from_index(index as usize))
        })
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(replicas: I) -> ReplicaSet {
        let mut set = ReplicaSet::EMPTY;
        for replica in replicas {
            set.insert(replica);
        }
        set
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_table_of_the_protocol() {
        let table = [
            (1, 0, 0, 1, 1),
            (2, 0, 0, 2, 2),
            (3, 1, 1, 2, 2),
            (4, 1, 1, 3, 3),
            (5, 2, 2, 3, 3),
            (6, 2, 2, 4, 4),
            (7, 3, 2, 4, 5),
            (9, 4, 3, 5, 6),
        ];
        for (n, f, e, slow, fast) in table {
            let q = Quorums::new(n).expect("a supported size");
            assert_eq!((q.f, q.e, q.slow(), q.fast()), (f, e, slow, fast), "n = {n}");
        }
        assert_eq!(Quorums::new(0), Err(UnsupportedSize(0)));
        assert_eq!(Quorums::new(64), Err(UnsupportedSize(64)));
    }

    #[test]
    fn a_set_holds_each_replica_once() {
        let [a, b] = [ReplicaId::from_index(0), ReplicaId::from_index(62)];
        let mut set = ReplicaSet::EMPTY;
        assert!(set.insert(b) && !set.insert(b) && set.insert(a));
        assert_eq!(set.iter().collect::<Vec<_>>(), [a, b]);
        assert!(set.remove(a) && !set.remove(a));
        assert_eq!((set.len(), ReplicaSet::all(3).len()), (1, 3));
    }
}
