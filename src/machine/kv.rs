//! The built-in key-value store: what `isonomy serve` replicates, what the demo and the simulator
//! drive, and an example of a [`StateMachine`].

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{RestoreError, StateMachine, decode, encode};
use crate::types::{Access, Footprint, KeyHash};

/// A map from keys to values, both bytes.
///
/// The map's order is random and seen by nobody: snapshots are sorted, the digest is a sum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kv {
    entries: HashMap<Bytes, Bytes>,
}

/// What the store can be asked.
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
    /// Sets a key if it is as expected. Answers [`KvOutput::Swapped`] or [`KvOutput::Mismatch`].
    Cas {
        /// The key.
        key: Bytes,
        /// The value it has to have; `None`: there must be none.
        expected: Option<Bytes>,
        /// Its new value.
        value: Bytes,
    },
    /// The values of several keys at one moment. Answers [`KvOutput::Values`].
    GetMany {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Sets several keys at one moment; the last counts where a key is named twice. Answers
    /// [`KvOutput::Done`].
    PutMany {
        /// Keys with their new values.
        entries: Vec<(Bytes, Bytes)>,
    },
}

/// What the store answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvOutput {
    /// To a `Get`: the value, if there is one.
    Value(Option<Bytes>),
    /// To a `GetMany`: the values, in the order of the question.
    Values(Vec<Option<Bytes>>),
    /// To a `Put` or a `PutMany`.
    Done,
    /// To a `Del`: whether there was a value.
    Deleted(bool),
    /// To a `Cas`: it was as expected, and is now the new value.
    Swapped,
    /// To a `Cas`: it was this instead, and still is.
    Mismatch(Option<Bytes>),
}

impl Kv {
    /// An empty store.
    pub fn new() -> Kv {
        Kv::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.entries.get(key)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl StateMachine for Kv {
    type Command = KvCommand;
    type Output = KvOutput;

    fn footprint(command: &KvCommand) -> Footprint {
        match command {
            KvCommand::Get { key } => Footprint::read(key),
            KvCommand::Put { key, .. } | KvCommand::Del { key } | KvCommand::Cas { key, .. } => {
                Footprint::write(key)
            }
            KvCommand::GetMany { keys } => {
                Footprint::from_keys(keys.iter().map(|key| (KeyHash::of(key), Access::Read)))
            }
            KvCommand::PutMany { entries } => Footprint::from_keys(
                entries.iter().map(|(key, _)| (KeyHash::of(key), Access::Write)),
            ),
        }
    }

    fn apply(&mut self, command: KvCommand) -> KvOutput {
        match command {
            KvCommand::Get { key } => KvOutput::Value(self.entries.get(&key).cloned()),
            KvCommand::Put { key, value } => {
                self.entries.insert(key, value);
                KvOutput::Done
            }
            KvCommand::Del { key } => KvOutput::Deleted(self.entries.remove(&key).is_some()),
            KvCommand::Cas { key, expected, value } => {
                let found = self.entries.get(&key);
                if found != expected.as_ref() {
                    return KvOutput::Mismatch(found.cloned());
                }
                self.entries.insert(key, value);
                KvOutput::Swapped
            }
            KvCommand::GetMany { keys } => {
                KvOutput::Values(keys.iter().map(|key| self.entries.get(key).cloned()).collect())
            }
            KvCommand::PutMany { entries } => {
                self.entries.extend(entries);
                KvOutput::Done
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut entries: Vec<(&Bytes, &Bytes)> = self.entries.iter().collect();
        entries.sort_unstable();
        encode(&entries).expect("bytes have an encoding").into()
    }

    fn restore(snapshot: &[u8]) -> Result<Kv, RestoreError> {
        let entries: Vec<(Bytes, Bytes)> = decode(snapshot)?;
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(RestoreError::new("keys are not in order"));
        }
        Ok(Kv { entries: entries.into_iter().collect() })
    }

    fn digest(&self) -> u64 {
        // The key's hash seeds the value's, so that values cannot trade places unnoticed.
        let entry = |(key, value): (&Bytes, &Bytes)| xxh3_64_with_seed(value, xxh3_64(key));
        self.entries.iter().map(entry).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn each_command_answers_as_it_says() {
        let [a, b, one, two] = ["a", "b", "1", "2"].map(text);
        let mut kv = Kv::new();
        let mut story = |command, output| assert_eq!(kv.apply(command), output);
        story(KvCommand::Get { key: a.clone() }, KvOutput::Value(None));
        story(KvCommand::Put { key: a.clone(), value: one.clone() }, KvOutput::Done);
        story(KvCommand::Get { key: a.clone() }, KvOutput::Value(Some(one.clone())));
        let cas = |expected: Option<&Bytes>, value: &Bytes| KvCommand::Cas {
            key: a.clone(),
            expected: expected.cloned(),
            value: value.clone(),
        };
        story(cas(None, &two), KvOutput::Mismatch(Some(one.clone())));
        story(cas(Some(&one), &two), KvOutput::Swapped);
        story(KvCommand::Del { key: a.clone() }, KvOutput::Deleted(true));
        story(KvCommand::Del { key: a.clone() }, KvOutput::Deleted(false));
        story(cas(Some(&two), &one), KvOutput::Mismatch(None));
        story(cas(None, &one), KvOutput::Swapped);
        let entries = vec![(b.clone(), one.clone()), (b.clone(), two.clone())];
        story(KvCommand::PutMany { entries }, KvOutput::Done);
        let keys = vec![b, text("c"), a.clone()];
        let values = vec![Some(two), None, Some(one)];
        story(KvCommand::GetMany { keys }, KvOutput::Values(values));
    }

    #[test]
    fn a_snapshot_with_a_key_twice_is_refused() {
        let twice = vec![(text("a"), text("1")), (text("a"), text("2"))];
        let bytes = encode(&twice).expect("plain bytes");
        assert!(Kv::restore(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn snapshots_and_digests_follow_from_the_content(
            mut entries in proptest::collection::vec((0u8..8, 0u8..3), 0..8),
        ) {
            entries.dedup_by_key(|(key, _)| *key);
            let fill = |entries: &[(u8, u8)]| {
                let mut kv = Kv::new();
                for (key, value) in entries {
                    let (key, value) = (Bytes::from(vec![*key]), Bytes::from(vec![*value]));
                    kv.apply(KvCommand::Put { key, value });
                }
                kv
            };
            let kv = fill(&entries);
            let back = Kv::restore(&kv.snapshot()).expect("its own snapshot");
            prop_assert_eq!(&back, &kv);
            prop_assert_eq!((back.snapshot(), back.digest()), (kv.snapshot(), kv.digest()));
            entries.push((9, 0));
            prop_assert_ne!(fill(&entries).digest(), kv.digest());
        }

        #[test]
        fn hostile_snapshots_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Kv::restore(&bytes);
        }
    }
}
