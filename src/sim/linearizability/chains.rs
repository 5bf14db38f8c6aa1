//! Uses unique values: the second step of a check, between `register` and `search`.
//!
//! If each value is written once, then in every order all its readers come after its writer and
//! before the next write. If a swap replaced the value, it comes after them, followed by all
//! readers of the new value. Such a *chain* can only be moved as a whole. Seen from outside its
//! chains, a register either has a value or has none.
//!
//! (After Gibbons and Korach, "Testing shared memories", 1997; their zones are chains without
//! swaps.)

use super::register::{ABSENT, Act, Contradiction, Op, Optional, Register, Unit, Units, Value};

/// The search only needs to know that there is a value.
const PRESENT: Value = 1;

/// The result of joining acts to chains.
pub(super) enum Chains {
    /// Units for the search to order.
    Units(Vec<Unit>, Vec<Optional>, Vec<Vec<usize>>),
    /// No order is possible.
    Contradiction(Contradiction),
    /// A value has two writers.
    NotUnique,
}

/// Joins acts to chains.
pub(super) fn chain(register: &Register) -> Chains {
    let Some(mut values) = Values::new(register) else { return Chains::NotUnique };
    let joined = values.find_needed().and_then(|()| {
        let replaced = values.replaced()?;
        let (units, optional, members) = values.join(&replaced)?;
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

/// The writer and the readers of each value, as indices of ops.
struct Values<'a> {
    register: &'a Register,
    ops: &'a [Op],
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    /// For each op, how it is known to have happened: by its own answer, or by another op that saw
    /// its value. `None` if it may not have happened.
    because: Vec<Option<usize>>,
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
        let ops = &register.ops[..];
        let answered = |(index, op): (usize, &Op)| (!op.optional).then_some(index);
        let because = ops.iter().enumerate().map(answered).collect();
        Some(Values { register, ops, writer, readers, because })
    }

    /// Finds the writers of all values that were seen.
    fn find_needed(&mut self) -> Result<(), Contradiction> {
        let mut open: Vec<usize> = self.because.iter().flatten().copied().collect();
        while let Some(index) = open.pop() {
            let (Act::Read(value) | Act::Swap(value, _)) = self.ops[index].act else { continue };
            if value == ABSENT {
                continue;
            }
            let writer = self.writer[value as usize].ok_or_else(|| self.unwritten(index, value))?;
            if self.because[writer].is_none() {
                self.because[writer] = Some(index);
                open.push(writer);
            }
        }
        Ok(())
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
        let mut contradiction = self.contradiction(reason, [seen_by]);
        contradiction.operations.extend(failed);
        contradiction
    }

    /// For each value the swap that surely replaced it, if any.
    fn replaced(&self) -> Result<Vec<Option<usize>>, Contradiction> {
        let mut replaced = vec![None; self.writer.len()];
        for (index, op) in self.ops.iter().enumerate() {
            let Act::Swap(expected, _) = op.act else { continue };
            if expected == ABSENT || self.because[index].is_none() {
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

    /// The units of everything that surely happened, and optional acts that may help.
    ///
    /// An act that may have happened and that no op saw matters only if it adds or removes a value.
    /// So a swap of one value for another is left out.
    fn join(&self, replaced: &[Option<usize>]) -> Result<Units, Contradiction> {
        let (mut units, mut optional, mut members) = (Vec::new(), Vec::new(), Vec::new());
        let mut joined = vec![false; self.ops.len()];
        for (index, op) in self.ops.iter().enumerate() {
            let act = match op.act {
                Act::Write(_) => Act::Write(PRESENT),
                Act::Swap(ABSENT, _) => Act::Swap(ABSENT, PRESENT),
                Act::Delete | Act::Read(ABSENT) => op.act,
                Act::Read(_) | Act::Swap(..) => continue,
            };
            if self.because[index].is_none() {
                let act = if act == Act::Delete { act } else { Act::Swap(ABSENT, PRESENT) };
                optional.push(Optional { call: op.call, act });
                continue;
            }
            let mut link = Link::new(index, op);
            if let Act::Write(value) | Act::Swap(_, value) = op.act {
                self.follow(&mut link, value, replaced, &mut joined)?;
            }
            units.push(Unit { opens: link.opens.0, closes: link.closes.0, act });
            members.push(self.explained([index, link.opens.1, link.closes.1]));
        }
        // Every swap that surely happened comes after some writer, or the swaps form a circle.
        let swaps = replaced.iter().flatten().copied();
        let circle: Vec<usize> = swaps.filter(|swap| !joined[*swap]).collect();
        if !circle.is_empty() {
            let reason = "each of these replaced what another wrote, in a circle".to_owned();
            return Err(self.contradiction(reason, circle));
        }
        let gaps =
            units.iter().any(|it| matches!(it.act, Act::Read(ABSENT) | Act::Swap(ABSENT, _)));
        let deletions = units.iter().any(|it| it.act == Act::Delete);
        optional.retain(|it| if it.act == Act::Delete { gaps } else { deletions });
        Ok((units, optional, members))
    }

    /// Adds everything that must come after the writer of `value`.
    fn follow(
        &self,
        link: &mut Link,
        mut value: Value,
        replaced: &[Option<usize>],
        joined: &mut [bool],
    ) -> Result<(), Contradiction> {
        loop {
            link.add(self, &self.readers[value as usize])?;
            let Some(swap) = replaced[value as usize] else { return Ok(()) };
            link.add(self, &[swap])?;
            joined[swap] = true;
            let Act::Swap(_, next) = self.ops[swap].act else {
                unreachable!("only swaps replace");
            };
            value = next;
        }
    }

    fn contradiction(&self, reason: String, ops: impl IntoIterator<Item = usize>) -> Contradiction {
        Contradiction { reason, operations: self.explained(ops) }
    }

    /// The operations of these ops, and of the ops that show that they happened.
    fn explained(&self, ops: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut operations = Vec::new();
        for mut op in ops {
            operations.push(self.ops[op].operation);
            while let Some(by) = self.because[op].filter(|by| *by != op) {
                op = by;
                operations.push(self.ops[op].operation);
            }
        }
        operations.sort_unstable();
        operations.dedup();
        operations
    }
}

/// A chain that grows at its end. Each time is stored with its op.
struct Link {
    /// The latest call: an op that returned before it cannot come after the chain.
    opens: (u64, usize),
    /// The earliest return: an op called after it cannot come before the chain.
    closes: (u64, usize),
}

impl Link {
    fn new(index: usize, op: &Op) -> Link {
        Link { opens: (op.call, index), closes: (op.ret, index) }
    }

    /// Adds ops that come after all so far, in any order among themselves.
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

/// Finds two units that must each precede the other. Nothing may come between the parts of a unit
/// that closes before it opens. Two such units must not overlap, and no other unit may lie inside
/// one.
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
