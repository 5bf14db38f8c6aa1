//! Each test plants one breach and checks that it is caught and reduced to its smallest case.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

use super::*;
use crate::machine::{Kv, KvCommand, RestoreError, View};
use crate::types::{Access, Footprint, KeyHash};

#[test]
fn the_store_keeps_its_promises() {
    let checked = check_footprint(Cases::default(), Kv::new, |random| {
        let mut text = |bound| Bytes::from(vec![b'a' + u8::try_from(random.below(bound)).unwrap()]);
        let [key, other, value, old] = [text(3), text(3), text(2), text(3)];
        let expected = (old != b"c"[..]).then_some(old);
        match random.below(6) {
            0 => KvCommand::Get { key },
            1 => KvCommand::Put { key, value },
            2 => KvCommand::Del { key },
            3 => KvCommand::Cas { key, expected, value },
            4 => KvCommand::GetMany { keys: vec![key, other] },
            _ => KvCommand::PutMany { entries: vec![(key, value.clone()), (other, value)] },
        }
    });
    let checked = checked.unwrap();
    assert!(checked.commuting > checked.cases / 2, "{checked:?}");
}

/// A bank with four accounts and one fault, which `FAULT` chooses.
#[derive(Clone, Default)]
struct Bank<const FAULT: u8> {
    balance: [u64; 4],
    count: u64,
}

const NONE: u8 = 0;
const TRANSFER_FORGETS_TARGET: u8 = 1;
const LIMIT_READS_ANOTHER: u8 = 2;
const BALANCE_WRITES: u8 = 3;
const COUNTS_CALLS: u8 = 4;
const CLOCK: u8 = 5;
const SNAPSHOT_FORGETS: u8 = 6;
const VIEW_MOVES: u8 = 7;
const STREAM_FORGETS: u8 = 8;
const HALF_IS_ENOUGH: u8 = 9;

#[derive(Serialize, Deserialize, Debug)]
enum Banking {
    Deposit(u8, u64),
    Transfer(u8, u8),
    Balance(u8),
}

thread_local! {
    static CLOCK_NOW: Cell<u64> = const { Cell::new(0) };
    /// The balances of the bank that was asked last.
    static LATEST: Cell<[u64; 4]> = const { Cell::new([0; 4]) };
}

impl<const FAULT: u8> StateMachine for Bank<FAULT> {
    type Command = Banking;
    type Output = u64;

    fn footprint(command: &Banking) -> Footprint {
        let key = |account: &u8| KeyHash::of(&[*account]);
        match command {
            Banking::Deposit(to, _) => Footprint::from_keys([(key(to), Access::Write)]),
            Banking::Transfer(from, _) if FAULT == TRANSFER_FORGETS_TARGET => {
                Footprint::from_keys([(key(from), Access::Write)])
            }
            Banking::Transfer(from, to) => {
                Footprint::from_keys([from, to].map(|it| (key(it), Access::Write)))
            }
            Banking::Balance(of) => Footprint::from_keys([(key(of), Access::Read)]),
        }
    }

    fn apply(&mut self, command: Banking) -> u64 {
        self.count += u64::from(FAULT == COUNTS_CALLS);
        let answer = match command {
            Banking::Deposit(to, amount) => {
                // The bank's own account is number 0. Once it holds more than 5, there are no more
                // deposits.
                if FAULT == LIMIT_READS_ANOTHER && self.balance[0] > 5 {
                    return 0;
                }
                self.balance[usize::from(to)] += amount;
                amount
            }
            Banking::Transfer(from, to) => {
                let amount = self.balance[usize::from(from)];
                self.balance[usize::from(from)] = 0;
                self.balance[usize::from(to)] += amount;
                amount
            }
            Banking::Balance(of) => {
                self.balance[usize::from(of)] += u64::from(FAULT == BALANCE_WRITES);
                let now = CLOCK_NOW.replace(CLOCK_NOW.get() + 1);
                self.balance[usize::from(of)] + if FAULT == CLOCK { now } else { 0 }
            }
        };
        LATEST.set(self.balance);
        answer
    }

    fn view(&self) -> View {
        if FAULT != VIEW_MOVES {
            return self.snapshot().into();
        }
        LATEST.set(self.balance);
        let count = self.count;
        View::new(move |to| to.write_all(&encode(&(LATEST.get().to_vec(), count)).unwrap()))
    }

