//! The bytes of users' commands, outputs and states, derived by hand from the specification of
//! postcard. The encoder is a dependency. If another version of it encoded these differently,
//! replicas of both versions would disagree, and neither could read the other's directory.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Applier, Kv, KvCommand, KvOutput, StateMachine, decode, encode};
use crate::types::{ClientId, Command, ReplicaId, RequestId};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let text = std::str::from_utf8(&digits).expect("digits");
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn holds<T>(value: &T, bytes: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(&encode(value).expect("plain data")[..], hex(bytes), "{value:?}");
    assert_eq!(decode::<T>(&hex(bytes)).as_ref(), Ok(value), "{bytes}");
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn commands_and_outputs_of_the_store_are_these_bytes() {
    holds(&KvCommand::Get { key: text("key") }, "00 03 6b6579");
    holds(&KvCommand::Put { key: text("k"), value: text("") }, "01 01 6b 00");
    holds(&KvCommand::Del { key: text("k") }, "02 01 6b");
    let cas = |expected| KvCommand::Cas { key: text("k"), expected, value: text("new") };
    holds(&cas(None), "03 01 6b 00 03 6e6577");
    holds(&cas(Some(text("old"))), "03 01 6b 01 03 6f6c64 03 6e6577");
    holds(&KvCommand::GetMany { keys: vec![text("a"), text("b")] }, "04 02 01 61 01 62");
    holds(&KvCommand::PutMany { entries: vec![(text("a"), text("b"))] }, "05 01 01 61 01 62");
    // Longer than a one-byte length can express, and than the buffer on the stack.
    let long = format!("01 01 6b ac02 {}", "7a".repeat(300));
    holds(&KvCommand::Put { key: text("k"), value: text(&"z".repeat(300)) }, &long);

    holds(&KvOutput::Value(None), "00 00");
    holds(&KvOutput::Value(Some(text("v"))), "00 01 01 76");
    holds(&KvOutput::Values(vec![None, Some(text("v"))]), "01 02 00 01 01 76");
    holds(&KvOutput::Done, "02");
    holds(&KvOutput::Deleted(true), "03 01");
    holds(&KvOutput::Swapped, "04");
    holds(&KvOutput::Mismatch(Some(text("v"))), "05 01 01 76");
}

/// The elements of users' own types.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Plain {
    small: u8,
    large: u64,
    negative: i64,
    share: f64,
    yes: bool,
    letter: char,
    name: String,
    pair: (u16, i8),
    list: Vec<u32>,
    nothing: Option<()>,
}

#[test]
fn plain_data_of_all_kinds_is_these_bytes() {
    let plain = Plain {
        small: 200,
        large: u64::MAX,
        negative: -2,
        share: 1.5,
        yes: true,
        letter: 'é',
        name: "né".to_owned(),
        pair: (300, -1),
        list: vec![0, 127, 128],
        nothing: None,
    };
    holds(
        &plain,
        "c8 ffffffffffffffffff01 03 000000000000f83f 01 02 c3a9 03 6ec3a9 ac02 ff 03 00 7f 8001 00",
    );
}

#[test]
fn a_state_with_its_sessions_is_these_bytes() {
    let command = KvCommand::Put { key: text("k"), value: text("v") };
    let command = Command {
        request: RequestId::new(ClientId(7), 300),
        floor: 0,
        origin: ReplicaId::from_index(0),
        footprint: Kv::footprint(&command),
        payload: encode(&command).expect("plain data"),
    };
    let mut applier = Applier::new(Kv::new());
    applier.apply(&command, true);
    // Version. Then, each after its length: the era, closes, content key and number of sessions;
    // one session: its client, the sequence and content it has executed, `before`, `closed`,
    // `promised`, era, floor, one result. Then the store.
    let content = "ac02 ded1add392bcdbc46f";
    let session = format!("07 01 {content} 00 00 00 00 00 01 {content} 01 02");
    let bytes = hex(&format!("04 05000000 00 00 0000 01 20000000 {session} 01 01 6b 01 76"));
    assert_eq!(applier.snapshot(), bytes);
    let back: Applier<Kv> = Applier::restore(&bytes).expect("its own snapshot");
    assert_eq!((back.snapshot(), back.digest()), (bytes.clone(), applier.digest()));
    // The same state in version 3.
    let before = hex(&format!("03 00 00 0000 01 {session} 05 01 01 6b 01 76"));
    let back: Applier<Kv> = Applier::restore(&before).expect("it is understood");
    assert_eq!((back.snapshot(), back.digest()), (bytes, applier.digest()));
}
