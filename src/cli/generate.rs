//! What `demo`, `load` and `compare` need to generate a load: threads, a place for what replicas keep
//! meanwhile, and files for what came of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use super::complain;
use crate::load::driver::THREAD;
use crate::load::scenario::Target;

/// So many threads for a load on this.
pub(super) fn threads(target: &Target) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match target {
        // Replicas have threads of their own; clients get what is left, and at least one.
        Target::Local(cluster) => cores.saturating_sub(2 * cluster.replicas).clamp(1, 4),
        Target::Remote(_) => cores.clamp(1, 8),
        Target::Virtual(..) => 1,
    }
}

/// Threads of the generator's name: what they take is no replica's.
pub(super) fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(THREAD).enable_all().build()
}

/// A file for what is to come: better to fail before a run than after it.
pub(super) fn create(path: &Path) -> anyhow::Result<(&Path, File)> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// A directory that is removed with all that is in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// At `dir`, which must not be there yet, or in the system's place for such.
    pub(super) fn make(dir: Option<PathBuf>) -> anyhow::Result<Scratch> {
        let unique = || format!("isonomy-{}", std::process::id());
        let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(unique()));
        // Only what was made here may be removed.
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(format_args!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
