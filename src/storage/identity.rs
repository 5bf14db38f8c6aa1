//! A directory's identity: which replica owns it, its lives, and the peers it has met. It is read
//! before anything else in the directory.

use std::collections::BTreeMap;

use super::StorageError;
use super::disk::{self, Disk, Mode, Named};
use crate::types::{Began, Chain, LogPosition, MAX_LIVES, MAX_REPLICAS, ReplicaId, ReplicaSet};

const FILE: &str = "identity";
const UNFINISHED: &str = "identity-unfinished";
/// A file that reserves room for the next write of the identity. Peers must be recorded and
/// replicas must start on a full disk, too.
const SPARE: &str = "identity-spare";
const MAGIC: [u8; 8] = *b"isonoiam";
const VERSION: u32 = 5;
/// The first version that stores the protocol, and the only protocol before it.
const PROTOCOL_SINCE: u32 = 4;
const BEFORE: &str = "epaxos";
/// The first version that stores the cluster's members and the directory's lives.
const LIVES_SINCE: u32 = 5;
/// The oldest version that can be read.
const OLDEST: u32 = 3;
/// The length of everything but the names, the lives and the replicas met.
const FIXED: usize = 45;
/// The longest name of a cluster in bytes.
const MAX_CLUSTER: usize = 1024;
/// The longest name of a protocol, including its length byte.
const MAX_PROTOCOL: usize = 256;
/// The members, and the number of lives.
const MEMBERS: usize = 10;
/// A life and the position where it began.
const LIFE: usize = 16;
/// A replica that was met.
const MET: usize = 17;
/// The next identity is longer by one life or one replica at most, so this is plenty.
const GROWTH: usize = 1024;
const LONGEST: usize =
    FIXED + MAX_CLUSTER + MAX_PROTOCOL + MEMBERS + LIFE * MAX_LIVES + MET * MAX_REPLICAS;

