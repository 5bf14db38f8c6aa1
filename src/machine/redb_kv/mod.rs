//! The key-value store on disk: the commands of [`Kv`](super::Kv), and more state than fits into
//! memory. It is an example of a machine that keeps its state on disk itself
//! ([`MachineSource`](super::MachineSource)).
//!
//! Commands change a layer in memory over a file of redb, so that none waits for a disk's flush. A
//! checkpoint freezes the layer, which costs nothing, and a new one begins. Another thread writes
//! the frozen layer and the checkpoint's number in one durable transaction. Reads look into the
//! layers, newest first, and then into the file.

mod file;
mod layer;
mod source;
#[cfg(test)]
mod tests;
mod writing;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use tracing::warn;

pub use source::RedbSource;

use super::checkpoint::disk_failed;
use super::kv::{Entries, SortedWriter, check, entry_digest, footprint, run};
use super::{Checkpoint, KvCommand, KvOutput, RestoreError, StateMachine, View};
use crate::types::Footprint;
use file::{Base, File};
use layer::{Layer, merged};
use source::Scrap;
use writing::Writing;

/// What a store on redb may take of the memory.
///
/// Fill it from its default: `RedbOptions { cache_bytes: 1 << 30, ..RedbOptions::default() }`. That
/// is why it is not `#[non_exhaustive]`: a later release may add a field, and will give it a
/// default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedbOptions {
    /// The most bytes of the file that are kept in memory. Default: 256 MiB, so that a replica with
    /// gigabytes of state takes less than one. The system caches the file as well.
    pub cache_bytes: usize,
    /// The most bytes of changes in memory that no checkpoint has. At half of it the store asks for
    /// a checkpoint. At all of it, commands wait while one is being written; if none can be
    /// written, because the disk is full, it is exceeded. Default: 128 MiB.
    pub changes_bytes: usize,
}

impl Default for RedbOptions {
    fn default() -> RedbOptions {
        RedbOptions { cache_bytes: 256 << 20, changes_bytes: 128 << 20 }
    }
}

/// A map from keys to values, both bytes, in a file of redb. [`RedbSource`] opens it.
pub struct RedbKv {
    /// Changes that no checkpoint has.
    active: Layer,
    /// Changes of checkpoints that are not written yet, oldest first.
    frozen: Vec<Arc<Layer>>,
    base: Arc<Base>,
    writing: Arc<Writing>,
    /// How many checkpoints were written when `base` was last looked after.
    seen: u64,
    changes_bytes: usize,
    /// The file, as long as nothing refers to it.
    scrap: Scrap,
}

impl fmt::Debug for RedbKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.base.file().path();
        f.debug_struct("RedbKv").field("file", &path).finish_non_exhaustive()
    }
}

impl RedbKv {
    /// A store on a file that holds this checkpoint, or none (0).
    fn on(file: File, checkpoint: u64, options: RedbOptions) -> io::Result<RedbKv> {
        let base = Arc::new(Base::of(Arc::new(file))?);
        Ok(RedbKv {
            active: Layer::default(),
            frozen: Vec::new(),
            writing: Arc::new(Writing::new(Arc::clone(&base), checkpoint)),
            base,
            seen: 0,
            changes_bytes: options.changes_bytes,
            scrap: Scrap::default(),
        })
    }

    /// An empty store whose file is in memory, for tests and to read snapshots.
    ///
    /// # Errors
    /// If redb cannot make it.
    pub fn in_memory() -> io::Result<RedbKv> {
        let options = RedbOptions::default();
        RedbKv::on(File::begin(InMemoryBackend::new(), None, options.cache_bytes)?, 0, options)
    }

    /// What the layers say of a key: `None` if they do not name it.
    fn changed(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        let frozen = || self.frozen.iter().rev().find_map(|layer| layer.entries.get(key));
        self.active.entries.get(key).or_else(frozen)
    }

    /// The bytes of changes in memory.
    fn changes(&self) -> usize {
        self.active.bytes + self.frozen.iter().map(|layer| layer.bytes).sum::<usize>()
    }

    /// Lets go of the layers that a checkpoint has meanwhile.
    fn look(&mut self) {
        let Some(state) = self.writing.news(&mut self.seen) else { return };
        self.base = state.base;
        let done = self.frozen.partition_point(|layer| layer.number <= state.written);
        let done: Vec<Arc<Layer>> = self.frozen.drain(..done).collect();
        // To free so many entries takes long, and commands need not wait for it.
        let _ = thread::Builder::new().name("isonomy-free".to_owned()).spawn(move || drop(done));
    }

