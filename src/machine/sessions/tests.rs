//! What is kept, for how long, and that neither depends on the order of execution.

use proptest::prelude::*;

use super::*;

fn result(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

fn request(sequence: u64) -> RequestId {
    RequestId::new(ClientId(1), sequence)
}

proptest! {
    /// What is kept follows from the set of executed commands: sizes around the bound in bytes,
    /// any floors, any order.
    #[test]
    fn the_order_of_execution_leaves_no_trace(
        commands in proptest::collection::vec((0usize..RESULT_BYTES / 2, 0u64..6), 1..12),
        shuffled in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let run = |order: &mut dyn Iterator<Item = usize>| {
            let mut sessions = Sessions::default();
            for index in order.filter(|index| *index < commands.len()) {
                let (size, floor) = commands[index];
                assert_eq!(sessions.take_turn(request(index as u64 + 1), floor), Turn::First);
                sessions.keep(request(index as u64 + 1), result(size));
            }
            sessions
        };
        let (straight, other) = (run(&mut (0..12)), run(&mut shuffled.iter().copied()));
        prop_assert_eq!(straight.digest(), other.digest());
        prop_assert_eq!(straight, other);
    }
}

#[test]
fn results_are_bounded_in_number_and_membership_is_not() {
    let mut sessions = Sessions::default();
    let many = RESULTS as u64 * 3;
    for sequence in 1..=many {
        assert_eq!(sessions.take_turn(request(sequence), 0), Turn::First);
        sessions.keep(request(sequence), result(1));
    }
    let kept = (1..=many).filter(|it| sessions.result(request(*it)).is_some()).count();
    assert_eq!(kept, RESULTS);
    assert!(sessions.result(request(many)).is_some(), "the newest are kept");
    assert!((1..=many).all(|it| sessions.is_executed(request(it))));
    assert_eq!(sessions.take_turn(request(1), 0), Turn::Again, "forgotten, but still executed");
}

#[test]
fn a_huge_result_is_kept_while_it_is_the_newest() {
    let mut sessions = Sessions::default();
    for sequence in 1..=2 {
        assert_eq!(sessions.take_turn(request(sequence), 0), Turn::First);
        sessions.keep(request(sequence), result(RESULT_BYTES + 1));
    }
    assert_eq!(sessions.result(request(1)), None);
    assert!(sessions.result(request(2)).is_some());
}

#[test]
fn a_saved_table_is_the_same_table_and_a_bent_one_is_refused() {
    let mut sessions = Sessions::default();
    for sequence in [1, 2, 5, 9] {
        assert_eq!(sessions.take_turn(request(sequence), 2), Turn::First);
        sessions.keep(request(sequence), result(3));
    }
    assert_eq!(Sessions::from_saved(sessions.to_saved()).as_ref(), Ok(&sessions));
    let bend = |bend: fn(&mut SavedSession)| {
        let mut saved = sessions.to_saved();
        bend(&mut saved.sessions[0]);
        Sessions::from_saved(saved)
    };
    assert!(bend(|it| it.executed = vec![(1, 2), (3, 4)]).is_err(), "adjacent");
    assert!(bend(|it| it.executed = vec![(5, 4)]).is_err(), "backwards");
    assert!(bend(|it| it.results[0].0 = 3).is_err(), "never executed");
    assert!(bend(|it| it.floor = 6).is_err(), "below the floor");
    assert!(bend(|it| it.promised = 3).is_err(), "a floor below what was promised");
    assert!(bend(|it| it.closed = 2).is_err(), "closed, and still there");
    assert!(bend(|it| it.used = 1).is_err(), "used in time to come");
    assert!(bend(|it| it.executed = vec![(1, 1 << 41)]).is_err(), "numbered in time to come");
    let mut later = sessions.to_saved();
    later.era = 2;
    assert!(Sessions::from_saved(later).is_err(), "it would have been removed");
}

/// Era 0, 1, 2, …
fn era(number: u32) -> Era {
    Era::new(number).expect("a number")
}

/// A table whose eras have ended up to this one.
fn sessions_in(number: u32) -> Sessions {
    let mut sessions = Sessions::default();
    (0..number).for_each(|number| assert!(sessions.end_era(era(number))));
    sessions
}

#[test]
fn an_era_is_ended_once() {
    let mut sessions = sessions_in(1);
    assert!(!sessions.end_era(era(0)), "it is over");
    assert!(!sessions.end_era(era(2)), "it has not begun");
    assert_eq!(sessions.era(), era(1));
    sessions.era = Era::LAST;
    assert!(!sessions.end_era(Era::LAST), "it lasts");
}

#[test]
fn a_session_ends_after_an_era_without_use_and_its_retries_are_refused_for_ever() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.take_turn(request(1), 0), Turn::First);
    sessions.end_era(era(0));
    assert_eq!((sessions.len(), sessions.take_turn(request(1), 0)), (1, Turn::Again));
    sessions.end_era(era(1));
    assert_eq!(sessions.len(), 1, "the retry was a use");
    sessions.end_era(era(2));
    assert!(sessions.is_empty());
    for number in 3..9 {
        let before = sessions.clone();
        assert_eq!(sessions.take_turn(request(1), 0), Turn::Closed);
        assert_eq!(sessions, before, "who is refused leaves no trace");
        // The same client begins anew, which must not open its past.
        let fresh = request(era(number).first_sequence());
        assert_eq!(sessions.take_turn(fresh, 0), Turn::First);
        assert_eq!(sessions.take_turn(request(1), 0), Turn::Closed);
        assert_eq!(sessions.take_turn(fresh, 0), Turn::Again);
        assert!(sessions.end_era(era(number)));
    }
}

