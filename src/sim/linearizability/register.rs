//! Turns one key's operations into acts on a register: the first step of a check.

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::sim::history::{Answer, Call, Operation, Outcome, to_text};

/// A value, numbered; [`ABSENT`] means none.
pub(super) type Value = u32;

/// No value, as at the start.
pub(super) const ABSENT: Value = 0;

/// An act on a register at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Act {
    /// It has this value.
    Read(Value),
    /// It gets this value.
    Write(Value),
    /// It has the first value and gets the second.
    Swap(Value, Value),
    /// It has a value and loses it.
    Delete,
}

impl Act {
    /// The state after the act; `None` if it cannot happen in `state`.
    pub(super) fn apply(self, state: Value) -> Option<Value> {
        match self {
            Act::Read(value) => (state == value).then_some(state),
            Act::Write(value) => Some(value),
            Act::Swap(expected, value) => (state == expected).then_some(value),
            Act::Delete => (state != ABSENT).then_some(ABSENT),
        }
    }
}

/// An act with its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) act: Act,
    /// The earliest time at which it can have happened.
    pub(super) call: u64,
    /// The latest time at which it can have happened; `u64::MAX` if unknown.
    pub(super) ret: u64,
    /// It may not have happened at all.
    pub(super) optional: bool,
    /// The index of its operation.
    pub(super) operation: usize,
}

/// One or more acts that cannot be separated. `x` must precede `y` if `x.closes < y.opens`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unit {
    /// Its latest call.
    pub(super) opens: u64,
    /// Its earliest return; `u64::MAX` if it has none.
    pub(super) closes: u64,
    pub(super) act: Act,
}

/// An act that may have happened, at its call or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Optional {
    pub(super) call: u64,
    pub(super) act: Act,
}

/// One key's history.
#[derive(Debug)]
pub(super) struct Register {
    /// By time of call.
    pub(super) ops: Vec<Op>,
    /// The values by number; the first one is for `ABSENT`.
    pub(super) values: Vec<Bytes>,
    /// Failed operations, kept so that an effect of one can be named.
    pub(super) failed: Vec<Op>,
}

/// Operations that cannot be put in order, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Contradiction {
    pub(super) reason: String,
    /// Indices of operations.
    pub(super) operations: Vec<usize>,
}

/// Units, optional acts, and the operations of each unit.
pub(super) type Units = (Vec<Unit>, Vec<Optional>, Vec<Vec<usize>>);

impl Register {
    /// `operations` must be sorted by time of call; the history ends at `until`.
    pub(super) fn new(operations: &[&Operation], until: u64) -> Result<Register, Contradiction> {
        let mut numbers = Numbers { of: FxHashMap::default(), values: vec![Bytes::new()] };
        let mut ops = Vec::with_capacity(operations.len());
        let mut failed = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            let Operation { call, called, returned, outcome, .. } = operation;
            if *called > until {
                break;
            }
            let answered = returned.is_some_and(|returned| returned <= until);
            let effect = match call {
                Call::Get => None,
                Call::Put(value) => Some(Act::Write(numbers.number(value))),
                Call::Cas { expected, value } => {
                    Some(Act::Swap(numbers.maybe(expected), numbers.number(value)))
                }
                Call::Del => Some(Act::Delete),
            };
            let op =
                |act, ret, optional| Op { act, call: *called, ret, optional, operation: index };
            let answer = match outcome {
                Outcome::Ok(answer) if answered => answer,
                Outcome::Fail => {
                    failed.extend(effect.map(|act| op(act, u64::MAX, true)));
                    continue;
                }
                // Reads without an answer say nothing.
                Outcome::Ok(_) | Outcome::Info => {
                    ops.extend(effect.map(|act| op(act, u64::MAX, true)));
                    continue;
                }
            };
            let act = numbers.answered(effect, answer).map_err(|reason| Contradiction {
                reason: reason.to_owned(),
                operations: vec![index],
            })?;
            let ret = returned.unwrap_or(u64::MAX).max(*called);
            ops.push(op(act, ret, false));
        }
        Ok(Register { ops, values: numbers.values, failed })
    }

    /// Each act as its own unit.
    pub(super) fn units(&self) -> Units {
        let required = self.ops.iter().filter(|op| !op.optional);
        let units = required.clone().map(|op| Unit { opens: op.call, closes: op.ret, act: op.act });
        let members = required.clone().map(|op| vec![op.operation]);
        let optional = self.ops.iter().filter(|op| op.optional);
        let optional = optional.map(|op| Optional { call: op.call, act: op.act });
        (units.collect(), optional.collect(), members.collect())
    }

    /// A value as text.
    pub(super) fn name(&self, value: Value) -> String {
        to_text(&self.values[value as usize])
    }
}

/// Values and their numbers.
struct Numbers {
    of: FxHashMap<Bytes, Value>,
    values: Vec<Bytes>,
}

impl Numbers {
    fn number(&mut self, value: &Bytes) -> Value {
        if let Some(number) = self.of.get(value) {
            return *number;
        }
        let number = Value::try_from(self.values.len()).expect("fewer than 2^32 operations");
        self.of.insert(value.clone(), number);
        self.values.push(value.clone());
        number
    }

    fn maybe(&mut self, value: &Option<Bytes>) -> Value {
        value.as_ref().map_or(ABSENT, |value| self.number(value))
    }

    /// The act of an operation with this answer.
    fn answered(&mut self, effect: Option<Act>, answer: &Answer) -> Result<Act, &'static str> {
        Ok(match (effect, answer) {
            (None, Answer::Value(value)) => Act::Read(self.maybe(value)),
            (Some(act @ Act::Write(_)), Answer::Done) => act,
            (Some(act @ Act::Swap(..)), Answer::Swapped) => act,
            (Some(Act::Swap(expected, _)), Answer::Mismatch(found)) => match self.maybe(found) {
                found if found == expected => return Err("it found what it expected"),
                found => Act::Read(found),
            },
            (Some(Act::Delete), Answer::Deleted(true)) => Act::Delete,
            (Some(Act::Delete), Answer::Deleted(false)) => Act::Read(ABSENT),
            _ => return Err("the answer is to another question"),
        })
    }
}
