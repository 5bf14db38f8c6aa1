//! Views of a state machine: they are written while commands are applied, there is one at a time,
//! and one that fails does no harm.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{PATIENCE, eventually};
use isonomy::Replica;
use isonomy::internals::storage::FaultyDisk;
use isonomy::machine::{RestoreError, StateMachine, View};
use isonomy::network::Authority;
use isonomy::node::SnapshotError;
use isonomy::types::{Footprint, MemberId};

/// What a view does when it is written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Writes,
    /// Writes half of the state, and waits for another [`Way`].
    Waits,
    Fails,
    Panics,
    /// Writes until it gets an error.
    NeverEnds,
}

/// What a test shares with the views of its machine.
struct Control {
    way: Mutex<Way>,
    changed: Condvar,
    /// How many views exist, and how many have been made.
    alive: AtomicUsize,
    made: AtomicUsize,
    /// The number of writes of views that never end.
    writes: AtomicUsize,
}

impl Control {
    fn new() -> Arc<Control> {
        let (way, changed) = (Mutex::new(Way::Writes), Condvar::new());
        let count = AtomicUsize::default;
        Arc::new(Control { way, changed, alive: count(), made: count(), writes: count() })
    }

    fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
        self.changed.notify_all();
    }

    fn write(&self, count: u64, to: &mut dyn Write) -> io::Result<()> {
        let bytes = count.to_le_bytes();
        let way = *self.way.lock().unwrap();
        to.write_all(&bytes[..4])?;
        match way {
            Way::Writes => {}
            Way::Waits => {
                let waits = |way: &mut Way| *way == Way::Waits;
                let way = self.way.lock().unwrap();
                drop(self.changed.wait_timeout_while(way, PATIENCE, waits).unwrap());
            }
            Way::Fails => return Err(io::Error::other("the database is gone")),
            Way::Panics => panic!("a view lost its head"),
            Way::NeverEnds => loop {
                to.write_all(&[0; 4096])?;
                self.writes.fetch_add(1, Ordering::Relaxed);
            },
        }
        to.write_all(&bytes[4..])
    }
}

/// A number. With a control, its views do what that says.
struct Counter {
    count: u64,
    control: Option<Arc<Control>>,
}

/// Counts a view while it exists.
struct Alive(Arc<Control>);

