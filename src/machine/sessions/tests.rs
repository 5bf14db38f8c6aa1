//! What is kept and for how long, and that neither depends on the order of execution.

use proptest::prelude::*;

use super::saved::SavedSession;
use super::*;

fn result(size: usize) -> Vec<u8> {
    vec![7; size]
}

fn request(sequence: u64) -> RequestId {
    RequestId::new(ClientId(1), sequence)
}

/// Short forms for commands that write, with one content per sequence.
impl Sessions {
    fn turn(&mut self, request: RequestId, floor: u64) -> Turn {
        self.take_turn(request, floor, Some(1))
    }

    fn keep_one(&mut self, request: RequestId, result: &[u8]) {
        self.keep(request, 1, result);
    }

    fn one_result(&self, request: RequestId) -> Option<&[u8]> {
        self.result(request, 1)
    }

    fn was_executed(&self, request: RequestId) -> bool {
        let content = (request.sequence, 1);
        let session = self.table.get(&request.client);
        session.is_some_and(|it| it.is_before(content.0) || it.executed.contains(content))
    }
}

proptest! {
    /// The set of executed commands determines what is kept: sizes around the limit in bytes, any
    /// floors, any order.
    #[test]
    fn the_order_of_execution_leaves_no_trace(
        commands in proptest::collection::vec((0usize..RESULT_BYTES / 2, 0u64..6), 1..12),
        shuffled in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let run = |order: &mut dyn Iterator<Item = usize>| {
            let mut sessions = Sessions::default();
            for index in order.filter(|index| *index < commands.len()) {
                let (size, floor) = commands[index];
                assert_eq!(sessions.turn(request(index as u64 + 1), floor), Turn::First);
                sessions.keep_one(request(index as u64 + 1), &result(size));
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
        assert_eq!(sessions.turn(request(sequence), 0), Turn::First);
        sessions.keep_one(request(sequence), &result(1));
    }
    let kept = (1..=many).filter(|it| sessions.one_result(request(*it)).is_some()).count();
    assert_eq!(kept, RESULTS);
    assert!(sessions.one_result(request(many)).is_some(), "the newest are kept");
    assert!((1..=many).all(|it| sessions.was_executed(request(it))));
    assert_eq!(sessions.turn(request(1), 0), Turn::Again, "forgotten, but still executed");
}

#[test]
fn a_huge_result_is_kept_while_it_is_the_newest() {
    let mut sessions = Sessions::default();
    for sequence in 1..=2 {
        assert_eq!(sessions.turn(request(sequence), 0), Turn::First);
        sessions.keep_one(request(sequence), &result(RESULT_BYTES + 1));
    }
    assert_eq!(sessions.one_result(request(1)), None);
    assert!(sessions.one_result(request(2)).is_some());
}

#[test]
fn a_saved_table_is_the_same_table_and_a_bent_one_is_refused() {
    let mut sessions = Sessions::default();
    for sequence in [1, 2, 5, 9] {
        assert_eq!(sessions.turn(request(sequence), 2), Turn::First);
        sessions.keep_one(request(sequence), &result(3));
    }
    assert_eq!(Sessions::from_saved(sessions.to_saved()).as_ref(), Ok(&sessions));
    let bend = |bend: fn(&mut SavedSession)| {
        let mut saved = sessions.to_saved();
        bend(&mut saved.sessions[0]);
        Sessions::from_saved(saved)
    };
    assert!(bend(|it| it.before = vec![(1, 2), (3, 4)]).is_err(), "adjacent");
    assert!(bend(|it| it.before = vec![(5, 4)]).is_err(), "backwards");
    assert!(bend(|it| it.executed.swap(0, 1)).is_err(), "out of order");
    assert!(bend(|it| it.executed[1] = it.executed[0]).is_err(), "twice");
    assert!(bend(|it| it.results[0].0.0 = 3).is_err(), "never executed");
    assert!(bend(|it| it.results[0].0.1 = 3).is_err(), "of another content");
    assert!(bend(|it| it.floor = 6).is_err(), "below the floor");
    assert!(bend(|it| it.promised = 3).is_err(), "a floor below what was promised");
    assert!(bend(|it| it.closed = 2).is_err(), "closed, and still there");
    assert!(bend(|it| it.used = 1).is_err(), "used in time to come");
    assert!(bend(|it| it.executed = vec![(1 << 41, 1)]).is_err(), "numbered in time to come");
    let mut later = sessions.to_saved();
    later.era = 2;
    assert!(Sessions::from_saved(later).is_err(), "it would have been removed");
}

/// The era with this number, from 0.
fn era(number: u32) -> Era {
    Era::new(number).expect("a number")
}

/// A table in which all eras before this one have ended.
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
    assert_eq!(sessions.turn(request(1), 0), Turn::First);
    sessions.end_era(era(0));
    assert_eq!((sessions.len(), sessions.turn(request(1), 0)), (1, Turn::Again));
    sessions.end_era(era(1));
    assert_eq!(sessions.len(), 1, "the retry was a use");
    sessions.end_era(era(2));
    assert!(sessions.is_empty());
    for number in 3..9 {
        let before = sessions.clone();
        assert_eq!(sessions.turn(request(1), 0), Turn::Closed);
        assert_eq!(sessions, before, "who is refused leaves no trace");
        // The same client begins again, which must not reopen its past.
        let fresh = request(era(number).first_sequence());
        assert_eq!(sessions.turn(fresh, 0), Turn::First);
        assert_eq!(sessions.turn(request(1), 0), Turn::Closed);
        assert_eq!(sessions.turn(fresh, 0), Turn::Again);
        assert!(sessions.end_era(era(number)));
    }
}

#[test]
fn what_is_numbered_in_an_era_to_come_is_refused() {
    let mut sessions = sessions_in(4);
    let turn =
        |sessions: &mut Sessions, number| sessions.turn(request(era(number).first_sequence()), 0);
    assert_eq!(turn(&mut sessions, 5), Turn::Closed);
    assert_eq!(turn(&mut sessions, 2), Turn::Closed);
    assert!(sessions.is_empty());
    assert_eq!(turn(&mut sessions, 4), Turn::First);
    assert_eq!(turn(&mut sessions, 3), Turn::First);
}

/// Before the era ends, a command below the floor is only late; afterwards it is closed.
#[test]
fn the_end_of_an_era_closes_what_the_client_has_finished() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.turn(request(5), 4), Turn::First);
    assert_eq!(sessions.turn(request(2), 0), Turn::First);
    sessions.end_era(era(0));
    assert_eq!(sessions.turn(request(3), 0), Turn::Closed);
    assert_eq!(sessions.turn(request(2), 0), Turn::Closed);
    assert_eq!(sessions.turn(request(4), 0), Turn::First);
    assert_eq!(sessions.turn(request(5), 0), Turn::Again);
}

