//! Stores results: each run's as soon as it ends, the rest at the end. Later failures do not affect
//! what is stored.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::kept::{Comparison, FORMAT, KeptRun};
use crate::load::scenario::input::{self, FileError};

/// A directory of results.
///
/// Each file is complete or absent, because it is first written under another name.
#[derive(Debug)]
pub struct RunStore {
    dir: PathBuf,
    runs: usize,
}

impl RunStore {
    /// Stores results in a directory, which is created if it does not exist.
    ///
    /// # Errors
    /// If it cannot be created or already holds results: those of two comparisons are not mixed.
    pub fn new(dir: &Path) -> Result<RunStore, FileError> {
        let runs = dir.join("runs");
        fs::create_dir_all(dir).map_err(|error| FileError::system("write", dir, &error))?;
        fs::create_dir(&runs).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let what = "holds results already: name another directory, or remove it first";
                FileError::unfit(dir, what)
            }
            _ => FileError::system("write", &runs, &error),
        })?;
        Ok(RunStore { dir: dir.to_owned(), runs: 0 })
    }

    /// Stores one run that has just ended.
    ///
    /// # Errors
    /// If it cannot be written, for example on a full disk. Earlier runs stay.
    pub fn keep(&mut self, run: &KeptRun) -> Result<(), FileError> {
        self.runs += 1;
        let who: String =
            run.who.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let name = format!("{:04}-{who}.json", self.runs).to_lowercase();
        write(&self.dir.join("runs").join(name), |to| json(run, to))
    }

    /// Stores the whole comparison: `result.json`, and the reports, each a name and a text.
    ///
    /// # Errors
    /// If one of them cannot be written. The others are written anyway.
    pub fn finish(
        &self,
        comparison: &Comparison,
        reports: &[(&str, String)],
    ) -> Result<(), FileError> {
        let mut kept = write(&self.dir.join("result.json"), |to| json(comparison, to));
        for (name, text) in reports {
            kept = kept.and(write(&self.dir.join(name), |to| to.write_all(text.as_bytes())));
        }
        kept
    }
}

/// Reads a whole comparison from its `result.json`.
///
/// # Errors
/// If the file cannot be read or has the wrong contents.
pub fn read(path: &Path) -> Result<Comparison, FileError> {
    let strange = |what: String| {
        FileError::unfit(path, format_args!("is no result of `isonomy compare`: {what}"))
    };
    let comparison: Comparison =
        serde_json::from_str(&input::read(path)?).map_err(|error| strange(error.to_string()))?;
    match comparison.format {
        FORMAT => Ok(comparison),
        other => Err(strange(format!("its format is {other}, and {FORMAT} is known here"))),
    }
}

fn json(value: &impl Serialize, to: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

/// Writes a file completely or not at all.
fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let filled = File::create(&part).and_then(|file| {
        let mut to = BufWriter::new(file);
        fill(&mut to)?;
        to.flush()
    });
    filled.and_then(|()| fs::rename(&part, path)).map_err(|error| {
        // An incomplete file is useless and takes room.
        let _ = fs::remove_file(&part);
        FileError::system("write", path, &error)
    })
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
