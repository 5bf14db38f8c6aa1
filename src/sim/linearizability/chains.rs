//! What unique values tell: the second step of a check, between `register` and `search`.
//!
//! Where each value is written once, everything that saw a value stands behind its writer and before
//! the next write, in every order; and so does, at the end of them, the swap that replaced it, with
//! all who saw the new value behind it. Such a *chain* can be moved only as a whole. What is left of
//! a register, seen from outside of chains, is whether there is a value.
//!
//! (After Gibbons and Korach, "Testing shared memories", 1997, whose zones are the chains without
//! swaps.)

use super::register::{ABSENT, Act, Contradiction, Op, Register, Units, Value};
use super::search::{Optional, Unit};

/// All that the search has to know of a value: that there is one.
const PRESENT: Value = 1;

/// What came of it.
pub(super) enum Chains {
    /// Units that the search has to order.
    Units(Vec<Unit>, Vec<Optional>, Vec<Vec<usize>>),
    /// No order is possible.
    Contradiction(Contradiction),
    /// Some value has two writers.
    NotUnique,
}

/// Joins acts to chains.
pub(super) fn chain(register: &Register) -> Chains {
    let Some(values) = Values::new(register) else { return Chains::NotUnique };
    let joined = values.needed().and_then(|needed| {
        let replaced = values.replaced(&needed)?;
        let (units, optional, members) = values.join(&needed, &replaced)?;
        match split(&units) {
            None => Ok((units, optional, members)),
            Some((a, b)) => Err(Contradiction {
                reason: "a value, written once, was there both before and after something else"
                    .to_owned(),
                operations: [&members[a][..], &members[b][..]].concat(),
            }),
        }
    });
    match joined {
        Ok((units, optional, members)) => Chains::Units(units, optional, members),
        Err(contradiction) => Chains::Contradiction(contradiction),
    }
}

/// Who wrote and who saw each value, as indices of ops.
struct Values<'a> {
    register: &'a Register,
    ops: &'a [Op],
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
}