/// The identity of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's name, at most 1024 bytes.
    pub cluster: String,
    /// The replica's protocol, at most 255 bytes. It determines how records are encoded.
    pub protocol: String,
    /// The cluster's members. Quorums are counted among them, so the directory keeps this list for
    /// good. Empty in a directory of an older version, which adopts the list at its next start.
    pub members: ReplicaSet,
    /// The replica's number in the cluster.
    pub replica: ReplicaId,
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
    pub met: BTreeMap<ReplicaId, Met>,
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
    pub fn meet(&mut self, disk: &dyn Disk, peer: ReplicaId, met: Met) -> Result<(), StorageError> {
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
        let bytes = self.encode();
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
    pub(super) fn check(&self, cluster: &str, replica: ReplicaId) -> Result<(), StorageError> {
        if self.cluster == cluster && self.replica == replica {
            return if self.outcast { Err(StorageError::Outcast) } else { Ok(()) };
        }
        let whose = |cluster: &str, replica: ReplicaId| {
            format!("replica {} of cluster {cluster:?}", replica.number())
        };
        let found = whose(&self.cluster, self.replica);
        Err(StorageError::Foreign { found, asked: whose(cluster, replica) })
    }

    /// Refuses a directory of another protocol or with other members.
    pub(super) fn check_terms(
        &self,
        protocol: &str,
        members: ReplicaSet,
    ) -> Result<(), StorageError> {
        if self.protocol != protocol {
            let (found, asked) = (self.protocol.clone(), protocol.to_owned());
            return Err(StorageError::OtherProtocol { found, asked });
        }
        if !self.members.is_empty() && self.members != members {
            return Err(StorageError::OtherMembers { found: self.members, asked: members });
        }
        Ok(())
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
        bytes.extend(self.members.bits().to_le_bytes());
        let lives = self.chain.lives();
        bytes.extend(u16::try_from(lives.len()).expect("a chain is bounded").to_le_bytes());
        for began in lives {
            bytes.extend(began.life.to_le_bytes());
            bytes.extend(began.at.records().to_le_bytes());
        }
        bytes.push(u8::try_from(self.met.len()).expect("a cluster has at most 63 replicas"));
        for (peer, met) in &self.met {
            bytes.push(peer.number());
            bytes.extend(met.directory.to_le_bytes());
            bytes.extend(met.life.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
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
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(StorageError::Format { file: FILE.into(), found: version, known: VERSION });
    }
    let replica = ReplicaId::new(body[36]).ok_or_else(|| damaged(36, "no replica's number"))?;
    let length = usize::from(u16::from_le_bytes([body[37], body[38]]));
    let (cluster, rest) = body[39..].split_at_checked(length).unwrap_or_default();
    let cluster = String::from_utf8(cluster.to_vec()).ok();
    let cluster = cluster.ok_or_else(|| damaged(37, "no cluster's name"))?;
    let mut end = 39 + length;
    let (protocol, rest) = if version < PROTOCOL_SINCE {
        (BEFORE.to_owned(), rest)
    } else {
        let (length, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (name, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| damaged(end, "no protocol's name"))?;
        end += 1 + name.len();
        (name, rest)
    };
    let Some((flag @ (0 | 1), rest)) = rest.split_first() else {
        return Err(damaged(end, "neither refused nor not"));
    };
    let (outcast, mut rest) = (*flag == 1, rest);
    let (mut members, mut chain) = (ReplicaSet::EMPTY, Chain::default());
    if version >= LIVES_SINCE {
        let lives = decode_lives(rest).ok_or_else(|| damaged(end + 1, "no chain of lives"))?;
        (members, chain, rest) = lives;
    }
    let met = decode_met(rest, version >= LIVES_SINCE);
    let met = met.ok_or_else(|| damaged(end + 1, "no list of replicas met"))?;
    let [directory, incarnation, origin] = [12, 20, 28].map(|at| u64_at(body, at).unwrap_or(0));
    Ok(Identity {
        cluster,
        protocol,
        members,
        replica,
        incarnation,
        directory,
        origin,
        outcast,
        chain,
        met,
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn decode_lives(bytes: &[u8]) -> Option<(ReplicaSet, Chain, &[u8])> {
    let (front, rest) = bytes.split_at_checked(MEMBERS)?;
    let count = usize::from(u16::from_le_bytes([front[8], front[9]]));
    let (lives, rest) = rest.split_at_checked(count * LIFE)?;
    let began =
        lives.as_chunks::<LIFE>().0.iter().map(|life| {
            Some(Began { life: u64_at(life, 0)?, at: LogPosition::new(u64_at(life, 8)?) })
        });
    let chain = Chain::restored(began.collect::<Option<_>>()?)?;
    Some((ReplicaSet::from_bits(u64_at(front, 0)?), chain, rest))
}

/// An older version stored an incarnation instead of a life. It is meaningless for a replica that
/// has a directory.
fn decode_met(bytes: &[u8], lives: bool) -> Option<BTreeMap<ReplicaId, Met>> {
    let (count, rest) = bytes.split_first()?;
    let (entries, []) = rest.as_chunks::<MET>() else { return None };
    if entries.len() != usize::from(*count) {
        return None;
    }
    let met = entries.iter().map(|entry| {
        let (directory, life) = (u64_at(entry, 1)?, u64_at(entry, 9)?);
        let life = if lives || directory == 0 { life } else { 0 };
        Some((ReplicaId::new(entry[0])?, Met { directory, life }))
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
            members: ReplicaSet::all(3),
            chain: chain(),
            met: [(replica(2), Met { directory: 3, life: 4 })].into(),
        }
    }

    fn chain() -> Chain {
        let mut chain = Chain::default();
        chain.begin(11, LogPosition::new(0));
        chain.begin(12, LogPosition::new(40));
        chain
    }

    /// The bytes that an older version wrote.
    fn before(identity: &Identity, version: u32) -> Vec<u8> {
        let mut bytes = identity.encode();
        bytes.truncate(bytes.len() - 4);
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let name = 39 + identity.cluster.len();
        let lives = name + 1 + identity.protocol.len() + 1;
        bytes.drain(lives..lives + MEMBERS + LIFE * identity.chain.lives().len());
        if version < PROTOCOL_SINCE {
            bytes.drain(name..=name + identity.protocol.len());
        }
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
        let met = [(ReplicaId::from_index(2), Met { directory: 3, life: 0 })].into();
        let (members, chain) = (ReplicaSet::EMPTY, Chain::default());
        let known = Identity { members, chain, met, ..identity() };
        assert_eq!(decode(&before(&identity(), 4)).expect("it is whole"), known);
        let expected = Identity { protocol: "epaxos".into(), ..known };
        assert_eq!(decode(&before(&identity(), 3)).expect("it is whole"), expected);
        expected.check_terms("epaxos", ReplicaSet::all(5)).expect("it takes the list it is given");
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
    fn other_terms_are_told_apart_from_another_replica() {
        let (identity, ours) = (identity(), ReplicaId::from_index(1));
        let same = identity.check("blue", ours);
        assert!(matches!(same, Err(StorageError::Outcast)), "{same:?}");
        let foreign = identity.check("red", ours);
        assert!(matches!(foreign, Err(StorageError::Foreign { .. })), "{foreign:?}");
        identity.check_terms("multi-paxos", ReplicaSet::all(3)).expect("the same");
        let other = identity.check_terms("epaxos", ReplicaSet::all(3)).expect_err("a protocol");
        let said = other.to_string();
        assert!(said.contains("\"multi-paxos\"") && said.contains("\"epaxos\""), "{said}");
        let other = identity.check_terms("multi-paxos", ReplicaSet::all(5)).expect_err("a list");
        let said = other.to_string();
        assert!(said.contains("replicas 1, 2, 3") && said.contains("1, 2, 3, 4, 5"), "{said}");
    }
}
