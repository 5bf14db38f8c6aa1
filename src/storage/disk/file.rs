//! A directory of the file system, held by one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, Mode};
use crate::storage::StorageError;

/// The file whose lock means that the directory is taken; it holds the number of the process.
const LOCK: &str = "lock";

/// A directory of the file system, open for writing (and locked against everyone else for as long
/// as this value lives) or for reading only.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// The directory itself, to flush its entries.
    directory: File,
    /// Held, not used: the lock goes with it.
    lock: Lock,
}

/// What a disk holds of its directory's lock.
#[derive(Debug)]
#[expect(dead_code, reason = "a lock goes with its file")]
enum Lock {
    /// All of it: nobody else may write or hold it.
    Own(File),
    /// Nobody may write.
    Shared(File),
    /// Nothing: others may write meanwhile.
    Nothing,
}

impl FileDisk {
    /// Takes the directory for this process, and makes it first if need be.
    ///
    /// # Errors
    /// [`StorageError::Locked`] while another process has it; [`StorageError::Io`] when it can be
    /// neither opened nor made.
    pub fn open(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let path = path.as_ref().to_owned();
        let name = path.display().to_string();
        let failed = |action| {
            let name = name.clone();
            move |error| StorageError::io(action, &name, error)
        };
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(failed("creating"))?;
            // The directory's own name has to survive as well.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let parent = File::open(parent).map_err(failed("opening the parent of"))?;
            parent.sync_all().map_err(failed("flushing the parent of"))?;
        }
        let directory = File::open(&path).map_err(failed("opening"))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK)).map_err(failed("opening the lock of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let process = process_in(&mut lock);
                return Err(StorageError::Locked { directory: name, process });
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking")(error)),
        }
        // The number only helps to find the culprit: a full disk is no reason to fail here.
        let number = format!("{}\n", std::process::id());
        let _ = lock.set_len(0).and_then(|()| lock.write_all(number.as_bytes()));
        Ok(FileDisk { path, directory, lock: Lock::Own(lock) })
    }

    /// The directory for reading: nothing in it is ever changed through this value, and it may be
    /// in use.
    ///
    /// # Errors
    /// [`StorageError::Io`] when there is no such directory, or it may not be read.
    pub fn read_only(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let path = path.as_ref().to_owned();
        match File::open(&path) {
            Ok(directory) => Ok(FileDisk { path, directory, lock: Lock::Nothing }),
            Err(error) => Err(StorageError::io("opening", &path.display().to_string(), error)),
        }
    }

    /// The directory for reading while nobody may write: nothing in it is changed, and no replica
    /// can start from it as long as this value lives.
    ///
    /// # Errors
    /// [`StorageError::Locked`] while a process has it for writing; [`StorageError::Io`] when there
    /// is no such directory, or it may not be read.
    pub fn hold(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let disk = FileDisk::read_only(path)?;
        let name = disk.path.display().to_string();
        let mut lock = match File::open(disk.path.join(LOCK)) {
            Ok(lock) => lock,
            // Whoever writes makes it first. A copy may lack it; the directory itself will do.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(disk),
            Err(error) => return Err(StorageError::io("opening the lock of", &name, error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(FileDisk { lock: Lock::Shared(lock), ..disk }),
            Err(TryLockError::WouldBlock) => {
                let process = process_in(&mut lock);
                Err(StorageError::Locked { directory: name, process })
            }
            Err(TryLockError::Error(error)) => Err(StorageError::io("locking", &name, error)),
        }
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn writable(&self) -> io::Result<()> {
        match self.lock {
            Lock::Own(_) => Ok(()),
            Lock::Shared(_) | Lock::Nothing => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

/// The process number in a lock file.
fn process_in(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

impl Disk for FileDisk {
    fn open(&self, name: &str, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        if mode != Mode::Read {
            self.writable()?;
            options.write(true);
        }
        if mode == Mode::Create {
            options.create(true).truncate(true);
        }
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // What is not named in UTF-8, or is no file, is not ours.
            if let (true, Ok(name)) =
                (entry.file_type()?.is_file(), entry.file_name().into_string())
            {
                names.push(name);
            }
        }
        names.retain(|name| name != LOCK);
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_space(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.directory)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn entropy(&self) -> u64 {
        // Each `RandomState` has keys from the operating system's randomness.
        RandomState::new().hash_one(std::process::id())
    }

    fn holder(&self) -> Option<u32> {
        let mut lock = File::open(self.path.join(LOCK)).ok()?;
        match lock.try_lock_shared() {
            Ok(()) => None,
            Err(_) => Some(process_in(&mut lock).unwrap_or(0)),
        }
    }
}

impl DiskFile for File {
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, into, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