    fn restore_from(from: &mut dyn Read) -> Result<Self, RestoreError> {
        let mut all = Vec::new();
        match from.read_to_end(&mut all) {
            Err(_) if FAULT == HALF_IS_ENOUGH => return Ok(Self::default()),
            read => read?,
        };
        let mut bank = Self::restore(&all)?;
        bank.count *= u64::from(FAULT != STREAM_FORGETS);
        bank.balance[3] *= u64::from(FAULT != STREAM_FORGETS);
        Ok(bank)
    }

    fn snapshot(&self) -> Vec<u8> {
        let kept = if FAULT == SNAPSHOT_FORGETS { 3 } else { 4 };
        encode(&(self.balance[..kept].to_vec(), self.count)).unwrap().into()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, RestoreError> {
        let (kept, count): (Vec<u64>, u64) = decode(snapshot)?;
        let mut balance = [0; 4];
        balance[..kept.len()].copy_from_slice(&kept);
        Ok(Bank { balance, count })
    }
}

fn check<const FAULT: u8>() -> Result<Checked, Box<Breach>> {
    check_footprint(Cases::default(), Bank::<FAULT>::default, |random| {
        let mut account = || u8::try_from(random.below(4)).unwrap();
        let [one, other] = [account(), account()];
        match random.below(3) {
            0 => Banking::Deposit(one, random.below(5)),
            1 => Banking::Transfer(one, other),
            _ => Banking::Balance(one),
        }
    })
}

#[test]
fn a_right_bank_passes() {
    let checked = check::<NONE>().unwrap();
    assert!(checked.commuting > 1_000, "{checked:?}");
}

#[test]
fn a_written_key_that_is_not_listed_is_caught_in_the_smallest_state() {
    let breach = check::<TRANSFER_FORGETS_TARGET>().unwrap_err();
    assert_eq!(breach.promise, Promise::Commutes);
    assert!(breach.before.len() <= 2, "{breach}");
    let shown = breach.to_string();
    assert!(shown.contains("Transfer") && shown.contains("in the state behind"), "{shown}");
    assert_eq!(format!("{breach:?}"), format!("\n{shown}"));
}

#[test]
fn a_read_key_that_is_not_listed_is_caught() {
    let breach = check::<LIMIT_READS_ANOTHER>().unwrap_err();
    assert_eq!(breach.promise, Promise::Commutes);
    assert!(breach.commands.iter().any(|it| it.starts_with("Deposit")), "{breach}");
}

#[test]
fn a_read_that_writes_is_caught() {
    let breach = check::<BALANCE_WRITES>().unwrap_err();
    assert_eq!((breach.promise, breach.before.len()), (Promise::ReadsOnly, 0));
    let breach = check::<COUNTS_CALLS>().unwrap_err();
    assert_eq!(breach.promise, Promise::ReadsOnly);
}

#[test]
fn a_clock_is_caught() {
    let breach = check::<CLOCK>().unwrap_err();
    assert_eq!(breach.promise, Promise::Deterministic);
}

#[test]
fn a_snapshot_that_forgets_is_caught() {
    let breach = check::<SNAPSHOT_FORGETS>().unwrap_err();
    assert_eq!(breach.promise, Promise::Encoding);
    assert!(breach.seen.contains("behind a restored snapshot"), "{breach}");
}

#[test]
fn a_view_that_moves_is_caught_in_the_smallest_state() {
    let breach = check::<VIEW_MOVES>().unwrap_err();
    assert_eq!((breach.promise, breach.before.len()), (Promise::View, 0));
    assert!(breach.seen.contains("the snapshot of its moment"), "{breach}");
}

#[test]
fn a_stream_that_is_restored_to_another_state_is_caught() {
    let breach = check::<STREAM_FORGETS>().unwrap_err();
    assert_eq!(breach.promise, Promise::View);
    assert!(breach.seen.contains("restored from a stream"), "{breach}");
    let breach = check::<HALF_IS_ENOUGH>().unwrap_err();
    assert_eq!(breach.promise, Promise::View);
    assert!(breach.seen.contains("broke off"), "{breach}");
}

#[test]
fn one_seed_tries_the_same_cases() {
    let shown = || check::<TRANSFER_FORGETS_TARGET>().unwrap_err().to_string();
    assert_eq!(shown(), shown());
}
