//! Frames and records of any epoch, and lists of members.

use super::*;
use crate::replica::epochs;
use crate::types::Membership;

fn said(epoch: Option<u32>, message: &epochs::Message<Message>) -> Bytes {
    encoded(|out| encode_said(PEER_VERSIONS.newest, epoch, LogPosition::new(7), message, out))
}

/// Decodes a frame where the lists of these epochs are known, with three members each.
fn read(frame: &Bytes, known: &[u32]) -> Result<Said<Message>, DecodeError> {
    let limits = |epoch: Option<u32>| epoch.filter(|it| known.contains(it)).map(|_| Limits::new(3));
    decode_said(frame.clone(), limits)
}

proptest! {
    #[test]
    fn lists_come_back(list in any::list()) {
        comes_back(&list, &SMALL);
        let bytes = encoded(|out| list.encode(out));
        no_prefix(&bytes, |cut| {
            let mut from = Reader::new(&cut, &SMALL);
            let list: Membership = from.read()?;
            from.finish().map(|()| list)
        });
    }

    #[test]
    fn what_tells_of_epochs_is_read_whatever_the_epoch(
        list in any::list(), safe: bool, epoch: Option<u16>, known: bool,
    ) {
        let epoch = epoch.map(u32::from);
        let known: Vec<u32> = epoch.filter(|_| known).into_iter().collect();
        let told = [epochs::Message::Over { list, safe }, epochs::Message::Entered { asks: safe }];
        for message in told {
            let frame = said(epoch, &message);
            let held = LogPosition::new(7);
            let expected = Said { epoch, held, message: Some(message) };
            prop_assert_eq!(read(&frame, &known), Ok(expected));
            no_prefix(&frame, |cut| read(&cut, &known));
        }
    }

    #[test]
    fn all_else_is_read_only_where_the_list_is_known(
        message in prop_oneof![
            any::peer(3).prop_map(epochs::Message::Core),
            any::feed(3).prop_map(epochs::Message::Feed),
        ],
        epoch: u16,
    ) {
        let (epoch, held) = (u32::from(epoch), LogPosition::new(7));
        let frame = said(Some(epoch), &message);
        let unread = Said { epoch: Some(epoch), held, message: None };
        prop_assert_eq!(read(&frame, &[]), Ok(unread.clone()));
        prop_assert_eq!(read(&frame, &[epoch + 1]), Ok(unread));
        let expected = Said { epoch: Some(epoch), held, message: Some(message) };
        prop_assert_eq!(read(&frame, &[epoch + 1, epoch]), Ok(expected));
    }

    #[test]
    fn what_observers_and_members_say_comes_back(feed in any::feed(3)) {
        let frame = said(Some(1), &epochs::Message::Feed(feed));
        no_prefix(&frame, |cut| read(&cut, &[1]));
    }

    #[test]
    fn records_of_epochs_come_back(list in any::list(), record in any::record(3), epoch: u16) {
        let of_core = epochs::Record::Core(record.clone().into());
        let records = [
            epochs::Record::Start(list.clone()),
            epochs::Record::Joining(list.clone()),
            epochs::Record::Joined(list),
            of_core,
        ];
        for one in records {
            let bytes = encoded(|out| encode_record(epoch.into(), &one, out));
            prop_assert_eq!(record_epoch(&bytes), Ok(epoch.into()));
            prop_assert_eq!(decode_record(bytes, &Limits::new(3)), Ok((epoch.into(), one)));
        }
        // A record of one epoch is written as it always was.
        let record: crate::replica::Record<Record> = record.into();
        let before = encoded(|out| encode_record(3, &record, out));
        let now = encoded(|out| encode_record(3, &epochs::Record::Core(record.clone()), out));
        prop_assert_eq!(now, before);
    }
}

#[test]
fn a_replica_that_has_heard_of_no_epoch_says_0() {
    let ping = epochs::Message::Core(PeerMessage::Ping { sent: crate::types::Time::ZERO });
    assert_eq!(said(None, &ping)[..3], [PEER_VERSIONS.newest, 0, 7]);
    assert_eq!(said(Some(0), &ping)[..3], [PEER_VERSIONS.newest, 1, 7]);
    let read = read(&said(None, &ping), &[0]).expect("it has a header");
    assert_eq!((read.epoch, read.message), (None, None));
}

#[test]
fn the_bytes_of_a_feed_stay_the_same() {
    use crate::replica::epochs::{Fed, Feed};
    use crate::types::{Deps, Executed, InstanceId, ReplicaId, Time};
    let deps = || Deps::from_slots([0, 300, 5]);
    let mut have = Executed::up_to(deps());
    assert!(have.extend(ReplicaId::from_index(2), 8, 9));
    let id = InstanceId::new(ReplicaId::from_index(1), 17);
    let fed = Fed { id, batch: golden::batch(), ends_component: true };
    let sent = Time::from_nanos(2);
    let (feed, floor) = (7, Some(deps()));
    let all = [
        (Feed::Look { sent, executed: deps() }, "01 0200000000000000 03 00ac0205".to_owned()),
        (Feed::Here { echo: sent, executed: deps() }, "02 0200000000000000 03 00ac0205".to_owned()),
        (Feed::Ask { feed, have }, "03 0700000000000000 03 00ac0205 00 00 01 0202".to_owned()),
        (
            Feed::Piece { feed, number: 3, executions: vec![fed], floor },
            format!("04 0700000000000000 03 01 0211 {} 01 01 03 00ac0205", golden::BATCH),
        ),
        (Feed::Got { feed, pieces: 300 }, "05 0700000000000000 ac02".to_owned()),
        (Feed::Behind { feed, at_least: deps() }, "06 0700000000000000 03 00ac0205".to_owned()),
    ];
    for (feed, bytes) in all {
        let frame = said(Some(0), &epochs::Message::Feed(feed));
        assert_eq!(frame, golden::hex(&format!("03 01 07 0c {bytes}")), "{frame:02x?}");
    }
}

#[test]
fn an_observer_names_only_so_many_ranges() {
    use crate::replica::epochs::{Feed, MAX_RANGES};
    use crate::types::{Executed, ReplicaId};
    let ask = |ranges: usize| {
        let mut have = Executed::none(3);
        for range in 1..=ranges as u64 {
            assert!(have.extend(ReplicaId::from_index(0), range * 2, range * 2));
        }
        read(&said(Some(0), &epochs::Message::Feed(Feed::Ask { feed: 1, have })), &[0])
    };
    assert!(ask(MAX_RANGES).is_ok());
    let refused = ask(MAX_RANGES + 1).expect_err("it would take memory at the feeder");
    assert!(matches!(refused.flaw(), Flaw::TooMany { what: "ranges", .. }), "{refused}");
}
