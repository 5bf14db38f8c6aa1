//! A disk in memory that fails the way real disks fail at their worst, reproducibly for a seed.
//!
//! It keeps two versions of everything: what a reader sees, and what is on the platters. Flushing a
//! file or the directory makes them equal. When the power fails, any subset of the unflushed
//! changes survives, by sector and by name. The caller decides how long operations take.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inode::{Inode, SECTOR};
use super::{Disk, DiskFile, Mode};

/// Kinds of operations that a fault can hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Flushing a file.
    Sync,
    /// Creating, renaming or removing a file, or flushing the directory.
    Name,
}

/// How often each fault happens: a probability from 0 to 1 for each operation.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    /// A read fails with EIO.
    pub read_error: f64,
    /// A write fails with EIO, and any subset of its sectors is written.
    pub write_error: f64,
    /// A flush fails with EIO. It makes any subset of the written sectors durable and forgets the
    /// rest, so the next flush succeeds without writing them.
    pub sync_error: f64,
    /// One bit of what a read returns is wrong, and also on the platters.
    pub bit_flip: f64,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: ChaCha8Rng,
    capacity: u64,
    most_files: usize,
    copies: bool,
    faults: Faults,
    /// The next operation of this kind fails.
    fail_next: Option<Operation>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<Change>,
    /// Operations so far that change something.
    operations: u64,
    crash_at: Option<u64>,
    dead: bool,
    /// Counts crashes. A file opened before the last one belongs to a dead process.
    life: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, u64),
    /// Gives the file with the first name the second name.
    Rename(String, String, u64),
    Remove(String, u64),
}

impl FaultyDisk {
    /// An empty disk of `capacity` bytes without faults. `seed` determines all its randomness.
    pub fn new(seed: u64, capacity: u64) -> FaultyDisk {
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            capacity,
            most_files: usize::MAX,
            copies: false,
            faults: Faults::default(),
            fail_next: None,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            operations: 0,
            crash_at: None,
            dead: false,
            life: 0,
        };
        FaultyDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// A disk that holds these files durably; otherwise as [`FaultyDisk::new`].
    pub fn with_files(seed: u64, capacity: u64, files: &BTreeMap<String, Vec<u8>>) -> FaultyDisk {
        let disk = FaultyDisk::new(seed, capacity);
        let mut state = disk.state();
        for (name, bytes) in files {
            let inode = state.new_inode(Inode::durable(bytes.clone()));
            state.names.insert(name.clone(), inode);
        }
        state.durable_names = state.names.clone();
        drop(state);
        disk
    }

    /// All files as a reader sees them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let file =
            |(name, inode): (&String, &u64)| (name.clone(), state.inodes[inode].live.clone());
        state.names.iter().map(file).collect()
    }

    /// Sets which faults happen from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Makes the next operation of this kind fail with EIO.
    pub fn fail_next(&self, operation: Operation) {
        self.state().fail_next = Some(operation);
    }

    /// Sets the capacity in bytes; existing files stay.
    pub fn set_capacity(&self, capacity: u64) {
        self.state().capacity = capacity;
    }

    /// Sets the most files the disk can hold; existing files stay.
    pub fn set_most_files(&self, files: usize) {
        self.state().most_files = files;
    }

    /// From now on overwriting needs new room, as on a copy-on-write file system.
    pub fn copy_on_write(&self) {
        self.state().copies = true;
    }

    /// The number of operations so far that changed something or made it durable. Each is a
    /// boundary for [`FaultyDisk::crash_after`].
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Crashes within the operation after the next `operations`, which is done in part. It and all
    /// later ones fail until [`FaultyDisk::restart_process`] or [`FaultyDisk::lose_power`].
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
    }

    /// Whether the disk has crashed by [`FaultyDisk::crash_after`].
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Ends the process but keeps what it wrote, because the system still has it. Files opened
    /// before cannot be used any more.
    pub fn restart_process(&self) {
        self.state().restart_process();
    }

    /// The power fails and returns: some subset of the unflushed changes survives, by sector and by
    /// name. The process ends in the same step: it must not flush what follows a lost write.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State { rng, inodes, .. } = &mut *state;
        inodes.values_mut().for_each(|inode| inode.lose_power(rng));
        for change in std::mem::take(&mut state.pending_names) {
            if state.rng.random_bool(0.5) {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        state.restart_process();
    }

    /// Flips the bits in `mask` of one byte, if that file and byte exist.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut state = self.state();
        let Some(inode) = state.names.get(name).copied() else { return };
        state.inode(inode).flip(offset, mask);
    }

    /// Cuts a file to `len` bytes, if it exists.
    pub fn truncate(&self, name: &str, len: usize) {
        let mut state = self.state();
        let Some(inode) = state.names.get(name).copied() else { return };
        state.inode(inode).truncate(len);
    }

    /// Removes everything, like a new disk under the old name.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.names.clear();
        state.durable_names.clear();
        state.pending_names.clear();
        state.restart_process();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation of the disk panics")
    }
}

impl State {
    fn restart_process(&mut self) {
        (self.dead, self.crash_at) = (false, None);
        self.life += 1;
        self.forget_unnamed();
    }

