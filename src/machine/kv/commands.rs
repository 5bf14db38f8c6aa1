//! The commands of the key-value store, and what they do with its entries, wherever those are.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::MAX_ANSWER;
use crate::types::{Access, Command, Footprint, KeyHash};

/// The most keys that a [`KvCommand::GetMany`] may name; duplicates count.
const MAX_KEYS: usize = Command::MAX_KEYS;

/// The entries of a store.
pub(in crate::machine) trait Entries {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Bytes>;

    /// The length of a key's value.
    fn len_of(&self, key: &[u8]) -> Option<usize>;

    /// Sets the value of a key.
    fn put(&mut self, key: Bytes, value: Bytes);

    /// Removes a key. Returns whether it had a value.
    fn remove(&mut self, key: Bytes) -> bool;
}

/// The commands of the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvCommand {
    /// The value of a key. Answers [`KvOutput::Value`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// Sets a key. Answers [`KvOutput::Done`].
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key. Answers [`KvOutput::Deleted`].
    Del {
        /// The key.
        key: Bytes,
    },
    /// Sets a key if its value is as expected. Answers [`KvOutput::Swapped`] or
    /// [`KvOutput::Mismatch`].
    Cas {
        /// The key.
        key: Bytes,
        /// The expected value; `None`: the key must be absent.
        expected: Option<Bytes>,
        /// Its new value.
        value: Bytes,
    },
    /// The values of several keys at one moment. Answers [`KvOutput::Values`], or
    /// [`KvOutput::TooLarge`] or [`KvOutput::TooManyKeys`] if it asks for too much.
    GetMany {
        /// The keys, at most [`Command::MAX_KEYS`].
        keys: Vec<Bytes>,
    },
    /// Sets several keys at one moment; if a key is named twice, the last value counts. Answers
    /// [`KvOutput::Done`].
    PutMany {
        /// The keys with their new values.
        entries: Vec<(Bytes, Bytes)>,
    },
}

/// The answers of the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvOutput {
    /// To a `Get`: the value, if there is one.
    Value(Option<Bytes>),
    /// To a `GetMany`: the values, in the order of the keys.
    Values(Vec<Option<Bytes>>),
    /// To a `Put` or a `PutMany`.
    Done,
    /// To a `Del`: whether there was a value.
    Deleted(bool),
    /// To a `Cas`: the value was as expected and is now the new one.
    Swapped,
    /// To a `Cas`: the value was this one instead, and is unchanged.
    Mismatch(Option<Bytes>),
    /// To a `GetMany`: the answer would be too long.
    TooLarge {
        /// The length of that answer in bytes.
        bytes: u64,
        /// The limit in bytes: [`MAX_ANSWER`].
        limit: u64,
    },
    /// To a `GetMany`: it names too many keys.
    TooManyKeys {
        /// How many it names.
        keys: u64,
        /// The most allowed: [`Command::MAX_KEYS`].
        limit: u64,
    },
}

/// The bytes that a length takes in the encoding.
fn len_bytes(len: usize) -> usize {
    let bits = usize::BITS - len.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

/// The length of an answer with values of these lengths, computed before any value is copied.
pub(super) fn values_len(lengths: impl ExactSizeIterator<Item = Option<usize>>) -> usize {
    let one = |value: Option<usize>| 1 + value.map_or(0, |len| len_bytes(len) + len);
    let count = len_bytes(lengths.len());
    1 + count + lengths.map(one).fold(0, usize::saturating_add)
}

/// Executes a command on these entries.
pub(in crate::machine) fn run(entries: &mut impl Entries, command: KvCommand) -> KvOutput {
    match command {
        KvCommand::Get { key } => KvOutput::Value(entries.get(&key)),
        KvCommand::Put { key, value } => {
            entries.put(key, value);
            KvOutput::Done
        }
        KvCommand::Del { key } => KvOutput::Deleted(entries.remove(key)),
        KvCommand::Cas { key, expected, value } => {
            let found = entries.get(&key);
            if found != expected {
                return KvOutput::Mismatch(found);
            }
            entries.put(key, value);
            KvOutput::Swapped
        }
        KvCommand::GetMany { keys } => get_many(entries, &keys),
        KvCommand::PutMany { entries: all } => {
            all.into_iter().for_each(|(key, value)| entries.put(key, value));
            KvOutput::Done
        }
    }
}

/// A short command may name one value many times, so the answer is measured first.
fn get_many(entries: &impl Entries, keys: &[Bytes]) -> KvOutput {
    if keys.len() > MAX_KEYS {
        return KvOutput::TooManyKeys { keys: keys.len() as u64, limit: MAX_KEYS as u64 };
    }
    let bytes = values_len(keys.iter().map(|key| entries.len_of(key)));
    if bytes > MAX_ANSWER {
        return KvOutput::TooLarge { bytes: bytes as u64, limit: MAX_ANSWER as u64 };
    }
    KvOutput::Values(keys.iter().map(|key| entries.get(key)).collect())
}

/// What a command reads and writes.
pub(in crate::machine) fn footprint(command: &KvCommand) -> Footprint {
    match command {
        KvCommand::Get { key } => Footprint::read(key),
        KvCommand::Put { key, .. } | KvCommand::Del { key } | KvCommand::Cas { key, .. } => {
            Footprint::write(key)
        }
        KvCommand::GetMany { keys } => {
            Footprint::from_keys(keys.iter().map(|key| (KeyHash::of(key), Access::Read)))
        }
        KvCommand::PutMany { entries } => {
            Footprint::from_keys(entries.iter().map(|(key, _)| (KeyHash::of(key), Access::Write)))
        }
    }
}

/// Whether a command may be proposed. A key that is named twice counts twice: each mention costs
/// memory and time.
pub(in crate::machine) fn check(command: &KvCommand) -> Result<(), String> {
    let named = match command {
        KvCommand::GetMany { keys } => keys.len(),
        KvCommand::PutMany { entries } => entries.len(),
        _ => 1,
    };
    if named > MAX_KEYS {
        return Err(format!("the command names {named} keys; at most {MAX_KEYS} are allowed"));
    }
    Ok(())
}
