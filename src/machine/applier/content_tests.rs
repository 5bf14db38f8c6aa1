//! One id for two commands, and what uses up an id.

use super::tests::{apply, cas, key, output, put, request};
use super::*;
use crate::machine::sessions::sessions_v2;
use crate::machine::state::{Saved, SavedV2};
use crate::machine::{Kv, KvOutput, encode};

/// One payload with two footprints, one of them too narrow. In either order it is refused with the
/// narrow one and executed with the other.
#[test]
fn what_is_refused_for_its_footprint_does_not_use_up_its_id() {
    let good = request(1, 1, &put("a", "1"));
    let mut narrow = good.clone();
    narrow.footprint = Footprint::write(b"b");
    let run = |order: [&Command; 2]| {
        let mut applier = Applier::new(Kv::new());
        for command in order {
            apply(&mut applier, command.clone());
        }
        assert_eq!(applier.machine().get(b"a"), Some(&key("1")));
        applier.digest()
    };
    assert_eq!(run([&good, &narrow]), run([&narrow, &good]));
}

/// A client uses each id twice, on different keys; replicas execute the two in different orders.
#[test]
fn one_id_with_two_contents_leaves_replicas_alike_whatever_their_keys() {
    let [one, two] = [[1, 2], [3, 4]].map(|secret| {
        let mut applier = Applier::new(Kv::new()).keyed(secret);
        for sequence in 1..=200 {
            let twins = [put(&format!("a{sequence}"), "x"), put(&format!("b{sequence}"), "y")];
            let mut twins = twins.map(|command| request(1, sequence, &command));
            if secret[0] == 3 {
                twins.reverse();
            }
            assert!(twins.iter().all(|it| apply(&mut applier, it.clone()).first));
            assert!(twins.iter().all(|it| !apply(&mut applier, it.clone()).first));
        }
        applier
    });
    assert_eq!(one.machine(), two.machine());
    assert_eq!(one.digest(), two.digest());
    assert_ne!(one.snapshot(), two.snapshot(), "the key is in it");
    let restored: Applier<Kv> = Applier::restore(&two.snapshot()).expect("its own");
    let mut restored = restored.keyed([5, 6]);
    let retry = request(1, 7, &put("a7", "x"));
    assert!(!apply(&mut restored, retry).first, "it keeps the key it came with");
}

/// A snapshot of version 3, which is one value.
#[test]
fn a_snapshot_that_is_one_value_is_read() {
    let mut applier = Applier::new(Kv::new()).keyed([5, 6]);
    for client in 1..50 {
        apply(&mut applier, request(client, 1, &put("a", &client.to_string())));
    }
    let machine = applier.machine().snapshot().into();
    let saved = encode(&(3u8, Saved { sessions: applier.sessions().to_saved(), machine }));
    let saved = saved.expect("plain");
    let again: Applier<Kv> = Applier::restore(&saved).expect("it is understood");
    assert_eq!((again.sessions(), again.machine()), (applier.sessions(), applier.machine()));
    for cut in 0..saved.len() {
        assert!(Applier::<Kv>::restore(&saved[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Applier::<Kv>::restore(&[&saved[..], &[0]].concat()).is_err());
}

/// A snapshot of version 2: executed commands count as executed until they are closed, and a retry
/// gets the stored result whatever its content.
#[test]
fn a_snapshot_that_does_not_tell_contents_apart_is_read() {
    let old = sessions_v2(&[(1, 3)], 1, &[(2, KvOutput::Swapped)]);
    let saved = SavedV2 { sessions: old, machine: Kv::new().snapshot().into() };
    let saved = encode(&(2u8, saved)).expect("plain");
    let mut applier = Applier::<Kv>::restore(&saved).expect("it is understood").keyed([7, 8]);
    assert_eq!(applier.sessions().len(), 1);
    let again = apply(&mut applier, request(1, 2, &cas("a", None, "1")));
    assert_eq!((again.first, output(&again)), (false, KvOutput::Swapped));
    assert_eq!(apply(&mut applier, request(1, 3, &put("a", "1"))).outcome, Outcome::Forgotten);
    assert!(apply(&mut applier, request(1, 4, &put("a", "1"))).first);
    let again: Applier<Kv> = Applier::restore(&applier.snapshot()).expect("in the new form");
    assert_eq!(again.digest(), applier.digest());
    let mut newer = request(1, 5, &put("a", "2"));
    newer.floor = 4;
    apply(&mut applier, newer);
    apply(&mut applier, Era::FIRST.close(0, ReplicaId::from_index(0)));
    let closed = apply(&mut applier, request(1, 3, &put("a", "1"))).outcome;
    assert!(matches!(closed, Outcome::Refused(Refusal::Expired { .. })), "{closed:?}");
}
