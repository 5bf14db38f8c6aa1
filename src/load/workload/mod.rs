//! The clients' operations: a seeded mix of commands, with keys from a pattern (`keys`) and values
//! that identify their writer (`values`). Each client has its own stream.

pub mod keys;
pub mod values;

use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smallvec::{SmallVec, smallvec};

pub use self::keys::{Key, Keys, Population};
use self::keys::{MAX_HOT, MAX_KEYS, OWN_KEYS, Picker};
use self::values::{DIGITS, MAX_BYTES};
pub use self::values::{Sizes, Written};
use crate::machine::{KvCommand, KvOutput};

/// How often the demo replaces its hot key, so that each has a short history that can be checked
/// separately.
const HOT_KEY_AGE: Duration = Duration::from_millis(250);

/// The most keys in one command.
pub const MAX_KEYS_PER_COMMAND: u32 = 1_000;

/// The most keys that a scan reads.
pub const MAX_SCAN: u32 = 100;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// Read a value.
    Get,
    /// Set a value.
    Put,
    /// Set a value if it is as the client knows it.
    Cas,
    /// Remove a value.
    Del,
    /// Set the value of a new key.
    Insert,
    /// Read consecutive keys.
    Scan,
    /// Read a value, then set it: two commands, timed as one operation.
    Modify,
}

/// The sorts of operations with their percentages.
#[derive(Clone, PartialEq, Debug)]
pub struct Mix(pub Vec<(Sort, f64)>);

impl Mix {
    /// A mix with this percentage of reads; the rest are puts.
    pub fn reads(percent: f64) -> Mix {
        Mix(vec![(Sort::Get, percent), (Sort::Put, 100.0 - percent)])
    }

    /// The demo's mix: of the operations that are not reads, eight in ten are puts, one is a swap
    /// and one a deletion.
    fn all_sorts(reads: f64) -> Mix {
        let tenth = (100.0 - reads) / 10.0;
        let (put, swap, delete) = (8.0 * tenth, tenth, tenth);
        Mix(vec![(Sort::Get, reads), (Sort::Put, put), (Sort::Cas, swap), (Sort::Del, delete)])
    }

    /// The percentage of this sort.
    pub fn share(&self, sort: Sort) -> f64 {
        self.0.iter().filter(|(one, _)| *one == sort).map(|(_, share)| share).sum()
    }
}

/// The workload of a run's clients.
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    /// The pattern of keys.
    pub keys: Keys,
    /// The kinds of operations.
    pub mix: Mix,
    /// The number of keys in each read and put.
    pub keys_per_command: u32,
    /// The lengths of values.
    pub values: Sizes,
    /// Determines the operations, but not the order in which they arrive.
    pub seed: u64,
    /// Whether answers are parsed for a checked history. Values must then have at least 16 bytes.
    pub checked: bool,
    /// A prefix for the names of keys, so that they differ from any left in the store; 0 for none.
    pub namespace: u64,
}

impl Workload {
    /// The demo's workload: a hot key that is replaced four times a second, reads, and all kinds of
    /// writes.
    pub fn demo(conflicts: f64, reads: f64, value_bytes: usize, seed: u64) -> Workload {
        Workload {
            keys: Keys::Conflict { percent: conflicts, hot: 1, age: Some(HOT_KEY_AGE) },
            mix: Mix::all_sorts(reads),
            keys_per_command: 1,
            values: Sizes::Fixed(value_bytes),
            seed,
            checked: true,
            namespace: 0,
        }
    }
}

impl Default for Workload {
    fn default() -> Workload {
        Workload::demo(2.0, 30.0, 16, 1)
    }
}

