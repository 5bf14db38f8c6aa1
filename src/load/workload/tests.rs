//! Properties of streams of commands.

use std::collections::HashSet;

use super::*;
use crate::machine::{Kv, StateMachine};

fn is_hot(key: Key) -> bool {
    key.name().starts_with(b"hot-")
}

fn draw(workload: &Workload, client: u32, count: usize) -> Vec<Op> {
    let mut stream = workload.client(client, &Population::of(&workload.keys));
    (0..count).map(|_| stream.next(Duration::ZERO)).collect()
}

#[test]
fn the_shares_are_as_asked_and_the_seed_decides() {
    let workload = Workload::demo(25.0, 40.0, 16, 1);
    let drawn = draw(&workload, 3, 20_000);
    let share = |count: usize| count as f64 / 200.0;
    let hot = share(drawn.iter().filter(|op| is_hot(op.asks[0].0)).count());
    let reads = share(drawn.iter().filter(|op| op.kind == Kind::Read).count());
    assert!((24.0..26.0).contains(&hot) && (38.5..41.5).contains(&reads), "{hot} {reads}");
    assert_eq!(drawn, draw(&workload, 3, 20_000));
    assert_ne!(drawn, draw(&Workload { seed: 2, ..workload }, 3, 20_000));
}

#[test]
fn every_kind_comes_as_often_as_asked() {
    let shares = [10.0, 20.0, 5.0, 25.0, 40.0];
    let sorts = [Sort::Get, Sort::Put, Sort::Insert, Sort::Scan, Sort::Modify];
    let mix = Mix(sorts.into_iter().zip(shares).collect());
    let keys = Keys::Zipf { keys: 100, theta: 0.99 };
    let workload = Workload { keys, mix, ..Workload::default() };
    let drawn = draw(&workload, 0, 20_000);
    for (kind, wanted) in Kind::ALL.into_iter().zip(shares) {
        let share = drawn.iter().filter(|op| op.kind == kind).count() as f64 / 200.0;
        assert!((share - wanted).abs() < 1.5, "{kind:?}: {share}");
    }
    let inserted: Vec<Key> =
        drawn.iter().filter(|op| op.kind == Kind::Insert).map(|op| op.asks[0].0).collect();
    assert!(inserted.iter().copied().eq((100..).map(Key::of_table).take(inserted.len())));
    let is_twice = |op: &Op| op.then.as_ref().is_some_and(|then| then[0].0 == op.asks[0].0);
    assert!(drawn.iter().all(|op| (op.kind == Kind::Modify) == is_twice(op)));
}

#[test]
fn values_are_unique_and_clients_keep_to_their_keys() {
    let workload = Workload::demo(10.0, 0.0, 16, 1);
    let (mut values, mut owners) = (HashSet::new(), [HashSet::new(), HashSet::new()]);
    for client in 0..2 {
        for (key, ask) in draw(&workload, client, 5_000).into_iter().flat_map(|op| op.asks) {
            if let Ask::Put(value) | Ask::Cas(_, value) = ask {
                assert!(values.insert(value), "{value:?} twice");
            }
            if !is_hot(key) {
                owners[client as usize].insert(key.name());
            }
        }
    }
    assert!(owners[0].is_disjoint(&owners[1]));
}

#[test]
fn alone_a_client_always_knows_its_keys() {
    let workload = Workload::demo(2.0, 30.0, 21, 1);
    let (mut stream, mut store) = (workload.client(0, &Population::of(&workload.keys)), Kv::new());
    for _ in 0..2_000 {
        let op = stream.next(Duration::ZERO);
        let (key, ask) = op.asks[0];
        let known = stream.seen(key);
        let output = store.apply(stream.command(&op.asks));
        let answer = stream.answered(&op.asks, &output)[0];
        match ask {
            Ask::Get => assert_eq!(answer, Answer { ok: true, found: known }),
            Ask::Put(_) | Ask::Cas(..) => assert!(answer.ok, "{ask:?}: {answer:?}"),
            Ask::Del => assert_eq!(answer.ok, known != Written::NOTHING),
        }
    }
}

#[test]
fn commands_of_many_keys_are_asked_and_answered_key_by_key() {
    for keys in [Keys::Uniform { keys: 30 }, Keys::Conflict { percent: 50.0, hot: 2, age: None }] {
        let workload =
            Workload { keys, keys_per_command: 5, mix: Mix::reads(50.0), ..Workload::default() };
        workload.check().expect("a good workload");
        let mut stream = workload.client(0, &Population::of(&keys));
        let (mut store, mut known) = (Kv::new(), std::collections::HashMap::new());
        for _ in 0..500 {
            let op = stream.next(Duration::ZERO);
            let distinct: HashSet<Key> = op.asks.iter().map(|(key, _)| *key).collect();
            assert_eq!((op.asks.len(), distinct.len()), (5, 5));
            let output = store.apply(stream.command(&op.asks));
            for ((key, ask), answer) in op.asks.iter().zip(stream.answered(&op.asks, &output)) {
                match ask {
                    Ask::Put(written) => drop(known.insert(*key, *written)),
                    _ => {
                        let wanted = known.get(key).copied().unwrap_or(Written::NOTHING);
                        assert_eq!(answer, Answer { ok: true, found: wanted });
                    }
                }
            }
        }
    }
}

#[test]
fn a_namespace_keeps_keys_apart() {
    let workload = Workload { namespace: 0xab, ..Workload::default() };
    let stream = workload.client(0, &Population::of(&workload.keys));
    let asks = [(Key(3), Ask::Get), (Key(4), Ask::Get)];
    assert_eq!(stream.command(&asks[..1]), KvCommand::Get { key: "ab/hot-3".into() });
    let keys = vec!["ab/hot-3".into(), "ab/hot-4".into()];
    assert_eq!(stream.command(&asks), KvCommand::GetMany { keys });
}

#[test]
fn an_answer_to_something_else_is_strange() {
    let workload = Workload::default();
    let mut stream = workload.client(0, &Population::of(&workload.keys));
    let asked = |key| (Key(key), Ask::Get);
    let value = KvOutput::Value(Some("zz".into()));
    for (asks, output) in [
        (vec![asked(0)], value.clone()),
        (vec![asked(0)], KvOutput::Done),
        (vec![asked(0), asked(1)], value),
    ] {
        let answers = stream.answered(&asks, &output);
        assert_eq!(answers.len(), asks.len());
        assert!(answers.iter().all(|answer| answer.found == Written::STRANGE));
    }
}

#[test]
fn a_workload_that_makes_no_sense_is_refused() {
    let good = Workload::default();
    assert_eq!(good.check(), Ok(()));
    let zipf = |keys, theta| Keys::Zipf { keys, theta };
    for bad in [
        Workload::demo(101.0, 30.0, 16, 1),
        Workload::demo(2.0, f64::NAN, 16, 1),
        Workload::demo(2.0, 30.0, 15, 1),
        Workload { mix: Mix(vec![(Sort::Get, 50.0)]), ..good.clone() },
        Workload { keys: zipf(0, 0.99), ..good.clone() },
        Workload { keys: zipf(10, -1.0), ..good.clone() },
        Workload { keys: zipf(10, 0.99), keys_per_command: 11, ..good.clone() },
        Workload { keys_per_command: 0, ..good.clone() },
        Workload { values: Sizes::Fixed(MAX_BYTES + 1), ..good },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}
