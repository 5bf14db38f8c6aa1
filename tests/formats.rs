//! Files of earlier versions can still be read. `tests/fixtures/snapshot-1` has the directory of a
//! cluster's only replica, and a backup of it: snapshots of version 1, and states of version 3.
//! `tests/fixtures/identity-5` has an identity of version 5.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{get, value};
use isonomy::Replica;

use isonomy::internals::storage::{FileDisk, Identity, Met};
use isonomy::machine::{Applier, Kv, KvCommand, StateMachine, encode};
use isonomy::network::Authority;
use isonomy::node::{BackupOptions, RestoreOptions, Source, backup, restore};
use isonomy::types::{Began, ClientId, Command, Era, LogPosition, MemberId, ReplicaId, RequestId};

/// The number of commands in the snapshot. The log has one more.
const IN_SNAPSHOT: u64 = 40;

fn me() -> ReplicaId {
    ReplicaId::new(1).unwrap()
}

/// The command with this number. Three clients take turns. The values have different lengths, and
/// together they fill several chunks.
fn command(number: u64) -> Command {
    let text = |text: String| Bytes::from(text);
    let value = text("v".repeat(usize::try_from(number * number).unwrap()) + &number.to_string());
    let typed = match number % 4 {
        0 => KvCommand::Del { key: text(format!("k{}", number / 2)) },
        1 => KvCommand::Cas { key: text(format!("c{number}")), expected: None, value },
        _ => KvCommand::Put { key: text(format!("k{number}")), value },
    };
    Command {
        request: RequestId::new(ClientId(number % 3 + 1), number),
        floor: number.saturating_sub(9),
        origin: me(),
        footprint: Kv::footprint(&typed),
        payload: encode(&typed).unwrap(),
    }
}

/// The state after the commands up to this one.
fn applied(last: u64) -> Applier<Kv> {
    let mut applier = Applier::new(Kv::new()).keyed([7, 8]);
    (1..=last).for_each(|number| drop(applier.apply(&command(number), false)));
    applier
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("snapshot-1").join(name)
}

async fn start(directory: &Path) -> Replica<Kv> {
    let authority = Authority::new("kept").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    Replica::builder(Kv::new())
        .cluster("kept")
        .id(1)
        .peers([(1, socket.local_addr().unwrap())])
        .socket(socket)
        .tls(authority.issue_replica(MemberId::of(me())).unwrap().credentials().unwrap())
        .data_dir(directory)
        .start()
        .await
        .unwrap()
}

/// The replica continues from it, and its next snapshot restores to the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_a_snapshot_of_version_1_is_gone_on_from() {
    let home = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("directory")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), home.path().join(entry.file_name())).unwrap();
    }
    let replica = start(home.path()).await;
    assert_eq!(replica.digest().await.unwrap(), applied(IN_SNAPSHOT + 1).digest());
    let last = value(&("v".repeat(39 * 39) + "39"));
    assert_eq!(replica.propose(get("k39")).await, Ok(last));
    assert!(replica.snapshot().await.unwrap().position.records() > 1);
    let digest = replica.digest().await.unwrap();
    replica.shutdown().await;
    let replica = start(home.path()).await;
    assert_eq!(replica.digest().await.unwrap(), digest);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_version_1_is_restored() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("data");
    let as_it_was = RestoreOptions::default();
    let made = restore::<Kv>(fixture("backup"), &directory, MemberId::of(me()), &as_it_was);
    let made = made.unwrap();
    assert_eq!((made.source, made.era, made.sessions), (Source::Snapshot, Era::FIRST, 3));
    let replica = start(&directory).await;
    assert_eq!(replica.digest().await.unwrap(), applied(IN_SNAPSHOT).digest());
    replica.shutdown().await;
    // A new backup can be made of the result.
    let again = backup(Kv::new(), &directory, home.path().join("again"), &BackupOptions::default());
    assert_eq!(again.unwrap().sessions, 3);
}

/// It is read, and written in the present version from the next meeting on.
#[test]
fn an_identity_of_version_5_is_gone_on_from() {
    let home = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("identity-5/identity"), home.path().join("identity")).unwrap();
    let disk = FileDisk::open(home.path()).unwrap();
    let mut identity = Identity::read(&disk).unwrap().unwrap();
    let member = |number| MemberId::new(number).unwrap();
    let began = |life, at| Began { life, at: LogPosition::new(at) };
    assert_eq!((identity.cluster.as_str(), identity.replica), ("kept", member(2)));
    assert_eq!((identity.protocol.as_str(), identity.incarnation), ("multi-paxos", 2));
    assert_eq!((identity.directory, identity.origin), (0x4707_7f71_a539_bc6b, 0));
    assert_eq!(identity.members, MemberId::all(3).collect());
    let lives = [began(0x6a38_7bef_93ea_69fb, 0), began(0x667c_0264_3f50_cd71, 1)];
    assert_eq!(identity.chain.lives(), lives);
    let met = |directory| Met { directory, life: 0 };
    assert_eq!(identity.met, [(member(1), met(71)), (member(3), met(73))].into());
    assert_eq!((identity.outcast, identity.removed.as_ref()), (false, None));
    identity.meet(&disk, member(70_000), met(9)).unwrap();
    assert_eq!(Identity::read(&disk).unwrap().unwrap(), identity);
}
