//! What an inspection reports about a directory, sound or damaged.

use std::fs;
use std::sync::Arc;

use bytes::BytesMut;

use super::*;
use crate::storage::{LogOptions, MIN_SEGMENT_BYTES, SnapshotOptions, Store, StoreOptions};
use crate::types::{Batch, ClientId, Command, Deps, Footprint, MemberId, RequestId};
use crate::wire::encode_record;

fn replica(number: u8) -> ReplicaId {
    ReplicaId::new(number).expect("a number")
}

fn batch() -> Arc<Batch> {
    Batch::new(vec![Command {
        request: RequestId::new(ClientId(7), 1),
        floor: 0,
        origin: replica(2),
        footprint: Footprint::write(b"k"),
        payload: Bytes::from_static(b"payload"),
    }])
}

/// One instance in each phase, and one that was decided as `Nop`.
fn records() -> Vec<Record> {
    let id = |owner, slot| InstanceId::new(replica(owner), slot);
    let deps = || Deps::none(3);
    let value = || Value::Batch(batch());
    let ballot = Ballot::new(4, replica(3)).expect("a round");
    vec![
        Record::Reserved { up_to: 64 },
        Record::Joined { id: id(1, 9), ballot },
        Record::PreAccepted { id: id(2, 1), batch: batch(), initial: deps(), deps: deps() },
        Record::Committed { id: id(2, 1), value: value(), deps: deps() },
        Record::PreAccepted { id: id(2, 2), batch: batch(), initial: deps(), deps: deps() },
        Record::Accepted { id: id(2, 3), ballot, value: value(), deps: deps() },
        Record::Accepted { id: id(3, 1), ballot, value: Value::Nop, deps: deps() },
        Record::Committed { id: id(3, 1), value: Value::Nop, deps: deps() },
    ]
}

/// A directory with these records, and a snapshot between them.
fn directory(path: &Path) {
    let options = StoreOptions {
        cluster: "blue".into(),
        replica: MemberId::of(replica(2)),
        protocol: "epaxos".to_owned(),
        members: MemberId::all(3).collect(),
        joins: false,
        log: LogOptions { segment_bytes: MIN_SEGMENT_BYTES, ..LogOptions::default() },
        snapshots: SnapshotOptions::default(),
    };
    let disk = Arc::new(FileDisk::open(path).expect("a directory"));
    let opening = Store::open(disk, &options).expect("it opens");
    let mut store = opening.replay(&mut |_, _| Ok(())).expect("it is empty");
    for record in records() {
        let mut bytes = BytesMut::new();
        encode_record(1, &record, &mut bytes);
        store.log.append(&bytes).expect("there is room");
        store.log.flush().expect("it flushes");
    }
    let mut writer = store.snapshots.begin(LogPosition::new(3)).expect("a snapshot");
    let index = crate::protocol::epaxos::DroppedIndex::new(3);
    let none = || Deps::none(3);
    let (floor, cut, dropped) = (none(), none(), none());
    let checkpoint = crate::replica::Checkpoint {
        position: LogPosition::new(3),
        executed: Executed::up_to(Deps::from_slots([0, 4, 0])),
        shared: ProtocolSnapshot { floor, cut, dropped, index, decisions: Vec::new() },
        own: vec![Record::Reserved { up_to: 64 }.into()],
    };
    let state = crate::machine::Applier::new(crate::machine::Kv::new()).view();
    let state = |to: &mut dyn std::io::Write| state.write_to(to);
    let write = |bytes: &[u8]| writer.write(bytes);
    crate::wire::encode_snapshot(None, "blue", &checkpoint, state, write).expect("there is room");
    writer.finish().expect("it flushes");
    store.log.close().expect("it closes");
}

#[test]
fn instances_are_counted_by_owner_and_phase() {
    let home = tempfile::tempdir().expect("a directory");
    directory(home.path());
    let inspection = Inspection::of(home.path()).expect("it can be read");
    assert!(inspection.report.is_sound(), "{:?}", inspection.report.problems);
    assert_eq!((inspection.records, inspection.replicas), (8, Some(3)));
    assert_eq!(inspection.reserved, 64);
    let [one, two, three] = [1, 2, 3].map(|it| inspection.owners[&replica(it)].clone());
    let none = OwnersInstances::default();
    assert_eq!(one, OwnersInstances { highest: 9, initial: 1, highest_round: 4, ..none });
    assert_eq!(
        two,
        OwnersInstances {
            highest: 3,
            pre_accepted: 1,
            accepted: 1,
            committed: 1,
            highest_round: 4,
            ..none
        }
    );
    assert_eq!(three, OwnersInstances { highest: 1, nops: 1, highest_round: 4, ..none });
    assert_eq!(inspection.report.snapshots.len(), 1);
    let contents = inspection.contents[0].as_ref().expect("it is understood");
    assert_eq!((contents.sessions, contents.own), ((Era::FIRST, 0), 1));
    assert_eq!(contents.executed.floor(), &Deps::from_slots([0, 4, 0]));
}

/// Flips every byte that matters in every file. The report must name the file.
#[test]
fn damage_is_named_and_comes_with_advice() {
    let home = tempfile::tempdir().expect("a directory");
    directory(home.path());
    let sound = Inspection::of(home.path()).expect("it can be read");
    let used = sound.report.segments[0].used;
    for file in ["identity", "snapshot-00000000000000000003", &sound.report.segments[0].file] {
        let path = home.path().join(file);
        let bytes = fs::read(&path).expect("a file");
        let group = file.starts_with("log-").then_some(4096..usize::try_from(used).unwrap());
        for at in group.unwrap_or(0..bytes.len()).step_by(7) {
            let mut bent = bytes.clone();
            bent[at] ^= 0x10;
            fs::write(&path, &bent).expect("written");
            let found = Inspection::of(home.path()).expect("it can be read");
            assert!(!found.report.is_sound(), "{file}, byte {at}");
            let problem = &found.report.problems[0];
            assert!(problem.to_string().contains(file), "{file}, byte {at}: {problem}");
            let spare = file.starts_with("snapshot");
            let advice = found.advice(problem);
            assert_eq!(advice.contains("can start without"), spare, "{file}: {advice}");
        }
        fs::write(&path, &bytes).expect("written");
    }
}

#[test]
fn a_record_that_is_none_is_damage() {
    let home = tempfile::tempdir().expect("a directory");
    directory(home.path());
    let mut instances = Instances::default();
    assert!(instances.take(&[1, 1, 0x77]).is_err());
    assert_eq!(instances.records, 0);
}
