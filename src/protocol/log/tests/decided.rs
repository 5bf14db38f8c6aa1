//! Tests of the decided log, names and rounds.

use super::stage::{batch, replica, settings};
use crate::protocol::log::{Choice, DecidedLog, HORIZON, LogRecord, Reserve, Standing, Upkeep};
use crate::protocol::{Effects, View};
use crate::types::{Ballot, Deps, Executed, InstanceId, Retention, Slot, Value};

type Fx = Effects<Upkeep, LogRecord>;

fn log(keep: usize) -> DecidedLog {
    DecidedLog::new(&settings(1, 3, Retention { volatile: true, keep }))
}

fn choice(tag: u64) -> Choice {
    let proposal = InstanceId::new(replica(2), tag);
    Choice { proposal, value: Value::Batch(batch(tag)) }
}

fn executed(slot: Slot) -> Deps {
    let mut executed = Deps::none(3);
    executed.set(InstanceId::LOG, slot);
    executed
}

fn decide(log: &mut DecidedLog, slots: impl IntoIterator<Item = Slot>) -> Fx {
    let mut fx = Fx::default();
    slots.into_iter().for_each(|slot| assert!(log.learn(slot, &choice(slot), false, &mut fx)));
    fx
}

fn marks(log: &mut DecidedLog, from: usize, known: Slot, saved: Slot) {
    let told = log.on_upkeep(replica(from), Upkeep::Marks { known, saved }, &mut Fx::default());
    assert_eq!(told, None);
}

#[test]
fn the_known_prefix_grows_over_closed_gaps() {
    let mut log = log(usize::MAX);
    let fx = decide(&mut log, [1, 3, 4]);
    assert_eq!((log.known(), log.seen(), fx.decisions.len(), fx.records.len()), (1, 4, 3, 3));
    decide(&mut log, [2]);
    assert_eq!(log.known(), 4);
    let mut fx = Fx::default();
    assert!(!log.learn(2, &choice(2), false, &mut fx), "that is no news");
    assert!(fx.decisions.is_empty() && fx.records.is_empty());
}

#[test]
#[should_panic(expected = "one decision a slot")]
fn two_decisions_of_a_slot_stop_the_replica() {
    let mut log = log(usize::MAX);
    decide(&mut log, [1]);
    log.learn(1, &choice(2), false, &mut Fx::default());
}

#[test]
fn what_lies_beyond_the_horizon_is_not_kept() {
    let mut log = log(usize::MAX);
    assert!(matches!(log.standing(HORIZON), Standing::Open));
    let mut fx = Fx::default();
    assert!(!log.learn(HORIZON + 1, &choice(1), false, &mut fx) && fx.records.is_empty());
    log.see(Slot::MAX);
    marks(&mut log, 2, Slot::MAX, Slot::MAX);
    assert_eq!(log.seen(), HORIZON);
}

#[test]
fn what_every_member_has_is_forgotten() {
    let mut log = log(usize::MAX);
    decide(&mut log, 1..=9);
    log.executed_here(&executed(9));
    marks(&mut log, 2, 9, 9);
    marks(&mut log, 3, 9, 4);
    let mut fx = Fx::default();
    log.tick(&View::new(3), &mut fx);
    assert_eq!((log.floor(), log.known()), (4, 9));
    let kept = log.kept_bytes();
    marks(&mut log, 3, 9, 9);
    log.tick(&View::new(3), &mut fx);
    assert_eq!((log.floor(), log.kept_bytes()), (9, 0));
    assert!(kept > 0);
}

#[test]
fn one_that_stands_still_is_left_behind_when_too_much_is_kept() {
    let mut log = log(0);
    decide(&mut log, 1..=9);
    log.executed_here(&executed(9));
    let mut fx = Fx::default();
    log.tick(&View::new(3), &mut fx);
    assert_eq!(log.floor(), 0, "nobody else could tell what is dropped");
    marks(&mut log, 2, 7, 7);
    log.tick(&View::new(3), &mut fx);
    assert_eq!(log.floor(), 7);
    fx = Fx::default();
    log.on_upkeep(replica(3), Upkeep::Fetch { from: 1, to: 9 }, &mut fx);
    let said: Vec<_> = fx.messages.into_iter().map(|held| format!("{held:?}")).collect();
    assert!(said.len() == 1 && said[0].contains("Truncated { up_to: 7 }"), "{said:?}");
    // A replica that hears this needs a snapshot, unless it already knows more.
    for (known, needs) in [(0, true), (7, false)] {
        let mut log = self::log(0);
        let mut fx = decide(&mut log, 1..=known);
        log.on_upkeep(replica(1), Upkeep::Truncated { up_to: 7 }, &mut fx);
        assert_eq!(fx.needs_snapshot, needs.then(|| executed(7)));
    }
}

#[test]
fn a_snapshot_takes_the_place_of_what_it_holds() {
    let mut log = log(usize::MAX);
    decide(&mut log, [1, 2, 4, 6, 7, 9]);
    let mut fx = Fx::default();
    let snapshot = Executed::up_to(executed(5));
    assert!(DecidedLog::may_install(&snapshot, &Executed::up_to(executed(2))));
    assert!(!DecidedLog::may_install(&snapshot, &Executed::up_to(executed(5))));
    log.install(&snapshot, &mut fx);
    assert_eq!((log.floor(), log.known(), fx.decisions.len()), (5, 7, 3));
    let bytes: usize = [6, 7, 9].map(|slot| choice(slot).weight()).iter().sum();
    assert_eq!(log.kept_bytes(), bytes);
}

#[test]
fn an_own_snapshot_and_its_records_make_the_same_log() {
    let mut log = log(usize::MAX);
    decide(&mut log, [1, 2, 3, 5]);
    let records: Vec<_> = log.records().collect();
    let mut again = self::log(usize::MAX);
    again.restore_snapshot(0, &Executed::up_to(executed(2)));
    let mut fx = Fx::default();
    for record in records {
        let LogRecord::Decided { slot, proposal, value } = record else { panic!("{record:?}") };
        again.restore::<Upkeep, LogRecord>(slot, proposal, value, None, &mut fx);
    }
    again.resume(View::new(3).now);
    assert_eq!((again.known(), again.kept_bytes()), (3, log.kept_bytes()));
    let put_out = fx.decisions.len();
    assert_eq!(put_out, 2, "what is in the snapshot is not executed again");
}

#[test]
fn no_life_uses_what_another_may_have_used() {
    let me = replica(2);
    let mut fx = Fx::default();
    let mut first = Reserve::new(me);
    let names: Vec<_> = (0..9).map(|_| first.name(&mut fx)).collect();
    let ballots: Vec<_> = (0..9)
        .scan(Ballot::OWNER, |above, _| {
            *above = first.ballot(*above, 0, &mut fx)?;
            Some(*above)
        })
        .collect();
    let mut second = Reserve::new(me);
    for record in fx.records.drain(..) {
        let LogRecord::Reserved { names, rounds } = record else { panic!("{record:?}") };
        second.restore(names, rounds);
    }
    assert!(!names.contains(&second.name(&mut fx)));
    let next = second.ballot(Ballot::OWNER, 0, &mut fx).expect("rounds are left");
    assert!(ballots.len() == 9 && ballots.iter().all(|ballot| *ballot < next));
    let last = Ballot::new(Ballot::MAX_ROUND, me).expect("not round 0");
    assert_eq!(second.ballot(last, 0, &mut fx), None);
}