    fn new_inode(&mut self, inode: Inode) -> u64 {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, inode);
        self.next_inode
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes
            .get_mut(&number)
            .expect("an inode lives as long as a name or handle of its life")
    }

    /// Drops files without a name; no live process can have them open.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().copied().collect();
        named.extend(self.durable_names.values());
        for change in &self.pending_names {
            if let Change::Create(_, inode) = change {
                named.insert(*inode);
            }
        }
        self.inodes.retain(|number, _| named.contains(number));
    }

    fn used(&self) -> u64 {
        let mut inodes: Vec<u64> = self.names.values().copied().collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes.iter().map(|inode| self.inodes[inode].live.len() as u64).sum()
    }

    fn found(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Decides what happens to an operation, and counts it.
    fn begin(&mut self, operation: Operation) -> io::Result<Fate> {
        if self.dead {
            return Err(eio("the disk is gone"));
        }
        if operation != Operation::Read {
            if self.crash_at == Some(self.operations) {
                self.dead = true;
                return Ok(Fate::Dies);
            }
            self.operations += 1;
        }
        let chance = match operation {
            Operation::Read => self.faults.read_error,
            Operation::Write => self.faults.write_error,
            Operation::Sync => self.faults.sync_error,
            Operation::Name => 0.0,
        };
        let fails = self.fail_next == Some(operation);
        if fails {
            self.fail_next = None;
        }
        // Draw no randomness without faults, so that turning one off does not change the others.
        if fails || (chance > 0.0 && self.rng.random_bool(chance)) {
            return Ok(Fate::Fails);
        }
        Ok(Fate::Works)
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        match self.begin(Operation::Name)? {
            Fate::Works => {
                change.apply(&mut self.names);
                self.pending_names.push(change);
                Ok(())
            }
            Fate::Fails => Err(eio("the directory cannot be written")),
            Fate::Dies => {
                if self.rng.random_bool(0.5) {
                    change.apply(&mut self.names);
                    self.pending_names.push(change);
                }
                Err(eio("the disk is gone"))
            }
        }
    }

    fn write(&mut self, inode: u64, bytes: &[u8], offset: usize) -> io::Result<()> {
        let fate = self.begin(Operation::Write)?;
        let growth = match self.copies {
            true => bytes.len() as u64,
            false => self.inode(inode).growth(offset, bytes.len()),
        };
        if growth > 0 && self.used() + growth > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if fate == Fate::Works {
            self.inode(inode).write(offset, bytes);
            return Ok(());
        }
        // A failing disk writes sectors in any order. A dying process leaves a prefix of its write,
        // or all of it.
        if fate == Fate::Fails {
            for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                if self.rng.random_bool(0.5) {
                    self.inode(inode).write(offset + at * SECTOR, sector);
                }
            }
            return Err(eio("the write failed"));
        }
        let part = self.rng.random_range(0..=bytes.len());
        let done = if self.rng.random_bool(0.5) { bytes.len() } else { part };
        self.inode(inode).write(offset, &bytes[..done]);
        Err(eio("the disk is gone"))
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        let fate = self.begin(Operation::Sync)?;
        let State { rng, inodes, .. } = self;
        let file = inodes.get_mut(&inode).expect("an open file has an inode");
        match fate {
            Fate::Works => {
                file.sync();
                Ok(())
            }
            Fate::Fails => {
                file.sync_some(rng);
                Err(eio("the flush failed"))
            }
            Fate::Dies => Err(eio("the disk is gone")),
        }
    }
}

/// What happens to an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
    Dies,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            // A change that depends on a lost change is lost, too: it refers to that file and not
            // to an older one of the same name.
            Change::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
            }
            Change::Remove(name, inode) => {
                if names.get(name) == Some(inode) {
                    names.remove(name);
                }
            }
        }
    }
}

fn eio(what: &'static str) -> io::Error {
    io::Error::other(what)
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.dead {
            return Err(eio("the disk is gone"));
        }
        if mode == Mode::Create {
            if !state.names.contains_key(name) && state.names.len() >= state.most_files {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let inode = state.new_inode(Inode::default());
            state.change(Change::Create(name.to_owned(), inode))?;
        }
        let inode = state.found(name)?;
        let (writable, life) = (mode != Mode::Read, state.life);
        Ok(Box::new(FaultyFile { disk: self.clone(), inode, writable, life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.found(from)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned(), inode))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.found(name)?;
        state.change(Change::Remove(name.to_owned(), inode))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.dead {
            return Err(eio("the disk is gone"));
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.begin(Operation::Name)? {
            Fate::Works => {
                state.pending_names.clear();
                state.durable_names = state.names.clone();
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(eio("the directory cannot be flushed")),
        }
    }

    fn free_space(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn entropy(&self) -> u64 {
        self.state().rng.random()
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inode: u64,
    writable: bool,
    life: u64,
}

impl FaultyFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { Err(eio("opened before the crash")) }
    }
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        if state.begin(Operation::Read)? == Fate::Fails {
            return Err(eio("the read failed"));
        }
        let start = position(offset)?;
        let chance = state.faults.bit_flip;
        if chance > 0.0 && !into.is_empty() && state.rng.random_bool(chance) {
            let at = start + state.rng.random_range(0..into.len());
            let mask = 1 << state.rng.random_range(0..8);
            state.inode(self.inode).flip(at, mask);
        }
        let live = &state.inode(self.inode).live;
        let bytes = live.get(start..start.saturating_add(into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let offset = position(offset)?;
        self.state()?.write(self.inode, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state()?.sync(self.inode)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.inode).live.len() as u64)
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
