//! The mark beside a replica's file that says that the replica has run. A replica that keeps its
//! votes in memory must not come back once another replica has heard them. Used by `serve`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};

/// The mark of one replica. Until it is written, no other replica has heard this one, so it may be
/// started again, even with another file.
pub(super) struct Mark {
    path: PathBuf,
    replica: u32,
    /// Whether this process has written it.
    is_left: AtomicBool,
}

impl Mark {
    /// The mark of the replica that `file` describes.
    ///
    /// # Errors
    /// If the replica has run before, or if a mark could not be written.
    pub(super) fn beside(file: &Path, replica: u32) -> anyhow::Result<Mark> {
        let path = file.with_extension("ran");
        let cannot_write = || format!("cannot write {}", path.display());
        if path.try_exists().with_context(cannot_write)? {
            bail!(
                "replica {replica} has run before (see {}). It kept its votes in memory and has \
                 forgotten them; with it the cluster could decide one thing twice. The others go \
                 on without it. To put a new one in its place use `isonomy cert replica` and \
                 `isonomy member replace`; for a new cluster, `isonomy init`",
                path.display()
            );
        }
        // An unwritable directory is better found now than when a peer connects.
        let trial = file.with_extension("ran.new");
        let tried = File::create(&trial).and_then(|_| fs::remove_file(&trial));
        tried.with_context(cannot_write)?;
        Ok(Mark { path, replica, is_left: AtomicBool::new(false) })
    }

    /// Writes the mark durably.
    ///
    /// # Errors
    /// If it cannot be written, or if it exists: another process runs as this replica.
    pub(super) fn leave(&self) -> io::Result<()> {
        let opened = OpenOptions::new().write(true).create_new(true).open(&self.path);
        let written = opened.and_then(|file| {
            let written = self.write(file);
            if written.is_err() {
                // Allow another try. If this fails, the replica is refused unnecessarily, which is
                // safe.
                let _ = fs::remove_file(&self.path);
            }
            written
        });
        written.map_err(|error| {
            let path = self.path.display();
            let why = match error.kind() {
                ErrorKind::AlreadyExists => "another process has run as this replica".to_owned(),
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("cannot write {path}: {why}"))
        })?;
        self.is_left.store(true, Ordering::Release);
        let replica = self.replica;
        tracing::warn!("in memory only: once replica {replica} has stopped, it must not return");
        Ok(())
    }

    fn write(&self, mut file: File) -> io::Result<()> {
        let replica = self.replica;
        let text = format!(
            "Replica {replica} has run. It keeps its votes in memory, so it must not be started \
             again.\n"
        );
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Removes the mark if this process has written it: the replica has not voted.
    pub(super) fn erase(&self) {
        if self.is_left.load(Ordering::Acquire) {
            // If this fails, the replica is refused unnecessarily, which is safe.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_left_once_and_only_by_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (file, path) = (dir.path().join("1.toml"), dir.path().join("1.ran"));
        let mark = || Mark::beside(&file, 1);
        let (first, second) = (mark().expect("none yet"), mark().expect("none yet"));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "no trial is left");
        first.leave().expect("there is room");
        let error = second.leave().expect_err("it is there");
        assert!(error.to_string().contains("another process"), "{error}");
        second.erase();
        assert!(path.exists(), "it is not the second one's");
        let error = mark().err().expect("it has run").to_string();
        assert!(error.contains("replica 1 has run before"), "{error}");
        first.erase();
        assert!(!path.exists() && mark().is_ok());
    }

    #[test]
    fn where_no_mark_can_be_left_the_start_fails() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = Mark::beside(&dir.path().join("gone/1.toml"), 1).err().expect("no directory");
        assert!(error.to_string().contains("1.ran"), "{error}");
    }
}
