//! The log-based protocols' part of this room's promises.

mod fast_paxos;
mod paxos;

use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arbitrary::{instance, number, value};
use super::golden::hex;
use super::mutation::inputs;
use super::{SMALL, encoded};
use crate::protocol::log::{Choice, LogRecord, ProtocolSnapshot, Upkeep};
use crate::types::{Ballot, InstanceId, MAX_SLOT, ReplicaId, Slot, Value};
use crate::wire::{Flaw, Limits, Reader, Wire};

/// `r2.7` with a `Nop`.
pub(super) const NOP: &str = "0207 00";

pub(super) fn nop() -> Choice {
    Choice { proposal: InstanceId::new(replica(2), 7), value: Value::Nop }
}

pub(super) fn replica(number: u8) -> ReplicaId {
    ReplicaId::new(number).expect("a replica's number")
}

pub(super) fn slot() -> impl Strategy<Value = Slot> {
    number().prop_map(|number| (number % MAX_SLOT).max(1))
}

pub(super) fn mark() -> impl Strategy<Value = Slot> {
    number().prop_map(|number| number % (MAX_SLOT + 1))
}

pub(super) fn ballot(n: usize) -> impl Strategy<Value = Ballot> {
    (1..=Ballot::MAX_ROUND, 0..n).prop_map(|(round, leader)| {
        Ballot::new(round, ReplicaId::from_index(leader)).expect("not round 0")
    })
}

pub(super) fn choice(n: usize) -> impl Strategy<Value = Choice> {
    (instance(n), value(n)).prop_map(|(proposal, value)| Choice { proposal, value })
}

pub(super) fn upkeep(n: usize) -> impl Strategy<Value = Upkeep> {
    prop_oneof![
        (mark(), mark()).prop_map(|(known, saved)| Upkeep::Marks { known, saved }),
        (slot(), slot()).prop_map(|(a, b)| Upkeep::Fetch { from: a.min(b), to: a.max(b) }),
        (slot(), choice(n)).prop_map(|(slot, choice)| Upkeep::Decided { slot, choice }),
        slot().prop_map(|up_to| Upkeep::Truncated { up_to }),
    ]
}

pub(super) fn log_record(n: usize) -> impl Strategy<Value = LogRecord> {
    prop_oneof![
        (slot(), instance(n), proptest::option::of(value(n)))
            .prop_map(|(slot, proposal, value)| LogRecord::Decided { slot, proposal, value }),
        (mark(), any::<u32>()).prop_map(|(names, rounds)| LogRecord::Reserved { names, rounds }),
    ]
}

/// Checks that these values have these bytes, and that no prefix of them decodes.
pub(super) fn golden<T: Wire + PartialEq + Debug>(examples: &[(T, &str)]) {
    for (value, bytes) in examples {
        assert_eq!(encoded(|out| value.encode(out)), hex(bytes), "{value:?}");
        super::comes_back(value, &SMALL);
        for length in 0..hex(bytes).len() {
            assert!(take::<T>(hex(bytes).slice(..length)).is_err(), "{length} bytes of {value:?}");
        }
    }
}

fn take<T: Wire>(bytes: Bytes) -> Result<T, crate::wire::DecodeError> {
    let mut from = Reader::new(&bytes, &SMALL);
    let value = from.read()?;
    from.finish()?;
    Ok(value)
}

pub(super) fn flaw<T: Wire + Debug>(bytes: &str) -> Flaw {
    take::<T>(hex(bytes)).expect_err("it was accepted").flaw()
}

/// Damaged bytes do not make the decoder panic, and whatever it accepts encodes to the same bytes.
pub(super) fn hostile<T: Wire + PartialEq + Debug>(examples: &[(T, &str)]) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..inputs() {
        let mut bytes = hex(examples[rng.random_range(0..examples.len())].1).to_vec();
        for _ in 0..rng.random_range(1..=3) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
                1 if at < bytes.len() => bytes[at] = rng.random(),
                2 => bytes.insert(at, rng.random()),
                _ => bytes.truncate(at),
            }
        }
        match take::<T>(Bytes::from(bytes.clone())) {
            Ok(value) => {
                accepted += 1;
                assert_eq!(encoded(|out| value.encode(out)), bytes, "{value:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.offset() <= bytes.len(), "{error}");
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn what_the_logs_share_has_these_bytes() {
    golden(&[
        (Upkeep::Marks { known: 300, saved: 0 }, "00 ac02 00"),
        (Upkeep::Fetch { from: 1, to: 300 }, "01 01 ac02"),
        (Upkeep::Decided { slot: 9, choice: nop() }, "02 09 0207 00"),
        (Upkeep::Truncated { up_to: 5 }, "03 05"),
    ]);
    let proposal = InstanceId::new(replica(2), 7);
    golden(&[
        (LogRecord::Decided { slot: 9, proposal, value: None }, "00 09 0207 00"),
        (LogRecord::Decided { slot: 9, proposal, value: Some(Value::Nop) }, "00 09 0207 01 00"),
        (LogRecord::Reserved { names: 300, rounds: 5 }, "01 ac02 05"),
    ]);
    golden(&[(ProtocolSnapshot { floor: 300 }, "ac02")]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    assert_eq!(flaw::<Upkeep>("01 02 01"), Flaw::EmptyRange);
    assert_eq!(flaw::<Upkeep>("01 00 01"), Flaw::Zero { what: "a slot" });
    assert_eq!(flaw::<Upkeep>("03 00"), Flaw::Zero { what: "a slot" });
    assert_eq!(flaw::<LogRecord>("00 00 0207 00"), Flaw::Zero { what: "a slot" });
    let high = Flaw::TooMany { what: "slots", found: MAX_SLOT + 1, limit: MAX_SLOT };
    assert_eq!(flaw::<Upkeep>("00 00 818080808080808010"), high);
    assert_eq!(flaw::<ProtocolSnapshot>("818080808080808010"), high);
    assert_eq!(flaw::<LogRecord>("01 818080808080808010 05"), high);
}

proptest! {
    #[test]
    fn what_the_logs_share_comes_back(
        upkeep in upkeep(9), record in log_record(9), floor in mark(), choice in choice(9),
    ) {
        let limits = Limits::new(9);
        super::comes_back(&upkeep, &limits);
        super::comes_back(&record, &limits);
        super::comes_back(&ProtocolSnapshot { floor }, &limits);
        super::comes_back(&choice, &limits);
    }
}
