//! A directory's identity: which replica owns it, its lives, and the peers it has met. It is read
//! before anything else in the directory.

mod format;

use std::collections::{BTreeMap, BTreeSet};

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::{Chain, LogPosition, MemberId, Membership};
use format::{LONGEST, decode, encode};

const FILE: &str = "identity";
const UNFINISHED: &str = "identity-unfinished";
/// A file that reserves room for the next write of the identity. Peers must be recorded and
/// replicas must start on a full disk, too.
const SPARE: &str = "identity-spare";
/// The next identity is longer by one life, one replica or one list of members at most, and most
/// lists are short.
const GROWTH: usize = 4096;

/// The identity of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The replica's protocol, at most 255 bytes. It determines how records are encoded.
    pub protocol: String,
    /// The members of the cluster's first epoch. Quorums are counted among them, so the directory
    /// keeps this list for good. Empty in a directory of an older version, which adopts the list at
    /// its next start.
    pub members: BTreeSet<MemberId>,
    /// Whether the replica joined a cluster that ran. Then it is in no epoch before it is told of
    /// one, and `members` are those that it was to connect with.
    pub joins: bool,
    /// The list by which the replica was removed from the cluster: its number is used up.
    pub removed: Option<Membership>,
    /// The replica's number in the cluster.
    pub replica: MemberId,
    /// How often the directory was opened for writing.
    pub incarnation: u64,
    /// A random number drawn when the directory was made, and stored in all of its files.
    pub directory: u64,
    /// The backup that the directory was restored from; 0 if it was not restored. Only replicas
    /// with the same origin may talk to each other.
    pub origin: u64,
    /// Whether the other replicas have refused this one for good: it must not be started again.
    pub outcast: bool,
    /// The directory's lives. Each is durable before the replica sends anything in it.
    pub chain: Chain,
    /// The other replicas, as each was first met.
    pub met: BTreeMap<MemberId, Met>,
}

/// What identifies another replica for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    /// Its directory's number; 0 if it keeps its records in memory.
    pub directory: u64,
    /// Its life if it keeps its records in memory, because it can have only one. Otherwise 0.
    pub life: u64,
}

impl Identity {
    /// Reads the identity; `None` if the directory has none.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Format`] if it cannot be read as written.
    pub fn read(disk: &dyn Disk) -> Result<Option<Identity>, StorageError> {
        if !disk::list(disk)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let bytes = Named::open(disk, FILE, Mode::Read)?.read_all(LONGEST)?;
        decode(&bytes).map(Some)
    }

    /// Stores durably what identifies another replica.
    ///
    /// # Errors
    /// If the disk fails or is full. Nothing is stored then.
    pub fn meet(&mut self, disk: &dyn Disk, peer: MemberId, met: Met) -> Result<(), StorageError> {
        let mut next = self.clone();
        next.met.insert(peer, met);
        next.write(disk)?;
        *self = next;
        Ok(())
    }

    /// Stores durably that the other replicas have refused this one for good.
    ///
    /// # Errors
    /// If the disk fails or is full. Nothing is stored then.
    pub fn cast_out(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.outcast = true;
        self.write(disk)
    }

    /// Stores durably that the replica was removed from the cluster, by this list.
    ///
    /// # Errors
    /// If the disk fails or is full. Nothing is stored then.
    pub fn retire(&mut self, disk: &dyn Disk, list: &Membership) -> Result<(), StorageError> {
        self.removed = Some(list.clone());
        self.write(disk)
    }

    /// Starts the next life durably, at the log's end `end`.
    pub(super) fn begin(
        &mut self,
        disk: &dyn Disk,
        life: u64,
        end: LogPosition,
    ) -> Result<(), StorageError> {
        self.incarnation += 1;
        self.chain.begin(life, end);
        self.write(disk)
    }

    /// Replaces the identity durably in one step. It uses the reserved room if the disk is full.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let bytes = encode(self);
        match replace(disk, &bytes) {
            Err(error) if error.is_full() && disk.remove(SPARE).is_ok() => replace(disk, &bytes)?,
            done => done?,
        }
        if set_aside(disk, bytes.len() + GROWTH).is_err() {
            // There is no room now; there may be at the next write.
            let _ = disk.remove(SPARE);
        }
        Ok(())
    }

    /// Refuses a directory of another replica, or one that the others have refused.
    pub(super) fn check(&self, cluster: &str, replica: MemberId) -> Result<(), StorageError> {
        if self.cluster == cluster && self.replica == replica {
            return match &self.removed {
                Some(list) => Err(StorageError::Removed { list: list.clone() }),
                None if self.outcast => Err(StorageError::Outcast),
                None => Ok(()),
            };
        }
        let whose = |cluster: &str, replica: MemberId| {
            format!("replica {} of cluster {cluster:?}", replica.number())
        };
        let found = whose(&self.cluster, self.replica);
        Err(StorageError::Foreign { found, asked: whose(cluster, replica) })
    }

    /// Refuses a directory of another protocol.
    pub(super) fn check_protocol(&self, protocol: &str) -> Result<(), StorageError> {
        if self.protocol != protocol {
            let (found, asked) = (self.protocol.clone(), protocol.to_owned());
            return Err(StorageError::OtherProtocol { found, asked });
        }
        Ok(())
    }

    /// Refuses other members in the first epoch. In a later one the list is in the records, and the
    /// configured members do not matter.
    ///
    /// # Errors
    /// [`StorageError::OtherMembers`].
    pub fn check_members(&self, members: &BTreeSet<MemberId>) -> Result<(), StorageError> {
        if !self.members.is_empty() && self.members != *members {
            let (found, asked) = (self.members.clone(), members.clone());
            return Err(StorageError::OtherMembers { found, asked });
        }
        Ok(())
    }
}

/// Replaces the identity's file with one of these bytes, durably.
fn replace(disk: &dyn Disk, bytes: &[u8]) -> Result<(), StorageError> {
    let file = Named::open(disk, UNFINISHED, Mode::Create)?;
    file.write(bytes, 0)?;
    file.sync_new()?;
    disk::rename(disk, UNFINISHED, FILE)?;
    disk::sync_directory(disk)
}

/// Creates the spare file with at least `bytes` bytes, unless it exists.
fn set_aside(disk: &dyn Disk, bytes: usize) -> Result<(), StorageError> {
    let is_there = disk::list(disk)?.iter().any(|name| name == SPARE);
    if is_there && Named::open(disk, SPARE, Mode::Read)?.size()? >= bytes as u64 {
        return Ok(());
    }
    // It gets room to grow, so that it is not recreated each time.
    let file = Named::open(disk, SPARE, Mode::Create)?;
    file.write(&vec![0; bytes + GROWTH], 0)?;
    file.sync_new()
}
