//! The file of a backup. Writing it is one atomic step, and reading it checks every byte. Neither
//! holds more than a piece of the state.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic 8 · version 4 · id 8 · replica 4 · cluster's size 1 · source 1 · position 8 |
//! | | left out 8 |
//! | told | the numbers of the members, 4 each · the cluster's name · the protocol's |
//! | snapshot | an own snapshot without records of its own |
//! | end | length of told 8 · of the snapshot 8 · XXH3-64 of everything before 8 |
//!
//! Numbers are little-endian. In version 2 `told` is the cluster's name and the set of what was
//! executed, the protocol is EPaxos*, and the snapshot is what a new cluster of the same size
//! starts from. In version 1 the replica has 1 byte besides.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::error::BackupError;
use super::{Backup, Source};
use crate::machine::sessions_in;
use crate::node::status::{NodeProtocol, with_protocol};
use crate::protocol::{ProtocolKind, UnknownProtocol};
use crate::replica;
use crate::types::{Executed, LogPosition, MAX_REPLICAS, MemberId, Membership};
use crate::wire::{
    DecodeError, Front, Limits, ReadSnapshotError, Reader, SnapshotDecoder, SnapshotEnd, Wire,
};

const MAGIC: [u8; 8] = *b"isonomyB";
const VERSION: u32 = 3;
/// The version in which the snapshot is what a cluster of the same size starts from.
pub(super) const FOUNDED: u32 = 2;
/// The version in which the replica has a single byte, besides.
const SHORT: u32 = 1;
const HEADER: usize = 42;
const END: usize = 24;
/// Far more than names and numbers take.
const MOST_TOLD: u64 = 1 << 20;
/// A file is read in pieces of this many bytes.
const PIECE: usize = 256 << 10;

const STOPPED: u8 = 1;
const SNAPSHOT: u8 = 2;
const LIVE: u8 = 3;

/// What the beginning of a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) id: u64,
    pub(super) cluster: String,
    pub(super) protocol: ProtocolKind,
    pub(super) replica: MemberId,
    pub(super) members: BTreeSet<MemberId>,
    pub(super) source: Source,
    pub(super) position: LogPosition,
    pub(super) left_out: u64,
    /// What that replica had executed, if the snapshot does not say so.
    executed: Option<Executed>,
}

impl Head {
    /// What a backup of this version says of the replica that it is made of.
    pub(super) fn of(
        (cluster, protocol): (&str, ProtocolKind),
        replica: MemberId,
        list: &Membership,
        source: Source,
        position: LogPosition,
    ) -> Head {
        // 0 means a cluster that was not restored.
        let id = rand::random_range(1..=u64::MAX);
        let members = list.members().iter().map(|member| member.id).collect();
        let (cluster, left_out, executed) = (cluster.to_owned(), 0, None);
        Head { id, cluster, protocol, replica, members, source, position, left_out, executed }
    }
}

/// Whether a backup may be written under this name.
pub(crate) fn check_name(path: &Path, overwrite: bool) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Ok(it) if it.is_file() && overwrite => Ok(()),
        Ok(_) => Err(BackupError::Exists(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::io("write", path, error)),
    }
}

/// A file that is being written, under a temporary name beside its own. It is removed if it is
/// dropped before it is finished.
pub(super) struct Unfinished {
    path: PathBuf,
    overwrite: bool,
    unfinished: PathBuf,
    file: File,
    hash: Xxh3,
    told: u64,
    /// The bytes of the snapshot so far.
    length: u64,
    finished: bool,
}

