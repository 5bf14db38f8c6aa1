//! The file of a backup. Writing it is one atomic step, and reading it checks every byte.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic 8 · version 4 · id 8 · replica 4 · cluster's size 1 · source 1 · position 8 |
//! | | left out 8 |
//! | told | the cluster's name · what the replica had executed |
//! | snapshot | what a new cluster starts from: an own snapshot without records of its own |
//! | end | length of told 8 · of the snapshot 8 · XXH3-64 of everything before 8 |
//!
//! Numbers are little-endian. In version 1 the replica has 1 byte.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Backup, BackupError, Source};
use crate::machine::{Applier, RestoreError, StateMachine, sessions_in};
use crate::protocol::epaxos::{ProtocolSnapshot, Record};
use crate::replica;
use crate::types::{Executed, LogPosition, MAX_REPLICAS, MemberId};
use crate::wire::{Limits, ReadSnapshotError, Reader, SnapshotDecoder, SnapshotEnd, Wire};

const MAGIC: [u8; 8] = *b"isonomyB";
const VERSION: u32 = 2;
/// The version in which the replica has a single byte.
const SHORT: u32 = 1;
const HEADER: usize = 42;
const END: usize = 24;

const STOPPED: u8 = 1;
const SNAPSHOT: u8 = 2;

/// A backup that was read and found sound.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) backup: Backup,
    /// The snapshot that a restored replica starts from.
    pub(super) snapshot: Bytes,
}

/// Whether a backup may be written under this name.
pub(super) fn check_name(path: &Path, overwrite: bool) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Ok(it) if it.is_file() && overwrite => Ok(()),
        Ok(_) => Err(BackupError::Exists(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::io("write", path, error)),
    }
}

