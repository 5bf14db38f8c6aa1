//! Maps whose keys strangers choose: clients' ids, request ids, hashes of keys.
//!
//! With an unkeyed hash, a client could choose keys that all fall into one bucket, and every
//! replica would search that bucket at every command. So these maps hash with a secret of the
//! process. Maps whose keys only replicas choose (instances, slots) use `FxHashMap`, which is
//! faster.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};

/// Drawn from the system's randomness, as in std's hasher. It never leaves the process.
static SECRET: LazyLock<(u64, SharedSeed)> = LazyLock::new(|| {
    let draw = || hash_map::RandomState::new().hash_one(0);
    (draw(), SharedSeed::from_u64(draw()))
});

/// Hashes with the secret of this process.
#[derive(Clone, Debug)]
pub(super) struct Keyed(SeedableRandomState);

impl Default for Keyed {
    fn default() -> Keyed {
        let (seed, shared) = &*SECRET;
        Keyed(SeedableRandomState::with_seed(*seed, shared))
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        self.0.build_hasher()
    }
}

/// A map whose keys strangers choose.
///
/// Its order differs from process to process, but the rooms that use it must give the same outputs
/// for the same inputs. So only methods with `unordered` in their names iterate over it; their
/// callers must not let the order show. (The simulator compares runs in two processes.)
#[derive(Clone)]
pub struct KeyedMap<K, V>(HashMap<K, V, Keyed>);

impl<K, V> Default for KeyedMap<K, V> {
    fn default() -> KeyedMap<K, V> {
        KeyedMap(HashMap::default())
    }
}

impl<K: Eq + Hash, V> KeyedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The value of a key, mutable.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Sets the value of a key. Returns the previous value, if there was one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Removes a key. Returns its value, if there was one.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// The entry of a key.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        self.0.entry(key)
    }

    /// Keeps the entries for which `keep` is true. It is called in no particular order.
    pub fn retain_unordered(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain(keep);
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys fit without allocating.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Gives memory back; keeps room for this many keys.
    pub fn shrink_to(&mut self, keys: usize) {
        self.0.shrink_to(keys);
    }

    /// All entries, in no particular order.
    pub fn unordered(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// All entries, mutable, in no particular order.
    pub fn unordered_mut(&mut self) -> impl ExactSizeIterator<Item = (&K, &mut V)> {
        self.0.iter_mut()
    }

    /// All entries by value, in no particular order.
    pub fn into_unordered(self) -> impl ExactSizeIterator<Item = (K, V)> {
        self.0.into_iter()
    }
}

impl<K: Eq + Hash, V: PartialEq> PartialEq for KeyedMap<K, V> {
    fn eq(&self, other: &KeyedMap<K, V>) -> bool {
        self.0 == other.0
    }
}

/// Sorted, so that equal maps print the same.
impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for KeyedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        f.debug_map().entries(all).finish()
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, V)> for KeyedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> KeyedMap<K, V> {
        KeyedMap(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::Hasher;

    use rustc_hash::FxBuildHasher;

    use super::*;

    thread_local! {
        static COMPARED: Cell<u64> = const { Cell::new(0) };
    }

    /// A number that counts how often it is compared.
    #[derive(Clone, Copy, Debug)]
    struct Number(u64);

    impl PartialEq for Number {
        fn eq(&self, other: &Number) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Number {}

    impl Hash for Number {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u64(self.0);
        }
    }

    /// The number of comparisons when all keys are inserted and looked up.
    fn comparisons<H: BuildHasher + Default>(numbers: &[u64]) -> u64 {
        let mut map: HashMap<Number, (), H> = HashMap::default();
        COMPARED.set(0);
        for number in numbers {
            map.insert(Number(*number), ());
        }
        assert!(numbers.iter().all(|number| map.contains_key(&Number(*number))));
        COMPARED.get()
    }

    /// `FxHash` multiplies by a constant and uses the upper bits of the product. An attacker who
    /// divides by that constant chooses the product.
    #[test]
    fn keys_chosen_to_collide_cost_no_more_than_others() {
        let fx = |number: u64| FxBuildHasher.hash_one(number).rotate_right(26);
        let constant = fx(1);
        let inverse = (0..6).fold(1u64, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(constant.wrapping_mul(inverse)))
        });
        assert_eq!(constant.wrapping_mul(inverse), 1);
        let count = 1000;
        let chosen: Vec<u64> = (1..=count).map(|product| inverse.wrapping_mul(product)).collect();
        let usual: Vec<u64> = (1..=count).collect();
        assert!(comparisons::<FxBuildHasher>(&chosen) > count * count / 4, "they collide");
        for numbers in [&chosen, &usual] {
            let compared = comparisons::<Keyed>(numbers);
            assert!(compared < count * 3 / 2, "{compared} comparisons for {count} keys");
        }
    }
}
