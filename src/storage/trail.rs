//! The command that a replica is about to execute, stored where the next process can read it. A
//! panic can name its command itself; a process that runs out of memory or stack cannot.
//!
//! It is one line of text, overwritten before each command and never flushed: it must survive the
//! process, not the machine. It costs a system call for each command, so only the commands soon
//! after a start leave it, including those of the log. A command that ends every life is among
//! these.

use std::fmt::Write;
use std::str::FromStr;

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::{InstanceId, RequestId};

const FILE: &str = "applying";
/// Every line is padded to this length with spaces.
const LENGTH: usize = 160;
/// The line's text while no command is executed.
const NOTHING: &str = "nothing";

/// The command at which a replica's last life ended, as far as is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastCommand {
    /// The command.
    pub request: RequestId,
    /// The instance that contained it, as displayed: `r2.17`.
    pub instance: String,
    /// The length of its payload.
    pub bytes: u64,
    /// XXH3-64 of its payload.
    pub digest: u64,
    /// How many lives in a row have ended at it.
    pub lives: u64,
}

impl LastCommand {
    /// Reads what the last life left; `None` if it did not end at a command. Text that cannot be
    /// parsed is ignored, because nothing depends on it.
    pub fn read(disk: &dyn Disk) -> Option<LastCommand> {
        let names = disk::list(disk).ok()?;
        names.iter().find(|name| *name == FILE)?;
        let bytes = Named::open(disk, FILE, Mode::Read).ok()?.read_all(LENGTH).ok()?;
        std::str::from_utf8(&bytes).ok()?.parse().ok()
    }
}

impl FromStr for LastCommand {
    type Err = ();

    fn from_str(line: &str) -> Result<LastCommand, ()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[
            "request",
            request,
            "instance",
            instance,
            "bytes",
            bytes,
            "xxh3",
            digest,
            "lives",
            lives,
        ] = words.as_slice()
        else {
            return Err(());
        };
        Ok(LastCommand {
            request: request.parse().map_err(drop)?,
            instance: instance.to_owned(),
            bytes: bytes.parse().map_err(drop)?,
            digest: u64::from_str_radix(digest, 16).map_err(drop)?,
            lives: lives.parse().map_err(drop)?,
        })
    }
}

/// The line and the file it is written to.
#[derive(Debug)]
pub struct Trail {
    file: Named,
    line: String,
    /// Whether the line names a command.
    marked: bool,
    last: Option<LastCommand>,
}

impl Trail {
    /// Begins a life, and reads what the last one left.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn begin(disk: &dyn Disk) -> Result<Trail, StorageError> {
        let last = LastCommand::read(disk);
        let file = Named::open(disk, FILE, Mode::Create)?;
        let mut trail = Trail { file, line: String::with_capacity(LENGTH), marked: true, last };
        match trail.last.clone() {
            // Keep this until a command is executed here.
            Some(LastCommand { request, instance, bytes, digest, lives }) => {
                trail.write(&Line { request, instance, bytes, digest, lives });
            }
            None => trail.clear(),
        }
        Ok(trail)
    }

    /// The command at which the last life ended.
    pub fn last(&self) -> Option<&LastCommand> {
        self.last.as_ref()
    }

    /// Records that a command is about to be executed.
    pub fn mark(&mut self, request: RequestId, instance: InstanceId, bytes: u64, digest: u64) {
        let before = self.last.as_ref().filter(|last| last.request == request);
        let lives = before.map_or(1, |last| last.lives.saturating_add(1));
        self.write(&Line { request, instance, bytes, digest, lives });
        self.marked = true;
    }

    /// Records that no command is being executed.
    pub fn clear(&mut self) {
        if self.marked {
            self.write(&NOTHING);
            self.marked = false;
        }
    }

    fn write(&mut self, text: &dyn std::fmt::Display) {
        self.line.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.line, "{text}");
        while self.line.len() < LENGTH - 1 {
            self.line.push(' ');
        }
        self.line.push('\n');
        // The log reports a disk that is full or fails.
        let _ = self.file.write(self.line.as_bytes(), 0);
    }
}

/// The format of the line.
struct Line<I> {
    request: RequestId,
    instance: I,
    bytes: u64,
    digest: u64,
    lives: u64,
}

impl<I: std::fmt::Display> std::fmt::Display for Line<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line { request, instance, bytes, digest, lives } = self;
        write!(
            f,
            "request {request} instance {instance} bytes {bytes} xxh3 {digest:016x} lives {lives}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FaultyDisk;
    use crate::types::{ClientId, MAX_SLOT, ReplicaId};

    fn request(sequence: u64) -> RequestId {
        RequestId::new(ClientId(u64::MAX - 1), sequence)
    }

    #[test]
    fn the_command_that_ends_life_after_life_is_found_and_counted() {
        let disk = FaultyDisk::new(1, 1 << 20);
        let instance = InstanceId::new(ReplicaId::from_index(62), MAX_SLOT);
        assert_eq!(LastCommand::read(&disk), None);
        for lives in 1..=3 {
            let mut trail = Trail::begin(&disk).expect("a sound disk");
            assert_eq!(trail.last().map_or(0, |last| last.lives), lives - 1);
            trail.mark(request(1), instance, u64::MAX, 7);
            trail.mark(request(u64::MAX), instance, u64::MAX, u64::MAX);
            let last = LastCommand::read(&disk).expect("it is marked");
            assert_eq!((last.request, last.lives), (request(u64::MAX), lives));
            assert_eq!((last.bytes, last.digest), (u64::MAX, u64::MAX));
            assert_eq!(last.instance, instance.to_string());
        }
        // A life that ends at no command breaks the row. A life that executes nothing does not.
        drop(Trail::begin(&disk).expect("a sound disk"));
        let mut trail = Trail::begin(&disk).expect("a sound disk");
        assert_eq!(trail.last().map(|last| last.lives), Some(3));
        trail.mark(request(2), instance, 1, 1);
        trail.clear();
        assert_eq!(LastCommand::read(&disk), None);
        assert_eq!(Trail::begin(&disk).expect("a sound disk").last(), None);
    }

    #[test]
    fn what_makes_no_sense_is_nothing() {
        let disk = FaultyDisk::new(1, 1 << 20);
        for text in ["", "request", "request c1#x instance r1.1 bytes 1 xxh3 1 lives 1", "\u{fffd}"]
        {
            let file = Named::open(&disk, FILE, Mode::Create).expect("a sound disk");
            file.write(text.as_bytes(), 0).expect("a sound disk");
            assert_eq!(LastCommand::read(&disk), None, "{text}");
        }
    }
}
