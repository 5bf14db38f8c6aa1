//! A client slows down only itself when it asks for large values, does not read its answers, or
//! asks too often.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::*;
use isonomy::LocalCluster;
use isonomy::client::{Client, ClientConfig};
use isonomy::internals::mesh::{self, ClientEndpoint, WanControl};
use isonomy::internals::wire::{Ask, CLIENT_VERSIONS, Request, encode_request};
use isonomy::machine::{Kv, KvCommand, KvOutput};
use isonomy::node::Limits;
use isonomy::types::{ClientId, Consistency, MemberId, RequestId};

const NAME: &str = LocalCluster::<Kv>::NAME;
const MIB: usize = 1 << 20;

fn config(cluster: &LocalCluster<Kv>, name: &str) -> ClientConfig {
    let credentials = cluster.client_credentials(name).unwrap();
    let mut config = ClientConfig::new(NAME, name, credentials, cluster.addrs());
    config.network.local = Some("127.0.0.1:0".parse().unwrap());
    config.attempt = PATIENCE;
    config.patience = PATIENCE;
    config
}

fn first() -> MemberId {
    MemberId::new(1).unwrap()
}

async fn with_large_value(limits: Limits) -> (LocalCluster<Kv>, KvOutput) {
    let cluster = LocalCluster::<Kv>::builder(1).limits(limits).start().await.unwrap();
    let large = "x".repeat(MIB);
    assert_eq!(cluster.replica(1).propose(put("large", &large)).await, Ok(KvOutput::Done));
    (cluster, value(&large))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_longer_than_the_connection_takes_are_waited_for() {
    let (cluster, large) = with_large_value(Limits::default()).await;
    let client = Client::<Kv>::connect(config(&cluster, "alice")).await.unwrap();
    // The first answers are small, so they do not announce what follows.
    for _ in 0..200 {
        client.execute(put("small", "x")).await.unwrap();
        client.read(get("small"), Consistency::Local).await.unwrap();
    }
    for consistency in [Consistency::Local, Consistency::Linearizable] {
        let all: Vec<_> = (0..64)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.read(get("large"), consistency).await })
            })
            .collect();
        for answer in all {
            assert_eq!(answer.await.unwrap().unwrap(), large);
        }
    }
    assert_eq!(client.connected().len(), 1, "still the first connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_longer_than_the_connection_takes_are_waited_for() {
    let (cluster, _) = with_large_value(Limits::default()).await;
    let client = Client::<Kv>::connect(config(&cluster, "alice")).await.unwrap();
    let large = bytes("y".repeat(MIB));
    let all: Vec<_> = (0..32)
        .map(|i| {
            let (client, key, value) = (client.clone(), bytes(format!("k{i}")), large.clone());
            tokio::spawn(async move { client.execute(KvCommand::Put { key, value }).await })
        })
        .collect();
    for answer in all {
        assert_eq!(answer.await.unwrap(), Ok(KvOutput::Done));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_line_is_not_asked_of_the_others_too() {
    const READS: usize = 24;
    let wan = WanControl::uniform(1, 2, Duration::from_millis(10));
    let cluster = LocalCluster::<Kv>::builder(2).wan(wan.clone()).start().await.unwrap();
    let large = "x".repeat(MIB);
    assert_eq!(cluster.replica(1).propose(put("large", &large)).await, Ok(KvOutput::Done));
    let mut config = config(&cluster, "alice");
    config.attempt = Duration::from_secs(2);
    config.prefer = Some(first());
    config.network.wan = Some(wan.at(1));
    // About 6 MiB in one second.
    config.network.limits.stream_window_bytes = 128 << 10;
    let client = Client::<Kv>::connect(config).await.unwrap();
    let all: Vec<_> = (0..READS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.read(get("large"), Consistency::Local).await })
        })
        .collect();
    for answer in all {
        assert_eq!(answer.await.unwrap().unwrap(), value(&large));
    }
    let mut reads = 0;
    for replica in cluster.live() {
        reads += replica.metrics().await.unwrap().local_reads;
    }
    assert_eq!(reads, READS as u64, "each once");
}