/// A floor raised only by the limits is not a client's promise.
#[test]
fn what_the_client_still_waits_for_is_not_closed() {
    let mut sessions = Sessions::default();
    for sequence in 2..=RESULTS as u64 + 10 {
        assert_eq!(sessions.turn(request(sequence), 1), Turn::First);
        sessions.keep_one(request(sequence), &result(1));
    }
    sessions.end_era(era(0));
    assert_eq!(sessions.turn(request(1), 1), Turn::First);
    assert_eq!(sessions.turn(request(2), 1), Turn::Again);
}

/// The size of the table: sessions, contents, results.
fn size(sessions: &Sessions) -> (usize, usize, usize) {
    let all = || sessions.table.unordered().map(|(_, session)| session);
    let contents = all().map(|it| it.executed.len()).sum();
    (sessions.len(), contents, all().map(|it| it.results.len()).sum())
}

#[test]
fn clients_that_behave_take_no_more_memory_however_many_commands_they_send() {
    let mut sessions = Sessions::default();
    let (clients, window) = (1_000, 4);
    let run = |sessions: &mut Sessions, from: u64| {
        for sequence in from..from + 500 {
            for client in 0..clients {
                // Sequences come in pairs, in reverse order.
                let request = RequestId::new(ClientId(client), sequence ^ 1);
                let floor = sequence.saturating_sub(window);
                assert_eq!(sessions.turn(request, floor), Turn::First);
                sessions.keep_one(request, &result(8));
            }
        }
        assert!(sessions.close(era(0), sessions.next_close()));
        (size(sessions), crate::machine::encode(&sessions.to_saved()).expect("plain").len())
    };
    let (first, bytes) = run(&mut sessions, 2);
    let most = 1_000 * (1 + usize::try_from(window).expect("small"));
    assert!(first.0 == 1_000 && first.1 <= most && first.2 <= most, "{first:?}");
    let (second, more) = run(&mut sessions, 502);
    assert_eq!(second, first, "a million commands later");
    assert!(more <= bytes + 1_000 * 32, "{bytes}, then {more}: only longer numbers");
}

#[test]
fn clients_that_come_and_go_and_commands_that_never_arrive_leave_nothing_behind() {
    let mut sessions = Sessions::default();
    let mut sizes = Vec::new();
    for number in 0..20 {
        let first = era(number).first_sequence();
        for client in 0..500 {
            let passing = RequestId::new(ClientId(1_000 + u64::from(number) * 500 + client), first);
            assert_eq!(sessions.turn(passing, 0), Turn::First);
            sessions.keep_one(passing, &result(8));
        }
        // One client stays, and every second of its commands is lost.
        for sequence in (1..1_000).step_by(2) {
            let lasting = request(u64::from(number) * 1_000 + sequence);
            assert_eq!(sessions.turn(lasting, lasting.sequence), Turn::First);
        }
        sizes.push(size(&sessions));
        assert!(sessions.end_era(era(number)));
    }
    assert!(sizes[2..].iter().all(|size| *size == sizes[2]), "{sizes:?}");
    sessions.end_era(era(20));
    sessions.end_era(era(21));
    assert!(sessions.is_empty() && sessions.table.capacity() < 100);
}

