//! A copy-on-write map: a clone is cheap, and stays as it is while the original changes. `machine`
//! keeps state in it, so that a snapshot can be written while commands are applied.
//!
//! The map is divided into shards. A clone shares all shards, and a change to a shared shard copies
//! that shard first. So a clone costs one reference count for each shard, and copies each shard at
//! most once.
//!
//! The persistent maps of `imbl` and `rpds` copy less at a time. But an `insert` costs a third more
//! instructions with `imbl` and 2.6 times as many with `rpds`, with or without a clone, and `imbl`
//! brings eight more crates.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use super::keyed::{Keyed, KeyedMap};

/// The number of shards of a large map. With a million keys, a shard that has to be copied has
/// about a thousand of them.
const SHARDS: usize = 1024;
/// A map with at most this many keys has one shard.
const SMALL: usize = 1024;

/// A map whose clones share the parts that neither of them has changed. As with [`KeyedMap`], its
/// order must not show.
///
/// Invariants:
///
/// 1. There are 1 or `SHARDS` shards, and the hash of a key selects its shard.
/// 2. `len` is the sum of the shards' lengths.
#[derive(Clone)]
pub struct CowMap<K, V> {
    hasher: Keyed,
    shards: Vec<Arc<KeyedMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> CowMap<K, V> {
        let shards = vec![Arc::default()];
        CowMap { hasher: Keyed::default(), shards, len: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> CowMap<K, V> {
    /// The shard of a key. It takes bits that the table of a shard does not use.
    #[inline]
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        match self.shards.len() {
            1 => 0,
            shards => ((self.hasher.hash_one(key) >> 24) as usize) & (shards - 1),
        }
    }

    /// The value of a key.
    #[inline]
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.shard(key)].get(key)
    }

    /// The value of a key, mutable.
    #[inline]
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.shard(key);
        Arc::make_mut(&mut self.shards[at]).get_mut(key)
    }

    /// Sets the value of a key. Returns the previous value, if there was one.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len == SMALL && self.shards.len() == 1 {
            self.split();
        }
        let at = self.shard(&key);
        let before = Arc::make_mut(&mut self.shards[at]).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes a key. Returns its value, if there was one.
    #[inline]
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.shard(key);
        let removed = Arc::make_mut(&mut self.shards[at]).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Divides the only shard into [`SHARDS`].
    #[cold]
    fn split(&mut self) {
        let whole = std::mem::take(&mut self.shards).swap_remove(0);
        let mut shards: Vec<KeyedMap<K, V>> = vec![KeyedMap::default(); SHARDS];
        // For `shard`, which looks at their number.
        self.shards = vec![Arc::default(); SHARDS];
        for (key, value) in Arc::unwrap_or_clone(whole).into_unordered() {
            shards[self.shard(&key)].insert(key, value);
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }

    /// Keeps the entries for which `keep` is true, and gives spare memory back. It is called in no
    /// particular order.
    pub fn retain_unordered(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.len = 0;
        for shard in self.shards.iter_mut().filter(|shard| !shard.is_empty()) {
            let shard = Arc::make_mut(shard);
            shard.retain_unordered(&mut keep);
            // Give back the capacity of the map's largest size.
            shard.shrink_to(shard.len() * 2);
            self.len += shard.len();
        }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many keys fit without allocating.
    pub fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.capacity()).sum()
    }

    /// All entries, in no particular order.
    pub fn unordered(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.unordered())
    }

    /// All entries, mutable, in no particular order.
    pub fn unordered_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let shards = self.shards.iter_mut().filter(|shard| !shard.is_empty());
        shards.flat_map(|shard| Arc::make_mut(shard).unordered_mut())
    }
}

impl<K: Clone + Eq + Hash, V: Clone + PartialEq> PartialEq for CowMap<K, V> {
    fn eq(&self, other: &CowMap<K, V>) -> bool {
        self.len == other.len && self.unordered().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Clone + Eq + Hash, V: Clone + Eq> Eq for CowMap<K, V> {}

/// Sorted, so that the same maps are shown the same way.
impl<K: Clone + Eq + Hash + Ord + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.unordered().collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        f.debug_map().entries(all).finish()
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Extend<(K, V)> for CowMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, all: I) {
        all.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Clone + Eq + Hash, V: Clone> FromIterator<(K, V)> for CowMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> CowMap<K, V> {
        let mut map = CowMap::default();
        map.extend(all);
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Enough that most maps are divided on the way.
    const KEYS: u32 = 2048;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u32, u8),
        Change(u32, u8),
        Remove(u32),
        Keep(u32),
        ChangeAll(u8),
        /// A clone is made. It must not change from now on.
        Clone,
        /// The oldest clone is dropped.
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..KEYS;
        prop_oneof![
            900 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            100 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Change(key, value)),
            100 => key.prop_map(Step::Remove),
            1 => (2..9u32).prop_map(Step::Keep),
            2 => any::<u8>().prop_map(Step::ChangeAll),
            5 => Just(Step::Clone),
            3 => Just(Step::Drop),
        ]
    }

    fn sorted(map: &CowMap<u32, u8>) -> BTreeMap<u32, u8> {
        map.unordered().map(|(key, value)| (*key, *value)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_is_a_map_and_its_clones_stay_as_they_were(
            steps in proptest::collection::vec(step(), 0..5000),
        ) {
            let (mut map, mut model) = (CowMap::default(), BTreeMap::new());
            let mut clones: Vec<(CowMap<u32, u8>, BTreeMap<u32, u8>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                    }
                    Step::Change(key, value) => {
                        let (found, expected) = (map.get_mut(&key), model.get_mut(&key));
                        prop_assert_eq!(&found, &expected);
                        found.into_iter().chain(expected).for_each(|it| *it = value);
                    }
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::Keep(divisor) => {
                        map.retain_unordered(|key, _| key % divisor != 0);
                        model.retain(|key, _| key % divisor != 0);
                    }
                    Step::ChangeAll(value) => {
                        let change = |key: &u32, it: &mut u8| *it ^= value ^ key.to_le_bytes()[0];
                        map.unordered_mut().for_each(|(key, it)| change(key, it));
                        model.iter_mut().for_each(|(key, it)| change(key, it));
                    }
                    Step::Clone => clones.push((map.clone(), model.clone())),
                    Step::Drop if !clones.is_empty() => drop(clones.remove(0)),
                    Step::Drop => {}
                }
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
            clones.push((map, model));
            for (map, model) in &clones {
                prop_assert_eq!(&sorted(map), model);
                prop_assert_eq!(map.len(), model.len());
                let other: CowMap<u32, u8> = model.iter().map(|(key, it)| (*key, *it)).collect();
                prop_assert!(*map == other);
                prop_assert!((0..KEYS).all(|key| map.get(&key) == model.get(&key)));
            }
        }
    }

    /// A change copies only its own shard.
    #[test]
    fn a_clone_shares_all_that_is_not_changed() {
        let mut map: CowMap<u32, u8> = (0..100_000).map(|key| (key, 0)).collect();
        let clone = map.clone();
        let shared = |map: &CowMap<u32, u8>| {
            map.shards.iter().zip(&clone.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
        };
        assert_eq!((map.shards.len(), shared(&map)), (SHARDS, SHARDS));
        map.insert(7, 1);
        assert_eq!((map.get(&7), clone.get(&7), shared(&map)), (Some(&1), Some(&0), SHARDS - 1));
        let most = map.shards.iter().map(|shard| shard.len()).max();
        assert!(most < Some(100_000 / SHARDS * 2), "{most:?} in one shard");
    }
}
