//! What the storage does when its disk or its process ends during an operation.

use super::*;
use crate::protocol::epaxos::Record;
use crate::types::{Ballot, InstanceId};

fn open_room() -> Room<Record> {
    let plan =
        StoragePlan { segment_bytes: 16 * 1024, os: false, snapshots: None, keep: 0, lies: false };
    Room::new(&plan, "epaxos", 3, ReplicaId::from_index(0), 1)
}

fn append(room: &mut Room<Record>, slots: std::ops::Range<u64>) {
    for slot in slots {
        let id = InstanceId::new(ReplicaId::from_index(1), slot + 1);
        room.append(&Record::Joined { id, ballot: Ballot::OWNER }).unwrap();
    }
}

fn begin(room: &mut Room<Record>, position: u64) {
    let position = LogPosition::new(position);
    // The number has eight bytes; the rest is the state.
    let (bytes, state) = (Bytes::from(vec![7; 300]), View::from(vec![7; 292]));
    if room.begin_snapshot(position, bytes, state).unwrap() {
        room.divide(position).unwrap();
    }
}

fn finish(room: &mut Room<Record>) {
    let cut = room.finish_snapshot(None).unwrap();
    room.cut_log(cut).unwrap();
}

/// A replica installs another's state and writes an own snapshot of it, which is damaged. The own
/// snapshot from before and the records after it do not contain the installed state. Starting from
/// them would take back what the others have been told.
#[test]
fn only_where_nothing_was_installed_an_older_snapshot_stands_in_for_a_damaged_one() {
    for installed in [false, true] {
        let mut room = open_room();
        append(&mut room, 0..3);
        room.flush().unwrap();
        begin(&mut room, 3);
        finish(&mut room);
        append(&mut room, 3..5);
        if installed {
            room.installed();
        }
        begin(&mut room, 5);
        assert_eq!(room.divides_at(), installed.then_some(5), "not before it is flushed");
        room.flush().unwrap();
        assert_eq!(room.divides_at(), None);
        append(&mut room, 5..6);
        room.flush().unwrap();
        finish(&mut room);
        room.end(Ending::Power, None);
        let file = format!("snapshot-{:020}", 5);
        room.turn(&Flip { file, offset: 100, mask: 1, byte: 0 });
        match room.open(None).unwrap() {
            Opened::Ready { records, .. } => assert_eq!((installed, records.len()), (false, 3)),
            Opened::Refused(error) => assert!(installed, "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

/// The process crashes at any moment between the start of such a snapshot's end and the cut after
/// it. The next life makes the cut, or starts where nothing was announced yet.
#[test]
fn a_cut_that_was_not_made_is_made_by_the_next_life() {
    let (mut made_up, mut earlier) = (0, 0);
    for operations in 0..16 {
        let mut room = open_room();
        append(&mut room, 0..3);
        room.flush().unwrap();
        begin(&mut room, 3);
        finish(&mut room);
        append(&mut room, 3..5);
        room.flush().unwrap();
        room.installed();
        begin(&mut room, 5);
        let done = room.finish_snapshot(Some(operations));
        let cut = done.as_ref().map_or(Ok(false), |cut| room.cut_log(*cut));
        let dead = room.is_dead();
        assert_eq!(dead, done.is_err() || cut.is_err());
        room.end(Ending::Killed, None);
        let Opened::Ready { records, .. } = room.open(None).unwrap() else {
            panic!("nothing is damaged")
        };
        let first = room.survey().unwrap().first;
        match records.len() {
            0 => assert_eq!(first, 5, "nothing older is left"),
            2 => assert_eq!(first, 0, "the older one needs its records"),
            other => panic!("{other} records"),
        }
        made_up += u32::from(dead && first == 5);
        earlier += u32::from(first == 0);
    }
    assert!(made_up > 1 && earlier > 1, "{made_up} and {earlier} of 16");
}
