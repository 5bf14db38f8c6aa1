//! Each command is executed once, in any order, whatever its bytes.

use proptest::prelude::*;

use super::*;
use crate::machine::state::{BEFORE_CONTENTS, ON_DISK};
use crate::machine::{Kv, KvCommand, KvOutput, RESULTS, encode};
use crate::types::ClientId;

pub(super) fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn get(name: &str) -> KvCommand {
    KvCommand::Get { key: key(name) }
}

pub(super) fn put(name: &str, value: &str) -> KvCommand {
    KvCommand::Put { key: key(name), value: key(value) }
}

pub(super) fn cas(name: &str, expected: Option<&str>, value: &str) -> KvCommand {
    KvCommand::Cas { key: key(name), expected: expected.map(key), value: key(value) }
}

/// A command as a client of replica 1 sends it.
pub(super) fn request(client: u64, sequence: u64, command: &KvCommand) -> Command {
    Command {
        request: RequestId::new(ClientId(client), sequence),
        floor: 0,
        origin: ReplicaId::from_index(0),
        footprint: Kv::footprint(command),
        payload: encode(command).expect("a plain command"),
    }
}

pub(super) fn apply(applier: &mut Applier<Kv>, command: Command) -> Applied {
    applier.apply(&command, true)
}

pub(super) fn output(applied: &Applied) -> KvOutput {
    match &applied.outcome {
        Outcome::Output(bytes) => decode(bytes).expect("an output of the store"),
        other => panic!("no output: {other:?}"),
    }
}

#[test]
fn a_duplicate_gets_the_first_result_and_has_no_effect() {
    let mut applier = Applier::new(Kv::new());
    let once = request(1, 1, &cas("a", None, "x"));
    let first = apply(&mut applier, once.clone());
    assert!(first.first);
    assert_eq!(output(&first), KvOutput::Swapped);
    apply(&mut applier, request(2, 1, &put("a", "y")));
    // The retry goes through another replica, which then answers it.
    let mut retry = once;
    retry.origin = ReplicaId::from_index(2);
    let again = apply(&mut applier, retry);
    assert_eq!((again.first, again.origin.number()), (false, 3));
    assert_eq!(output(&again), KvOutput::Swapped);
    assert_eq!(applier.machine().get(b"a"), Some(&key("y")));
}

/// One client has two commands in progress that do not conflict, and a floor; replica 2 executes
/// them in reverse order. If "below the last sequence" or "below the floor" meant executed, it
/// would skip the first for ever.
#[test]
fn no_command_is_skipped_because_a_later_one_of_its_client_came_first() {
    let first = request(1, 1, &put("a", "1"));
    let mut second = request(1, 2, &put("b", "2"));
    second.floor = 2;
    let mut one = Applier::new(Kv::new());
    let mut two = Applier::new(Kv::new());
    apply(&mut one, first.clone());
    apply(&mut one, second.clone());
    apply(&mut two, second);
    let late = apply(&mut two, first);
    assert!(late.first);
    assert_eq!(output(&late), KvOutput::Done);
    assert_eq!(two.machine().get(b"a"), Some(&key("1")));
    assert_eq!(one.digest(), two.digest());
    assert_eq!(one.snapshot(), two.snapshot());
}

#[test]
fn below_the_floor_the_result_is_gone_and_the_command_is_not_repeated() {
    let mut applier = Applier::new(Kv::new());
    let early = request(1, 1, &put("a", "1"));
    apply(&mut applier, early.clone());
    let mut later = request(1, 2, &put("a", "2"));
    later.floor = 2;
    apply(&mut applier, later);
    let again = apply(&mut applier, early);
    assert_eq!((again.first, again.outcome), (false, Outcome::Forgotten));
    assert_eq!(applier.machine().get(b"a"), Some(&key("2")));
}

