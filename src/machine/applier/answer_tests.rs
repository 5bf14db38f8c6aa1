//! The outputs of commands: what is encoded, what is kept, and who gets it.

use super::*;
use crate::machine::encode;

/// A machine with answers of any length, which counts its calls.
#[derive(Default)]
struct Loud {
    state: u64,
    calls: usize,
}

impl StateMachine for Loud {
    /// Whether it writes, the length of the answer, and padding.
    type Command = (bool, usize, Bytes);
    type Output = Bytes;

    fn footprint(command: &Self::Command) -> Footprint {
        if command.0 { Footprint::write(b"a") } else { Footprint::read(b"a") }
    }

    fn apply(&mut self, (writes, length, _): Self::Command) -> Bytes {
        self.calls += 1;
        self.state += u64::from(writes);
        vec![7; length].into()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state.to_le_bytes().into()
    }

    fn restore(_: &[u8]) -> Result<Loud, RestoreError> {
        Err(RestoreError::new("none is taken"))
    }
}

fn loud(sequence: u64, writes: bool, length: usize, room: usize) -> Command {
    let command = (writes, length, Bytes::from(vec![1; room]));
    Command {
        request: RequestId::new(ClientId(1), sequence),
        floor: 0,
        origin: ReplicaId::from_index(0),
        footprint: Loud::footprint(&command),
        payload: encode(&command).expect("plain data"),
    }
}

#[test]
fn an_answer_that_is_too_large_is_told_and_the_command_has_its_effect() {
    let mut applier = Applier::new(Loud::default());
    // The encoded length precedes the answer.
    let longest = MAX_ANSWER - 4;
    for (sequence, writes) in [(1, true), (2, false)] {
        let fits = applier.apply(&loud(sequence, writes, longest, 0), true).outcome;
        let Outcome::Output(output) = fits else { panic!("{fits:?}") };
        assert_eq!(output.len(), MAX_ANSWER);
        let over = loud(sequence + 2, writes, longest + 1, 0);
        let told = Outcome::TooLarge { bytes: MAX_ANSWER + 1 };
        assert_eq!(applier.apply(&over, true).outcome, told);
    }
    assert_eq!(applier.machine().state, 2, "both writes");
    let again = applier.apply(&loud(3, true, longest + 1, 0), true);
    assert_eq!((again.first, again.outcome), (false, Outcome::Forgotten));
    let read = encode(&(false, longest + 1, Bytes::new())).expect("plain data");
    assert_eq!(applier.read(&read), Err(ReadError::TooLarge { bytes: MAX_ANSWER + 1 }));
}

#[test]
fn a_short_command_leaves_no_long_result_behind() {
    let mut applier = Applier::new(Loud::default());
    for (sequence, length, room, kept) in [
        (1, KEPT_RESULT - 2, 0, true),
        (2, KEPT_RESULT - 1, 0, false),
        (3, 10 * KEPT_RESULT, 10 * KEPT_RESULT, true),
        (4, 11 * KEPT_RESULT, 10 * KEPT_RESULT, false),
    ] {
        let command = loud(sequence, true, length, room);
        let outcome = applier.apply(&command, true).outcome;
        assert!(matches!(outcome, Outcome::Output(_)), "{outcome:?}");
        let again = applier.apply(&command, true).outcome;
        let forgotten = if kept { outcome } else { Outcome::Forgotten };
        assert_eq!(again, forgotten, "{sequence}");
    }
}

#[test]
fn what_nobody_waits_for_is_not_made_and_the_state_is_the_same() {
    let [mut asked, mut other] = [(); 2].map(|()| Applier::new(Loud::default()));
    let commands = [
        loud(1, true, 10, 0),
        loud(2, false, 10, 0),
        loud(3, true, 10 * KEPT_RESULT, 0),
        loud(3, true, 10 * KEPT_RESULT, 0),
        loud(4, true, MAX_ANSWER, 0),
        loud(2, false, 10, 0),
    ];
    for command in &commands {
        asked.apply(command, true);
        assert_eq!(other.apply(command, false).outcome, Outcome::Unasked);
    }
    assert_eq!((asked.machine().calls, other.machine().calls), (5, 3), "reads are not applied");
    assert_eq!(asked.snapshot(), other.snapshot());
    assert_eq!(asked.digest(), other.digest());
}