#[test]
fn what_is_numbered_in_an_era_to_come_is_refused() {
    let mut sessions = sessions_in(4);
    let turn = |sessions: &mut Sessions, number| {
        sessions.take_turn(request(era(number).first_sequence()), 0)
    };
    assert_eq!(turn(&mut sessions, 5), Turn::Closed);
    assert_eq!(turn(&mut sessions, 2), Turn::Closed);
    assert!(sessions.is_empty());
    assert_eq!(turn(&mut sessions, 4), Turn::First);
    assert_eq!(turn(&mut sessions, 3), Turn::First);
}

/// Before the era ends, a command below the floor is merely late; then it is closed.
#[test]
fn the_end_of_an_era_closes_what_the_client_has_finished() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.take_turn(request(5), 4), Turn::First);
    assert_eq!(sessions.take_turn(request(2), 0), Turn::First);
    sessions.end_era(era(0));
    assert_eq!(sessions.take_turn(request(3), 0), Turn::Closed);
    assert_eq!(sessions.take_turn(request(2), 0), Turn::Closed);
    assert_eq!(sessions.take_turn(request(4), 0), Turn::First);
    assert_eq!(sessions.take_turn(request(5), 0), Turn::Again);
}

/// A floor that only the bounds raised was promised by nobody.
#[test]
fn what_the_client_still_waits_for_is_not_closed() {
    let mut sessions = Sessions::default();
    for sequence in 2..=RESULTS as u64 + 10 {
        assert_eq!(sessions.take_turn(request(sequence), 1), Turn::First);
        sessions.keep(request(sequence), result(1));
    }
    sessions.end_era(era(0));
    assert_eq!(sessions.take_turn(request(1), 1), Turn::First);
    assert_eq!(sessions.take_turn(request(2), 1), Turn::Again);
}

/// What the table takes: sessions, ranges, results.
fn size(sessions: &Sessions) -> (usize, usize, usize) {
    let all = || sessions.table.values();
    let ranges = all().map(|it| it.executed.parts().len()).sum();
    (sessions.len(), ranges, all().map(|it| it.results.len()).sum())
}

#[test]
fn clients_that_behave_take_no_more_memory_however_many_commands_they_send() {
    let mut sessions = Sessions::default();
    let (clients, window) = (1_000, 4);
    let run = |sessions: &mut Sessions, from: u64| {
        for sequence in from..from + 500 {
            for client in 0..clients {
                // Sequences come in pairs, the other way round.
                let request = RequestId::new(ClientId(client), sequence ^ 1);
                let floor = sequence.saturating_sub(window);
                assert_eq!(sessions.take_turn(request, floor), Turn::First);
                sessions.keep(request, result(8));
            }
        }
        (size(sessions), crate::machine::encode(&sessions.to_saved()).expect("plain").len())
    };
    let (first, bytes) = run(&mut sessions, 2);
    assert_eq!((first.0, first.1), (1_000, 1_000));
    assert!(first.2 <= 1_000 * (1 + usize::try_from(window).expect("small")));
    let (second, more) = run(&mut sessions, 502);
    assert_eq!(second, first, "a million commands later");
    assert!(more <= bytes + 1_000 * 16, "{bytes}, then {more}: only longer numbers");
}

#[test]
fn clients_that_come_and_go_and_commands_that_never_arrive_leave_nothing_behind() {
    let mut sessions = Sessions::default();
    let mut sizes = Vec::new();
    for number in 0..20 {
        let first = era(number).first_sequence();
        for client in 0..500 {
            let passing = RequestId::new(ClientId(1_000 + u64::from(number) * 500 + client), first);
            assert_eq!(sessions.take_turn(passing, 0), Turn::First);
            sessions.keep(passing, result(8));
        }
        // One client stays, and every other of its commands is lost.
        for sequence in (1..1_000).step_by(2) {
            let lasting = request(u64::from(number) * 1_000 + sequence);
            assert_eq!(sessions.take_turn(lasting, lasting.sequence), Turn::First);
        }
        sizes.push(size(&sessions));
        assert!(sessions.end_era(era(number)));
    }
    assert!(sizes[2..].iter().all(|size| *size == sizes[2]), "{sizes:?}");
    sessions.end_era(era(20));
    sessions.end_era(era(21));
    assert!(sessions.is_empty() && sessions.table.capacity() < 100);
}