#[test]
fn a_client_that_never_moves_its_floor_loses_old_results_only() {
    let mut applier = Applier::new(Kv::new());
    let many = RESULTS as u64 + 10;
    for sequence in 1..=many {
        apply(&mut applier, request(1, sequence, &put("a", "1")));
    }
    let again = |applier: &mut Applier<Kv>, sequence| {
        apply(applier, request(1, sequence, &put("a", "1"))).outcome
    };
    assert_eq!(again(&mut applier, 10), Outcome::Forgotten);
    assert!(matches!(again(&mut applier, 11), Outcome::Output(_)));
}

#[test]
fn a_retried_read_is_answered_from_the_present_state() {
    let mut applier = Applier::new(Kv::new());
    let read = request(1, 1, &get("a"));
    assert_eq!(output(&apply(&mut applier, read.clone())), KvOutput::Value(None));
    apply(&mut applier, request(2, 1, &put("a", "1")));
    let again = apply(&mut applier, read);
    assert_eq!(output(&again), KvOutput::Value(Some(key("1"))));
}

#[test]
fn what_a_read_saw_is_no_part_of_the_digest() {
    let [read, write] = [request(1, 1, &get("a")), request(2, 1, &put("a", "1"))];
    let mut one = Applier::new(Kv::new());
    apply(&mut one, read.clone());
    apply(&mut one, write.clone());
    let mut two = Applier::new(Kv::new());
    apply(&mut two, write);
    apply(&mut two, read);
    assert_eq!(one.digest(), two.digest());
}

#[test]
fn a_result_is_part_of_the_digest() {
    let run = |before: &str| {
        let mut applier = Applier::new(Kv::new());
        apply(&mut applier, request(1, 1, &put("a", before)));
        apply(&mut applier, request(1, 2, &cas("a", Some("x"), "z")));
        apply(&mut applier, request(1, 3, &put("a", "end")));
        applier
    };
    let [one, two] = ["x", "y"].map(run);
    assert_eq!(one.machine(), two.machine());
    assert_ne!(one.digest(), two.digest());
}

#[test]
fn commands_that_are_none_have_no_effect_and_say_so_each_time() {
    let mut applier = Applier::new(Kv::new());
    let empty = applier.machine().digest();
    let mut garbage = request(1, 1, &put("a", "1"));
    garbage.payload = Bytes::from_static(&[250, 1, 2]);
    let mut trailing = request(1, 2, &put("a", "1"));
    trailing.payload = [&trailing.payload[..], &[0]].concat().into();
    for bad in [garbage, trailing] {
        for _ in 0..2 {
            let applied = apply(&mut applier, bad.clone());
            assert!(!applied.first);
            let outcome = applied.outcome;
            assert!(matches!(outcome, Outcome::Refused(Refusal::Undecodable(_))), "{outcome:?}");
        }
    }
    assert_eq!(applier.machine().digest(), empty);
    assert!(applier.sessions().is_empty(), "no trace");
}

#[test]
fn a_command_that_understates_its_footprint_is_refused() {
    let mut applier = Applier::new(Kv::new());
    let command = put("a", "1");
    let understated = [Footprint::nothing(), Footprint::read(b"a"), Footprint::write(b"b")];
    for (sequence, footprint) in (1..).zip(understated) {
        let mut command = request(1, sequence, &command);
        command.footprint = footprint;
        let outcome = apply(&mut applier, command).outcome;
        assert_eq!(outcome, Outcome::Refused(Refusal::Footprint));
    }
    assert!(applier.machine().is_empty());
    let mut overstated = request(1, 9, &command);
    overstated.footprint = Footprint::Everything;
    assert_eq!(output(&apply(&mut applier, overstated)), KvOutput::Done);
}

#[test]
fn a_request_that_is_skipped_leaves_no_trace() {
    let [mut with, mut without] = [(); 2].map(|()| Applier::new(Kv::new()));
    let (before, bad) = (request(1, 1, &put("a", "1")), request(1, 2, &put("a", "2")));
    with.skip([bad.request]);
    for applier in [&mut with, &mut without] {
        apply(applier, before.clone());
    }
    for _ in 0..2 {
        let skipped = apply(&mut with, bad.clone());
        let refused = Outcome::Refused(Refusal::Skipped);
        assert_eq!((skipped.outcome, skipped.first), (refused, false));
    }
    assert_eq!(with.snapshot(), without.snapshot());
    assert!(apply(&mut with, request(1, 3, &put("a", "3"))).first);
}

