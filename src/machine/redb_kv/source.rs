//! The directory of a store on redb. Usually it has one file. A store that is restored from a
//! stream gets a new file with the next number. Once that has a checkpoint, the older file is
//! removed; until then a crash leads back to the older one.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::file::{File, sync_parent};
use super::{RedbKv, RedbOptions};
use crate::machine::{MachineSource, RestoreError};

/// Opens stores in a directory: [`RedbKv`]s for
/// [`Replica::builder_from`](crate::Replica::builder_from).
#[derive(Debug)]
pub struct RedbSource {
    directory: PathBuf,
    options: RedbOptions,
    /// Held while a file is made, so that no two get one number.
    making: Mutex<()>,
}

impl RedbSource {
    /// Stores in this directory, which is made when it is needed.
    pub fn new(directory: impl Into<PathBuf>, options: RedbOptions) -> RedbSource {
        RedbSource { directory: directory.into(), options, making: Mutex::new(()) }
    }

    /// Makes a new, empty file.
    fn create(&self) -> io::Result<File> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.directory.is_dir() {
            DirBuilder::new().mode(0o700).create(&self.directory)?;
            sync_parent(&self.directory)?;
        }
        let last = files(&self.directory)?.last().map_or(0, |(number, _)| *number);
        File::create(&self.directory.join(name(last + 1)), self.options.cache_bytes)
    }

    /// Opens the file that holds this checkpoint.
    fn find(&self, checkpoint: u64) -> io::Result<File> {
        let mut seen = Vec::new();
        for (_, path) in files(&self.directory)? {
            match File::open(&path, self.options.cache_bytes) {
                Ok(file) => match file.checkpoint()? {
                    Some(number) if number == checkpoint => return Ok(file),
                    Some(number) => seen.push(format!("{} has {number}", path.display())),
                    None => {}
                },
                Err(error) => seen.push(format!("{}: {error}", path.display())),
            }
        }
        let seen = if seen.is_empty() { String::new() } else { format!(" ({})", seen.join("; ")) };
        let what = format!("{} has no checkpoint {checkpoint}{seen}", self.directory.display());
        Err(io::Error::new(io::ErrorKind::NotFound, what))
    }
}

impl MachineSource for RedbSource {
    type Machine = RedbKv;

    fn checkpoints(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for (_, path) in files(&self.directory)? {
            // One that was not finished has none, and a damaged one is named when it is needed.
            let Ok(file) = File::open(&path, self.options.cache_bytes) else { continue };
            file.sync()?;
            numbers.extend(file.checkpoint()?);
        }
        Ok(numbers)
    }

    fn open(&self, checkpoint: Option<u64>) -> io::Result<RedbKv> {
        let file = match checkpoint {
            Some(number) => self.find(number)?,
            None => self.create()?,
        };
        let kept = file.path().map(Path::to_owned);
        let store = RedbKv::on(file, checkpoint.unwrap_or(0), self.options)?;
        for (_, path) in files(&self.directory)? {
            if Some(&path) != kept.as_ref() {
                fs::remove_file(path)?;
            }
        }
        Ok(store)
    }

    fn restore_from(&self, from: &mut dyn Read) -> Result<RedbKv, RestoreError> {
        let file = self.create()?;
        let scrap = Scrap(file.path().map(Path::to_owned));
        file.fill(from)?;
        let mut store = RedbKv::on(file, 0, self.options)?;
        store.scrap = scrap;
        Ok(store)
    }
}

/// A file that is removed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Scrap(Option<PathBuf>);

impl Scrap {
    /// Keeps the file.
    pub(super) fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // If this fails, the next start removes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the files that were made before this one, which has a checkpoint now.
pub(super) fn remove_older(than: &Path) -> io::Result<()> {
    let (Some(directory), Some(own)) = (than.parent(), number(than)) else { return Ok(()) };
    for (number, path) in files(directory)? {
        if number < own {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn name(number: u64) -> String {
    format!("kv-{number}.redb")
}

fn number(path: &Path) -> Option<u64> {
    let file = path.file_name()?.to_str()?;
    let number = file.strip_prefix("kv-")?.strip_suffix(".redb")?.parse().ok()?;
    (name(number) == file).then_some(number)
}

/// The files in a directory, by number; none if it does not exist.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        files.extend(number(&path).map(|number| (number, path)));
    }
    files.sort();
    Ok(files)
}
