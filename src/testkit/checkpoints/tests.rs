//! Each test plants one breach and checks that it is caught and reduced to few steps.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use super::*;
use crate::machine::{Kv, KvCommand, KvOutput, RestoreError, View};
use crate::types::Footprint;

const NONE: u8 = 0;
const NOT_FLUSHED: u8 = 1;
const WRITES_WHEN_FROZEN: u8 = 2;
const FREEZE_MOVES_ON: u8 = 3;
const FORGETS_WHAT_WAS_GIVEN_UP: u8 = 4;
const RESTORES_IN_PLACE: u8 = 5;
const TAKES_HALF: u8 = 6;
const NOT_FROZEN: u8 = 7;

/// The checkpoints on a disk, flushed or not.
#[derive(Debug, Default)]
struct Files {
    now: BTreeMap<u64, Kv>,
    durable: BTreeMap<u64, Kv>,
}

/// A disk that many sources may use in turn.
#[derive(Clone, Debug, Default)]
struct Disk<const FAULT: u8>(Arc<Mutex<Files>>);

/// The key-value store with one fault.
struct Saved<const FAULT: u8> {
    kv: Arc<Mutex<Kv>>,
    /// The commands since it was last frozen.
    since: Vec<KvCommand>,
    disk: Disk<FAULT>,
}

impl<const FAULT: u8> Disk<FAULT> {
    fn machine(&self, kv: Kv) -> Saved<FAULT> {
        Saved { kv: Arc::new(Mutex::new(kv)), since: Vec::new(), disk: self.clone() }
    }

    /// Replaces all checkpoints by this one.
    fn put(&self, number: u64, kv: Kv) {
        let mut files = self.0.lock().unwrap();
        files.now = [(number, kv)].into();
        if FAULT != NOT_FLUSHED {
            files.durable = files.now.clone();
        }
    }

    fn newest(&self) -> Kv {
        self.0.lock().unwrap().now.values().next_back().cloned().unwrap_or_default()
    }
}

impl<const FAULT: u8> MachineSource for Disk<FAULT> {
    type Machine = Saved<FAULT>;

    fn checkpoints(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().unwrap().now.keys().copied().collect())
    }

    fn open(&self, checkpoint: Option<u64>) -> io::Result<Saved<FAULT>> {
        let Some(number) = checkpoint else { return Ok(self.machine(Kv::new())) };
        let kv = self.0.lock().unwrap().now.get(&number).cloned();
        Ok(self.machine(kv.ok_or(io::ErrorKind::NotFound)?))
    }

    fn restore_from(&self, from: &mut dyn Read) -> Result<Saved<FAULT>, RestoreError> {
        let restored = match FAULT {
            TAKES_HALF => Kv::restore_from(from).unwrap_or_default(),
            _ => Kv::restore_from(from)?,
        };
        if FAULT == RESTORES_IN_PLACE {
            let mut files = self.0.lock().unwrap();
            files.now.values_mut().for_each(|kv| *kv = restored.clone());
        }
        Ok(self.machine(restored))
    }
}

impl<const FAULT: u8> StateMachine for Saved<FAULT> {
    type Command = KvCommand;
    type Output = KvOutput;

    fn footprint(command: &KvCommand) -> Footprint {
        Kv::footprint(command)
    }

    fn apply(&mut self, command: KvCommand) -> KvOutput {
        self.since.push(command.clone());
        self.kv.lock().unwrap().apply(command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.kv.lock().unwrap().snapshot()
    }

    fn restore(_: &[u8]) -> Result<Saved<FAULT>, RestoreError> {
        Err(RestoreError::new("only a source knows the disk"))
    }

    fn view(&self) -> View {
        self.kv.lock().unwrap().view()
    }

    fn freeze(&mut self, number: u64) -> Option<Checkpoint> {
        let (disk, kv, since) =
            (self.disk.clone(), Arc::clone(&self.kv), std::mem::take(&mut self.since));
        let frozen = kv.lock().unwrap().clone();
        match FAULT {
            NOT_FROZEN => return None,
            WRITES_WHEN_FROZEN => disk.put(number, frozen.clone()),
            _ => {}
        }
        Some(Checkpoint::new(move || {
            let state = match FAULT {
                FREEZE_MOVES_ON => {
                    // As slow as a real disk.
                    thread::sleep(std::time::Duration::from_millis(2));
                    kv.lock().unwrap().clone()
                }
                FORGETS_WHAT_WAS_GIVEN_UP => {
                    let mut base = disk.newest();
                    since.into_iter().for_each(|command| drop(base.apply(command)));
                    base
                }
                _ => frozen,
            };
            disk.put(number, state);
            Ok(())
        }))
    }
}

fn generate(random: &mut Random) -> KvCommand {
    let mut text = |bound| Bytes::from(vec![b'a' + u8::try_from(random.below(bound)).unwrap()]);
    let [key, value] = [text(4), text(9)];
    match random.below(4) {
        0 => KvCommand::Del { key },
        _ => KvCommand::Put { key, value },
    }
}

fn check<const FAULT: u8>() -> Result<CheckpointsChecked, Box<Breach>> {
    let mut disk = Disk::<FAULT>::default();
    let begin = |how| {
        match how {
            Begin::Anew => disk = Disk::default(),
            Begin::PowerLost => {
                let mut files = disk.0.lock().unwrap();
                files.now = files.durable.clone();
            }
            Begin::Killed => {}
        }
        disk.clone()
    };
    let cases = Cases { count: 300, prefix: 30, seed: 1 };
    check_checkpoints(cases, begin, generate)
}

fn breach<const FAULT: u8>(seen: &str, most: usize) {
    let breach = check::<FAULT>().unwrap_err();
    assert_eq!(breach.promise, Promise::Checkpoint);
    assert!(breach.seen.contains(seen), "{breach}");
    assert!(breach.before.len() < most, "{breach}");
}

#[test]
fn a_machine_that_keeps_the_order_passes() {
    let checked = check::<NONE>().unwrap();
    let CheckpointsChecked { opened, completed, restored } = checked;
    assert!(opened > 200 && completed > 50 && restored > 100, "{checked:?}");
}

#[test]
fn each_fault_is_caught() {
    breach::<NOT_FLUSHED>("was said to be durable; there are []", 4);
    breach::<WRITES_WHEN_FROZEN>("was said to be durable; there are [", 5);
    breach::<FREEZE_MOVES_ON>("has another state than was frozen", 4);
    breach::<FORGETS_WHAT_WAS_GIVEN_UP>("has another state than was frozen", 6);
    breach::<RESTORES_IN_PLACE>("has another state than was frozen", 6);
    breach::<TAKES_HALF>("a state is restored from", 3);
    breach::<NOT_FROZEN>("a machine on disk is not frozen", 2);
}

#[cfg(feature = "redb")]
#[test]
fn the_store_on_redb_passes() {
    use crate::machine::{RedbOptions, RedbSource};
    let options = RedbOptions { cache_bytes: 1 << 20, ..RedbOptions::default() };
    let mut place = tempfile::tempdir().unwrap();
    let begin = |how| {
        if how == Begin::Anew {
            place = tempfile::tempdir().unwrap();
        }
        RedbSource::new(place.path().join("state"), options)
    };
    let cases = Cases { count: 40, prefix: 24, seed: 3 };
    let checked = check_checkpoints(cases, begin, generate).unwrap();
    let CheckpointsChecked { opened, completed, restored } = checked;
    assert!(opened > 30 && completed > 5 && restored > 5, "{checked:?}");
}
