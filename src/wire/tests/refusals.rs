//! Each reason to refuse, with its offset.

use super::golden::hex;
use super::*;
use crate::replica::MAX_CHUNK;

/// Why and where a peer frame is refused.
fn peer_flaw(frame: &str) -> (usize, Flaw) {
    let error = decode_peer::<Message>(hex(frame), &SMALL).expect_err("it was accepted");
    (error.offset(), error.flaw())
}

/// A PreAccept of r1.1 up to its batch.
const PRE_ACCEPT: &str = "03 00 00 10 0101";
/// A command up to its footprint.
const COMMAND: &str = "0000000000000000 01 00 01";

#[test]
fn another_version_is_not_guessed_at() {
    assert_eq!(peer_flaw("04 00 00 13 0101 00"), (0, Flaw::Version { found: 4, known: 3 }));
    assert_eq!(peer_flaw("01 00 00 13 0101 00"), (0, Flaw::Version { found: 1, known: 3 }));
    let reply = decode_reply(hex("00")).expect_err("it was accepted");
    assert_eq!(reply.flaw(), Flaw::Version { found: 0, known: CLIENT_VERSIONS.newest });
}

#[test]
fn unknown_kinds_are_refused() {
    let flaw = |what, kind| Flaw::Kind { what, kind };
    assert_eq!(peer_flaw("03 00 00 00"), (3, flaw("a message of EPaxos*", 0)));
    assert_eq!(peer_flaw("03 00 00 20"), (3, flaw("a message of EPaxos*", 0x20)));
    assert_eq!(peer_flaw("03 00 00 14 0101 03"), (6, flaw("a decision", 3)));
    assert_eq!(
        peer_flaw("03 00 00 18 0101 0101 01 0101 03"),
        (11, flaw("an instance's standing", 3))
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(peer_flaw(""), (0, Flaw::Truncated { what: "a version" }));
    assert_eq!(peer_flaw("03 00"), (2, Flaw::Truncated { what: "a position" }));
    assert_eq!(peer_flaw("03 00 00"), (3, Flaw::Truncated { what: "a message" }));
    assert_eq!(peer_flaw("03 00 00 13 01 80"), (5, Flaw::Truncated { what: "a slot" }));
    assert_eq!(peer_flaw("03 00 00 01 00000000"), (4, Flaw::Truncated { what: "a clock reading" }));
}

#[test]
fn nothing_may_follow() {
    assert_eq!(peer_flaw("03 00 00 13 0101 00 0000"), (7, Flaw::Trailing { bytes: 2 }));
}

#[test]
fn numbers_have_one_form() {
    assert_eq!(peer_flaw("03 8000"), (1, Flaw::Overlong));
    assert_eq!(peer_flaw("03 00 00 13 01 8100"), (5, Flaw::Overlong));
    let above_64_bits = "03 00 00 13 01 ffffffffffffffffff02 00";
    assert_eq!(peer_flaw(above_64_bits), (5, Flaw::Overlong));
    assert_eq!(peer_flaw("03 00 00 13 01 8080808080808080808001 00"), (5, Flaw::Overlong));
    let found = 1 << 32;
    let limit = u64::from(u32::MAX);
    assert_eq!(peer_flaw("03 8080808010"), (1, Flaw::TooMany { what: "an epoch", found, limit }));
}

#[test]
fn only_the_clusters_replicas_are_named() {
    let flaw = |number| Flaw::Replica { number, replicas: 3 };
    assert_eq!(peer_flaw("03 00 00 13 0001 00"), (4, flaw(0)));
    assert_eq!(peer_flaw("03 00 00 13 0401 00"), (4, flaw(4)));
    assert_eq!(peer_flaw("03 00 00 13 ff01 00"), (4, flaw(255)));
    assert_eq!(peer_flaw("03 00 00 13 0101 0104"), (7, flaw(4)));
    assert_eq!(peer_flaw("03 00 00 13 0101 0100"), (7, flaw(0)));
}

#[test]
fn vectors_have_an_entry_a_replica() {
    let flaw = |found| Flaw::VectorLength { found, replicas: 3 };
    assert_eq!(peer_flaw("03 00 00 11 0101 02 0000"), (6, flaw(2)));
    assert_eq!(peer_flaw("03 00 00 11 0101 04 00000000"), (6, flaw(4)));
}

#[test]
fn counting_starts_at_one() {
    assert_eq!(peer_flaw("03 00 00 13 0100 00"), (5, Flaw::Zero { what: "a slot" }));
    let sequence = format!("{PRE_ACCEPT} 01 0000000000000000 00 00 01 00 00");
    assert_eq!(peer_flaw(&sequence), (15, Flaw::Zero { what: "a sequence number" }));
    assert_eq!(peer_flaw("03 00 00 1c 01 00 01"), (3, Flaw::Zero { what: "a slot" }));
    assert_eq!(peer_flaw("03 00 00 1c 01 02 01"), (3, Flaw::EmptyRange));
}

#[test]
fn a_batch_holds_something() {
    assert_eq!(peer_flaw(&format!("{PRE_ACCEPT} 00 03 000000")), (6, Flaw::EmptyBatch));
}

#[test]
fn keys_are_in_order_and_once() {
    let frame = |first: &str, second: &str| {
        format!("{PRE_ACCEPT} 01 {COMMAND} 03 {first} 01 {second} 01 00 03 000000")
    };
    let (one, two) = ("0100000000000000", "0200000000000000");
    assert!(decode_peer::<Message>(hex(&frame(one, two)), &SMALL).is_ok());
    assert_eq!(peer_flaw(&frame(two, one)), (28, Flaw::Unsorted));
    assert_eq!(peer_flaw(&frame(one, one)), (28, Flaw::Unsorted));
}

/// The refusal is at the count, before anything after it was read or room was reserved.
#[test]
fn counts_are_refused_before_room_is_made() {
    let commands = |found| Flaw::TooMany { what: "commands", found, limit: 8 };
    assert_eq!(peer_flaw(&format!("{PRE_ACCEPT} 09 {}", "00".repeat(500))), (6, commands(9)));
    let endless = format!("{PRE_ACCEPT} ffffffffffffffffff01");
    assert_eq!(peer_flaw(&endless), (6, commands(u64::MAX)));
    let short = format!("{PRE_ACCEPT} 08 {}", "00".repeat(8 * 13 - 1));
    assert_eq!(peer_flaw(&short), (6, Flaw::Truncated { what: "commands" }));

    let keys = format!("{PRE_ACCEPT} 01 {COMMAND} 06 {}", "00".repeat(500));
    assert_eq!(peer_flaw(&keys), (18, Flaw::TooMany { what: "keys", found: 5, limit: 4 }));
    let keys = format!("{PRE_ACCEPT} 01 {COMMAND} 05 {}", "00".repeat(4 * 9 - 1));
    assert_eq!(peer_flaw(&keys), (18, Flaw::Truncated { what: "keys" }));

    let interfering = format!("03 00 00 18 0101 0101 09 {}", "00".repeat(500));
    let what = "interfering instances";
    assert_eq!(peer_flaw(&interfering), (8, Flaw::TooMany { what, found: 9, limit: 8 }));

    let payload = format!("{PRE_ACCEPT} 01 {COMMAND} 01 03 6161");
    assert_eq!(peer_flaw(&payload), (19, Flaw::Truncated { what: "a payload" }));
}

#[test]
fn a_recovery_is_not_at_the_owners_ballot() {
    assert_eq!(peer_flaw("03 00 00 15 0101 00"), (3, Flaw::OwnersBallot));
    assert_eq!(peer_flaw("03 00 00 16 0101 00 00 00 00 00"), (3, Flaw::OwnersBallot));
    assert_eq!(peer_flaw("03 00 00 18 0101 00 00"), (3, Flaw::OwnersBallot));
    assert_eq!(peer_flaw("03 00 00 1a 0101 00"), (3, Flaw::OwnersBallot));
    let validate = format!("03 00 00 17 0101 00 01 {COMMAND} 00 00 03 000000");
    assert_eq!(peer_flaw(&validate), (3, Flaw::OwnersBallot));
}

#[test]
fn a_report_is_of_an_undecided_instance() {
    assert_eq!(peer_flaw("03 00 00 16 0101 0101 03 00 01 00 03 000000 00"), (8, Flaw::Report));
    assert_eq!(peer_flaw("03 00 00 16 0101 0101 01 00 00 00"), (8, Flaw::Report));
    assert_eq!(peer_flaw("03 00 00 16 0101 0101 02 00 00 00"), (8, Flaw::Report));
}

#[test]
fn votes_are_at_most_one_a_replica() {
    let flaw = Flaw::TooMany { what: "fast votes", found: 4, limit: 3 };
    assert_eq!(peer_flaw("03 00 00 19 0101 04"), (3, flaw));
}

#[test]
fn a_chunk_has_a_length_from_one_to_the_most() {
    let name = "0b0000000000000a";
    let (zero, limit) = (Flaw::Zero { what: "a chunk's length" }, u64::from(MAX_CHUNK));
    let many = |found| Flaw::TooMany { what: "a chunk's length", found, limit };
    assert_eq!(peer_flaw(&format!("03 00 00 05 {name} 00 00")), (13, zero));
    assert_eq!(peer_flaw(&format!("03 00 00 05 {name} 00 818010")), (13, many(limit + 1)));
    assert_eq!(peer_flaw(&format!("03 00 00 06 {name} 00 00")), (13, zero));
    let long = format!("03 00 00 06 {name} 00 818010 {}", "00".repeat(MAX_CHUNK as usize + 1));
    assert_eq!(peer_flaw(&long), (13, many(limit + 1)));
    let empty = format!("03 00 00 04 {name} 03 000000 00");
    assert_eq!(peer_flaw(&empty), (16, Flaw::Zero { what: "a snapshot's length" }));
}

#[test]
fn a_text_is_utf8() {
    let error = decode_reply(hex("02 0000000000000000 01 04 02 61ff")).expect_err("accepted");
    assert_eq!((error.offset(), error.flaw()), (13, Flaw::Text));
    assert_eq!(error.to_string(), "byte 13: a text that is not UTF-8");
}
