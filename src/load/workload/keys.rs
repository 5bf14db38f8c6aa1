//! The keys of commands: the patterns of papers and YCSB, and the keys' names. `workload` draws
//! from them with separate randomness for each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Zipf};

/// The number of a client's own keys.
pub const OWN_KEYS: u32 = 16;

/// Keys below this number are hot keys.
const HOT_KEYS: u32 = 1 << 20;

/// Keys from this number on are in a table shared by all clients; those in between are clients'
/// own.
const TABLE: u32 = 1 << 31;

/// The largest table allowed, so that there is room for inserts.
pub const MAX_KEYS: u32 = 1 << 30;

/// The most hot keys allowed.
pub const MAX_HOT: u32 = 1 << 10;

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Keys {
    /// As in the EPaxos paper: this percentage of commands uses a hot key. All others use keys of
    /// one client only and conflict with no other client's.
    Conflict {
        /// The percentage of commands on a hot key.
        percent: f64,
        /// The number of hot keys, which are used equally.
        hot: u32,
        /// How often the hot keys are replaced by new ones, so that each has a short history that
        /// can be checked separately; `None` for never.
        age: Option<Duration>,
    },
    /// A table in which the `i`-th key is used in proportion to `1 / i^theta`.
    Zipf {
        /// The number of keys.
        keys: u32,
        /// The exponent: 0 is uniform, YCSB uses 0.99.
        theta: f64,
    },
    /// A table in which all keys are equally likely.
    Uniform {
        /// The number of keys.
        keys: u32,
    },
    /// A table with a hot part.
    HotSpot {
        /// The number of keys.
        keys: u32,
        /// The percentage of keys that are hot.
        keys_percent: f64,
        /// The percentage of commands on hot keys.
        commands_percent: f64,
    },
    /// A table in which recently inserted keys are the likeliest, with a Zipf distribution.
    Latest {
        /// The number of keys at the start.
        keys: u32,
        /// The exponent.
        theta: f64,
    },
}

impl Keys {
    /// The number of keys in the table at the start; 0 without a table.
    pub fn table(&self) -> u32 {
        match *self {
            Keys::Conflict { .. } => 0,
            Keys::Zipf { keys, .. }
            | Keys::Uniform { keys }
            | Keys::HotSpot { keys, .. }
            | Keys::Latest { keys, .. } => keys,
        }
    }
}

/// A key as a small number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u32);

impl Key {
    /// One of `hot` hot keys at this time of the run.
    fn hot(which: u32, hot: u32, age: Option<Duration>, elapsed: Duration) -> Key {
        let age = age.map_or(0, |age| elapsed.as_millis() / age.as_millis().max(1));
        let number = u32::try_from(age).unwrap_or(u32::MAX).saturating_mul(hot);
        Key(number.saturating_add(which).min(HOT_KEYS - 1))
    }

    /// The table's key number `index`, from 0.
    pub fn of_table(index: u32) -> Key {
        Key(TABLE.saturating_add(index))
    }

    /// A client's own key number `index`, which is below [`OWN_KEYS`].
    pub(super) fn own(client: u32, index: u32) -> Key {
        Key(HOT_KEYS + client * OWN_KEYS + index)
    }

    /// The index of the key if it is this client's own.
    pub(super) fn own_index(self, client: u32) -> Option<usize> {
        let index = self.0.checked_sub(Key::own(client, 0).0)?;
        (index < OWN_KEYS).then_some(index as usize)
    }

    /// The key's name in the store: `hot-3`, `c17-2` for the third key of client 17, `k5` for the
    /// sixth of a table.
    pub fn name(self) -> Bytes {
        let name = match (self.0.checked_sub(TABLE), self.0.checked_sub(HOT_KEYS)) {
            (Some(index), _) => format!("k{index}"),
            (None, Some(own)) => format!("c{}-{}", own / OWN_KEYS, own % OWN_KEYS),
            (None, None) => format!("hot-{}", self.0),
        };
        name.into()
    }
}

/// The current number of keys in the table, shared by all clients of a run.
#[derive(Clone, Debug)]
pub struct Population(Arc<AtomicU32>);

impl Population {
    /// The population at the start of a run.
    pub fn of(keys: &Keys) -> Population {
        Population(Arc::new(AtomicU32::new(keys.table())))
    }
}

/// Draws keys for one client.
#[derive(Debug)]
pub(super) struct Picker {
    keys: Keys,
    client: u32,
    zipf: Option<Zipf<f64>>,
    population: Population,
}

impl Picker {
    /// Draws from `keys`, which must be valid.
    pub(super) fn new(keys: &Keys, client: u32, population: Population) -> Picker {
        let zipf = match *keys {
            Keys::Zipf { keys, theta } | Keys::Latest { keys, theta } => {
                Some(Zipf::new(f64::from(keys), theta).expect("keys and exponent are checked"))
            }
            _ => None,
        };
        Picker { keys: *keys, client, zipf, population }
    }

