//! What clients ask: a seeded mix of commands on a hot key that all share and on keys of their own.
//!
//! Every written value is unique and says who wrote it, so that a history can be checked: see
//! [`record`](super::record).

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::machine::{KvCommand, KvOutput};

/// A value starts with its number in this many hexadecimal digits.
pub const MIN_VALUE_BYTES: usize = 16;

/// A client has this many keys of its own.
const OWN_KEYS: u32 = 4;

/// The hot key is replaced this often: so long a piece of its history can be checked by itself.
const HOT_KEY_AGE: Duration = Duration::from_millis(250);

/// Keys below this number are hot ones, a new one each [`HOT_KEY_AGE`].
const HOT_KEYS: u32 = 1 << 20;

/// What the clients of a run ask for.
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    /// How many of a hundred commands go to the hot key; the others go to keys that only one client
    /// uses, and conflict with nobody's.
    pub conflict_percent: f64,
    /// How many of a hundred commands are `get`. Of the others, eight in ten are `put`, one `cas`,
    /// one `del`.
    pub read_percent: f64,
    /// The length of the values, at least [`MIN_VALUE_BYTES`].
    pub value_bytes: usize,
    /// Decides what is asked, though not what comes first.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { conflict_percent: 2.0, read_percent: 30.0, value_bytes: 16, seed: 1 }
    }
}

/// A workload that cannot be run, and what to do about it.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadWorkload {
    /// A share that is none.
    #[error("{name}: {value} is no percentage: take one from 0 to 100")]
    Percentage {
        /// Which.
        name: &'static str,
        /// What it was.
        value: f64,
    },
    /// Values that cannot be told apart, or that no frame holds.
    #[error("a value of {0} bytes: take between {MIN_VALUE_BYTES} and 1048576")]
    ValueBytes(usize),
}

impl Workload {
    /// Whether it can be run.
    ///
    /// # Errors
    /// When a share is no percentage, or values are too short to be unique or above 1 MiB.
    pub fn check(&self) -> Result<(), BadWorkload> {
        for (name, value) in [("conflicts", self.conflict_percent), ("reads", self.read_percent)] {
            if !(0.0..=100.0).contains(&value) {
                return Err(BadWorkload::Percentage { name, value });
            }
        }
        if !(MIN_VALUE_BYTES..=1 << 20).contains(&self.value_bytes) {
            return Err(BadWorkload::ValueBytes(self.value_bytes));
        }
        Ok(())
    }

    /// The stream of commands of one client; each has another `client`, from 0.
    pub fn client(&self, client: u32) -> Stream {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(client.into());
        Stream {
            conflicts: self.conflict_percent / 100.0,
            reads: self.read_percent / 100.0,
            value_bytes: self.value_bytes,
            first_key: HOT_KEYS + client * OWN_KEYS,
            next_value: Written::first_of(client),
            last_seen: [Written::NOTHING; OWN_KEYS as usize],
            hot_seen: (Key(0), Written::NOTHING),
            random,
        }
    }
}

/// A key, as a small number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u32);

impl Key {
    /// The hot key at a moment of the run.
    fn hot(elapsed: Duration) -> Key {
        let age = elapsed.as_millis() / HOT_KEY_AGE.as_millis();
        Key(u32::try_from(age).unwrap_or(u32::MAX).min(HOT_KEYS - 1))
    }

    /// Whether all clients share it.
    pub fn is_hot(self) -> bool {
        self.0 < HOT_KEYS
    }

    /// The key as the store knows it: `hot-3`, or `c17-2` for the third key of client 17.
    pub fn name(self) -> Bytes {
        let name = match self.0.checked_sub(HOT_KEYS) {
            None => format!("hot-{}", self.0),
            Some(own) => format!("c{}-{}", own / OWN_KEYS, own % OWN_KEYS),
        };
        name.into()
    }
}

/// A written value, as a number that no other write has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Written(pub u64);

impl Written {
    /// No value.
    pub const NOTHING: Written = Written(0);
    /// A value that nobody can have written.
    pub const STRANGE: Written = Written(u64::MAX);

