//! The built-in key-value store: `isonomy serve` replicates it, the demo and the simulator use it,
//! and it is an example of a [`StateMachine`].

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::stream::{finish, put_varint, take_bytes, take_varint};
use super::{MAX_ANSWER, RestoreError, StateMachine, View};
use crate::types::{Access, Command, CowMap, Footprint, KeyHash};

/// The most keys that a [`KvCommand::GetMany`] may name; duplicates count.
const MAX_KEYS: usize = Command::MAX_KEYS;

/// Snapshots are written and read in pieces of about this many bytes, or of one longer value.
const PIECE: usize = 64 << 10;

/// A map from keys to values, both bytes.
///
/// The map's order is random but never shows: snapshots are sorted, and the digest is a sum. A
/// clone is cheap, because the two share the parts of the map that neither of them changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kv {
    entries: CowMap<Bytes, Bytes>,
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

/// The length of an answer with these values, computed before any value is copied.
fn values_len<'a>(values: impl ExactSizeIterator<Item = Option<&'a Bytes>>) -> usize {
    let one = |value: Option<&Bytes>| 1 + value.map_or(0, |it| len_bytes(it.len()) + it.len());
    let count = len_bytes(values.len());
    1 + count + values.map(one).fold(0, usize::saturating_add)
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

    /// A short command may name one value many times, so the answer is measured first.
    fn get_many(&self, keys: &[Bytes]) -> KvOutput {
        if keys.len() > MAX_KEYS {
            return KvOutput::TooManyKeys { keys: keys.len() as u64, limit: MAX_KEYS as u64 };
        }
        let bytes = values_len(keys.iter().map(|key| self.entries.get(key)));
        if bytes > MAX_ANSWER {
            return KvOutput::TooLarge { bytes: bytes as u64, limit: MAX_ANSWER as u64 };
        }
        KvOutput::Values(keys.iter().map(|key| self.entries.get(key).cloned()).collect())
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

    /// A key that is named twice counts twice: each mention costs memory and time.
    fn check(command: &KvCommand) -> Result<(), String> {
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
            KvCommand::GetMany { keys } => self.get_many(&keys),
            KvCommand::PutMany { entries } => {
                self.entries.extend(entries);
                KvOutput::Done
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut snapshot = Vec::new();
        write(&self.entries, &mut snapshot).expect("memory takes all");
        snapshot
    }

    fn restore(mut snapshot: &[u8]) -> Result<Kv, RestoreError> {
        Kv::restore_from(&mut snapshot)
    }

    fn view(&self) -> View {
        let entries = self.entries.clone();
        View::new(move |to| write(&entries, to))
    }

    fn restore_from(from: &mut dyn Read) -> Result<Kv, RestoreError> {
        let mut from = BufReader::with_capacity(PIECE, from);
        let (mut entries, mut last) = (CowMap::default(), None);
        for _ in 0..take_varint(&mut from)? {
            let (key, value) = (take(&mut from)?, take(&mut from)?);
            if last.is_some_and(|last| last >= key) {
                return Err(RestoreError::new("keys are not in order"));
            }
            last = Some(key.clone());
            entries.insert(key, value);
        }
        finish(&mut from)?;
        Ok(Kv { entries })
    }

    fn digest(&self) -> u64 {
        // The key's hash seeds the value's, so swapping two values changes the digest.
        let entry = |(key, value): (&Bytes, &Bytes)| xxh3_64_with_seed(value, xxh3_64(key));
        self.entries.unordered().map(entry).fold(0, u64::wrapping_add)
    }
}

/// Writes a snapshot: the encoding of a list of all keys with their values, sorted by key.
fn write(entries: &CowMap<Bytes, Bytes>, to: &mut dyn Write) -> io::Result<()> {
    let mut sorted: Vec<(&Bytes, &Bytes)> = entries.unordered().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    let mut piece = Vec::with_capacity(PIECE);
    put_varint(&mut piece, sorted.len() as u64);
    for (key, value) in sorted {
        for bytes in [key, value] {
            put_varint(&mut piece, bytes.len() as u64);
            piece.extend_from_slice(bytes);
        }
        if piece.len() >= PIECE {
            to.write_all(&piece)?;
            piece.clear();
        }
    }
    to.write_all(&piece)
}

/// Reads a key or a value from a snapshot.
fn take(from: &mut dyn Read) -> Result<Bytes, RestoreError> {
    let (length, mut bytes) = (take_varint(from)?, Vec::new());
    take_bytes(from, length, &mut bytes)?;
    Ok(Bytes::copy_from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::{encode, encoded_len};

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
    fn a_short_question_has_no_answer_of_any_length() {
        let mut kv = Kv::new();
        let (key, mebibyte) = (text("a"), Bytes::from(vec![7; 1 << 20]));
        kv.apply(KvCommand::Put { key: key.clone(), value: mebibyte });
        let mut ask =
            |count: usize| kv.apply(KvCommand::GetMany { keys: vec![key.clone(); count] });
        assert!(matches!(ask(3), KvOutput::Values(_)));
        let limit = MAX_ANSWER as u64;
        let each = 1 + 3 + (1 << 20);
        assert_eq!(ask(4), KvOutput::TooLarge { bytes: 2 + 4 * each, limit });
        assert_eq!(ask(4096), KvOutput::TooLarge { bytes: 3 + 4096 * each, limit });
        assert_eq!(ask(4097), KvOutput::TooManyKeys { keys: 4097, limit: 4096 });
    }

    #[test]
    fn a_command_that_names_too_many_keys_is_refused_before_it_is_agreed_on() {
        let many = |count| KvCommand::GetMany { keys: vec![text("a"); count] };
        let put = |count| KvCommand::PutMany { entries: vec![(text("a"), text("b")); count] };
        assert_eq!(Kv::check(&many(4096)), Ok(()));
        assert_eq!(Kv::check(&put(4096)), Ok(()));
        for refused in [many(4097), put(4097)] {
            let why = Kv::check(&refused).expect_err("too many");
            assert_eq!(why, "the command names 4097 keys; at most 4096 are allowed");
        }
    }

    /// Whatever one command stores, one answer can return.
    #[test]
    fn the_longest_value_can_be_read() {
        let longest = Command::MAX_BYTES - 7;
        let put = KvCommand::Put { key: text("a"), value: Bytes::from(vec![7; longest]) };
        assert_eq!(encode(&put).expect("plain bytes").len(), Command::MAX_BYTES);
        let mut kv = Kv::new();
        kv.apply(put);
        let key = text("a");
        let get = kv.apply(KvCommand::Get { key: key.clone() });
        let many = kv.apply(KvCommand::GetMany { keys: vec![key.clone()] });
        let cas = kv.apply(KvCommand::Cas { key, expected: None, value: text("") });
        for output in [get, many, cas] {
            assert!(encoded_len(&output).expect("plain bytes") <= MAX_ANSWER);
            assert!(!matches!(output, KvOutput::TooLarge { .. }));
        }
    }

    #[test]
    fn a_snapshot_with_a_key_twice_is_refused() {
        let twice = vec![(text("a"), text("1")), (text("a"), text("2"))];
        let bytes = encode(&twice).expect("plain bytes");
        assert!(Kv::restore(&bytes).is_err());
    }

    #[test]
    fn a_snapshot_is_the_encoding_of_a_sorted_list() {
        let mut kv = Kv::new();
        let mut entries = Vec::new();
        for (number, len) in [0, 1, 127, 128, 300, 20_000, 70_000].into_iter().enumerate() {
            let (key, value) = (Bytes::from(vec![7; number * 90]), Bytes::from(vec![8; len]));
            entries.push((key.clone(), value.clone()));
            kv.apply(KvCommand::Put { key, value });
        }
        let snapshot = kv.snapshot();
        assert_eq!(snapshot, encode(&entries).expect("plain bytes"));
        assert_eq!(Kv::restore(&snapshot), Ok(kv));
        for cut in (0..snapshot.len()).step_by(997).chain([snapshot.len() - 1]) {
            assert!(Kv::restore(&snapshot[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&snapshot[..], &[0]].concat();
        let error = Kv::restore(&longer).expect_err("one byte too many");
        assert_eq!(error.to_string(), "not a usable snapshot: it goes on behind its end");
    }

    /// A wrong length takes no memory.
    #[test]
    fn no_length_in_a_snapshot_is_believed() {
        for bytes in [&[0xff; 9][..], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]] {
            assert!(Kv::restore(bytes).is_err());
        }
        assert!(Kv::restore(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]).is_err());
    }

    #[test]
    fn a_view_stays_as_it_is() {
        let mut kv = Kv::new();
        let put = |number: u32, value| KvCommand::Put {
            key: Bytes::copy_from_slice(&number.to_be_bytes()),
            value: text(value),
        };
        (0..3000).for_each(|number| drop(kv.apply(put(number, "before"))));
        let (before, view) = (kv.snapshot(), kv.view());
        (1000..9000).for_each(|number| drop(kv.apply(put(number, "after"))));
        for number in 0..500u32 {
            kv.apply(KvCommand::Del { key: Bytes::copy_from_slice(&number.to_be_bytes()) });
        }
        let mut written = Vec::new();
        view.write_to(&mut written).expect("memory takes all");
        assert!(written == before);
        assert!(kv.snapshot() != before);
    }

    proptest! {
        #[test]
        fn a_length_computed_first_is_that_of_the_answer(
            lengths in proptest::collection::vec(
                prop_oneof![
                    Just(None),
                    (0..300usize).prop_map(Some),
                    (16_300..16_500usize).prop_map(Some),
                ],
                0..200,
            ),
        ) {
            let value = |len: &Option<usize>| len.map(|len| Bytes::from(vec![7; len]));
            let values: Vec<_> = lengths.iter().map(value).collect();
            let computed = values_len(values.iter().map(Option::as_ref));
            let encoded = encode(&KvOutput::Values(values)).expect("plain bytes");
            prop_assert_eq!(computed, encoded.len());
        }

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