impl<'a> Values<'a> {
    /// `None` if a value has two writers.
    fn new(register: &'a Register) -> Option<Values<'a>> {
        let count = register.values.len();
        let mut writer = vec![None; count];
        let mut readers = vec![Vec::new(); count];
        for (index, op) in register.ops.iter().enumerate() {
            match op.act {
                Act::Read(value) => readers[value as usize].push(index),
                Act::Write(value) | Act::Swap(_, value) => {
                    if writer[value as usize].replace(index).is_some() {
                        return None;
                    }
                }
                Act::Delete => {}
            }
        }
        Some(Values { register, ops: &register.ops, writer, readers })
    }

    /// Which ops surely happened: those with an answer, and whoever wrote what these saw.
    fn needed(&self) -> Result<Vec<bool>, Contradiction> {
        let mut needed: Vec<bool> = self.ops.iter().map(|op| !op.optional).collect();
        let mut open: Vec<usize> = (0..self.ops.len()).filter(|index| needed[*index]).collect();
        while let Some(index) = open.pop() {
            let (Act::Read(value) | Act::Swap(value, _)) = self.ops[index].act else { continue };
            if value == ABSENT {
                continue;
            }
            let writer = self.writer[value as usize].ok_or_else(|| self.unwritten(index, value))?;
            if !needed[writer] {
                needed[writer] = true;
                open.push(writer);
            }
        }
        Ok(needed)
    }

    fn unwritten(&self, seen_by: usize, value: Value) -> Contradiction {
        let wrote = |op: &&Op| matches!(op.act, Act::Write(it) | Act::Swap(_, it) if it == value);
        let failed: Vec<usize> =
            self.register.failed.iter().filter(wrote).map(|op| op.operation).collect();
        let name = self.register.name(value);
        let reason = if failed.is_empty() {
            format!("the value {name} was never written")
        } else {
            format!("the value {name} was written only by what is said to have failed")
        };
        let operations = [&[self.ops[seen_by].operation][..], &failed].concat();
        Contradiction { reason, operations }
    }

    /// For each value the swap that replaced it, if one surely did.
    fn replaced(&self, needed: &[bool]) -> Result<Vec<Option<usize>>, Contradiction> {
        let mut replaced = vec![None; self.writer.len()];
        for (index, op) in self.ops.iter().enumerate().filter(|(index, _)| needed[*index]) {
            let Act::Swap(expected, _) = op.act else { continue };
            if expected == ABSENT {
                continue;
            }
            if let Some(other) = replaced[expected as usize].replace(index) {
                let name = self.register.name(expected);
                return Err(self.contradiction(
                    format!("the value {name}, written once, was replaced twice"),
                    [other, index],
                ));
            }
        }
        Ok(replaced)
    }

    fn join(&self, needed: &[bool], replaced: &[Option<usize>]) -> Result<Units, Contradiction> {
        let (mut units, mut optional, mut members) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_chain = 0;
        for (index, op) in self.ops.iter().enumerate() {
            let act = match op.act {
                Act::Write(_) => Act::Write(PRESENT),
                Act::Swap(ABSENT, _) => Act::Swap(ABSENT, PRESENT),
                Act::Delete | Act::Read(ABSENT) => op.act,
                Act::Read(_) | Act::Swap(..) => continue,
            };
            if !needed[index] {
                // Nobody saw what it wrote, so all it can do is to fill a gap, or to make one.
                let act = if act == Act::Delete { act } else { Act::Swap(ABSENT, PRESENT) };
                optional.push(Optional { call: op.call, act });
                continue;
            }
            let mut link = Link::new(index, op);
            if let Act::Write(value) | Act::Swap(_, value) = op.act {
                in_chain += self.follow(&mut link, value, replaced)?;
            }
            units.push(Unit { opens: link.opens.0, closes: link.closes.0, act });
            let mut ends = vec![index, link.opens.1, link.closes.1];
            ends.dedup();
            members.push(ends.into_iter().map(|it| self.ops[it].operation).collect());
        }
        // Each swap that surely happened stands in some chain, or they go round in a circle.
        if in_chain < replaced.iter().flatten().count() {
            return Err(self.circle(needed, replaced));
        }
        let gaps =
            units.iter().any(|it| matches!(it.act, Act::Read(ABSENT) | Act::Swap(ABSENT, _)));
        let deletions = units.iter().any(|it| it.act == Act::Delete);
        optional.retain(|it| if it.act == Act::Delete { gaps } else { deletions });
        Ok((units, optional, members))
    }

    /// Adds everything that belongs behind the writer of `value`; returns the number of swaps.
    fn follow(
        &self,
        link: &mut Link,
        mut value: Value,
        replaced: &[Option<usize>],
    ) -> Result<usize, Contradiction> {
        let mut swaps = 0;
        loop {
            let readers = &self.readers[value as usize];
            link.add(self, readers)?;
            let Some(swap) = replaced[value as usize] else { return Ok(swaps) };
            swaps += 1;
            link.add(self, &[swap])?;
            let Act::Swap(_, next) = self.ops[swap].act else {
                unreachable!("only swaps replace");
            };
            value = next;
        }
    }

    fn circle(&self, needed: &[bool], replaced: &[Option<usize>]) -> Contradiction {
        // Take away what hangs on a root; the rest is circles.
        let mut left: Vec<bool> = needed.to_vec();
        for (index, op) in self.ops.iter().enumerate() {
            let (Act::Write(value) | Act::Swap(ABSENT, value)) = op.act else { continue };
            let mut next = needed[index].then_some(value);
            while let Some(swap) = next.and_then(|value| replaced[value as usize]) {
                left[swap] = false;
                next = match self.ops[swap].act {
                    Act::Swap(_, value) => Some(value),
                    _ => None,
                };
            }
        }
        let swaps = (0..self.ops.len()).filter(|index| {
            left[*index]
                && matches!(self.ops[*index].act, Act::Swap(expected, _) if expected != ABSENT)
        });
        self.contradiction("each of these replaced what another wrote, in a circle".into(), swaps)
    }

    fn contradiction(&self, reason: String, ops: impl IntoIterator<Item = usize>) -> Contradiction {
        let operations = ops.into_iter().map(|index| self.ops[index].operation).collect();
        Contradiction { reason, operations }
    }
}

/// A chain that grows at its end. Times come with the op they are from.
struct Link {
    /// The latest call: whatever returned before it is not behind the chain.
    opens: (u64, usize),
    /// The earliest return: whatever was called after it is not before the chain.
    closes: (u64, usize),
}

impl Link {
    fn new(index: usize, op: &Op) -> Link {
        Link { opens: (op.call, index), closes: (op.ret, index) }
    }

    /// Adds ops that belong behind all so far, in any order among themselves.
    fn add(&mut self, values: &Values<'_>, ops: &[usize]) -> Result<(), Contradiction> {
        let before = self.opens;
        for index in ops {
            let op = &values.ops[*index];
            if op.ret < before.0 {
                return Err(values.contradiction(
                    "the first was answered before the other was called, but can only come after it"
                        .to_owned(),
                    [*index, before.1],
                ));
            }
            self.opens = self.opens.max((op.call, *index));
            self.closes = self.closes.min((op.ret, *index));
        }
        Ok(())
    }
}

/// Two units each of which would have to precede the other. Of a unit that closes before it opens,
/// nothing may come in between; two such must not overlap, and no other may lie inside one.
fn split(units: &[Unit]) -> Option<(usize, usize)> {
    let stretched = |unit: &Unit| unit.closes < unit.opens;
    let mut long: Vec<usize> = (0..units.len()).filter(|it| stretched(&units[*it])).collect();
    long.sort_by_key(|it| units[*it].closes);
    for pair in long.windows(2) {
        if units[pair[1]].closes < units[pair[0]].opens {
            return Some((pair[0], pair[1]));
        }
    }
    let short = (0..units.len()).filter(|it| !stretched(&units[*it]));
    short.into_iter().find_map(|it| {
        let behind = long.partition_point(|other| units[*other].closes < units[it].opens);
        let last = *long[..behind].last()?;
        (units[it].closes < units[last].opens).then_some((last, it))
    })
}