/// A step in the tests of the table.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { client: u64, sequence: u64, content: u64, floor: u64 },
    Read { client: u64, sequence: u64, floor: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ids = || (0u64..2, 0u64..8, 0u64..6);
    let write = (ids(), 0u64..4).prop_map(|((client, sequence, floor), content)| Step::Write {
        client,
        sequence,
        content,
        floor,
    });
    let read = ids().prop_map(|(client, sequence, floor)| Step::Read { client, sequence, floor });
    proptest::collection::vec(prop_oneof![4 => write, 1 => read], 0..14)
}

/// Takes steps in this order, with contents hashed under this key.
fn take(sessions: &mut Sessions, steps: &[Step], key: u64) {
    for step in steps {
        match *step {
            Step::Write { client, sequence, content, floor } => {
                let request = RequestId::new(ClientId(client), sequence);
                let hash = xxh3_64(&(content ^ key).to_le_bytes());
                if sessions.take_turn(request, floor, Some(hash)) == Turn::First {
                    // The same for one content at all replicas; some are short, some too long to
                    // keep all.
                    let (sequence, share) =
                        (usize::try_from(sequence).expect("small"), RESULT_BYTES / 8);
                    let length = if content < 2 { sequence } else { (1 + sequence) * share + 1 };
                    sessions.keep(request, hash, &result(length));
                }
            }
            Step::Read { client, sequence, floor } => {
                let request = RequestId::new(ClientId(client), sequence);
                let turn = sessions.take_turn(request, floor, None);
                assert!(matches!(turn, Turn::Read | Turn::Closed), "{turn:?}");
            }
        }
    }
}

proptest! {
    /// Ids used for several contents, for reads and writes; floors, retries, large results; closes
    /// and ends of eras that cut the table. Any order in between gives the same table, and the same
    /// digest under another key.
    #[test]
    fn the_table_follows_from_the_set_between_two_closes(
        spans in proptest::collection::vec((steps(), any::<bool>(), 0usize..9, 0usize..999), 1..4),
        seed in any::<u64>(),
    ) {
        let run = |shuffled: bool, key: u64| {
            let mut sessions = Sessions::default();
            let mut seed = seed;
            for (steps, ends_era, contents, result_bytes) in &spans {
                let mut steps = steps.clone();
                for last in (1..steps.len()).rev().filter(|_| shuffled) {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let other = (seed >> 33) % (last as u64 + 1);
                    steps.swap(last, usize::try_from(other).expect("few steps"));
                }
                take(&mut sessions, &steps, key);
                let (era, nth) = (sessions.era(), sessions.next_close());
                match ends_era {
                    true => assert!(sessions.end_era(era)),
                    false => assert!(sessions.close(era, nth)),
                }
                sessions.cut(Size { contents: *contents, result_bytes: *result_bytes });
                sessions.measure();
            }
            sessions
        };
        let one = run(false, 0);
        let other = run(true, 0);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(run(true, 1).digest(), one.digest(), "whatever the key");
        let mut saved = Sessions::from_saved(one.to_saved()).expect("its own");
        saved.left = one.left;
        prop_assert_eq!(saved, one);
    }
}

/// 200 commands with two contents each, in reverse order: if only ids were remembered, each table
/// would hold the content that came first.
#[test]
fn two_contents_under_one_id_are_two_commands_everywhere() {
    let mut tables = [Sessions::default(), Sessions::default()];
    for sequence in 1..=200 {
        for (table, contents) in tables.iter_mut().zip([[1, 2], [2, 1]]) {
            for content in contents {
                let turn =
                    |table: &mut Sessions| table.take_turn(request(sequence), 0, Some(content));
                assert_eq!((turn(table), turn(table)), (Turn::First, Turn::Again));
                table.keep(request(sequence), content, &content.to_le_bytes());
            }
        }
    }
    assert_eq!(tables[0], tables[1]);
    let result = tables[0].result(request(200), 2);
    assert_eq!(result, Some(&2u64.to_le_bytes()[..]), "the answer to this content");
}

#[test]
fn a_read_is_not_remembered_and_a_write_of_its_id_is_executed() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.take_turn(request(1), 0, None), Turn::Read);
    assert_eq!(sessions.turn(request(1), 0), Turn::First);
    assert_eq!(sessions.take_turn(request(1), 0, None), Turn::Read);
    assert_eq!(sessions.turn(request(1), 0), Turn::Again);
}

