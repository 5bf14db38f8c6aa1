//! The cost of the codec: it encodes and decodes the messages of the commit path.
//!
//! The bar for a PreAccept of one command of 16 bytes: 60 ns to encode, 90 ns to decode.

mod common;

use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::{Pace, group};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isonomy::internals::protocol::epaxos::{CommitValue, Message};
use isonomy::internals::replica::PeerMessage;
use isonomy::internals::wire::{Limits, decode_peer, encode_peer};
use isonomy::types::{
    Ballot, Batch, ClientId, Command, Deps, Footprint, InstanceId, LogPosition, ReplicaId,
    RequestId,
};

const REPLICAS: usize = 5;
/// How far the sender's log is durable. The number takes three bytes.
const HELD: LogPosition = LogPosition::new(100_000);

fn batch(commands: u64) -> Arc<Batch> {
    let command = |sequence: u64| Command {
        request: RequestId::new(ClientId(0x9e37_79b9_7f4a_7c15), 100_000 + sequence),
        floor: 99_900,
        origin: ReplicaId::from_index(2),
        footprint: Footprint::write(&sequence.to_le_bytes()),
        payload: Bytes::from_static(b"sixteen bytes .."),
    };
    Batch::new((0..commands).map(command).collect())
}

fn messages() -> Vec<(&'static str, u64, Message)> {
    let id = InstanceId::new(ReplicaId::from_index(2), 40_000);
    let deps = || Deps::from_slots([39_990, 41_000, 39_999, 0, 40_123]);
    vec![
        ("pre_accept_1", 1, Message::PreAccept { id, batch: batch(1), deps: deps() }),
        ("pre_accept_64", 64, Message::PreAccept { id, batch: batch(64), deps: deps() }),
        ("pre_accept_ok", 1, Message::PreAcceptOk { id, deps: deps() }),
        ("accept_ok", 1, Message::AcceptOk { id, ballot: Ballot::OWNER }),
        ("commit", 1, Message::Commit { id, value: CommitValue::OwnersBatch, deps: deps() }),
    ]
}

/// How much does it cost to encode and decode a message?
fn wire(c: &mut Criterion) {
    let limits = Limits::new(REPLICAS);
    let answers = "a message of EPaxos' commit path to bytes";
    let mut encoding = group(c, "wire/encode", answers, Pace::PART);
    for (name, commands, message) in messages() {
        let message = PeerMessage::Protocol(message);
        let mut out = BytesMut::with_capacity(64 * 1024);
        encoding.throughput(Throughput::Elements(commands));
        encoding.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                out.clear();
                encode_peer(0, HELD, black_box(&message), &mut out);
                black_box(out.len())
            });
        });
    }
    encoding.finish();

    let answers = "and back, with every bound checked";
    let mut decoding = group(c, "wire/decode", answers, Pace::PART);
    for (name, commands, message) in messages() {
        let mut out = BytesMut::new();
        encode_peer(0, HELD, &PeerMessage::Protocol(message), &mut out);
        let frame = out.freeze();
        decoding.throughput(Throughput::Elements(commands));
        // Slicing the frame and dropping the message are not the codec's work, so they are not
        // measured. Batches are small, so that the messages stay in the cache as in a replica.
        decoding.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_batched(
                || frame.clone(),
                |frame| decode_peer::<Message>(frame, &limits),
                BatchSize::NumIterations(64),
            );
        });
    }
    decoding.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
