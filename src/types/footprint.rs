//! What a command reads and writes: all that the engine knows about its meaning.

use std::fmt;

use smallvec::{SmallVec, smallvec};

/// A key's fixed 64-bit hash (XXH3-64, seed 0, over the key's bytes; version 1).
///
/// It is stored and sent, so it never changes. A collision only adds a conflict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The hash of a key's bytes.
    pub fn of(key: &[u8]) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64(key))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{:x}", self.0)
    }
}

/// How a command uses a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// The result depends on the key, which is not changed.
    Read,
    /// It may change the key.
    Write,
}

/// The keys that a command reads and writes, or everything.
///
/// Two commands *conflict* when they share a key and at least one of them writes it. Commands that
/// do not conflict may run in different orders at different replicas, so a footprint must name
/// every key that [`apply`](crate::machine::StateMachine::apply) may look at or change.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Footprint {
    /// Conflicts with every command.
    Everything,
    /// These keys; see [`Footprint::keys`] for the invariant.
    Keys(Keys),
}

/// How many keys are collected before duplicates are merged.
const MERGE_FROM: usize = 4096;

/// Sorted by key, each key once.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Keys(SmallVec<[(KeyHash, Access); 1]>);

impl Footprint {
    /// No key: conflicts only with [`Footprint::Everything`].
    pub fn nothing() -> Footprint {
        Footprint::Keys(Keys::default())
    }

    /// Reads one key.
    pub fn read(key: &[u8]) -> Footprint {
        Footprint::Keys(Keys(smallvec![(KeyHash::of(key), Access::Read)]))
    }

    /// Writes (and may read) one key.
    pub fn write(key: &[u8]) -> Footprint {
        Footprint::Keys(Keys(smallvec![(KeyHash::of(key), Access::Write)]))
    }

    /// One key, given by its hash.
    pub fn one(key: KeyHash, access: Access) -> Footprint {
        Footprint::Keys(Keys(smallvec![(key, access)]))
    }

    /// These keys. If a key is named twice, the write counts.
    pub fn from_keys(keys: impl IntoIterator<Item = (KeyHash, Access)>) -> Footprint {
        let mut kept = SmallVec::new();
        let mut full = MERGE_FROM;
        for key in keys {
            // A key named a million times takes the memory of a few.
            if kept.len() >= full {
                merge(&mut kept);
                full = MERGE_FROM.max(2 * kept.len());
            }
            kept.push(key);
        }
        Footprint::merged(kept)
    }

    /// The keys, sorted and without duplicates; `None` for everything.
    pub fn keys(&self) -> Option<&[(KeyHash, Access)]> {
        match self {
            Footprint::Everything => None,
            Footprint::Keys(keys) => Some(&keys.0),
        }
    }

    /// Whether the order of two commands with these footprints can be observed.
    pub fn conflicts(&self, other: &Footprint) -> bool {
        let (Some(a), Some(b)) = (self.keys(), other.keys()) else { return true };
        let (mut a, mut b) = (a.iter(), b.iter());
        let (mut left, mut right) = (a.next(), b.next());
        while let (Some((ka, ma)), Some((kb, mb))) = (left, right) {
            match ka.cmp(kb) {
                std::cmp::Ordering::Less => left = a.next(),
                std::cmp::Ordering::Greater => right = b.next(),
                std::cmp::Ordering::Equal => {
                    if *ma == Access::Write || *mb == Access::Write {
                        return true;
                    }
                    left = a.next();
                    right = b.next();
                }
            }
        }
        false
    }

    /// The footprint of several commands executed as one.
    pub fn union<'a>(footprints: impl IntoIterator<Item = &'a Footprint>) -> Footprint {
        let mut keys: SmallVec<[(KeyHash, Access); 1]> = SmallVec::new();
        for footprint in footprints {
            match footprint.keys() {
                None => return Footprint::Everything,
                Some(more) => keys.extend_from_slice(more),
            }
        }
        Footprint::merged(keys)
    }

    /// These keys without duplicates, in no more memory than they need: a footprint is kept as long
    /// as its command.
    fn merged(mut keys: SmallVec<[(KeyHash, Access); 1]>) -> Footprint {
        merge(&mut keys);
        keys.shrink_to_fit();
        Footprint::Keys(Keys(keys))
    }

    /// Whether it writes nothing.
    pub fn is_read_only(&self) -> bool {
        self.keys().is_some_and(|keys| keys.iter().all(|(_, access)| *access == Access::Read))
    }
}

/// Sorts the keys and removes duplicates.
fn merge(keys: &mut SmallVec<[(KeyHash, Access); 1]>) {
    // For each key the write sorts last; keep the last.
    keys.sort_unstable();
    keys.reverse();
    keys.dedup_by_key(|(key, _)| *key);
    keys.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        assert_eq!(KeyHash::of(b""), KeyHash(0x2d06_8005_38d3_94c2));
        assert_eq!(KeyHash::of(b"isonomy").0, xxhash_rust::xxh3::xxh3_64_with_seed(b"isonomy", 0));
    }

    #[test]
    fn the_write_counts_when_a_key_is_named_twice() {
        let k = KeyHash(7);
        let f = Footprint::from_keys([(k, Access::Write), (k, Access::Read)]);
        assert_eq!(f.keys(), Some(&[(k, Access::Write)][..]));
    }

    #[test]
    fn a_footprint_takes_no_more_memory_than_its_keys() {
        let capacity = |footprint: &Footprint| match footprint {
            Footprint::Everything => 0,
            Footprint::Keys(keys) => keys.0.capacity(),
        };
        let access = |n| if n == 500_000 { Access::Write } else { Access::Read };
        let repeated = (0..1_000_000).map(|n| (KeyHash(7), access(n)));
        let footprint = Footprint::from_keys(repeated);
        assert_eq!(footprint.keys(), Some(&[(KeyHash(7), Access::Write)][..]));
        assert_eq!(capacity(&footprint), 1);
        let few = Footprint::from_keys((0..100_000).map(|n| (KeyHash(n % 3), Access::Read)));
        assert_eq!(capacity(&few), 3);
        let many = Footprint::from_keys((0..100_000).rev().map(|n| (KeyHash(n), Access::Read)));
        assert_eq!(many.keys().map(<[_]>::len), Some(100_000));
        let both = Footprint::union([&few, &few, &few]);
        assert_eq!((capacity(&both), &both), (3, &few));
    }

    fn footprints() -> impl Strategy<Value = Footprint> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
        let keys = proptest::collection::vec(((0u64..6).prop_map(KeyHash), access), 0..5);
        prop_oneof![1 => Just(Footprint::Everything), 9 => keys.prop_map(Footprint::from_keys)]
    }

    proptest! {
        #[test]
        fn conflict_is_sharing_a_key_that_one_writes(a in footprints(), b in footprints()) {
            let naive = match (a.keys(), b.keys()) {
                (Some(x), Some(y)) => x.iter().any(|(k, m)| y.iter().any(|(l, o)| {
                    k == l && (*m == Access::Write || *o == Access::Write)
                })),
                _ => true,
            };
            prop_assert_eq!(a.conflicts(&b), naive);
            prop_assert_eq!(b.conflicts(&a), naive);
        }

        #[test]
        fn a_union_conflicts_when_a_part_does(
            a in footprints(), b in footprints(), c in footprints(),
        ) {
            let union = Footprint::union([&a, &b]);
            prop_assert_eq!(union.conflicts(&c), a.conflicts(&c) || b.conflicts(&c));
        }
    }
}
