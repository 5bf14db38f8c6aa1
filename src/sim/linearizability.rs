//! Checks whether a history is linearizable: could every operation have happened at one moment
//! between its call and its return, one after the other, with the answers given?
//!
//! Keys are independent (linearizability is local), so each key is a register of its own. For one
//! key:
//!
//! 1. `register` turns operations into acts: reads, writes, swaps, deletions. A `fail` never
//!    happened. An `info` may have happened at any time after its call.
//! 2. `chains` uses unique values, if they are unique. The writer of a value and its readers are
//!    neighbours in every order, so they become one unit. Most violations already show here as two
//!    units that must each precede the other, and a few operations explain them.
//! 3. `search` looks for an order of the units that fits both the times and the register. It
//!    backtracks, and never visits the same configuration twice.
//!
//! With unique values the search hardly ever backtracks: it takes about one step per operation. It
//! decides other histories, too, but may take exponential time, so its steps are bounded.

mod chains;
mod register;
mod search;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::history::{Answer, Call, Operation, Outcome, to_text};
use chains::{Chains, chain};
use register::{Contradiction, Register};
use search::{Found, search};

/// A bound for the search of one key; reaching it takes some seconds and some 200 MB.
pub const BUDGET: u64 = 5_000_000;

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An order exists.
    Linearizable,
    /// None exists.
    Violation(Box<Violation>),
    /// Undecided: the budget is used up.
    TooHard {
        /// The first key that was too hard.
        key: Bytes,
    },
}

/// Why a history is not linearizable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The key.
    pub key: Bytes,
    /// What is wrong.
    pub reason: String,
    /// The operations that show it, by time of call.
    pub operations: Vec<Operation>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}: {}", to_text(&self.key), self.reason)?;
        for operation in &self.operations {
            write!(f, "\n  {}", Shown(operation))?;
        }
        Ok(())
    }
}

/// Checks a history in which every key starts without a value.
///
/// Two operations are ordered if one returned before the other was called; equal times do not order
/// them. `budget` bounds the steps of each key's search: [`BUDGET`] if in doubt.
pub fn check(history: &[Operation], budget: u64) -> Verdict {
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut too_hard = None;
    for (key, mut operations) in keys {
        operations.sort_by_key(|operation| operation.called);
        match decide(&operations, u64::MAX, budget) {
            Decision::Linearizable => {}
            Decision::TooHard => too_hard = too_hard.or(Some(key)),
            Decision::Contradiction(contradiction) => {
                return violation(key, &operations, contradiction);
            }
            Decision::Stuck(stuck) => {
                let contradiction = shortest(&operations, budget).unwrap_or(stuck);
                return violation(key, &operations, contradiction);
            }
        }
    }
    too_hard.map_or(Verdict::Linearizable, |key| Verdict::TooHard { key: key.clone() })
}

enum Decision {
    Linearizable,
    TooHard,
    /// A proof: these operations alone have no valid order.
    Contradiction(Contradiction),
    /// None of the possible orders is valid. The longest attempt ended at these operations.
    Stuck(Contradiction),
}

/// Decides the history of one key up to the time `until`. Later calls are left out, and operations
/// that had not returned are unknown.
fn decide(operations: &[&Operation], until: u64, budget: u64) -> Decision {
    let register = match Register::new(operations, until) {
        Ok(register) => register,
        Err(contradiction) => return Decision::Contradiction(contradiction),
    };
    let (units, optional, members) = match chain(&register) {
        Chains::Units(units, optional, members) => (units, optional, members),
        Chains::Contradiction(contradiction) => return Decision::Contradiction(contradiction),
        Chains::NotUnique => register.units(),
    };
    match search(&units, &optional, budget) {
        Found::Order => Decision::Linearizable,
        Found::TooHard => Decision::TooHard,
        Found::Stuck(stuck) => {
            let operations = stuck.iter().flat_map(|unit| members[*unit].iter().copied());
            Decision::Stuck(Contradiction {
                reason: "no order explains the answers; the longest attempt ends here".to_owned(),
                operations: operations.collect(),
            })
        }
    }
}

/// The contradiction in the shortest prefix that has one. Bisection finds it, because a prefix of a
/// linearizable history is linearizable.
fn shortest(operations: &[&Operation], budget: u64) -> Option<Contradiction> {
    let mut ends: Vec<u64> = operations.iter().filter_map(|it| it.returned).collect();
    ends.sort_unstable();
    let mut best = None;
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        match decide(operations, ends[middle], budget) {
            // If a prefix is too hard to decide, try a longer one.
            Decision::Linearizable | Decision::TooHard => low = middle + 1,
            Decision::Contradiction(found) | Decision::Stuck(found) => {
                best = Some(found);
                high = middle;
            }
        }
    }
    best
}

fn violation(key: &Bytes, operations: &[&Operation], found: Contradiction) -> Verdict {
    let mut indices = found.operations;
    indices.sort_unstable();
    indices.dedup();
    let operations = indices.into_iter().map(|index| operations[index].clone()).collect();
    Verdict::Violation(Box::new(Violation { key: key.clone(), reason: found.reason, operations }))
}

/// An operation as one line of text.
struct Shown<'a>(&'a Operation);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, call, called, returned, outcome, .. } = self.0;
        let text =
            |value: &Option<Bytes>| value.as_ref().map_or("nothing".to_owned(), |it| to_text(it));
        match returned {
            Some(returned) => write!(f, "{called}..{returned}")?,
            None => write!(f, "{called}..")?,
        }
        write!(f, " client {client}: ")?;
        match call {
            Call::Get => write!(f, "get")?,
            Call::Put(value) => write!(f, "put {}", to_text(value))?,
            Call::Cas { expected, value } => {
                write!(f, "cas {} to {}", text(expected), to_text(value))?;
            }
            Call::Del => write!(f, "del")?,
        }
        match outcome {
            Outcome::Fail => write!(f, ": failed"),
            Outcome::Info => write!(f, ": no answer"),
            Outcome::Ok(Answer::Value(value)) => write!(f, ": {}", text(value)),
            Outcome::Ok(Answer::Done | Answer::Swapped) => write!(f, ": done"),
            Outcome::Ok(Answer::Mismatch(found)) => write!(f, ": no, it is {}", text(found)),
            Outcome::Ok(Answer::Deleted(true)) => write!(f, ": done"),
            Outcome::Ok(Answer::Deleted(false)) => write!(f, ": there is none"),
        }
    }
}

#[cfg(test)]
mod tests;
