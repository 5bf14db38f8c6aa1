//! Where results are kept: each run's the moment it ends, the rest at the end. What was written
//! stays, whatever comes after it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::kept::{Comparison, FORMAT, KeptRun};

/// A directory of results.
///
/// A file is there whole or not at all: it is written under another name first.
#[derive(Debug)]
pub struct RunStore {
    dir: PathBuf,
    runs: usize,
}

/// Results that cannot be kept, or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// A file or directory cannot be made.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A directory holds the results of an earlier comparison.
    #[error("{} holds results already: name another directory, or remove it first", dir.display())]
    Taken {
        /// Which.
        dir: PathBuf,
    },
    /// A file is something else.
    #[error("{} is no result of `isonomy compare`: {what}", path.display())]
    Strange {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl RunStore {
    /// Keeps results in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or holds results already: those of two comparisons are not mixed.
    pub fn new(dir: &Path) -> Result<RunStore, KeepError> {
        let runs = dir.join("runs");
        fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
        fs::create_dir(&runs).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeepError::Taken { dir: dir.to_owned() },
            _ => failed(&runs, error),
        })?;
        Ok(RunStore { dir: dir.to_owned(), runs: 0 })
    }

    /// Keeps one run, which has just ended.
    ///
    /// # Errors
    /// When it cannot be written: the disk is full, say. Those before it stay.
    pub fn keep(&mut self, run: &KeptRun) -> Result<(), KeepError> {
        self.runs += 1;
        let who: String =
            run.who.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let name = format!("{:04}-{who}.json", self.runs).to_lowercase();
        write(&self.dir.join("runs").join(name), |to| json(run, to))
    }

    /// Keeps the whole: `result.json`, and the reports made of it, each a name and a text.
    ///
    /// # Errors
    /// When one of them cannot be written. The others are tried all the same.
    pub fn finish(
        &self,
        comparison: &Comparison,
        reports: &[(&str, String)],
    ) -> Result<(), KeepError> {
        let mut kept = write(&self.dir.join("result.json"), |to| json(comparison, to));
        for (name, text) in reports {
            kept = kept.and(write(&self.dir.join(name), |to| to.write_all(text.as_bytes())));
        }
        kept
    }
}

/// Reads a whole comparison: its `result.json`.
///
/// # Errors
/// When the file cannot be read or is something else.
pub fn read(path: &Path) -> Result<Comparison, KeepError> {
    let strange = |what: String| KeepError::Strange { path: path.into(), what };
    let text =
        fs::read_to_string(path).map_err(|error| KeepError::Read { path: path.into(), error })?;
    let comparison: Comparison =
        serde_json::from_str(&text).map_err(|error| strange(error.to_string()))?;
    match comparison.format {
        FORMAT => Ok(comparison),
        other => Err(strange(format!("its format is {other}, and {FORMAT} is known here"))),
    }
}

fn json(value: &impl Serialize, to: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

/// Writes a file whole, or not at all.
fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), KeepError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let filled = File::create(&part).and_then(|file| {
        let mut to = BufWriter::new(file);
        fill(&mut to)?;
        to.flush()
    });
    filled.and_then(|()| fs::rename(&part, path)).map_err(|error| {
        // What is half there is of no use, and takes room.
        let _ = fs::remove_file(&part);
        failed(path, error)
    })
}

fn failed(path: &Path, error: io::Error) -> KeepError {
    KeepError::Write { path: path.into(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::compare::fixture::comparison;

    #[test]
    fn what_is_kept_can_be_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = RunStore::new(dir.path()).expect("it is empty");
        let whole = comparison(2);
        whole.runs.iter().for_each(|run| store.keep(run).expect("there is room"));
        store.finish(&whole, &[]).expect("there is room");
        assert!(read(&dir.path().join("result.json")).expect("it was written") == whole);
        let runs = fs::read_dir(dir.path().join("runs")).expect("a directory").count();
        assert_eq!(runs, whole.runs.len());
        let again = RunStore::new(dir.path()).expect_err("there are results already").to_string();
        assert!(again.contains("holds results already"), "{again}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_takes_nothing_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = RunStore::new(dir.path()).expect("it is empty");
        let whole = comparison(1);
        store.keep(&whole.runs[0]).expect("there is room");
        let full = |name: &str| {
            let part = dir.path().join(name);
            std::os::unix::fs::symlink("/dev/full", part).expect("a link");
        };
        full("runs/0002-epaxos.json.part");
        let mut second = whole.runs[0].clone();
        second.who = "EPaxos".into();
        let said = store.keep(&second).expect_err("no room").to_string();
        assert!(said.contains("0002-epaxos.json") && said.contains("No space"), "{said}");
        full("report.html.part");
        let said = store
            .finish(&whole, &[("report.html", "<p>".to_owned())])
            .expect_err("no room")
            .to_string();
        assert!(said.contains("report.html"), "{said}");
        assert!(read(&dir.path().join("result.json")).expect("it was written") == whole);
        assert_eq!(fs::read_dir(dir.path().join("runs")).expect("a directory").count(), 1);
        assert!(!dir.path().join("report.html").exists(), "not half a report");
    }

    #[test]
    fn something_else_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("result.json");
        let mut strange = comparison(1);
        strange.format = 99;
        let strange = serde_json::to_string(&strange).expect("it has a JSON form");
        for (text, word) in [("{}", "missing field"), (&strange[..], "format is 99")] {
            fs::write(&path, text).expect("written");
            let said = read(&path).expect_err(text).to_string();
            assert!(said.contains(word), "{said}");
        }
        assert!(read(&dir.path().join("none")).is_err());
    }
}