#[test]
fn local_reads_read_and_nothing_else() {
    let mut applier = Applier::new(Kv::new());
    apply(&mut applier, request(1, 1, &put("a", "1")));
    let before = applier.digest();
    let answer = applier.read(&encode(&get("a")).expect("plain")).expect("a read");
    assert_eq!(decode(&answer), Ok(KvOutput::Value(Some(key("1")))));
    let write = encode(&put("a", "2")).expect("plain");
    assert_eq!(applier.read(&write), Err(ReadError::Writes));
    assert!(matches!(applier.read(&[99]), Err(ReadError::Codec(_))));
    assert_eq!(applier.digest(), before);
}

#[test]
fn a_restored_applier_still_knows_who_was_served() {
    let mut applier = Applier::new(Kv::new());
    let command = request(7, 3, &cas("a", None, "1"));
    apply(&mut applier, command.clone());
    let snapshot = applier.snapshot();
    let mut restored: Applier<Kv> = Applier::restore(&snapshot).expect("its own snapshot");
    assert_eq!((restored.digest(), restored.snapshot()), (applier.digest(), snapshot.clone()));
    let again = apply(&mut restored, command);
    assert!(!again.first);
    assert_eq!(output(&again), KvOutput::Swapped);

    for cut in 0..snapshot.len() {
        assert!(Applier::<Kv>::restore(&snapshot[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&snapshot[..], &[0]].concat();
    assert!(Applier::<Kv>::restore(&longer).is_err(), "one byte too many");
    let mut newer = snapshot;
    newer[0] = 6;
    let error = Applier::<Kv>::restore(&newer).expect_err("another version");
    assert_eq!(error.to_string(), "not a usable snapshot: version 6, not 2 to 5");
}

/// Commands go on, sessions begin, grow and are closed, and a view is written only then.
#[test]
fn a_view_is_of_its_moment() {
    let mut applier = Applier::new(Kv::new());
    for client in 0..2000 {
        apply(&mut applier, request(client, 1, &put(&client.to_string(), "before")));
    }
    let (digest, snapshot, view) = (applier.digest(), applier.snapshot(), applier.view());
    for client in 1000..3000 {
        apply(&mut applier, request(client, 2, &put(&client.to_string(), "after")));
    }
    apply(&mut applier, Era::FIRST.close(0, ReplicaId::from_index(0)));
    assert_ne!(applier.digest(), digest);
    let mut written = Vec::new();
    view.write_to(&mut written).expect("memory takes all");
    assert!(written == snapshot);
    let restored: Applier<Kv> = Applier::restore(&written).expect("its own snapshot");
    assert_eq!(restored.digest(), digest);
}

fn writes(command: &Command) -> bool {
    // The cluster's own commands have no payload but an effect.
    decode(&command.payload).map_or(true, |typed| !Kv::footprint(&typed).is_read_only())
}

/// A few clients and keys, so that commands conflict, repeat and carry floors; some reuse the id of
/// another.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    let typed = (0..4u8, "[ab]", "[xy]", proptest::option::of("[xy]")).prop_map(
        |(kind, name, value, expected)| match kind {
            0 => get(&name),
            1 => put(&name, &value),
            2 => KvCommand::Del { key: key(&name) },
            _ => cas(&name, expected.as_deref(), &value),
        },
    );
    let floors = proptest::collection::vec((0..2u64, 0..3u64), 1..14);
    (floors, proptest::collection::vec(typed, 14)).prop_map(|(floors, typed)| {
        let numbered = (1u64..).zip(floors).zip(typed);
        numbered
            .map(|((number, (client, floor)), typed)| {
                let number = if number % 5 == 0 { number - 2 } else { number };
                let mut command = request(client, number, &typed);
                command.floor = floor * 3;
                command
            })
            .collect()
    })
}

/// Another order of the same commands that keeps conflicting ones in order.
fn reorder(commands: &[Command], mut seed: u64) -> Vec<Command> {
    let mut left: Vec<&Command> = commands.iter().collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let free =
            |at: &usize| left[..*at].iter().all(|it| !it.footprint.conflicts(&left[*at].footprint));
        let choices: Vec<usize> = (0..left.len()).filter(free).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pick = usize::try_from((seed >> 33) % choices.len() as u64).expect("few choices");
        order.push(left.remove(choices[pick]).clone());
    }
    order
}

