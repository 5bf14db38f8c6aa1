//! Whose directory this is, how often it was started, and whom its replica has met. Read before
//! anything else in it.

use std::collections::BTreeMap;

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::{MAX_REPLICAS, ReplicaId};

const FILE: &str = "identity";
const UNFINISHED: &str = "identity-unfinished";
/// Room on the disk, and a file, for the next time that it is written: peers have to be noted, and
/// replicas to be started, on a full disk too.
const SPARE: &str = "identity-spare";
const MAGIC: [u8; 8] = *b"isonoiam";
const VERSION: u32 = 4;
/// The version that does not say which protocol: there was one only, and what it was called.
const BEFORE: (u32, &str) = (3, "epaxos");
/// Everything but the names and the replicas met, in that version.
const FIXED: usize = 45;
/// The longest name of a cluster in bytes.
const MAX_CLUSTER: usize = 1024;
/// The longest name of a protocol, with its length.
const MAX_PROTOCOL: usize = 256;
/// A replica that was met.
const MET: usize = 17;
const LONGEST: usize = FIXED + MAX_CLUSTER + MAX_PROTOCOL + MET * MAX_REPLICAS;

/// Whose directory this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The protocol that the replica runs, at most 255 bytes: what its records are written in.
    pub protocol: String,
    /// The replica's number in it.
    pub replica: ReplicaId,
    /// How often the directory was opened for writing: durably raised before a replica says
    /// anything, so that its lives can be told apart.
    pub incarnation: u64,
    /// A number of this directory alone, drawn when it was made and found in all of its files.
    pub directory: u64,
    /// The backup that it was restored from; 0 if it began with nothing. Only replicas that began
    /// with the same may talk to each other.
    pub origin: u64,
    /// Whether the other replicas have refused it for good: it must not be started again.
    pub outcast: bool,
    /// The other replicas as they were when each was met last.
    pub met: BTreeMap<ReplicaId, Life>,
}