    /// Waits while a checkpoint is being written, if there are too many changes in memory.
    fn wait_for_room(&mut self) {
        if self.changes() < self.changes_bytes || !self.writing.is_writing() {
            return;
        }
        let (begun, changes) = (Instant::now(), self.changes());
        self.writing.wait();
        let seconds = begun.elapsed().as_secs_f64();
        let file = self.base.file().path().map(|path| path.display().to_string());
        warn!(file, changes, seconds, "commands had to wait until a checkpoint was written");
        self.look();
    }

    /// All layers, oldest first. The active one shares its entries.
    fn layers(&self) -> Vec<Arc<Layer>> {
        let active = (self.active.bytes > 0).then(|| Arc::new(self.active.clone()));
        self.frozen.iter().cloned().chain(active).collect()
    }
}

impl Entries for RedbKv {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.changed(key) {
            Some(value) => value.clone(),
            None => self.base.get(key, Bytes::copy_from_slice).unwrap_or_else(|it| disk_failed(it)),
        }
    }

    fn len_of(&self, key: &[u8]) -> Option<usize> {
        match self.changed(key) {
            Some(value) => value.as_ref().map(Bytes::len),
            None => self.base.get(key, <[u8]>::len).unwrap_or_else(|it| disk_failed(it)),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.active.set(key, Some(value));
    }

    fn remove(&mut self, key: Bytes) -> bool {
        let had = self.len_of(&key).is_some();
        if had {
            self.active.set(key, None);
        }
        had
    }
}

impl StateMachine for RedbKv {
    type Command = KvCommand;
    type Output = KvOutput;

    fn footprint(command: &KvCommand) -> Footprint {
        footprint(command)
    }

    fn check(command: &KvCommand) -> Result<(), String> {
        check(command)
    }

    fn apply(&mut self, command: KvCommand) -> KvOutput {
        self.look();
        self.wait_for_room();
        run(self, command)
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut snapshot = Vec::new();
        let written = write(&self.layers(), &self.base, &mut snapshot);
        written.unwrap_or_else(|error| disk_failed(error));
        snapshot
    }

    /// A store in memory: only a source knows a place on disk.
    fn restore(mut snapshot: &[u8]) -> Result<RedbKv, RestoreError> {
        RedbKv::restore_from(&mut snapshot)
    }

    fn restore_from(from: &mut dyn Read) -> Result<RedbKv, RestoreError> {
        let options = RedbOptions::default();
        let file = File::begin(InMemoryBackend::new(), None, options.cache_bytes)?;
        file.fill(from)?;
        Ok(RedbKv::on(file, 0, options)?)
    }

    fn view(&self) -> View {
        let (layers, base) = (self.layers(), Arc::clone(&self.base));
        View::new(move |to| write(&layers, &base, to))
    }

    fn freeze(&mut self, number: u64) -> Option<Checkpoint> {
        self.look();
        // A file that a checkpoint was begun for may be needed at the next start.
        self.scrap.keep();
        let mut layer = std::mem::take(&mut self.active);
        layer.number = number;
        self.frozen.push(Arc::new(layer));
        let (writing, layers) = (Arc::clone(&self.writing), self.frozen.clone());
        Some(Checkpoint::new(move || writing.write(number, &layers)))
    }

    fn wants_checkpoint(&self) -> bool {
        self.active.bytes >= self.changes_bytes / 2
    }

    /// Reads the whole state.
    fn digest(&self) -> u64 {
        let (layers, mut sum) = (self.layers(), 0u64);
        let each = merge(&layers, &self.base, |key, value| {
            sum = sum.wrapping_add(entry_digest(key, value));
            Ok(())
        });
        each.unwrap_or_else(|error| disk_failed(error));
        sum
    }
}

/// Gives all entries to `take`, sorted by key.
fn merge(
    layers: &[Arc<Layer>],
    base: &Base,
    mut take: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut changes = merged(layers).into_iter().peekable();
    base.each(|key, value| {
        while let Some((changed, new)) = changes.next_if(|(changed, _)| &***changed < key) {
            new.map_or(Ok(()), |new| take(changed, new))?;
        }
        match changes.next_if(|(changed, _)| &***changed == key) {
            Some((_, new)) => new.map_or(Ok(()), |new| take(key, new)),
            None => take(key, value),
        }
    })?;
    changes.try_for_each(|(key, new)| new.map_or(Ok(()), |new| take(key, new)))
}

/// Writes a snapshot.
fn write(layers: &[Arc<Layer>], base: &Base, to: &mut dyn Write) -> io::Result<()> {
    let mut count = base.len()?;
    for (key, value) in merged(layers) {
        match (value.is_some(), base.get(key, |_| ())?.is_some()) {
            (true, false) => count += 1,
            (false, true) => count -= 1,
            _ => {}
        }
    }
    let mut out = SortedWriter::begin(to, count);
    merge(layers, base, |key, value| out.put(key, value))?;
    out.end()
}