    fn first_of(client: u32) -> Written {
        Written((u64::from(client) + 1) << 36)
    }

    /// The value as the store keeps it.
    pub fn value(self, bytes: usize) -> Bytes {
        let mut value = format!("{:016x}", self.0).into_bytes();
        value.resize(bytes, b'.');
        value.into()
    }

    /// The inverse of [`Written::value`]; [`Written::STRANGE`] for what is none of ours.
    fn of(value: Option<&Bytes>, bytes: usize) -> Written {
        let Some(value) = value else { return Written::NOTHING };
        let digits = value.get(..16).and_then(|digits| str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.map(Written).filter(|it| it.value(bytes) == value).unwrap_or(Written::STRANGE)
    }
}

/// What one client asks next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The value.
    Get,
    /// Set it.
    Put(Written),
    /// Set it to the second if it is the first.
    Cas(Written, Written),
    /// Remove it.
    Del,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whether it did what it was meant to: a `cas` swapped, a `del` found something.
    pub ok: bool,
    /// What a `get`, or a `cas` that did not swap, found.
    pub found: Written,
}

/// The endless stream of one client's commands.
#[derive(Debug)]
pub struct Stream {
    random: ChaCha8Rng,
    conflicts: f64,
    reads: f64,
    value_bytes: usize,
    first_key: u32,
    next_value: Written,
    /// What the client last knew of each of its own keys.
    last_seen: [Written; OWN_KEYS as usize],
    /// What it last knew of the hot key.
    hot_seen: (Key, Written),
}

impl Stream {
    /// The next command, `elapsed` after the start of the run.
    pub fn next(&mut self, elapsed: Duration) -> (Key, Ask) {
        let key = match self.random.random_bool(self.conflicts) {
            true => Key::hot(elapsed),
            false => Key(self.first_key + self.random.random_range(0..OWN_KEYS)),
        };
        if self.random.random_bool(self.reads) {
            return (key, Ask::Get);
        }
        let ask = match self.random.random_range(0..10) {
            0..8 => Ask::Put(self.fresh()),
            8 => Ask::Cas(self.seen(key), self.fresh()),
            _ => Ask::Del,
        };
        (key, ask)
    }

    fn fresh(&mut self) -> Written {
        self.next_value.0 += 1;
        self.next_value
    }

    /// What this client knows of a key: all there is to know of its own, a guess of the hot one.
    fn seen(&self, key: Key) -> Written {
        match key.0.checked_sub(self.first_key) {
            Some(own) => self.last_seen[own as usize],
            None if self.hot_seen.0 == key => self.hot_seen.1,
            None => Written::NOTHING,
        }
    }

    /// The command for the store.
    pub fn command(&self, key: Key, ask: Ask) -> KvCommand {
        let value = |written: Written| written.value(self.value_bytes);
        let key = key.name();
        match ask {
            Ask::Get => KvCommand::Get { key },
            Ask::Put(written) => KvCommand::Put { key, value: value(written) },
            Ask::Cas(expected, written) => {
                let expected = (expected != Written::NOTHING).then(|| value(expected));
                KvCommand::Cas { key, expected, value: value(written) }
            }
            Ask::Del => KvCommand::Del { key },
        }
    }

