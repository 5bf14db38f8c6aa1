//! The mesh between two replicas in one process: the round trip of a tiny frame, and the number of
//! small frames per second. Both depend on whether the two ends run on one runtime in one thread or
//! each on its own thread.

mod common;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Pace, group};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::mesh::{
    Authority, ClientConnection, Dropped, Inbound, Lane, Mesh, MeshConfig,
};
use isonomy::types::MemberId;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

const CLUSTER: &str = "bench";
const FRAME_BYTES: usize = 64;
/// Frames that the sending core hands over before the runtime gets its turn. One step would hand
/// over about as many.
const BURST: u64 = 256;

/// One end. It answers or counts frames, and says when it has received enough.
#[derive(Default)]
struct End {
    mesh: OnceLock<Mesh>,
    /// Whether it answers every frame.
    echo: bool,
    received: AtomicU64,
    target: AtomicU64,
    reached: Notify,
    up: Notify,
}

struct Receiver(Arc<End>);

impl Inbound for Receiver {
    fn on_frames(&self, from: MemberId, frames: &mut Vec<Bytes>) {
        let end = &self.0;
        let count = frames.len() as u64;
        let target = end.target.load(Ordering::Relaxed);
        let received = end.received.fetch_add(count, Ordering::Relaxed) + count;
        let answer = end.echo || (received < target && count == 1);
        for frame in frames.drain(..) {
            black_box(&frame);
            if let (true, Some(mesh)) = (answer, end.mesh.get()) {
                mesh.send(from, Lane::Consensus, frame).expect("a ping-pong never fills a queue");
            }
        }
        if received >= target {
            end.reached.notify_one();
        }
    }

    fn on_peer_up(&self, _: MemberId, _: isonomy::types::Presence) {
        self.0.up.notify_one();
    }

    fn on_peer_down(&self, _: MemberId) {}

    fn on_client(&self, _: ClientConnection) {}
}

/// Two connected meshes. `far` runs on the runtime of `near`, or on its own thread.
struct Pair {
    runtime: Runtime,
    near: Arc<End>,
    far: Arc<End>,
}

impl Pair {
    fn new(own_thread: bool, echo: bool) -> Pair {
        let authority = Authority::new(CLUSTER).expect("a good name");
        let sockets: [UdpSocket; 2] =
            std::array::from_fn(|_| UdpSocket::bind("127.0.0.1:0").expect("loopback"));
        let peers: BTreeMap<MemberId, SocketAddr> = MemberId::all(2)
            .zip(&sockets)
            .map(|(id, socket)| (id, socket.local_addr().expect("bound")))
            .collect();
        let mut configs = MemberId::all(2).zip(sockets).map(|(id, socket)| {
            let issued = authority.issue_replica(id).expect("a certificate");
            let credentials = issued.credentials().expect("a root");
            let mut config = MeshConfig::new(CLUSTER, id, 1, peers[&id], credentials);
            (config.socket, config.peers) =
                (Some(socket), peers.iter().map(|(id, at)| (*id, (*at).into())).collect());
            config
        });
        let (one, two) = (configs.next().expect("two"), configs.next().expect("two"));
        let near = Arc::new(End::default());
        let far = Arc::new(End { echo, ..End::default() });
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(start(&near, one));
        if own_thread {
            let far = Arc::clone(&far);
            let (started, wait) = mpsc::channel();
            std::thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    start(&far, two).await;
                    started.send(()).expect("the bench waits");
                    std::future::pending::<()>().await
                });
            });
            wait.recv().expect("the thread starts");
        } else {
            runtime.block_on(start(&far, two));
        }
        runtime.block_on(near.up.notified());
        Pair { runtime, near, far }
    }

    /// Sends one frame back and forth `rounds` times.
    fn ping_pong(&self, rounds: u64) -> Duration {
        self.runtime.block_on(async {
            let near = &self.near;
            near.received.store(0, Ordering::Relaxed);
            near.target.store(rounds, Ordering::Relaxed);
            let start = Instant::now();
            send(near, Bytes::from_static(&[7; 16])).expect("connected");
            near.reached.notified().await;
            start.elapsed()
        })
    }

    /// Sends `count` frames one way, in bursts.
    fn pour(&self, count: u64) -> Duration {
        self.runtime.block_on(async {
            let frame = Bytes::from_static(&[7; FRAME_BYTES]);
            self.far.received.store(0, Ordering::Relaxed);
            self.far.target.store(count, Ordering::Relaxed);
            let start = Instant::now();
            let mut sent = 0;
            while sent < count {
                for _ in 0..BURST.min(count - sent) {
                    match send(&self.near, frame.clone()) {
                        Ok(()) => sent += 1,
                        Err(Dropped::Full) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
                tokio::task::yield_now().await;
            }
            self.far.reached.notified().await;
            start.elapsed()
        })
    }
}

async fn start(end: &Arc<End>, config: MeshConfig) {
    let mesh = Mesh::start(config, Receiver(Arc::clone(end))).await.expect("a mesh");
    assert!(end.mesh.set(mesh).is_ok(), "started once");
}

fn send(end: &End, frame: Bytes) -> Result<(), Dropped> {
    let mesh = end.mesh.get().expect("started");
    mesh.send(MemberId::new(2).expect("not 0"), Lane::Consensus, frame)
}

/// What is the least latency of a protocol that asks another replica?
fn round_trip(c: &mut Criterion) {
    let answers = "a tiny frame to another replica and back: what the network takes of a latency";
    let mut group = group(c, "mesh_round_trip", answers, Pace::PART);
    for (name, own_thread) in [("one_runtime", false), ("two_threads", true)] {
        let pair = LazyCell::new(|| Pair::new(own_thread, true));
        group.bench_function(name, |b| b.iter_custom(|rounds| pair.ping_pong(rounds)));
    }
    group.finish();
}

/// How many messages per command can a protocol afford?
fn throughput(c: &mut Criterion) {
    const FRAMES: u64 = 100_000;
    let answers = "small frames a second, one way: what a message costs";
    let mut group = group(c, "mesh_throughput_64B", answers, Pace::LARGE);
    group.throughput(Throughput::Elements(FRAMES));
    for (name, own_thread) in [("one_runtime", false), ("two_threads", true)] {
        let pair = LazyCell::new(|| Pair::new(own_thread, false));
        group.bench_function(name, |b| {
            b.iter_custom(|times| (0..times).map(|_| pair.pour(FRAMES)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, round_trip, throughput);
criterion_main!(benches);
