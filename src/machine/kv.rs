//! The built-in key-value store: `isonomy serve` replicates it, the demo and the simulator use it,
//! and it is an example of a [`StateMachine`].

mod commands;
mod sorted;

use std::io::{self, Read, Write};

use bytes::Bytes;

pub(super) use commands::{Entries, check, footprint, run};
pub use commands::{KvCommand, KvOutput};
pub(super) use sorted::{SortedWriter, entry_digest, read_sorted};

use super::{RestoreError, StateMachine, View};
use crate::types::{CowMap, Footprint};

/// A map from keys to values, both bytes.
///
/// The map's order is random but never shows: snapshots are sorted, and the digest is a sum. A
/// clone is cheap, because the two share the parts of the map that neither of them changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kv {
    entries: CowMap<Bytes, Bytes>,
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

impl Entries for CowMap<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        CowMap::get(self, key).cloned()
    }

    fn len_of(&self, key: &[u8]) -> Option<usize> {
        CowMap::get(self, key).map(Bytes::len)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.insert(key, value);
    }

    fn remove(&mut self, key: Bytes) -> bool {
        CowMap::remove(self, &key).is_some()
    }
}

impl StateMachine for Kv {
    type Command = KvCommand;
    type Output = KvOutput;

    fn footprint(command: &KvCommand) -> Footprint {
        footprint(command)
    }

    fn check(command: &KvCommand) -> Result<(), String> {
        check(command)
    }

    fn apply(&mut self, command: KvCommand) -> KvOutput {
        run(&mut self.entries, command)
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
        let mut entries = CowMap::default();
        read_sorted(from, |key, value| {
            entries.insert(key, value);
            Ok(())
        })?;
        Ok(Kv { entries })
    }

    fn digest(&self) -> u64 {
        let entry = |(key, value): (&Bytes, &Bytes)| entry_digest(key, value);
        self.entries.unordered().map(entry).fold(0, u64::wrapping_add)
    }
}

/// Writes a snapshot.
fn write(entries: &CowMap<Bytes, Bytes>, to: &mut dyn Write) -> io::Result<()> {
    let mut sorted: Vec<(&Bytes, &Bytes)> = entries.unordered().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    let mut out = SortedWriter::begin(to, sorted.len() as u64);
    sorted.into_iter().try_for_each(|(key, value)| out.put(key, value))?;
    out.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::commands::values_len;
    use super::*;
    use crate::machine::{MAX_ANSWER, encode, encoded_len};
    use crate::types::Command;

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
            let computed = values_len(values.iter().map(|it| it.as_ref().map(Bytes::len)));
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
