//! What the apply thread and the thread that writes checkpoints share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::file::Base;
use super::layer::Layer;
use super::source;

/// The checkpoints of one machine.
pub(super) struct Writing {
    state: Mutex<State>,
    /// A write has ended.
    ended: Condvar,
    /// How many checkpoints have been written: tells the apply thread at little cost.
    count: AtomicU64,
}

/// How far checkpoints have got.
#[derive(Clone)]
pub(super) struct State {
    /// The entries of the newest checkpoint.
    pub(super) base: Arc<Base>,
    /// Its number: layers up to it are in `base`.
    pub(super) written: u64,
    /// One is being written.
    is_writing: bool,
}

impl Writing {
    pub(super) fn new(base: Arc<Base>, written: u64) -> Writing {
        let state = Mutex::new(State { base, written, is_writing: false });
        Writing { state, ended: Condvar::new(), count: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far they have got, if that is more than when `seen` was last set here.
    pub(super) fn news(&self, seen: &mut u64) -> Option<State> {
        let count = self.count.load(Ordering::Acquire);
        (std::mem::replace(seen, count) != count).then(|| self.state().clone())
    }

    /// Whether one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.state().is_writing
    }

    /// Waits while one is being written.
    pub(super) fn wait(&self) {
        let writes = |state: &mut State| state.is_writing;
        drop(self.ended.wait_while(self.state(), writes));
    }

    /// Writes a checkpoint: these layers, oldest first.
    pub(super) fn write(&self, number: u64, layers: &[Arc<Layer>]) -> io::Result<()> {
        let file = {
            let mut state = self.state();
            state.is_writing = true;
            Arc::clone(state.base.file())
        };
        // Also if redb panics: the apply thread must not wait for ever.
        let _ended = Ended(self);
        file.write(number, layers)?;
        let base = Arc::new(Base::of(Arc::clone(&file))?);
        {
            let mut state = self.state();
            (state.base, state.written) = (base, number);
            self.count.fetch_add(1, Ordering::Release);
        }
        // If this fails, the next start removes them.
        let _ = file.path().map_or(Ok(()), source::remove_older);
        Ok(())
    }
}

/// Notes the end of a write when it is dropped.
struct Ended<'a>(&'a Writing);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state().is_writing = false;
        self.0.ended.notify_all();
    }
}