#[test]
fn a_close_is_done_once_and_closes_what_is_finished() {
    let mut sessions = sessions_in(1);
    let first = era(1).first_sequence();
    for sequence in 0..10 {
        assert_eq!(sessions.turn(request(first + sequence), first + 5), Turn::First);
    }
    for (number, nth) in [(0, 0), (1, 1), (2, 0)] {
        assert!(!sessions.close(era(number), nth), "another close");
    }
    assert!(sessions.close(era(1), 0) && !sessions.close(era(1), 0));
    assert_eq!((sessions.next_close(), sessions.size.contents), (1, 5));
    assert_eq!(sessions.turn(request(first + 4), 0), Turn::Closed);
    assert_eq!(sessions.turn(request(first + 5), 0), Turn::Again);
    assert!(sessions.end_era(era(1)) && sessions.close(era(2), 0), "counted anew");
}

/// One session that reports nothing as finished, one that uses an id for very many contents, and
/// clients with a full window each, which lose nothing.
#[test]
fn a_close_bounds_the_table_and_takes_from_those_who_hold_most() {
    let mut sessions = Sessions::default();
    for sequence in 1..=600_000u64 {
        assert_eq!(sessions.turn(RequestId::new(ClientId(1), sequence), 0), Turn::First);
        let twin = RequestId::new(ClientId(2), 7);
        assert_eq!(sessions.take_turn(twin, 0, Some(sequence)), Turn::First);
    }
    let window = 8192u64;
    for client in 10..14 {
        for sequence in 1..=window {
            assert_eq!(sessions.turn(RequestId::new(ClientId(client), sequence), 0), Turn::First);
        }
    }
    assert!(sessions.growth() >= 1000);
    assert!(sessions.close(era(0), 0));
    assert!(sessions.size.contents <= LEFT.contents && sessions.growth() == 0);
    for client in 10..14 {
        for sequence in 1..=window {
            let retry = sessions.turn(RequestId::new(ClientId(client), sequence), 0);
            assert_eq!(retry, Turn::Again, "client {client}, {sequence}");
        }
    }
    assert_eq!(sessions.turn(RequestId::new(ClientId(1), 1), 0), Turn::Closed);
    assert_eq!(sessions.turn(RequestId::new(ClientId(1), 600_000), 0), Turn::Again);
    assert_eq!(sessions.take_turn(RequestId::new(ClientId(2), 7), 0, Some(1)), Turn::Closed);
    assert_eq!(sessions.turn(RequestId::new(ClientId(2), 8), 0), Turn::First);
}

/// If eras end before a close is due, the growth must still count.
#[test]
fn the_end_of_an_era_is_no_close() {
    let mut sessions = Sessions::default();
    for number in 0..5u64 {
        for sequence in number * 200_000..(number + 1) * 200_000 {
            assert_eq!(sessions.turn(request(sequence), 0), Turn::First);
        }
        assert!(sessions.end_era(sessions.era()));
    }
    assert!(sessions.growth() >= 1000, "{} of 1000", sessions.growth());
}

/// What strangers can leave behind in large numbers.
#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 136, "{} bytes", size_of::<Session>());
    let mut sessions = Sessions::default();
    assert_eq!(sessions.turn(request(1), 0), Turn::First);
    sessions.keep_one(request(1), &result(1));
    let (_, session) = sessions.table.unordered().next().expect("one");
    assert_eq!(session.results.capacity(), 1, "no room for results to come");
}

#[test]
fn a_close_bounds_the_results_of_all_sessions_together() {
    let mut sessions = Sessions::default();
    for client in 0..300 {
        let request = RequestId::new(ClientId(client), 1);
        assert_eq!(sessions.turn(request, 0), Turn::First);
        sessions.keep_one(request, &result(if client < 250 { RESULT_BYTES } else { 100 }));
    }
    assert!(sessions.growth() >= 1000 && sessions.close(era(0), 0));
    assert!(sessions.size.result_bytes <= LEFT.result_bytes);
    let small = RequestId::new(ClientId(299), 1);
    assert!(sessions.one_result(small).is_some(), "small ones stay");
    assert_eq!(sessions.turn(RequestId::new(ClientId(0), 1), 0), Turn::Again, "and so does this");
}

#[test]
fn the_level_is_the_highest_that_fits() {
    for (sizes, total, most) in [
        (&[][..], 0, 1 << 63),
        (&[5, 6, 7], 18, 1 << 63),
        (&[5, 6, 7], 17, 4),
        (&[1000, 3, 3], 70, 64),
        (&[1, 1, 1], 2, 0),
    ] {
        assert_eq!(level(sizes.iter().copied(), total), most, "{sizes:?}");
    }
}