/// A life of a replica, as it tells others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The directory it keeps its records in; 0 if it keeps them in memory.
    pub directory: u64,
    /// Its incarnation.
    pub incarnation: u64,
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
        let bytes = Named::open(disk, FILE, Mode::Read)?.read_all(LONGEST)?;
        decode(&bytes).map(Some)
    }

    /// Notes durably in which life another replica was met.
    ///
    /// # Errors
    /// If the disk fails or is full; nothing is noted then.
    pub fn meet(
        &mut self,
        disk: &dyn Disk,
        peer: ReplicaId,
        life: Life,
    ) -> Result<(), StorageError> {
        let mut next = self.clone();
        next.met.insert(peer, life);
        next.write(disk)?;
        *self = next;
        Ok(())
    }

    /// Notes durably that the other replicas have refused this one for good.
    ///
    /// # Errors
    /// If the disk fails or is full; nothing is noted then.
    pub fn cast_out(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.outcast = true;
        self.write(disk)
    }

    /// Replaces the identity in one step, durably. A full disk has room for it: some was set aside.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        match self.replace(disk) {
            Err(error) if error.is_full() && disk.remove(SPARE).is_ok() => self.replace(disk)?,
            done => done?,
        }
        if set_aside(disk).is_err() {
            // There is no room just now; the next time there may be.
            let _ = disk.remove(SPARE);
        }
        Ok(())
    }

    fn replace(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let file = Named::open(disk, UNFINISHED, Mode::Create)?;
        file.write(&self.encode(), 0)?;
        file.sync_new()?;
        disk::rename(disk, UNFINISHED, FILE)?;
        disk::sync_directory(disk)
    }

    /// Refuses a directory that was made for someone else, or for another protocol.
    pub(super) fn check(
        &self,
        cluster: &str,
        replica: ReplicaId,
        protocol: &str,
    ) -> Result<(), StorageError> {
        if self.cluster == cluster && self.replica == replica {
            if self.protocol != protocol {
                let (found, asked) = (self.protocol.clone(), protocol.to_owned());
                return Err(StorageError::OtherProtocol { found, asked });
            }
            return if self.outcast { Err(StorageError::Outcast) } else { Ok(()) };
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
        let mut bytes = Vec::with_capacity(FIXED + self.cluster.len() + MET * self.met.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.directory.to_le_bytes());
        bytes.extend(self.incarnation.to_le_bytes());
        bytes.extend(self.origin.to_le_bytes());
        bytes.push(self.replica.number());
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.cluster.as_bytes());
        let length = u8::try_from(self.protocol.len());
        bytes.push(length.expect("a protocol's name has at most 255 bytes"));
        bytes.extend(self.protocol.as_bytes());
        bytes.push(self.outcast.into());
        bytes.push(u8::try_from(self.met.len()).expect("a cluster has at most 63 replicas"));
        for (peer, life) in &self.met {
            bytes.push(peer.number());
            bytes.extend(life.directory.to_le_bytes());
            bytes.extend(life.incarnation.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

/// Makes a file that takes as much room as an identity, unless it is there.
fn set_aside(disk: &dyn Disk) -> Result<(), StorageError> {
    if disk::list(disk)?.iter().any(|name| name == SPARE) {
        return Ok(());
    }
    let file = Named::open(disk, SPARE, Mode::Create)?;
    file.write(&[0; LONGEST], 0)?;
    file.sync_new()
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
    if ![BEFORE.0, VERSION].contains(&version) {
        return Err(StorageError::Format { file: FILE.into(), found: version, known: VERSION });
    }
    let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let replica = ReplicaId::new(body[36]).ok_or_else(|| damaged(36, "no replica's number"))?;
    let length = usize::from(u16::from_le_bytes([body[37], body[38]]));
    let (cluster, rest) = body[39..].split_at_checked(length).unwrap_or_default();
    let cluster = String::from_utf8(cluster.to_vec()).ok();
    let cluster = cluster.ok_or_else(|| damaged(37, "no cluster's name"))?;
    let mut end = 39 + length;
    let (protocol, rest) = if version == BEFORE.0 {
        (BEFORE.1.to_owned(), rest)
    } else {
        let (length, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (name, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| damaged(end, "no protocol's name"))?;
        end += 1 + name.len();
        (name, rest)
    };
    let (outcast, met) = match rest.split_first() {
        Some((flag @ (0 | 1), rest)) => (*flag == 1, decode_met(rest)),
        _ => return Err(damaged(end, "neither refused nor not")),
    };
    let met = met.ok_or_else(|| damaged(end + 1, "no list of replicas met"))?;
    let (directory, incarnation, origin) = (u64_at(12), u64_at(20), u64_at(28));
    Ok(Identity { cluster, protocol, replica, incarnation, directory, origin, outcast, met })
}

fn decode_met(bytes: &[u8]) -> Option<BTreeMap<ReplicaId, Life>> {
    let (count, rest) = bytes.split_first()?;
    let (entries, []) = rest.as_chunks::<MET>() else { return None };
    if entries.len() != usize::from(*count) {
        return None;
    }
    let met = entries.iter().map(|entry| {
        let u64_at = |at: usize| Some(u64::from_le_bytes(entry[at..at + 8].try_into().ok()?));
        Some((ReplicaId::new(entry[0])?, Life { directory: u64_at(1)?, incarnation: u64_at(9)? }))
    });
    let met: BTreeMap<_, _> = met.collect::<Option<_>>()?;
    (met.len() == entries.len()).then_some(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let replica = ReplicaId::from_index;
        Identity {
            cluster: "blue".into(),
            protocol: "multi-paxos".into(),
            replica: replica(1),
            incarnation: 5,
            directory: 77,
            origin: 9,
            outcast: true,
            met: [(replica(2), Life { directory: 3, incarnation: 4 })].into(),
        }
    }

    /// As the version before wrote it.
    fn before(identity: &Identity) -> Vec<u8> {
        let mut bytes = identity.encode();
        bytes.truncate(bytes.len() - 4);
        bytes[8..12].copy_from_slice(&BEFORE.0.to_le_bytes());
        let name = 39 + identity.cluster.len();
        bytes.drain(name..=name + identity.protocol.len());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    #[test]
    fn an_identity_is_read_as_it_was_written_and_no_part_of_it_is() {
        let bytes = identity().encode();
        assert_eq!(decode(&bytes).expect("it is whole"), identity());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn before_there_was_a_choice_it_was_epaxos() {
        let expected = Identity { protocol: "epaxos".into(), ..identity() };
        assert_eq!(decode(&before(&identity())).expect("it is whole"), expected);
    }

    #[test]
    fn a_later_version_and_a_protocol_without_a_name_are_refused() {
        let mut bytes = identity().encode();
        bytes.truncate(bytes.len() - 4);
        bytes[8] = 9;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let later = decode(&bytes);
        assert!(matches!(later, Err(StorageError::Format { found: 9, .. })), "{later:?}");
        let nameless = Identity { protocol: String::new(), ..identity() }.encode();
        assert!(matches!(decode(&nameless), Err(StorageError::Damaged { .. })));
    }

    #[test]
    fn another_protocol_is_told_apart_from_another_replica() {
        let (identity, ours) = (identity(), ReplicaId::from_index(1));
        let check = |cluster, replica, protocol| identity.check(cluster, replica, protocol);
        let same = check("blue", ours, "multi-paxos");
        assert!(matches!(same, Err(StorageError::Outcast)), "{same:?}");
        let other = check("blue", ours, "epaxos").expect_err("another protocol");
        let said = other.to_string();
        assert!(said.contains("\"multi-paxos\"") && said.contains("\"epaxos\""), "{said}");
        let foreign = check("red", ours, "epaxos");
        assert!(matches!(foreign, Err(StorageError::Foreign { .. })), "{foreign:?}");
    }
}
