//! The whole replicated state in a snapshot: a version, the sessions, and the machine's part or a
//! reference to it. Between `applier`, which makes and takes it, and the engine's files.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::Deserialize;

use super::sessions::{SavedSessions, SavedSessionsV2};
use super::{Checkpoint, RestoreError, Sessions, View, decode};

/// Why a state was not restored.
#[derive(Debug, thiserror::Error)]
pub enum Unrestored {
    /// The bytes are not a snapshot, or cannot be used.
    #[error(transparent)]
    State(#[from] RestoreError),
    /// The machine cannot open the checkpoint that the snapshot refers to.
    #[error(
        "its state is checkpoint {number} of the state machine, which cannot be opened: {error}"
    )]
    Checkpoint {
        /// The checkpoint.
        number: u64,
        /// The machine's error.
        error: io::Error,
    },
}

impl From<Unrestored> for RestoreError {
    fn from(error: Unrestored) -> RestoreError {
        match error {
            Unrestored::State(error) => error,
            other => RestoreError::new(other.to_string()),
        }
    }
}

/// The whole replicated state at one moment, to be kept in a snapshot.
#[derive(Debug)]
pub enum Frozen {
    /// The snapshot has all of it.
    Whole(StateView),
    /// The snapshot refers to the machine's part.
    OnDisk {
        /// The sessions.
        sessions: Sessions,
        /// The number of the machine's checkpoint.
        number: u64,
        /// The machine's part.
        checkpoint: Checkpoint,
        /// A view of all of it, for other replicas.
        lent: Option<StateView>,
    },
}

impl Frozen {
    /// The length of the machine's part in the snapshot, if it is known before it is written.
    pub fn machine_bytes(&self) -> Option<u64> {
        match self {
            Frozen::Whole(view) => view.machine_bytes(),
            Frozen::OnDisk { .. } => Some(0),
        }
    }
}

/// Writes a snapshot's state whose machine's part is this checkpoint.
///
/// # Errors
/// If `to` fails.
pub fn write_reference(sessions: &Sessions, number: u64, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(&[ON_DISK])?;
    sessions.write_to(to)?;
    to.write_all(&number.to_le_bytes())
}

/// A view of the whole replicated state at one moment. The sessions share their memory with those
/// of the applier until one of the two changes.
#[derive(Debug)]
pub struct StateView {
    pub(super) sessions: Sessions,
    pub(super) machine: View,
}

impl StateView {
    /// The length of the machine's part, if it is known before it is written.
    pub fn machine_bytes(&self) -> Option<u64> {
        self.machine.bytes()
    }

    /// Writes the version, the sessions, and the machine's part, which ends with the stream.
    ///
    /// # Errors
    /// As for [`View::write_to`].
    pub fn write_to(self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&[VERSION])?;
        self.sessions.write_to(to)?;
        drop(self.sessions);
        self.machine.write_to(to)
    }
}

/// The sessions in a snapshot of any state machine, for inspection. It need not read
/// the machine's part.
///
/// # Errors
/// If the bytes are not a snapshot, as far as they are read.
pub fn sessions_in(from: &mut dyn Read) -> Result<Sessions, RestoreError> {
    Ok(begin(from)?.0)
}

/// The sessions in a snapshot, and the machine's checkpoint that it refers to, if it does.
///
/// # Errors
/// As for [`sessions_in`].
pub fn summary_in(from: &mut dyn Read) -> Result<(Sessions, Option<u64>), RestoreError> {
    let (sessions, machine) = begin(from)?;
    let Machine::OnDisk(number) = machine else { return Ok((sessions, None)) };
    Ok((sessions, Some(number)))
}

/// Where the machine's part is.
pub(super) enum Machine {
    /// It is the rest of the stream.
    Rest,
    /// It is a checkpoint of the machine.
    OnDisk(u64),
    /// It was read together with the sessions.
    Read(Bytes),
}

/// Reads everything before the machine's part.
pub(super) fn begin(from: &mut dyn Read) -> Result<(Sessions, Machine), RestoreError> {
    let mut version = [0];
    from.read_exact(&mut version).map_err(|_| RestoreError::new("empty"))?;
    let [version] = version;
    if version == VERSION {
        return Ok((Sessions::read_from(from)?, Machine::Rest));
    }
    if version == ON_DISK {
        let (sessions, mut number) = (Sessions::read_from(from)?, [0; 8]);
        from.read_exact(&mut number)?;
        return Ok((sessions, Machine::OnDisk(u64::from_le_bytes(number))));
    }
    if version != ONE_VALUE && version != BEFORE_CONTENTS {
        let what = format!("version {version}, not {BEFORE_CONTENTS} to {ON_DISK}");
        return Err(RestoreError::new(what));
    }
    let mut all = vec![];
    from.read_to_end(&mut all)?;
    let Saved { sessions, machine } = match version {
        ONE_VALUE => decode(&all)?,
        _ => {
            let SavedV2 { sessions, machine } = decode(&all)?;
            Saved { sessions: sessions.into(), machine }
        }
    };
    Ok((Sessions::from_saved(sessions)?, Machine::Read(machine)))
}

/// The version of the snapshot format; its first byte.
pub(super) const VERSION: u8 = 4;
/// The first byte if the machine keeps its state on disk itself: the sessions follow, and the
/// number of the machine's checkpoint. Only an own snapshot may be like that.
pub(super) const ON_DISK: u8 = 5;
/// An earlier version, which is one value and has to be decoded as a whole. It can still be read.
pub(super) const ONE_VALUE: u8 = 3;
/// The version before that, which did not distinguish contents. It can still be read.
pub(super) const BEFORE_CONTENTS: u8 = 2;

/// Version 3, after its first byte.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Saved {
    pub(super) sessions: SavedSessions,
    pub(super) machine: Bytes,
}

/// Version 2, after its first byte.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct SavedV2 {
    pub(super) sessions: SavedSessionsV2,
    pub(super) machine: Bytes,
}
