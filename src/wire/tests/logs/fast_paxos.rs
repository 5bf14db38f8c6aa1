//! Fast Paxos.

use proptest::prelude::*;

use super::{
    NOP, ballot, choice, flaw, golden, hostile, instance, log_record, nop, replica, slot, upkeep,
};
use crate::protocol::fast_paxos::{Message, Record, Round};
use crate::protocol::log::{LogRecord, Upkeep};
use crate::types::Ballot;
use crate::wire::tests::comes_back;
use crate::wire::{Flaw, Limits};

fn messages() -> Vec<(Message, &'static str)> {
    let (slot, ballot) = (9, Ballot::new(200, replica(3)).expect("not round 0"));
    let (fast, second) = (Round::anybodys(ballot), Round::coordinated(ballot));
    let (choice, proposal) = (nop(), nop().proposal);
    vec![
        (Message::Prepare { ballot }, "40 c80103"),
        (Message::Promise { ballot, known: 8, reported: vec![9, 300] }, "41 c80103 08 02 09 ac02"),
        (
            Message::Report { ballot, slot, round: Some(fast), choice: choice.clone() },
            "42 c80103 09 01 c8010300 0207 00",
        ),
        (
            Message::Report { ballot, slot, round: None, choice: choice.clone() },
            "42 c80103 09 00 0207 00",
        ),
        (Message::Open { ballot, is_fast: true, from: slot }, "43 c80103 01 09"),
        (Message::Propose { choice: choice.clone() }, "44 0207 00"),
        (Message::Suggest { ballot, slot, choice: choice.clone() }, "45 c80103 09 0207 00"),
        (Message::Accept { ballot, slot, choice }, "46 c80103 09 0207 00"),
        (Message::Voted { slot, round: second, proposal }, "47 09 c8010301 0207"),
        (Message::Rejected { ballot }, "48 c80103"),
        (Message::Upkeep(Upkeep::Truncated { up_to: 5 }), "49 03 05"),
    ]
}

fn records() -> Vec<(Record, &'static str)> {
    let (slot, ballot) = (9, Ballot::new(200, replica(3)).expect("not round 0"));
    let round = Round::anybodys(ballot);
    vec![
        (Record::Promised { ballot }, "40 c80103"),
        (Record::Voted { slot, round, choice: nop() }, "41 09 c8010300 0207 00"),
        (Record::Log(LogRecord::Reserved { names: 1, rounds: 2 }), "42 01 01 02"),
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
fn what_contradicts_itself_is_refused() {
    assert_eq!(flaw::<Message>("40 00"), Flaw::OwnersBallot);
    assert_eq!(flaw::<Message>("47 09 0000 0207"), Flaw::OwnersBallot);
    assert_eq!(flaw::<Message>("43 c80103 01 00"), Flaw::Zero { what: "a slot" });
    assert_eq!(flaw::<Message>(&format!("46 c80103 00 {NOP}")), Flaw::Zero { what: "a slot" });
    for unsorted in ["08 02 09 09", "08 02 0a 09", "08 01 08", "00 01 00"] {
        assert_eq!(flaw::<Message>(&format!("41 c80103 {unsorted}")), Flaw::Unsorted, "{unsorted}");
    }
    let kind = |what| Flaw::Kind { what, kind: 0x10 };
    assert_eq!(flaw::<Message>("10"), kind("a message of Fast Paxos"));
    assert_eq!(flaw::<Record>("10"), kind("a record of Fast Paxos"));
}

fn round(n: usize) -> impl Strategy<Value = Round> {
    (ballot(n), any::<bool>()).prop_map(|(ballot, is_coordinated)| Round { ballot, is_coordinated })
}

fn message(n: usize) -> impl Strategy<Value = Message> {
    let reported = proptest::collection::btree_set(slot(), 0..9);
    prop_oneof![
        ballot(n).prop_map(|ballot| Message::Prepare { ballot }),
        (ballot(n), reported).prop_map(|(ballot, reported)| {
            let known = reported.first().map_or(7, |first| first - 1);
            Message::Promise { ballot, known, reported: reported.into_iter().collect() }
        }),
        (ballot(n), slot(), proptest::option::of(round(n)), choice(n)).prop_map(
            |(ballot, slot, round, choice)| Message::Report { ballot, slot, round, choice }
        ),
        (ballot(n), any::<bool>(), slot()).prop_map(|(ballot, is_fast, from)| Message::Open {
            ballot,
            is_fast,
            from
        }),
        choice(n).prop_map(|choice| Message::Propose { choice }),
        (ballot(n), slot(), choice(n)).prop_map(|(ballot, slot, choice)| Message::Suggest {
            ballot,
            slot,
            choice
        }),
        (ballot(n), slot(), choice(n)).prop_map(|(ballot, slot, choice)| Message::Accept {
            ballot,
            slot,
            choice
        }),
        (slot(), round(n), instance(n)).prop_map(|(slot, round, proposal)| Message::Voted {
            slot,
            round,
            proposal
        }),
        ballot(n).prop_map(|ballot| Message::Rejected { ballot }),
        upkeep(n).prop_map(Message::Upkeep),
    ]
}

fn record(n: usize) -> impl Strategy<Value = Record> {
    prop_oneof![
        ballot(n).prop_map(|ballot| Record::Promised { ballot }),
        (slot(), round(n), choice(n)).prop_map(|(slot, round, choice)| Record::Voted {
            slot,
            round,
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