impl Unfinished {
    pub(super) fn begin(
        path: &Path,
        overwrite: bool,
        head: &Head,
    ) -> Result<Unfinished, BackupError> {
        let failed = |error| BackupError::io("write", path, error);
        check_name(path, overwrite)?;
        let unfinished = beside(path).map_err(failed)?;
        // As private as the directory that the backup is made from.
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&unfinished).map_err(failed)?;
        let (path, hash) = (path.to_owned(), Xxh3::new());
        let (told, length, finished) = (0, 0, false);
        let mut this =
            Unfinished { path, overwrite, unfinished, file, hash, told, length, finished };
        let mut out = BytesMut::new();
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_u64_le(head.id);
        out.put_u32_le(head.replica.number());
        out.put_u8(u8::try_from(head.members.len()).expect("a cluster has at most 63 replicas"));
        out.put_u8(match head.source {
            Source::Stopped => STOPPED,
            Source::Snapshot => SNAPSHOT,
            Source::Running => LIVE,
        });
        out.put_u64_le(head.position.records());
        out.put_u64_le(head.left_out);
        debug_assert_eq!(out.len(), HEADER);
        head.members.iter().for_each(|member| out.put_u32_le(member.number()));
        head.cluster.encode(&mut out);
        head.protocol.name().to_owned().encode(&mut out);
        this.told = (out.len() - HEADER) as u64;
        this.put(&out).map_err(|error| BackupError::io("write", &this.path, error))?;
        this.length = 0;
        Ok(this)
    }

    /// Appends bytes of the snapshot.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Writes the end, flushes the file, reads all of it again, and only then gives it its name.
    pub(super) fn finish(mut self) -> Result<Backup, BackupError> {
        let mut out = BytesMut::new();
        out.put_u64_le(self.told);
        out.put_u64_le(self.length);
        let written = self.put(&out).and_then(|()| {
            self.file.write_all(&self.hash.digest().to_le_bytes())?;
            self.file.sync_all()
        });
        written.map_err(|error| self.failed("write", error))?;
        let backup = Sound::open(&self.unfinished)?.check()?;
        // Another process may have made the file meanwhile.
        check_name(&self.path, self.overwrite)?;
        let renamed = fs::rename(&self.unfinished, &self.path);
        let renamed = renamed.and_then(|()| sync_parent(&self.path));
        renamed.map_err(|error| self.failed("name", error))?;
        self.finished = true;
        Ok(backup)
    }

    pub(super) fn failed(&self, action: &'static str, error: io::Error) -> BackupError {
        BackupError::io(action, &self.path, error)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails too, the file's name still says that it is unfinished.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut unfinished = name.to_owned();
    // Two backups of one process must not write to one file.
    let number = rand::random::<u32>();
    unfinished.push(format!(".unfinished-{}-{number:08x}", std::process::id()));
    Ok(path.with_file_name(unfinished))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// A backup whose checksum is right.
#[derive(Debug)]
pub(super) struct Sound {
    pub(super) head: Head,
    pub(super) version: u32,
    path: PathBuf,
    file: File,
    /// Where the snapshot is in the file, and its length.
    at: u64,
    length: u64,
}

impl Sound {
    /// Opens a backup, and checks its length and its checksum.
    pub(super) fn open(path: &Path) -> Result<Sound, BackupError> {
        let failed = |error| BackupError::io("read", path, error);
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let name = || path.display().to_string();
        let damaged = |what: &str| BackupError::Damaged { file: name(), what: what.to_owned() };
        let begin = part(&mut file, 0, bytes.min(HEADER as u64)).map_err(failed)?;
        let Some(mut header) = begin.strip_prefix(&MAGIC) else {
            return Err(damaged("it does not begin like one"));
        };
        if bytes < (HEADER + END) as u64 {
            return Err(damaged("it ends too early"));
        }
        let version = header.get_u32_le();
        if !(SHORT..=VERSION).contains(&version) {
            return Err(BackupError::Version { file: name(), found: version, known: VERSION });
        }
        let header_bytes = if version == SHORT { HEADER - 3 } else { HEADER } as u64;
        let found = hash(&mut file, bytes - 8).map_err(failed)?;
        let end = part(&mut file, bytes - END as u64, END as u64).map_err(failed)?;
        let mut end = &end[..];
        let (told, length, hash) = (end.get_u64_le(), end.get_u64_le(), end.get_u64_le());
        if found != hash {
            return Err(damaged("its checksum does not fit: it is cut off, or was changed"));
        }
        let inside = bytes - header_bytes - END as u64;
        if told.checked_add(length) != Some(inside) || told > MOST_TOLD {
            return Err(damaged("its parts have other lengths than its end says"));
        }
        let told = part(&mut file, header_bytes, told).map_err(failed)?;
        let at = header_bytes + told.len() as u64;
        let head = head(version, header, told.into());
        let head = head.map_err(|what| damaged(&what))?;
        Ok(Sound { head, version, path: path.to_owned(), file, at, length })
    }

    /// Reads the snapshot to its end, and checks it.
    pub(super) fn check(&mut self) -> Result<Backup, BackupError> {
        let Read { taken: sessions, executed, state_bytes } =
            self.read(|from| sessions_in(from))?;
        let sessions = sessions.map_err(|error| self.damaged(&error))?;
        let Head { id, cluster, protocol, replica, members, source, position, left_out, .. } =
            self.head.clone();
        let executed = match self.head.executed.clone() {
            Some(told) if !executed.includes(&told) => {
                return Err(self.damaged(&"what it holds does not fit what it says"));
            }
            Some(told) => told,
            None => executed,
        };
        let (era, sessions) = (sessions.era(), sessions.len());
        Ok(Backup {
            id,
            cluster,
            protocol,
            replica,
            members,
            source,
            position,
            executed,
            left_out,
            era,
            sessions,
            state_bytes,
        })
    }

    /// Reads the snapshot, gives its state to `take`, and checks what `take` leaves.
    pub(super) fn read<T>(
        &mut self,
        take: impl FnOnce(&mut dyn io::Read) -> T,
    ) -> Result<Read<T>, BackupError> {
        with_protocol!(self.head.protocol, P => self.read_as::<P, T>(take))
    }

    fn read_as<P: NodeProtocol, T>(
        &mut self,
        take: impl FnOnce(&mut dyn io::Read) -> T,
    ) -> Result<Read<T>, BackupError> {
        let limits = Limits::new(self.head.members.len());
        let path = self.path.clone();
        let say = |error: ReadSnapshotError<io::Error>| match error {
            ReadSnapshotError::Source(error) => BackupError::io("read", &path, error),
            ReadSnapshotError::Snapshot(error) => {
                let (file, what) = (path.display().to_string(), error.to_string());
                BackupError::Damaged { file, what }
            }
        };
        let mut decoder = SnapshotDecoder::new(self.chunks());
        let front = decoder.front::<P::Snapshot>(&self.head.cluster, &limits).map_err(say)?;
        let Front { list, executed, .. } = front;
        let taken = decoder.state(take).map_err(say)?;
        let mut own = 0u64;
        let own_limits = limits.of(list.as_ref());
        let end = decoder.own(&own_limits, |_: replica::Record<P::Record>| own += 1);
        let SnapshotEnd { state_bytes, .. } = end.map_err(say)?;
        let others = |list: Membership| {
            !list.members().iter().map(|it| it.id).eq(self.head.members.iter().copied())
        };
        if own > 0 || list.is_some_and(others) {
            return Err(self.damaged(&"what it holds does not fit what it says"));
        }
        Ok(Read { taken, executed, state_bytes })
    }

    /// The bytes of the snapshot, piece by piece.
    pub(super) fn chunks(&self) -> impl FnMut() -> io::Result<Option<Bytes>> + use<> {
        let file = self.file.try_clone();
        let mut file = file.and_then(|mut file| file.seek(SeekFrom::Start(self.at)).map(|_| file));
        let mut left = self.length;
        move || {
            let now = left.min(PIECE as u64);
            let file = match &mut file {
                _ if now == 0 => return Ok(None),
                Ok(file) => file,
                Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
            };
            let mut piece = vec![0; usize::try_from(now).expect("a piece")];
            file.read_exact(&mut piece)?;
            left -= now;
            Ok(Some(piece.into()))
        }
    }

    /// The error of a file that cannot be read.
    pub(super) fn unreadable(&self, error: io::Error) -> BackupError {
        BackupError::io("read", &self.path, error)
    }

    fn damaged(&self, what: &dyn std::fmt::Display) -> BackupError {
        BackupError::Damaged { file: self.path.display().to_string(), what: what.to_string() }
    }
}

/// What was read of a snapshot.
pub(super) struct Read<T> {
    pub(super) taken: T,
    pub(super) executed: Executed,
    pub(super) state_bytes: u64,
}

/// A part of a file.
fn part(file: &mut File, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut part = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact(&mut part)?;
    Ok(part)
}

/// The hash of the first bytes of a file.
fn hash(file: &mut File, bytes: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut left, mut piece) = (Xxh3::new(), bytes, vec![0; PIECE]);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        file.read_exact(&mut piece[..now])?;
        hash.update(&piece[..now]);
        left -= now as u64;
    }
    Ok(hash.digest())
}