/// Writes a file under a temporary name beside `path`, flushes it and only then renames it.
pub(super) fn write(
    path: &Path,
    overwrite: bool,
    backup: &Backup,
    snapshot: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
) -> Result<(), BackupError> {
    let unfinished = beside(path).map_err(|error| BackupError::io("write", path, error))?;
    let written = write_whole(&unfinished, backup, snapshot)
        .map_err(|error| BackupError::io("write", path, error))
        // Another process may have made the file meanwhile.
        .and_then(|()| check_name(path, overwrite))
        .and_then(|()| {
            let renamed = fs::rename(&unfinished, path).and_then(|()| sync_parent(path));
            renamed.map_err(|error| BackupError::io("name", path, error))
        });
    if written.is_err() {
        // If this fails too, the file's name still says that it is unfinished.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut unfinished = name.to_owned();
    unfinished.push(format!(".unfinished-{}", std::process::id()));
    Ok(path.with_file_name(unfinished))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_whole(
    path: &Path,
    backup: &Backup,
    snapshot: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<()> {
    // As private as the directory that the backup is made from.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut hash = Xxh3::new();
    let mut put = |bytes: &[u8]| {
        hash.update(bytes);
        file.write_all(bytes)
    };
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_u32_le(VERSION);
    out.put_u64_le(backup.id);
    out.put_u32_le(backup.replica.number());
    out.put_u8(u8::try_from(backup.replicas).expect("a cluster has at most 63 replicas"));
    out.put_u8(match backup.source {
        Source::Stopped => STOPPED,
        Source::Snapshot => SNAPSHOT,
    });
    out.put_u64_le(backup.position.records());
    out.put_u64_le(backup.left_out);
    debug_assert_eq!(out.len(), HEADER);
    backup.cluster.encode(&mut out);
    backup.executed.encode(&mut out);
    put(&out)?;
    let told = (out.len() - HEADER) as u64;
    let mut length = 0;
    snapshot(&mut |bytes| {
        length += bytes.len() as u64;
        put(bytes)
    })?;
    out.clear();
    out.put_u64_le(told);
    out.put_u64_le(length);
    put(&out)?;
    file.write_all(&hash.digest().to_le_bytes())?;
    file.sync_all()
}

/// Reads a backup and checks every byte of it.
pub(super) fn read(path: &Path) -> Result<Contents, BackupError> {
    let bytes = fs::read(path).map_err(|error| BackupError::io("read", path, error))?;
    decode(&bytes.into(), path)
}

/// As [`read`], from the file's bytes.
pub(super) fn decode(bytes: &Bytes, path: &Path) -> Result<Contents, BackupError> {
    let file = || path.display().to_string();
    let damaged = |what: &str| BackupError::Damaged { file: file(), what: what.to_owned() };
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        return Err(damaged("it does not begin like one"));
    };
    if bytes.len() < HEADER + END {
        return Err(damaged("it ends too early"));
    }
    let mut header = &rest[..HEADER - MAGIC.len()];
    let version = header.get_u32_le();
    let header_bytes = if version == SHORT { HEADER - 3 } else { HEADER };
    if version != VERSION && version != SHORT {
        return Err(BackupError::Version { file: file(), found: version, known: VERSION });
    }
    let (before, hash) = bytes.split_at(bytes.len() - 8);
    if xxh3_64(before).to_le_bytes() != *hash {
        return Err(damaged("its checksum does not fit: it is cut off, or was changed"));
    }
    let mut end = &bytes[bytes.len() - END..];
    let (told, length) = (end.get_u64_le(), end.get_u64_le());
    let inside = (bytes.len() - header_bytes - END) as u64;
    if told.checked_add(length) != Some(inside) {
        return Err(damaged("its parts have other lengths than its end says"));
    }
    let snapshot_at = header_bytes + usize::try_from(told).expect("it is in memory");
    let id = header.get_u64_le();
    let replica = if version == SHORT { header.get_u8().into() } else { header.get_u32_le() };
    let replicas = usize::from(header.get_u8());
    let (source, position, left_out) = (header.get_u8(), header.get_u64_le(), header.get_u64_le());
    let replica = MemberId::new(replica).ok_or_else(|| damaged("it is of no replica"))?;
    let source = match source {
        STOPPED => Source::Stopped,
        SNAPSHOT => Source::Snapshot,
        _ => return Err(damaged("it was made of nothing known")),
    };
    if replicas > MAX_REPLICAS || id == 0 {
        return Err(damaged("its header makes no sense"));
    }
    let limits = Limits::new(replicas);
    let wrong = |error: &dyn std::fmt::Display| damaged(&error.to_string());
    let told = bytes.slice(header_bytes..snapshot_at);
    let (cluster, executed) = read_told(&told, &limits).map_err(|error| wrong(&error))?;
    let snapshot = bytes.slice(snapshot_at..bytes.len() - END);
    let say = |error: ReadSnapshotError<Infallible>| damaged(&error.to_string());
    let mut decoder = decoder(&snapshot);
    let inside = decoder.front::<ProtocolSnapshot>(&cluster, &limits).map_err(say)?;
    let sessions = decoder.state(|from| sessions_in(from)).map_err(say)?;
    let sessions = sessions.map_err(|error| wrong(&error))?;
    let mut own = 0u64;
    let count = |_: replica::Record<Record>| own += 1;
    let SnapshotEnd { state_bytes, .. } = decoder.own(&limits, count).map_err(say)?;
    if inside.list.is_some() || own > 0 || !inside.executed.includes(&executed) {
        return Err(damaged("what it holds does not fit what it says"));
    }
    let backup = Backup {
        id,
        cluster,
        replica,
        replicas,
        source,
        position: LogPosition::new(position),
        executed,
        left_out,
        era: sessions.era(),
        sessions: sessions.len(),
        state_bytes,
    };
    Ok(Contents { backup, snapshot })
}

/// Checks that the state in a sound backup is a state of this machine.
pub(super) fn check_state<S: StateMachine>(
    snapshot: &Bytes,
    backup: &Backup,
) -> Result<(), RestoreError> {
    let say = |error: ReadSnapshotError<Infallible>| RestoreError::new(error.to_string());
    let mut decoder = decoder(snapshot);
    let limits = Limits::new(backup.replicas);
    decoder.front::<ProtocolSnapshot>(&backup.cluster, &limits).map_err(say)?;
    decoder.state(|from| Applier::<S>::restore_from(from)).map_err(say)?.map(drop)
}

type InMemory<F> = SnapshotDecoder<F, Infallible>;

fn decoder(
    snapshot: &Bytes,
) -> InMemory<impl FnMut() -> Result<Option<Bytes>, Infallible> + use<>> {
    let mut whole = Some(snapshot.clone());
    SnapshotDecoder::new(move || Ok(whole.take()))
}

fn read_told(
    told: &Bytes,
    limits: &Limits,
) -> Result<(String, Executed), crate::wire::DecodeError> {
    let mut from = Reader::new(told, limits);
    let read = (from.read()?, from.read()?);
    from.finish()?;
    Ok(read)
}
