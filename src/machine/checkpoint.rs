//! Machines that keep their state on disk themselves: what they hand to the engine, and where they
//! come from. Beside `view`, which is for machines whose state the engine writes.
//!
//! The engine's snapshot then has everything but the machine's state, and refers to a checkpoint
//! of the machine by its number. The order on disk makes the two one:
//!
//! 1. The apply thread calls [`StateMachine::freeze`]. Nothing on disk changes.
//! 2. The engine's part is written and flushed, under a name by which it does not count yet.
//! 3. [`Checkpoint::write`] makes the machine's part durable.
//! 4. The engine's part gets the name by which it counts. Only then are the log before it and older
//!    snapshots removed.
//!
//! After a crash the engine asks which checkpoints the machine has
//! ([`MachineSource::checkpoints`]). Before 3 that is the older one, whose snapshot and log are
//! there. After 3 it is the new one, and the engine completes 4.

use std::fmt;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use super::{RestoreError, StateMachine};

type WriteAll = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The state of a machine at one moment, to be made durable on the machine's own disk.
///
/// The engine drops it unwritten if the snapshot is given up. The machine must then go on as if it
/// had not been frozen, and the next checkpoint has these changes, too.
pub struct Checkpoint {
    write: WriteAll,
}

impl Checkpoint {
    /// A checkpoint that is made durable by `write`. It is called on another thread than `apply`,
    /// may take seconds and flush. There is at most one at a time.
    ///
    /// When `write` returns `Ok`, the checkpoint is there after any crash. Until then the one
    /// before it has to be. Older ones may be removed then.
    ///
    /// An error of the kind [`io::ErrorKind::StorageFull`] says that nothing has happened: it is
    /// tried again later, with a new checkpoint. After any other error nobody knows what is
    /// durable, so the replica stops and begins again from its disk.
    pub fn new(write: impl FnOnce() -> io::Result<()> + Send + 'static) -> Checkpoint {
        Checkpoint { write: Box::new(write) }
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// If the machine's disk fails or is full.
    pub fn write(self) -> io::Result<()> {
        (self.write)()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").finish_non_exhaustive()
    }
}

/// Where the machines of one replica come from, if they keep their state on disk themselves:
/// [`Replica::builder_from`](crate::Replica::builder_from).
///
/// A source has a place of its own, below the replica's data directory or on another disk. Nothing
/// else uses it, and it goes with the data directory: one without the other is useless.
///
/// [`check_checkpoints`](crate::testkit::check_checkpoints) tests a source and its machines, with
/// crashes at every step.
pub trait MachineSource: fmt::Debug + Send + Sync + 'static {
    /// The machine.
    type Machine: StateMachine;

    /// The numbers of the checkpoints that [`open`](MachineSource::open) can open. The newest
    /// durable one is among them. Flush before you report one: a checkpoint that only the system's
    /// cache has is gone after a loss of power, and by then its predecessor is, too.
    ///
    /// # Errors
    /// If they cannot be read.
    fn checkpoints(&self) -> io::Result<Vec<u64>>;

    /// The machine with the state of this checkpoint, and nothing applied later; without a number,
    /// the state that the cluster began with. Everything else in the place can be removed.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    fn open(&self, checkpoint: Option<u64>) -> io::Result<Self::Machine>;

    /// A machine with the state in a stream, in the bytes of [`StateMachine::view`]. It is called
    /// while another machine of this source is in use, and does not touch what that one has on
    /// disk. The new machine takes its place, or is dropped: then nothing of it may remain. It has
    /// no checkpoint until one is written, so a crash before that leads back to the old one.
    ///
    /// # Errors
    /// If the bytes are not a snapshot, or a disk fails. They may come from a peer: see
    /// [`StateMachine::restore_from`].
    fn restore_from(&self, from: &mut dyn Read) -> Result<Self::Machine, RestoreError>;

    /// Whether machines keep their state on disk themselves.
    #[doc(hidden)]
    fn is_on_disk(&self) -> bool {
        true
    }
}

/// Where the machines of one replica come from.
pub type Machines<S> = Arc<dyn MachineSource<Machine = S>>;

/// Ends a machine whose own disk has failed: call it where `apply` or `view` cannot read its state.
/// The replica stops, and says that its storage has failed. A panic would be held against the
/// command.
pub fn disk_failed(error: io::Error) -> ! {
    resume_unwind(Box::new(DiskFailed(error)))
}

/// What [`disk_failed`] unwinds with.
#[derive(Debug)]
pub struct DiskFailed(pub io::Error);

/// The source of a machine whose state is in memory.
pub struct Given<S>(Mutex<Option<S>>);

impl<S> Given<S> {
    /// The replica starts from this state.
    pub fn new(machine: S) -> Given<S> {
        Given(Mutex::new(Some(machine)))
    }
}

impl<S> fmt::Debug for Given<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

impl<S: StateMachine> MachineSource for Given<S> {
    type Machine = S;

    fn checkpoints(&self) -> io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn open(&self, checkpoint: Option<u64>) -> io::Result<S> {
        if let Some(number) = checkpoint {
            let what = format!("checkpoint {number}, of a machine that keeps its state in memory");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let machine = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        machine.ok_or_else(|| io::Error::other("the machine was taken before"))
    }

    fn restore_from(&self, from: &mut dyn Read) -> Result<S, RestoreError> {
        S::restore_from(from)
    }

    fn is_on_disk(&self) -> bool {
        false
    }
}