/// Decodes the beginning of a file. The error says what is wrong.
fn head(version: u32, mut header: &[u8], mut told: Bytes) -> Result<Head, String> {
    let id = header.get_u64_le();
    let replica = if version == SHORT { header.get_u8().into() } else { header.get_u32_le() };
    let replicas = usize::from(header.get_u8());
    let (source, position, left_out) = (header.get_u8(), header.get_u64_le(), header.get_u64_le());
    let replica = MemberId::new(replica).ok_or("it is of no replica")?;
    let source = match source {
        STOPPED => Source::Stopped,
        SNAPSHOT => Source::Snapshot,
        LIVE if version > FOUNDED => Source::Running,
        _ => return Err("it was made of nothing known".to_owned()),
    };
    if !(1..=MAX_REPLICAS).contains(&replicas) || id == 0 {
        return Err("its header makes no sense".to_owned());
    }
    let position = LogPosition::new(position);
    if version <= FOUNDED {
        let limits = Limits::new(replicas);
        let mut from = Reader::new(&told, &limits);
        let wrong = |error: DecodeError| error.to_string();
        let cluster = from.read().map_err(wrong)?;
        let executed = Some(from.read().map_err(wrong)?);
        from.finish().map_err(wrong)?;
        let (members, protocol) = (MemberId::all(replicas).collect(), ProtocolKind::EPaxos);
        let head =
            Head { id, cluster, protocol, replica, members, source, position, left_out, executed };
        return Ok(head);
    }
    if told.len() < replicas * size_of::<u32>() {
        return Err("it names fewer members than it says".to_owned());
    }
    let mut numbers = told.split_to(replicas * size_of::<u32>());
    let number = |_| MemberId::new(numbers.get_u32_le()).ok_or("a member has the number 0");
    let members: BTreeSet<MemberId> = (0..replicas).map(number).collect::<Result<_, _>>()?;
    if members.len() != replicas {
        return Err("it names a member twice".to_owned());
    }
    let limits = Limits::new(replicas);
    let mut from = Reader::new(&told, &limits);
    let names = |from: &mut Reader<'_>| Ok((from.read()?, from.read::<String>()?));
    let (cluster, protocol) = names(&mut from).map_err(|error: DecodeError| error.to_string())?;
    from.finish().map_err(|error| error.to_string())?;
    let protocol = protocol.parse().map_err(|error: UnknownProtocol| error.to_string())?;
    let executed = None;
    Ok(Head { id, cluster, protocol, replica, members, source, position, left_out, executed })
}
