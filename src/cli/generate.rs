//! What `demo`, `load` and `compare` share: threads, a directory for the replicas' data, a progress
//! bar, and files for results.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::{Builder, Runtime};

use super::complain;
use crate::load::driver::THREAD;
use crate::load::scenario::Target;
use crate::node::Durability;

/// The number of threads that generate load on this target.
pub(super) fn threads(target: &Target) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match target {
        // Replicas have their own threads; clients get the remaining cores, at least one.
        Target::Local(cluster) => cores.saturating_sub(2 * cluster.replicas).clamp(1, 4),
        Target::Remote(_) => cores.clamp(1, 8),
        Target::Virtual(..) => 1,
    }
}

/// A runtime whose threads have the generator's name, so that their CPU time is not counted as a
/// replica's.
pub(super) fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(THREAD).enable_all().build()
}

/// A progress bar, which is hidden unless standard error is a terminal.
pub(super) fn progress_bar(length: u64, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Creates a file for results before the run, so that a bad path fails early.
pub(super) fn create(path: &Path) -> anyhow::Result<(&Path, File)> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// A directory that is removed with its contents when this is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A directory for this target's replicas, if they store anything.
    pub(super) fn for_replicas(
        target: &mut Target,
        dir: Option<PathBuf>,
    ) -> anyhow::Result<Option<Scratch>> {
        match target {
            Target::Local(cluster) if cluster.durability != Durability::Memory => {
                let scratch = Scratch::make(dir)?;
                cluster.data_dir = Some(scratch.0.clone());
                Ok(Some(scratch))
            }
            _ => Ok(None),
        }
    }

    /// Creates `dir`, which must not exist, or a directory in the system's temporary one.
    fn make(dir: Option<PathBuf>) -> anyhow::Result<Scratch> {
        let unique = || format!("isonomy-{}", std::process::id());
        let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(unique()));
        // Only a directory made here may be removed.
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(format_args!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