impl Alive {
    fn new(control: &Arc<Control>) -> Alive {
        control.alive.fetch_add(1, Ordering::Relaxed);
        control.made.fetch_add(1, Ordering::Relaxed);
        Alive(Arc::clone(control))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StateMachine for Counter {
    type Command = u64;
    type Output = u64;

    fn footprint(more: &u64) -> Footprint {
        if *more == 0 { Footprint::read(b"count") } else { Footprint::write(b"count") }
    }

    fn apply(&mut self, more: u64) -> u64 {
        self.count += more;
        self.count
    }

    fn snapshot(&self) -> Vec<u8> {
        self.count.to_le_bytes().into()
    }

    fn view(&self) -> View {
        let Some(control) = &self.control else { return self.snapshot().into() };
        let (count, alive) = (self.count, Alive::new(control));
        View::new(move |to| alive.0.write(count, to))
    }

    fn restore(snapshot: &[u8]) -> Result<Counter, RestoreError> {
        let bytes = snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?;
        Ok(Counter { count: u64::from_le_bytes(bytes), control: None })
    }

    fn restore_from(from: &mut dyn Read) -> Result<Counter, RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        Counter::restore(&bytes)
    }
}

async fn start(disk: &FaultyDisk, control: Option<&Arc<Control>>) -> Replica<Counter> {
    let (authority, id) = (Authority::new("views").unwrap(), MemberId::new(1).unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    Replica::builder(Counter { count: 0, control: control.cloned() })
        .cluster("views")
        .id(1)
        .peers([(1, socket.local_addr().unwrap())])
        .socket(socket)
        .tls(authority.issue_replica(id).unwrap().credentials().unwrap())
        .disk(Arc::new(disk.clone()))
        .start()
        .await
        .unwrap()
}

fn nothing_is_left(disk: &FaultyDisk) -> bool {
    disk.files().keys().all(|name| !name.starts_with("snapshot-unfinished"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_applied_while_a_view_is_written_and_there_is_one_at_a_time() {
    let (disk, control) = (FaultyDisk::new(7, 1 << 30), Control::new());
    let replica = start(&disk, Some(&control)).await;
    assert_eq!(replica.propose(5).await, Ok(5));
    control.set(Way::Waits);
    let first = tokio::spawn({
        let replica = replica.clone();
        async move { replica.snapshot().await }
    });
    eventually("a view is written", async || control.alive.load(Ordering::Relaxed) == 1).await;
    // Another snapshot is requested meanwhile.
    let second = tokio::spawn({
        let replica = replica.clone();
        async move { replica.snapshot().await }
    });
    for count in 6..=100 {
        assert_eq!(replica.propose(1).await, Ok(count));
    }
    assert!(!first.is_finished() && !second.is_finished());
    let views = [&control.alive, &control.made].map(|it| it.load(Ordering::Relaxed));
    assert_eq!(views, [1, 1]);
    control.set(Way::Writes);
    let first = first.await.unwrap().unwrap();
    let second = second.await.unwrap().unwrap();
    assert!(first.position < second.position);
    assert_eq!(control.made.load(Ordering::Relaxed), 2);
    assert_eq!(replica.propose(1).await, Ok(101));
    replica.shutdown().await;
    assert_eq!(control.alive.load(Ordering::Relaxed), 0);
    // The older snapshot has the state of the moment at which its view was made.
    disk.flip(&second.file, 90, 0x10);
    let replica = start(&disk, None).await;
    assert_eq!(replica.propose(0).await, Ok(101));
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_fails_or_panics_is_said_and_nothing_else_is_lost() {
    let (disk, control) = (FaultyDisk::new(7, 1 << 30), Control::new());
    let replica = start(&disk, Some(&control)).await;
    let mut count = 0;
    for (way, cause) in [
        (Way::Fails, "the database is gone"),
        (Way::Panics, "its view panicked: a view lost its head"),
        (Way::Fails, "the database is gone"),
    ] {
        count += 1;
        assert_eq!(replica.propose(1).await, Ok(count));
        control.set(way);
        let error = replica.snapshot().await.unwrap_err();
        assert!(matches!(&error, SnapshotError::State(why) if why == cause), "{error}");
        assert!(nothing_is_left(&disk) && control.alive.load(Ordering::Relaxed) == 0);
        count += 1;
        assert_eq!(replica.propose(1).await, Ok(count));
        control.set(Way::Writes);
        replica.snapshot().await.unwrap();
    }
    let snapshots = replica.metrics().await.unwrap().snapshots;
    assert_eq!((snapshots.taken, snapshots.failed), (3, 3));
    replica.shutdown().await;
    let replica = start(&disk, None).await;
    assert_eq!(replica.propose(0).await, Ok(count));
    replica.shutdown().await;
}

/// A full disk ends it, and so does a replica that stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_never_ends_holds_nobody_up() {
    let (disk, control) = (FaultyDisk::new(7, 1 << 30), Control::new());
    let replica = start(&disk, Some(&control)).await;
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_capacity(used as u64 + (140 << 20));
    control.set(Way::NeverEnds);
    let error = replica.snapshot().await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert!(nothing_is_left(&disk));
    assert_eq!(replica.propose(3).await, Ok(3));

    disk.set_capacity(1 << 40);
    let before = control.writes.load(Ordering::Relaxed);
    let asked = tokio::spawn({
        let replica = replica.clone();
        async move { replica.snapshot().await }
    });
    let writes = || control.writes.load(Ordering::Relaxed);
    eventually("it is written", async || writes() > before + 100).await;
    assert_eq!(replica.propose(3).await, Ok(6));
    tokio::time::timeout(Duration::from_secs(60), replica.shutdown()).await.unwrap();
    assert!(asked.await.unwrap().is_err());
    assert_eq!(control.alive.load(Ordering::Relaxed), 0);
    control.set(Way::Writes);
    let replica = start(&disk, None).await;
    assert!(nothing_is_left(&disk));
    assert_eq!(replica.propose(0).await, Ok(6));
    replica.shutdown().await;
}