    /// Takes note of the store's answer. An answer to something else entirely is as strange as a
    /// value that nobody wrote.
    pub fn answered(&mut self, key: Key, ask: Ask, output: &KvOutput) -> Answer {
        let read = |value: &Option<Bytes>| Written::of(value.as_ref(), self.value_bytes);
        let (answer, now) = match (ask, output) {
            (Ask::Get, KvOutput::Value(value)) => {
                let found = read(value);
                (Answer { ok: true, found }, found)
            }
            (Ask::Put(new), KvOutput::Done) | (Ask::Cas(_, new), KvOutput::Swapped) => {
                (Answer { ok: true, found: Written::NOTHING }, new)
            }
            (Ask::Cas(..), KvOutput::Mismatch(value)) => {
                let found = read(value);
                (Answer { ok: false, found }, found)
            }
            (Ask::Del, KvOutput::Deleted(existed)) => {
                (Answer { ok: *existed, found: Written::NOTHING }, Written::NOTHING)
            }
            _ => (Answer { ok: false, found: Written::STRANGE }, Written::NOTHING),
        };
        match key.0.checked_sub(self.first_key) {
            Some(own) => self.last_seen[own as usize] = now,
            None => self.hot_seen = (key, now),
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::machine::{Kv, StateMachine};

    fn draw(workload: &Workload, client: u32, count: usize) -> Vec<(Key, Ask)> {
        let mut stream = workload.client(client);
        (0..count).map(|_| stream.next(Duration::ZERO)).collect()
    }

    #[test]
    fn the_shares_are_as_asked_and_the_seed_decides() {
        let workload =
            Workload { conflict_percent: 25.0, read_percent: 40.0, ..Workload::default() };
        let drawn = draw(&workload, 3, 20_000);
        let share = |count: usize| count as f64 / 200.0;
        let hot = share(drawn.iter().filter(|(key, _)| key.is_hot()).count());
        let reads = share(drawn.iter().filter(|(_, ask)| *ask == Ask::Get).count());
        assert!((24.0..26.0).contains(&hot) && (38.5..41.5).contains(&reads), "{hot} {reads}");
        assert_eq!(drawn, draw(&workload, 3, 20_000));
        assert_ne!(drawn, draw(&Workload { seed: 2, ..workload }, 3, 20_000));
    }

    #[test]
    fn values_are_unique_and_clients_keep_to_their_keys() {
        let workload =
            Workload { conflict_percent: 10.0, read_percent: 0.0, ..Workload::default() };
        let (mut values, mut owners) = (HashSet::new(), [HashSet::new(), HashSet::new()]);
        for client in 0..2 {
            for (key, ask) in draw(&workload, client, 5_000) {
                if let Ask::Put(value) | Ask::Cas(_, value) = ask {
                    assert!(values.insert(value), "{value:?} twice");
                }
                if !key.is_hot() {
                    owners[client as usize].insert(key.name());
                }
            }
        }
        assert!(owners[0].is_disjoint(&owners[1]));
    }

    #[test]
    fn alone_a_client_always_knows_its_keys() {
        let workload = Workload { read_percent: 30.0, value_bytes: 21, ..Workload::default() };
        let (mut stream, mut store) = (workload.client(0), Kv::new());
        for _ in 0..2_000 {
            let (key, ask) = stream.next(Duration::ZERO);
            let known = stream.seen(key);
            let answer = {
                let output = store.apply(stream.command(key, ask));
                stream.answered(key, ask, &output)
            };
            match ask {
                Ask::Get => assert_eq!(answer, Answer { ok: true, found: known }),
                Ask::Put(_) | Ask::Cas(..) => assert!(answer.ok, "{ask:?}: {answer:?}"),
                Ask::Del => assert_eq!(answer.ok, known != Written::NOTHING),
            }
        }
    }

    #[test]
    fn a_value_that_nobody_wrote_is_strange() {
        let mut stream = Workload::default().client(0);
        for value in ["", "zz", "0000000000000001x", "000000000000000000"] {
            let output = KvOutput::Value(Some(value.into()));
            let answer = stream.answered(Key(0), Ask::Get, &output);
            assert_eq!(answer.found, Written::STRANGE, "{value}");
        }
        let answer = stream.answered(Key(0), Ask::Get, &KvOutput::Done);
        assert_eq!(answer.found, Written::STRANGE, "an answer to something else");
    }

    #[test]
    fn the_hot_key_is_replaced_as_time_passes() {
        let at = |ms| Key::hot(Duration::from_millis(ms));
        assert_eq!([at(0), at(249), at(250), at(5_000)], [Key(0), Key(0), Key(1), Key(20)]);
        assert!(Key::hot(Duration::MAX).is_hot());
    }

    #[test]
    fn a_workload_that_makes_no_sense_is_refused() {
        let good = Workload::default();
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Workload { conflict_percent: 101.0, ..good.clone() },
            Workload { read_percent: f64::NAN, ..good.clone() },
            Workload { value_bytes: 15, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