/// The name of an invalid setting, and what is wrong with it and what to do.
pub type Flaw = (&'static str, String);

impl Workload {
    /// Checks the workload.
    ///
    /// # Errors
    /// If a percentage or another number is out of range, or if values are too short to be unique
    /// or above 1 MiB.
    pub fn check(&self) -> Result<(), Flaw> {
        self.check_keys()?;
        for (_, value) in &self.mix.0 {
            percentage("reads", *value)?;
        }
        let sum: f64 = self.mix.0.iter().map(|(_, share)| share).sum();
        if (sum - 100.0).abs() > 1e-6 {
            let what = format!("the shares of operations add up to {sum}, not 100");
            return Err(("reads", what));
        }
        let most = match self.keys {
            Keys::Conflict { .. } => OWN_KEYS,
            _ => MAX_KEYS_PER_COMMAND.min(self.keys.table()),
        };
        range("keys-per-command", self.keys_per_command.into(), 1.0, most.into())?;
        let least = if self.checked { DIGITS } else { 1 };
        for bytes in [self.values.least(), self.values.most()] {
            if !(least..=MAX_BYTES).contains(&bytes) {
                let what =
                    format!("a value of {bytes} bytes: take between {least} and {MAX_BYTES}");
                return Err(("value-size", what));
            }
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<(), Flaw> {
        let keys = f64::from(self.keys.table());
        match self.keys {
            Keys::Conflict { percent, hot, .. } => {
                percentage("conflicts", percent)?;
                return range("hot-keys", hot.into(), 1.0, MAX_HOT.into());
            }
            Keys::Zipf { theta, .. } | Keys::Latest { theta, .. } => {
                range("zipf", theta, 0.0, 10.0)?;
            }
            Keys::HotSpot { keys_percent, commands_percent, .. } => {
                percentage("hot-spot", keys_percent)?;
                percentage("hot-spot", commands_percent)?;
            }
            Keys::Uniform { .. } => {}
        }
        range("records", keys, 1.0, MAX_KEYS.into())
    }

    /// The stream of operations of one client of a run; `client` must be unique, from 0.
    pub fn client(&self, client: u32, population: &Population) -> Stream {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(client.into());
        Stream {
            client,
            workload: self.clone(),
            picker: Picker::new(&self.keys, client, population.clone()),
            next_value: Written::first_of(client),
            last_seen: [Written::NOTHING; OWN_KEYS as usize],
            hot_seen: (Key(0), Written::NOTHING),
            random,
        }
    }
}

fn percentage(name: &'static str, value: f64) -> Result<(), Flaw> {
    match (0.0..=100.0).contains(&value) {
        true => Ok(()),
        false => Err((name, format!("{name}: {value} is no percentage: take one from 0 to 100"))),
    }
}

fn range(name: &'static str, value: f64, least: f64, most: f64) -> Result<(), Flaw> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err((name, format!("{name}: {value}: take between {least} and {most}"))),
    }
}

/// What one command asks of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Read its value.
    Get,
    /// Set it.
    Put(Written),
    /// Set it to the second value if it has the first.
    Cas(Written, Written),
    /// Remove it.
    Del,
}

/// The result for one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whether it did what it should: a `cas` swapped, a `del` found a value.
    pub ok: bool,
    /// The value that a `get` or an unsuccessful `cas` found.
    pub found: Written,
}

/// What one command asks. Several keys occur only in pure gets and in pure puts.
pub type Asks = SmallVec<[(Key, Ask); 1]>;

/// The kinds by which operations are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Only reads.
    Read,
    /// A put, a swap, a deletion.
    Write,
    /// A put of a new key.
    Insert,
    /// Many reads in one command.
    Scan,
    /// A read followed by a write.
    Modify,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 5] = [Kind::Read, Kind::Write, Kind::Insert, Kind::Scan, Kind::Modify];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        ["read", "write", "insert", "scan", "modify"][self as usize]
    }
}

/// One operation: one command or two.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    /// The kind it counts as.
    pub kind: Kind,
    /// The command.
    pub asks: Asks,
    /// The second command, if it is a read followed by a write.
    pub then: Option<Asks>,
}

/// The endless stream of one client's commands.
#[derive(Debug)]
pub struct Stream {
    client: u32,
    random: ChaCha8Rng,
    workload: Workload,
    picker: Picker,
    next_value: Written,
    /// The client's latest knowledge of each of its own keys.
    last_seen: [Written; OWN_KEYS as usize],
    /// Its latest knowledge of the hot key.
    hot_seen: (Key, Written),
}

impl Stream {
    /// The next operation, `elapsed` after the start of the run.
    pub fn next(&mut self, elapsed: Duration) -> Op {
        let one = |kind, key, ask| Op { kind, asks: smallvec![(key, ask)], then: None };
        let sort = self.sort();
        if sort == Sort::Insert {
            let key = self.picker.insert();
            return one(Kind::Insert, key, Ask::Put(self.fresh()));
        }
        let key = self.picker.pick(&mut self.random, elapsed);
        match sort {
            Sort::Get => {
                let keys = self.keys(key, elapsed);
                let asks = keys.into_iter().map(|key| (key, Ask::Get)).collect();
                Op { kind: Kind::Read, asks, then: None }
            }
            Sort::Put | Sort::Insert => {
                let keys = self.keys(key, elapsed);
                let asks = keys.into_iter().map(|key| (key, Ask::Put(self.fresh()))).collect();
                Op { kind: Kind::Write, asks, then: None }
            }
            Sort::Cas => one(Kind::Write, key, Ask::Cas(self.seen(key), self.fresh())),
            Sort::Del => one(Kind::Write, key, Ask::Del),
            Sort::Scan => {
                let length = self.random.random_range(1..=MAX_SCAN);
                let asks = (0..length).map(|step| (Key(key.0.saturating_add(step)), Ask::Get));
                Op { kind: Kind::Scan, asks: asks.collect(), then: None }
            }
            Sort::Modify => {
                let put = smallvec![(key, Ask::Put(self.fresh()))];
                Op { kind: Kind::Modify, asks: smallvec![(key, Ask::Get)], then: Some(put) }
            }
        }
    }