fn read_of_large(sequence: u64) -> Bytes {
    let payload = isonomy::machine::encode(&get("large")).unwrap();
    let request = RequestId::new(ClientId(9), sequence);
    let request = Request { request, floor: 0, ask: Ask::ReadLocal(payload) };
    let mut frame = BytesMut::new();
    encode_request(CLIENT_VERSIONS.newest, &request, &mut frame);
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_gets_few_answers_and_is_cut_off() {
    const ASKED: u64 = 2000;
    let mut limits = Limits::default();
    limits.mesh.client_stall = Duration::from_secs(2);
    let (cluster, large) = with_large_value(limits).await;
    let credentials = cluster.client_credentials("eve").unwrap();
    let endpoint = ClientEndpoint::bind(mesh::ClientConfig::new(NAME, "eve", credentials)).unwrap();
    let mut channels = Vec::new();
    for _ in 0..8 {
        let channel = endpoint.connect(cluster.addrs()[&first()], first()).await.unwrap();
        (1..=ASKED).for_each(|sequence| channel.send(read_of_large(sequence)).unwrap());
        channels.push(channel);
    }
    // Meanwhile other clients get answers.
    let client = Client::<Kv>::connect(config(&cluster, "alice")).await.unwrap();
    for _ in 0..10 {
        assert_eq!(client.read(get("large"), Consistency::Local).await.unwrap(), large);
    }
    eventually("all are cut off", async || {
        channels.iter().all(|channel| channel.closed().is_some_and(|why| why.code() == Some(0x22)))
    })
    .await;
    let reads = cluster.replica(1).metrics().await.unwrap().local_reads;
    // Half of the 32 MiB that one certificate may use, plus what QUIC holds, plus the requests that
    // arrived before any answer.
    assert!(reads < 8 * 20, "{reads} of {} were answered to nobody", 8 * ASKED);
    assert_eq!(client.connected().len(), 1);
}

fn write_of(flood: usize, sequence: u64) -> Bytes {
    let client = ClientId::of("flood", flood as u64);
    let command = put(&format!("{flood}-{}", sequence % 4000), "x");
    let payload = isonomy::machine::encode(&command).unwrap();
    let request = RequestId::new(client, sequence);
    let request = Request { request, floor: 0, ask: Ask::Execute(payload) };
    let mut frame = BytesMut::new();
    encode_request(CLIENT_VERSIONS.newest, &request, &mut frame);
    frame.freeze()
}

/// How many commands the first replica executes while a client waits for one of its own commands.
/// The median of several tries.
async fn overtaken(cluster: &LocalCluster<Kv>, client: &Client<Kv>) -> u64 {
    let executed = async || cluster.replica(1).metrics().await.unwrap().executed;
    let mut counts = Vec::new();
    for _ in 0..21 {
        let before = executed().await;
        client.execute(put("slow", "x")).await.unwrap();
        counts.push(executed().await - before);
    }
    counts.sort_unstable();
    counts[counts.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_waits_for_itself() {
    const FLOODS: usize = 4;
    const UNDER_WAY: usize = 4000;
    let cluster = LocalCluster::<Kv>::builder(3).start().await.unwrap();
    let at_first = |name| {
        let mut config = config(&cluster, name);
        config.prefer = Some(first());
        config
    };
    let flooding = at_first("flood");
    let credentials = cluster.client_credentials("flood").unwrap();
    let endpoint = mesh::ClientConfig::new(NAME, "flood", credentials);
    let endpoint = ClientEndpoint::bind(endpoint).unwrap();
    // One task each: with one for each command, those would keep the slow client waiting here.
    for flood in 0..FLOODS {
        let mut channel = endpoint.connect(cluster.addrs()[&first()], first()).await.unwrap();
        let mut writes = (1..).map(move |sequence| write_of(flood, sequence));
        writes.by_ref().take(UNDER_WAY).for_each(|frame| channel.send(frame).unwrap());
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while channel.recv(&mut answers).await.is_ok() {
                for _ in answers.drain(..) {
                    channel.send(writes.next().unwrap()).unwrap();
                }
            }
        });
    }
    eventually("the flood", async || {
        cluster.replica(1).metrics().await.unwrap().executed > (4 * FLOODS * UNDER_WAY) as u64
    })
    .await;
    // Once with another certificate, and once with the same one.
    for config in [at_first("slow"), flooding] {
        let slow = Client::<Kv>::connect(config).await.unwrap();
        let overtaken = overtaken(&cluster, &slow).await;
        let all = FLOODS * UNDER_WAY;
        assert!(overtaken < all as u64 / 2, "{overtaken} of {all} came before one");
    }
}
