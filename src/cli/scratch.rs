//! A place for what replicas keep while `demo` or `load` runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::complain;

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