    /// The key of a command, `elapsed` after the start of the run.
    pub(super) fn pick(&self, random: &mut ChaCha8Rng, elapsed: Duration) -> Key {
        let rank = |random: &mut ChaCha8Rng| {
            let drawn = self.zipf.as_ref().map_or(1.0, |zipf| zipf.sample(random));
            // Drawn values are whole numbers from 1 to the number of keys.
            #[expect(clippy::cast_possible_truncation, reason = "the number of keys is a u32")]
            let rank = drawn as u32;
            rank.saturating_sub(1)
        };
        match self.keys {
            Keys::Conflict { percent, hot, age } => match random.random_bool(percent / 100.0) {
                true => Key::hot(random.random_range(0..hot), hot, age, elapsed),
                false => self.own(random),
            },
            Keys::Zipf { .. } => Key::of_table(rank(random)),
            Keys::Uniform { keys } => Key::of_table(random.random_range(0..keys)),
            Keys::HotSpot { keys, keys_percent, commands_percent } => {
                let share = f64::from(keys) * keys_percent / 100.0;
                #[expect(clippy::cast_possible_truncation, reason = "a share of a u32")]
                let hot = (share.round() as u32).clamp(1, keys);
                match random.random_bool(commands_percent / 100.0) || hot == keys {
                    true => Key::of_table(random.random_range(0..hot)),
                    false => Key::of_table(random.random_range(hot..keys)),
                }
            }
            Keys::Latest { .. } => {
                let newest = self.population.0.load(Ordering::Relaxed) - 1;
                Key::of_table(newest.saturating_sub(rank(random)))
            }
        }
    }

    /// A further key of a command. Under [`Keys::Conflict`] it is one of the client's own, so that
    /// the share of conflicting commands stays the same.
    pub(super) fn pick_more(&self, random: &mut ChaCha8Rng, elapsed: Duration) -> Key {
        match self.keys {
            Keys::Conflict { .. } => self.own(random),
            _ => self.pick(random, elapsed),
        }
    }

    fn own(&self, random: &mut ChaCha8Rng) -> Key {
        Key::own(self.client, random.random_range(0..OWN_KEYS))
    }

    /// A new key of the table.
    pub(super) fn insert(&self) -> Key {
        Key::of_table(self.population.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// How often each of the first `N` keys of the table is drawn, out of 100,000.
    fn counts<const N: usize>(keys: Keys) -> [u32; N] {
        let picker = Picker::new(&keys, 0, Population::of(&keys));
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; N];
        for _ in 0..100_000 {
            let key = picker.pick(&mut random, Duration::ZERO);
            let index = key.0 - TABLE;
            assert!(index < keys.table(), "{key:?}");
            if let Some(count) = counts.get_mut(index as usize) {
                *count += 1;
            }
        }
        counts
    }

    fn near(found: u32, share: f64) {
        let wanted = share * 100_000.0;
        let spread = 5.0 * wanted.sqrt();
        assert!((f64::from(found) - wanted).abs() < spread, "{found} for {wanted}");
    }

    #[test]
    fn zipf_has_the_shares_of_its_formula() {
        let theta: f64 = 0.99;
        let harmonic: f64 = (1..=1_000).map(|i| f64::from(i).powf(-theta)).sum();
        let found = counts::<10>(Keys::Zipf { keys: 1_000, theta });
        for (rank, count) in (1..).zip(found) {
            near(count, f64::from(rank).powf(-theta) / harmonic);
        }
    }

    #[test]
    fn uniform_and_hot_spots_have_theirs() {
        counts::<20>(Keys::Uniform { keys: 20 }).into_iter().for_each(|count| near(count, 0.05));
        let spot = Keys::HotSpot { keys: 100, keys_percent: 5.0, commands_percent: 80.0 };
        let found = counts::<100>(spot);
        found[..5].iter().for_each(|count| near(*count, 0.8 / 5.0));
        near(found[5..].iter().sum(), 0.2);
    }

    #[test]
    fn the_latest_key_is_the_likeliest() {
        let keys = Keys::Latest { keys: 100, theta: 0.99 };
        let picker = Picker::new(&keys, 0, Population::of(&keys));
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let newest = picker.insert();
        let drawn = (0..1_000).map(|_| picker.pick(&mut random, Duration::ZERO));
        let hits = drawn.filter(|key| *key == newest).count();
        assert!((120..300).contains(&hits), "{hits}");
    }

    #[test]
    fn hot_keys_are_replaced_as_time_passes_if_they_age() {
        let age = Some(Duration::from_millis(250));
        let at = |ms| Key::hot(1, 2, age, Duration::from_millis(ms));
        assert_eq!([at(0), at(249), at(250), at(5_000)], [Key(1), Key(1), Key(3), Key(41)]);
        assert_eq!(Key::hot(0, 1, age, Duration::MAX), Key(HOT_KEYS - 1));
        assert_eq!(Key::hot(1, 2, None, Duration::MAX), Key(1));
    }

    #[test]
    fn keys_have_names() {
        let names = [Key(3), Key::own(17, 2), Key::of_table(5)].map(Key::name);
        assert_eq!(names, ["hot-3", "c17-2", "k5"]);
        assert_eq!((Key::own(17, 2).own_index(17), Key::own(18, 0).own_index(17)), (Some(2), None));
    }
}
