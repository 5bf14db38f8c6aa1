//! Correct and wrong histories, some by hand and thousands against a checker that tries all orders.

mod random;
mod stories;

use bytes::Bytes;

use super::*;
use crate::machine::{Kv, KvCommand, KvOutput, StateMachine};

/// A history of one key from a story like `0..1 put a; 2..3 get a; 2.. cas a b; 4..5 put c fail`.
///
/// `get` is followed by what it found, `-` for nothing; `cas a b no c` found `c`; `del none` found
/// nothing. An operation without a return time has an unknown outcome.
fn history(story: &str) -> Vec<Operation> {
    let value = |word: &str| (word != "-").then(|| Bytes::copy_from_slice(word.as_bytes()));
    let operation = |(client, line): (u64, &str)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (called, returned) = words[0].split_once("..").expect("call..return");
        let returned = returned.parse().ok();
        let (call, answer) = match words[1..] {
            ["get"] => (Call::Get, None),
            ["get", found] => (Call::Get, Some(Answer::Value(value(found)))),
            ["put", new] | ["put", new, "fail"] => {
                (Call::Put(value(new).unwrap()), Some(Answer::Done))
            }
            ["cas", old, new, ref rest @ ..] => (
                Call::Cas { expected: value(old), value: value(new).unwrap() },
                Some(match rest {
                    ["no", found] => Answer::Mismatch(value(found)),
                    _ => Answer::Swapped,
                }),
            ),
            ["del", ref rest @ ..] => (Call::Del, Some(Answer::Deleted(*rest != ["none"]))),
            _ => panic!("not a story: {line}"),
        };
        let outcome = match answer {
            _ if words.last() == Some(&"fail") => Outcome::Fail,
            Some(answer) if returned.is_some() => Outcome::Ok(answer),
            _ => Outcome::Info,
        };
        let (key, called) = (Bytes::from_static(b"x"), called.parse().unwrap());
        Operation { client, key, call, called, returned, outcome }
    };
    (1..).zip(story.split(';').map(str::trim).filter(|it| !it.is_empty())).map(operation).collect()
}

/// The definition: tries every order of one key's operations on the real store.
fn brute_force(history: &[Operation]) -> bool {
    fn go(left: &[&Operation], store: &Kv) -> bool {
        let answered = |it: &&&Operation| matches!(it.outcome, Outcome::Ok(_));
        if !left.iter().any(|it| answered(&it)) {
            return true;
        }
        (0..left.len()).any(|at| {
            let next = left[at];
            let late = |it: &&Operation| it.returned.is_some_and(|end| end < next.called);
            if left.iter().filter(answered).any(late) {
                return false;
            }
            let mut store = store.clone();
            let answer = Answer::of(store.apply(command(next)));
            let fits = match &next.outcome {
                Outcome::Ok(expected) => answer.as_ref() == Some(expected),
                Outcome::Info => true,
                Outcome::Fail => unreachable!("left out below"),
            };
            let rest: Vec<&Operation> = left.iter().copied().filter(|it| *it != next).collect();
            fits && go(&rest, &store)
        })
    }
    let happened = history.iter().filter(|it| it.outcome != Outcome::Fail);
    go(&happened.collect::<Vec<_>>(), &Kv::new())
}

fn command(operation: &Operation) -> KvCommand {
    let key = operation.key.clone();
    match operation.call.clone() {
        Call::Get => KvCommand::Get { key },
        Call::Put(value) => KvCommand::Put { key, value },
        Call::Cas { expected, value } => KvCommand::Cas { key, expected, value },
        Call::Del => KvCommand::Del { key },
    }
}

/// The store's output as an answer.
fn answer(output: KvOutput) -> Answer {
    Answer::of(output).expect("an answer about one key")
}
