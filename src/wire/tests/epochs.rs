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
    fn all_else_is_read_only_where_the_list_is_known(message in any::peer(3), epoch: u16) {
        let (epoch, held) = (u32::from(epoch), LogPosition::new(7));
        let message = epochs::Message::Core(message);
        let frame = said(Some(epoch), &message);
        let unread = Said { epoch: Some(epoch), held, message: None };
        prop_assert_eq!(read(&frame, &[]), Ok(unread.clone()));
        prop_assert_eq!(read(&frame, &[epoch + 1]), Ok(unread));
        let expected = Said { epoch: Some(epoch), held, message: Some(message) };
        prop_assert_eq!(read(&frame, &[epoch + 1, epoch]), Ok(expected));
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
