//! Whose directory this is, and how often it was started. Read before anything else in it.

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::ReplicaId;

const FILE: &str = "identity";
const UNFINISHED: &str = "identity-unfinished";
const MAGIC: [u8; 8] = *b"isonoiam";
const VERSION: u32 = 1;
/// Everything but the cluster's name.
const FIXED: usize = 35;
/// The longest name of a cluster in bytes.
const MAX_CLUSTER: usize = 1024;

/// Whose directory this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The replica's number in it.
    pub replica: ReplicaId,
    /// How often the directory was opened for writing: durably raised before a replica says
    /// anything, so that its lives can be told apart.
    pub incarnation: u64,
    /// A number of this directory alone, drawn when it was made and found in all of its files.
    pub directory: u64,
}

impl Identity {
    /// Reads the identity; `None` if the directory has none.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Format`] if it is not what was written.
    pub fn read(disk: &dyn Disk) -> Result<Option<Identity>, StorageError> {
        if !disk::list(disk)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let bytes = Named::open(disk, FILE, Mode::Read)?.read_all(FIXED + MAX_CLUSTER)?;
        decode(&bytes).map(Some)
    }

    /// Replaces the identity in one step, durably.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let file = Named::open(disk, UNFINISHED, Mode::Create)?;
        file.write(&self.encode(), 0)?;
        file.sync()?;
        disk::rename(disk, UNFINISHED, FILE)?;
        disk::sync_directory(disk)
    }

    /// Refuses a directory that was made for someone else.
    pub(super) fn check(&self, cluster: &str, replica: ReplicaId) -> Result<(), StorageError> {
        if self.cluster == cluster && self.replica == replica {
            return Ok(());
        }
        let whose = |cluster: &str, replica: ReplicaId| {
            format!("replica {} of cluster {cluster:?}", replica.number())
        };
        let found = whose(&self.cluster, self.replica);
        Err(StorageError::Foreign { found, asked: whose(cluster, replica) })
    }

    fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.cluster.len()).ok();
        let length = length.filter(|length| usize::from(*length) <= MAX_CLUSTER);
        let length = length.expect("a cluster's name has at most 1024 bytes");
        let mut bytes = Vec::with_capacity(FIXED + self.cluster.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.directory.to_le_bytes());
        bytes.extend(self.incarnation.to_le_bytes());
        bytes.push(self.replica.number());
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.cluster.as_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

fn decode(bytes: &[u8]) -> Result<Identity, StorageError> {
    let damaged = |offset: usize, what| StorageError::damaged(FILE, offset as u64, what);
    if bytes.len() < FIXED {
        return Err(damaged(bytes.len(), "the file ends here"));
    }
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    if body[..8] != MAGIC || crc32fast::hash(body).to_le_bytes() != *crc {
        return Err(damaged(0, "its checksum does not fit"));
    }
    let version = u32::from_le_bytes(body[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(StorageError::Format { file: FILE.into(), found: version, known: VERSION });
    }
    let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let replica = ReplicaId::new(body[28]).ok_or_else(|| damaged(28, "no replica's number"))?;
    let length = u16::from_le_bytes([body[29], body[30]]);
    let cluster = String::from_utf8(body[31..].to_vec()).ok();
    let cluster = cluster.filter(|cluster| cluster.len() == usize::from(length));
    let cluster = cluster.ok_or_else(|| damaged(29, "no cluster's name"))?;
    Ok(Identity { cluster, replica, incarnation: u64_at(20), directory: u64_at(12) })
}
