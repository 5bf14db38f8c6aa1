//! A directory of the file system. One process at a time holds it, and only its owner can read it,
//! because its contents are as secret as the keys that protect them on the network.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Disk, DiskFile, Mode};
use crate::storage::StorageError;

/// The file whose lock marks the directory as in use; it contains the process number.
const LOCK: &str = "lock";
/// How often to try a lock that is taken, and the pause between attempts.
const LOCK_ATTEMPTS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(5);
/// Permissions of the directory and of its files: only for the owner.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// The permission bits of everyone except the owner.
const OTHERS: u32 = 0o077;

/// A directory of the file system, open for writing (locked against all other processes while this
/// value lives) or for reading only.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// The directory itself, to flush its entries.
    directory: File,
    /// Kept only because dropping it releases the lock.
    lock: Lock,
    privacy: Privacy,
}

/// Whether other users could read a directory when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Privacy {
    /// They could not.
    Private,
    /// They could; now they cannot.
    Tightened,
    /// They still can. Contains why this could not be changed.
    Exposed(String),
}

/// How a disk holds its directory's lock.
#[derive(Debug)]
#[expect(dead_code, reason = "a lock goes with its file")]
enum Lock {
    /// Exclusively: no other process may write or hold the directory.
    Own(File),
    /// Shared: no process may write.
    Shared(File),
    /// Not at all: other processes may write meanwhile.
    Nothing,
}

impl FileDisk {
    /// Locks the directory for this process, and creates it if necessary. From then on only its
    /// owner can read its contents: see [`FileDisk::privacy`].
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process holds it; [`StorageError::Io`] if it can be
    /// neither opened nor created.
    pub fn open(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let path = path.as_ref().to_owned();
        let name = path.display().to_string();
        let failed = |action| {
            let name = name.clone();
            move |error| StorageError::io(action, &name, error)
        };
        if !path.is_dir() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            fs::create_dir_all(parent).map_err(failed("creating the parent of"))?;
            match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(&path) {
                // Another process has just created it; the lock decides who holds it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed("creating"))?,
            }
            // The directory's own name must survive a crash, too.
            let parent = File::open(parent).map_err(failed("opening the parent of"))?;
            parent.sync_all().map_err(failed("flushing the parent of"))?;
        }
        let directory = File::open(&path).map_err(failed("opening"))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let mut lock = options.open(path.join(LOCK)).map_err(failed("opening the lock of"))?;
        // A process that checks whether a directory is in use takes its lock for a moment.
        let mut attempt = 1;
        let mut locked = lock.try_lock();
        while attempt < LOCK_ATTEMPTS && matches!(locked, Err(TryLockError::WouldBlock)) {
            attempt += 1;
            thread::sleep(MOMENT);
            locked = lock.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let process = process_in(&mut lock);
                return Err(StorageError::Locked { directory: name, process });
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking")(error)),
        }
        // The number only helps the operator, so a full disk is no reason to fail here.
        let number = format!("{}\n", std::process::id());
        let _ = lock.set_len(0).and_then(|()| lock.write_all(number.as_bytes()));
        let privacy = match tighten(&path) {
            Ok(false) => Privacy::Private,
            Ok(true) => Privacy::Tightened,
            // A user who may write here need not own the directory. The replica starts anyway.
            Err(error) => Privacy::Exposed(error.to_string()),
        };
        Ok(FileDisk { path, directory, lock: Lock::Own(lock), privacy })
    }

    /// Opens the directory for reading. This value never changes anything in it, and the directory
    /// may be in use.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the directory does not exist or may not be read.
    pub fn read_only(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let path = path.as_ref().to_owned();
        match File::open(&path) {
            Ok(directory) => {
                let privacy = Privacy::Private;
                Ok(FileDisk { path, directory, lock: Lock::Nothing, privacy })
            }
            Err(error) => Err(StorageError::io("opening", &path.display().to_string(), error)),
        }
    }

    /// Opens the directory for reading and keeps others from writing. Nothing in it is changed, and
    /// no replica can start from it while this value lives.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if a process holds it for writing; [`StorageError::Io`] if it does
    /// not exist or may not be read.
    pub fn hold(path: impl AsRef<Path>) -> Result<FileDisk, StorageError> {
        let disk = FileDisk::read_only(path)?;
        let name = disk.path.display().to_string();
        let mut lock = match File::open(disk.path.join(LOCK)) {
            Ok(lock) => lock,
            // Every writer creates the lock first. A copy may lack it; then the directory alone
            // will do.
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

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether other users could read the directory when [`FileDisk::open`] locked it.
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    fn writable(&self) -> io::Result<()> {
        match self.lock {
            Lock::Own(_) => Ok(()),
            Lock::Shared(_) | Lock::Nothing => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

/// Removes the permissions of other users that an earlier version or a copy has left. Returns
/// whether there were any. Files of other programs in there are not touched.
fn tighten(path: &Path) -> io::Result<bool> {
    let mut changed = close_to_others(path, PRIVATE_DIRECTORY)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name().to_str().is_some_and(is_ours) {
            changed |= close_to_others(&entry.path(), PRIVATE_FILE)?;
        }
    }
    Ok(changed)
}

fn close_to_others(path: &Path, mode: u32) -> io::Result<bool> {
    let exposed = fs::metadata(path)?.permissions().mode() & OTHERS != 0;
    if exposed {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(exposed)
}

/// Whether `storage` makes files of this name.
fn is_ours(name: &str) -> bool {
    name == LOCK
        || ["identity", "log-", "spare-", "snapshot-"].iter().any(|it| name.starts_with(it))
}

/// The free bytes of a file system, from its block counts.
fn free_bytes(blocks: u64, available: u64, block_bytes: u64) -> u64 {
    // Some file systems do not count (FUSE, some network file systems, tmpfs without a size).
    // There, writing shows whether there is room.
    if blocks == 0 { u64::MAX } else { available.saturating_mul(block_bytes) }
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
            options.create(true).truncate(true).mode(PRIVATE_FILE);
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
            // A name that is not UTF-8, or that is not a file's, is not ours.
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
        Ok(free_bytes(space.f_blocks, space.f_bavail, space.f_frsize))
    }

    fn entropy(&self) -> u64 {
        // Each `RandomState` takes its keys from the operating system's randomness.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_does_not_count_its_blocks_is_not_full() {
        assert_eq!(free_bytes(0, 0, 4096), u64::MAX);
        assert_eq!(free_bytes(100, 0, 4096), 0);
        assert_eq!(free_bytes(100, 10, 4096), 40_960);
        // A real one, if the system has one.
        if let Ok(disk) = FileDisk::read_only("/proc") {
            assert_eq!(disk.free_space().expect("it can be asked"), u64::MAX);
        }
    }

    #[test]
    fn only_what_this_room_makes_is_ours() {
        let ours = ["lock", "identity", "identity-unfinished", "log-1", "spare-1", "snapshot-1"];
        assert!(ours.into_iter().all(is_ours));
        assert!(!["notes", "lock.txt", "my-log-1", "backup"].into_iter().any(is_ours));
    }
}
