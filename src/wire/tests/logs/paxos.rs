//! Paxos.

use proptest::prelude::*;

use super::{NOP, ballot, choice, flaw, golden, hostile, log_record, nop, replica, slot, upkeep};
use crate::protocol::log::{LogRecord, Upkeep};
use crate::protocol::paxos::{Message, Record};
use crate::types::Ballot;
use crate::wire::tests::comes_back;
use crate::wire::{Flaw, Limits};

fn messages() -> Vec<(Message, &'static str)> {
    let (slot, ballot) = (9, Ballot::new(200, replica(3)).expect("not round 0"));
    let lower = Ballot::new(1, replica(1)).expect("not round 0");
    vec![
        (Message::Prepare { slot, ballot }, "50 09 c80103"),
        (Message::Promise { slot, ballot, vote: None }, "51 09 c80103 00"),
        (
            Message::Promise { slot, ballot, vote: Some((lower, nop())) },
            "51 09 c80103 01 0101 0207 00",
        ),
        (Message::Accept { slot, ballot, choice: nop() }, "52 09 c80103 0207 00"),
        (Message::Accepted { slot, ballot }, "53 09 c80103"),
        (Message::Rejected { slot, ballot }, "54 09 c80103"),
        (Message::Upkeep(Upkeep::Truncated { up_to: 5 }), "55 03 05"),
    ]
}

fn records() -> Vec<(Record, &'static str)> {
    let (slot, ballot) = (9, Ballot::new(200, replica(3)).expect("not round 0"));
    vec![
        (Record::Promised { slot, ballot }, "50 09 c80103"),
        (Record::Voted { slot, ballot, choice: nop() }, "51 09 c80103 0207 00"),
        (Record::Log(LogRecord::Reserved { names: 1, rounds: 2 }), "52 01 01 02"),
    ]
}

#[test]
fn every_kind_has_these_bytes() {
    golden(&messages());
    golden(&records());
    hostile(&messages());
    hostile(&records());
}

#[test]
fn somebody_leads_every_ballot_and_slots_count_from_one() {
    assert_eq!(flaw::<Message>("50 09 00"), Flaw::OwnersBallot);
    assert_eq!(flaw::<Message>(&format!("52 00 c80103 {NOP}")), Flaw::Zero { what: "a slot" });
    assert_eq!(flaw::<Record>("50 09 00"), Flaw::OwnersBallot);
    let kind = |what| Flaw::Kind { what, kind: 0x10 };
    assert_eq!(flaw::<Message>("10"), kind("a message of Paxos"));
    assert_eq!(flaw::<Record>("10"), kind("a record of Paxos"));
}

fn message(n: usize) -> impl Strategy<Value = Message> {
    let vote = proptest::option::of((ballot(n), choice(n)));
    prop_oneof![
        (slot(), ballot(n)).prop_map(|(slot, ballot)| Message::Prepare { slot, ballot }),
        (slot(), ballot(n), vote).prop_map(|(slot, ballot, vote)| Message::Promise {
            slot,
            ballot,
            vote
        }),
        (slot(), ballot(n), choice(n)).prop_map(|(slot, ballot, choice)| Message::Accept {
            slot,
            ballot,
            choice
        }),
        (slot(), ballot(n)).prop_map(|(slot, ballot)| Message::Accepted { slot, ballot }),
        (slot(), ballot(n)).prop_map(|(slot, ballot)| Message::Rejected { slot, ballot }),
        upkeep(n).prop_map(Message::Upkeep),
    ]
}

fn record(n: usize) -> impl Strategy<Value = Record> {
    prop_oneof![
        (slot(), ballot(n)).prop_map(|(slot, ballot)| Record::Promised { slot, ballot }),
        (slot(), ballot(n), choice(n)).prop_map(|(slot, ballot, choice)| Record::Voted {
            slot,
            ballot,
            choice
        }),
        log_record(n).prop_map(Record::Log),
    ]
}

proptest! {
    #[test]
    fn messages_and_records_come_back(message in message(9), record in record(9)) {
        comes_back(&message, &Limits::new(9));
        comes_back(&record, &Limits::new(9));
    }
}