/// Eras end between the commands, and clients number in different eras.
fn commands_through_eras() -> impl Strategy<Value = Vec<Command>> {
    let ends =
        proptest::collection::vec((0..14usize, 0..4u32, proptest::option::of(0..2u64)), 0..8);
    let eras = proptest::collection::vec(0..4u32, 14);
    (commands(), ends, eras).prop_map(|(mut commands, ends, eras)| {
        for (command, number) in commands.iter_mut().zip(eras) {
            let first = Era::new(number).expect("a number").first_sequence();
            command.request.sequence += first;
            command.floor += first;
        }
        for (at, number, close) in ends {
            let (era, origin) = (Era::new(number).expect("a number"), ReplicaId::from_index(0));
            let barrier = close.map_or_else(|| era.end(origin), |nth| era.close(nth, origin));
            commands.insert(at.min(commands.len()), barrier);
        }
        commands
    })
}

#[test]
fn only_a_command_that_touches_everything_ends_an_era() {
    let mut applier = Applier::new(Kv::new());
    let close = Era::FIRST.close(0, ReplicaId::from_index(0));
    let mut narrow = close.clone();
    narrow.footprint = Footprint::nothing();
    assert_eq!(apply(&mut applier, narrow).outcome, Outcome::Refused(Refusal::Footprint));
    assert_eq!(applier.sessions().next_close(), 0);
    assert!(apply(&mut applier, close.clone()).first && !apply(&mut applier, close).first);
    assert_eq!((applier.sessions().era(), applier.sessions().next_close()), (Era::FIRST, 1));
    let end = Era::FIRST.end(ReplicaId::from_index(0));
    let mut narrow = end.clone();
    narrow.footprint = Footprint::write(b"a");
    assert_eq!(apply(&mut applier, narrow).outcome, Outcome::Refused(Refusal::Footprint));
    assert_eq!(applier.sessions().era(), Era::FIRST);
    assert!(apply(&mut applier, end.clone()).first);
    assert!(!apply(&mut applier, end).first, "proposed by two replicas");
    assert_eq!(applier.sessions().era().number(), 1);
}

#[test]
fn a_retry_of_an_expired_session_is_refused_at_every_later_time() {
    let mut applier = Applier::new(Kv::new());
    let once = request(1, 1, &cas("a", None, "x"));
    assert!(apply(&mut applier, once.clone()).first);
    apply(&mut applier, request(2, 1, &KvCommand::Del { key: key("a") }));
    for number in 0..5 {
        let era = Era::new(number).expect("a number");
        assert!(apply(&mut applier, era.end(ReplicaId::from_index(0))).first);
        if number == 0 {
            continue;
        }
        let mut restored = Applier::restore(&applier.snapshot()).expect("its own snapshot");
        for applier in [&mut applier, &mut restored] {
            let again = apply(applier, once.clone());
            let era = era.next().expect("not the last");
            assert_eq!(again.outcome, Outcome::Refused(Refusal::Expired { era }));
            assert_eq!((again.first, applier.machine().get(b"a")), (false, None));
        }
    }
}