    fn sort(&mut self) -> Sort {
        let mut drawn = self.random.random_range(0.0..100.0);
        for (sort, share) in &self.workload.mix.0 {
            if drawn < *share {
                return *sort;
            }
            drawn -= share;
        }
        // Fractional percentages may add up to a little less than 100.
        if self.workload.mix.share(Sort::Put) > 0.0 { Sort::Put } else { Sort::Get }
    }

    /// As many different keys as a command needs, starting with `first`.
    fn keys(&mut self, first: Key, elapsed: Duration) -> SmallVec<[Key; 1]> {
        let mut keys = smallvec![first];
        // If few keys get nearly all commands, drawing the others may take too long.
        let wanted = self.workload.keys_per_command as usize;
        let mut attempts = 20 * wanted;
        while keys.len() < wanted && attempts > 0 {
            let key = self.picker.pick_more(&mut self.random, elapsed);
            if !keys.contains(&key) {
                keys.push(key);
            }
            attempts -= 1;
        }
        keys
    }

    fn fresh(&mut self) -> Written {
        self.next_value.0 += 1;
        self.next_value
    }

    /// What this client knows of a key: exact for its own keys, a guess for the hot one.
    fn seen(&self, key: Key) -> Written {
        match key.own_index(self.client) {
            Some(own) => self.last_seen[own],
            None if self.hot_seen.0 == key => self.hot_seen.1,
            None => Written::NOTHING,
        }
    }

    /// The command for the store.
    pub fn command(&self, asks: &[(Key, Ask)]) -> KvCommand {
        let value = |written: Written| written.value(&self.workload.values);
        let [(key, ask)] = asks else { return self.wide_command(asks) };
        let key = self.name(*key);
        match *ask {
            Ask::Get => KvCommand::Get { key },
            Ask::Put(written) => KvCommand::Put { key, value: value(written) },
            Ask::Cas(expected, written) => {
                let expected = (expected != Written::NOTHING).then(|| value(expected));
                KvCommand::Cas { key, expected, value: value(written) }
            }
            Ask::Del => KvCommand::Del { key },
        }
    }

    fn name(&self, key: Key) -> Bytes {
        match self.workload.namespace {
            0 => key.name(),
            other => [format!("{other:x}/").as_bytes(), &key.name()].concat().into(),
        }
    }

    fn wide_command(&self, asks: &[(Key, Ask)]) -> KvCommand {
        let puts = asks.iter().filter_map(|(key, ask)| match ask {
            Ask::Put(written) => Some((self.name(*key), written.value(&self.workload.values))),
            _ => None,
        });
        let entries: Vec<_> = puts.collect();
        if entries.is_empty() {
            let keys = asks.iter().map(|(key, _)| self.name(*key));
            return KvCommand::GetMany { keys: keys.collect() };
        }
        KvCommand::PutMany { entries }
    }

    /// Processes the store's answer, and returns its meaning for each key asked for. An answer of
    /// the wrong type counts as a value that was never written. Without a check, nothing is parsed.
    pub fn answered(&mut self, asks: &[(Key, Ask)], output: &KvOutput) -> SmallVec<[Answer; 1]> {
        if !self.workload.checked {
            return SmallVec::new();
        }
        match (asks, output) {
            ([(key, ask)], output) => smallvec![self.answered_one(*key, *ask, output)],
            (_, KvOutput::Values(values)) if values.len() == asks.len() => {
                let one = |value| Answer { ok: true, found: self.read(value) };
                values.iter().map(one).collect()
            }
            (_, KvOutput::Done) => {
                asks.iter().map(|_| Answer { ok: true, found: Written::NOTHING }).collect()
            }
            _ => asks.iter().map(|_| Answer { ok: false, found: Written::STRANGE }).collect(),
        }
    }

    fn read(&self, value: &Option<Bytes>) -> Written {
        Written::of(value.as_ref(), &self.workload.values)
    }

    fn answered_one(&mut self, key: Key, ask: Ask, output: &KvOutput) -> Answer {
        let (answer, now) = match (ask, output) {
            (Ask::Get, KvOutput::Value(value)) => {
                let found = self.read(value);
                (Answer { ok: true, found }, found)
            }
            (Ask::Put(new), KvOutput::Done) | (Ask::Cas(_, new), KvOutput::Swapped) => {
                (Answer { ok: true, found: Written::NOTHING }, new)
            }
            (Ask::Cas(..), KvOutput::Mismatch(value)) => {
                let found = self.read(value);
                (Answer { ok: false, found }, found)
            }
            (Ask::Del, KvOutput::Deleted(existed)) => {
                (Answer { ok: *existed, found: Written::NOTHING }, Written::NOTHING)
            }
            _ => (Answer { ok: false, found: Written::STRANGE }, Written::NOTHING),
        };
        match key.own_index(self.client) {
            Some(own) => self.last_seen[own] = now,
            None => self.hot_seen = (key, now),
        }
        answer
    }
}

#[cfg(test)]
mod tests;