proptest! {
    /// Replicas apply the same commands in different orders, each with retries at different places.
    /// They end equal, and give every write the same answer.
    #[test]
    fn replicas_agree_whatever_the_order(
        (commands, duplicates) in commands().prop_flat_map(|commands| {
            let some = proptest::collection::vec(0..commands.len(), 0..6);
            (Just(commands), some)
        }),
        seed in any::<u64>(),
    ) {
        let with_duplicates: Vec<Command> =
            commands.iter().chain(duplicates.iter().map(|it| &commands[*it])).cloned().collect();
        let run = |order: &[Command]| {
            let mut applier = Applier::new(Kv::new());
            let mut first: Vec<_> = order
                .iter()
                .filter(|command| writes(command))
                .map(|command| (command.payload.clone(), apply(&mut applier, command.clone())))
                .filter(|(_, applied)| applied.first)
                .map(|(payload, applied)| ((applied.request, payload), applied.outcome))
                .collect();
            first.sort_by(|a, b| a.0.cmp(&b.0));
            (applier.digest(), applier.snapshot(), first)
        };
        let one = run(&with_duplicates);
        let mut writing: Vec<_> = commands.iter().filter(|command| writes(command)).collect();
        writing.sort_by_key(|command| (command.request, command.payload.clone()));
        writing.dedup_by_key(|command| (command.request, command.payload.clone()));
        prop_assert_eq!(one.2.len(), writing.len());
        prop_assert_eq!(run(&reorder(&with_duplicates, seed)), one);
    }

    /// The state does not depend on which clients wait at which replica.
    #[test]
    fn replicas_agree_whoever_waits(
        commands in commands(),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        waits in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let again = again.iter().map(|which| which.get(&commands).clone());
        let order: Vec<Command> = commands.iter().cloned().chain(again).collect();
        let [mut all, mut some] = [(); 2].map(|()| Applier::new(Kv::new()));
        for (command, waits) in order.iter().zip(waits) {
            let one = all.apply(command, true);
            let other = some.apply(command, waits);
            if waits {
                prop_assert_eq!(&one, &other);
            }
            prop_assert_eq!(one.first, other.first);
        }
        prop_assert_eq!(all.snapshot(), some.snapshot());
        prop_assert_eq!(all.digest(), some.digest());
    }

    /// The same across ends of eras, which no command passes. The order of the others makes no
    /// difference, and no command has its effect twice, whenever it is retried.
    #[test]
    fn replicas_agree_through_all_eras(
        (commands, retries) in commands_through_eras().prop_flat_map(|commands| {
            let retries = proptest::collection::vec((0..commands.len(), 0..30usize), 0..12);
            (Just(commands), retries)
        }),
        seed in any::<u64>(),
    ) {
        let mut order = commands.clone();
        for (which, at) in retries {
            order.insert(at.min(order.len()), commands[which].clone());
        }
        let run = |order: &[Command]| {
            let mut applier = Applier::new(Kv::new());
            let mut first = Vec::new();
            for (at, command) in order.iter().enumerate() {
                let applied = apply(&mut applier, command.clone());
                if applied.first && writes(command) {
                    first.push(((applied.request, command.payload.clone()), applied.outcome));
                }
                // A replica restarts from a snapshot.
                if at % 5 == 4 {
                    let snapshot = applier.snapshot();
                    applier = Applier::restore(&snapshot).expect("its own snapshot");
                    assert_eq!(applier.snapshot(), snapshot);
                }
            }
            first.sort_by(|a, b| a.0.cmp(&b.0));
            (applier.digest(), applier.snapshot(), first)
        };
        let one = run(&order);
        let mut ids: Vec<_> = one.2.iter().map(|(content, _)| content.clone()).collect();
        ids.dedup();
        prop_assert_eq!(ids.len(), one.2.len(), "nothing is executed twice");
        prop_assert_eq!(run(&reorder(&order, seed)), one);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut applier = Applier::new(Kv::new());
        let mut command = request(1, 1, &get("a"));
        command.footprint = Footprint::Everything;
        command.payload = bytes.clone().into();
        apply(&mut applier, command);
        let _ = applier.read(&bytes);
        let _ = Applier::<Kv>::restore(&bytes);
        for version in BEFORE_CONTENTS..=ON_DISK {
            let _ = Applier::<Kv>::restore(&[&[version][..], &bytes].concat());
        }
    }
}
