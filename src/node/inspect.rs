//! Reads what a replica's directory holds, without changing it. For operators, whether the replica
//! runs or not. It sits after `storage`, which reads the bytes, and `wire`, which decodes the
//! records.

mod again;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::status::with_protocol;
use crate::machine::summary_in;
use crate::protocol::epaxos::{Phase, ProtocolSnapshot, Record};
use crate::protocol::{Protocol, ProtocolKind, UnknownProtocol};
use crate::replica::{self, epochs};
use crate::storage::{
    self, FileDisk, Identity, LastCommand, Report, SnapshotInfo, SnapshotReader, StorageError,
};
use crate::types::{
    Ballot, Deps, Era, Executed, InstanceId, LogPosition, MAX_REPLICAS, Membership, ReplicaId,
    RequestId, Slot, Value,
};
use crate::wire::{
    FIRST_EPOCH, Limits, ReadSnapshotError, SnapshotDecoder, Wire, decode_record, record_epoch,
};
use again::Again;

/// The contents of a replica's directory.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Files, checksums and all problems.
    pub report: Report,
    /// The contents of each of the report's snapshots, as far as they can be decoded.
    pub contents: Vec<Option<SnapshotContents>>,
    /// Number of records in the log.
    pub records: u64,
    /// The size of the cluster, if any record contains it.
    pub replicas: Option<usize>,
    /// The members; `None` in the first epoch, whose members are those of the configuration.
    pub list: Option<Membership>,
    /// The last slot that the replica has reserved for itself; 0 for none.
    pub reserved: Slot,
    /// Requests that the replica never executes: see
    /// [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub skipped: BTreeSet<RequestId>,
    /// The command at which the replica's last process ended, or which a running one executes, if
    /// it left a trail.
    pub last_command: Option<LastCommand>,
    /// The instances with records in the log, by owner. EPaxos* only: other protocols' have no
    /// owner.
    pub owners: BTreeMap<ReplicaId, OwnersInstances>,
}

/// The contents of a snapshot, without the state.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotContents {
    /// The members of its epoch; `None` in the first epoch.
    pub list: Option<Membership>,
    /// What the replica has executed.
    pub executed: Executed,
    /// The era of the sessions, and their number.
    pub sessions: (Era, usize),
    /// The length of the state in bytes, sessions included.
    pub state_bytes: u64,
    /// The checkpoint of the state machine that the snapshot refers to, if the machine keeps its
    /// state on disk itself.
    pub checkpoint: Option<u64>,
    /// The part that other replicas share. `None` for protocols other than EPaxos*, whose snapshots
    /// `executed` describes fully.
    pub shared: Option<SharedContents>,
    /// The replica's own records: promises, votes, and decisions not yet executed.
    pub own: usize,
}

/// The part of an EPaxos* snapshot that is the same for every replica.
#[derive(Clone, PartialEq, Debug)]
pub struct SharedContents {
    /// Every member has executed all instances up to here, so they are forgotten.
    pub floor: Deps,
    /// The highest cut known to be established.
    pub cut: Deps,
    /// No record is kept of any instance up to here.
    pub dropped: Deps,
    /// Executed decisions kept for other replicas.
    pub settled: usize,
}

impl From<ProtocolSnapshot> for SharedContents {
    fn from(shared: ProtocolSnapshot) -> SharedContents {
        let ProtocolSnapshot { floor, cut, dropped, decisions, .. } = shared;
        SharedContents { floor, cut, dropped, settled: decisions.len() }
    }
}

impl SnapshotContents {
    fn of(disk: &FileDisk, file: &str, whose: &Identity) -> Result<SnapshotContents, String> {
        let say = |error: StorageError| error.to_string();
        let mut reader = SnapshotReader::open(disk, file).map_err(say)?;
        let mut decoder = SnapshotDecoder::new(|| reader.next_chunk());
        let wrong = |error: ReadSnapshotError<StorageError>| error.to_string();
        let replicas = decoder.replicas().map_err(wrong)?.ok_or("it is no replica's snapshot")?;
        let (cluster, limits) = (&whose.cluster, Limits::new(replicas));
        let protocol = protocol(whose)?;
        if protocol == ProtocolKind::EPaxos {
            let front = decoder.front::<ProtocolSnapshot>(cluster, &limits).map_err(wrong)?;
            let (of, shared) = ((front.list, front.executed), Some(front.shared.into()));
            return SnapshotContents::read::<Record, _>(decoder, &limits, of, shared);
        }
        with_protocol!(protocol, P => {
            type Shared = <P as Protocol>::Snapshot;
            type OfProtocol = <P as Protocol>::Record;
            let front = decoder.front::<Shared>(cluster, &limits).map_err(wrong)?;
            let of = (front.list, front.executed);
            SnapshotContents::read::<OfProtocol, _>(decoder, &limits, of, None)
        })
    }

    /// Reads what is behind the front.
    fn read<R: Wire, F>(
        mut decoder: SnapshotDecoder<F, StorageError>,
        limits: &Limits,
        (list, executed): (Option<Membership>, Executed),
        shared: Option<SharedContents>,
    ) -> Result<SnapshotContents, String>
    where
        F: FnMut() -> Result<Option<Bytes>, StorageError>,
    {
        let wrong = |error: ReadSnapshotError<StorageError>| error.to_string();
        let summary = decoder.state(|from| summary_in(from)).map_err(wrong)?;
        let (sessions, checkpoint) = summary.map_err(|error| error.to_string())?;
        let sessions = (sessions.era(), sessions.len());
        let mut own = 0;
        let count = |_: replica::Record<R>| own += 1;
        let state_bytes = decoder.own(limits, count).map_err(wrong)?.state_bytes;
        Ok(SnapshotContents { list, executed, sessions, state_bytes, checkpoint, shared, own })
    }
}

/// The protocol that wrote the directory.
fn protocol(whose: &Identity) -> Result<ProtocolKind, String> {
    whose.protocol.parse().map_err(|unknown: UnknownProtocol| unknown.to_string())
}

/// The contents of a report's snapshots. A snapshot that cannot be decoded becomes a problem of the
/// report.
fn contents(disk: &FileDisk, report: &mut Report) -> Vec<Option<SnapshotContents>> {
    let Some(identity) = &report.identity else { return Vec::new() };
    let mut wrong = Vec::new();
    let look = |info: &SnapshotInfo| {
        let contents = SnapshotContents::of(disk, &info.file, identity);
        let damaged = |what| StorageError::Damaged { file: info.file.clone(), offset: 0, what };
        contents.map_err(|what| wrong.push(damaged(what))).ok()
    };
    let contents = report.snapshots.iter().map(look).collect();
    report.problems.append(&mut wrong);
    contents
}

/// Counts of one owner's instances that have records in the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnersInstances {
    /// The highest slot.
    pub highest: Slot,
    /// Promised or known, but never voted for.
    pub initial: u64,
    /// Voted for at the owner's ballot.
    pub pre_accepted: u64,
    /// Accepted, and not known to be decided.
    pub accepted: u64,
    /// Decided as commands.
    pub committed: u64,
    /// Decided as `Nop`: nothing is executed.
    pub nops: u64,
    /// The highest round of any ballot; 0 if only owners led their instances.
    pub highest_round: u32,
}

impl Inspection {
    /// Reads the whole directory, checks every checksum and decodes every record. It writes and
    /// locks nothing.
    ///
    /// # Errors
    /// Only if the directory does not exist or may not be read. Problems inside it are in the
    /// report.
    pub fn of(directory: impl AsRef<Path>) -> Result<Inspection, StorageError> {
        let disk = FileDisk::read_only(directory)?;
        // If it cannot be read, the report says so.
        let identity = Identity::read(&disk).ok().flatten();
        let protocol = identity.as_ref().map_or(Ok(ProtocolKind::EPaxos), protocol);
        let mut again = Again::default();
        loop {
            let mut instances = Instances::default();
            let mut visit = |_: LogPosition, record: &[u8]| match protocol.clone()? {
                ProtocolKind::EPaxos => instances.take(record),
                other => instances.take_other(other, record),
            };
            let mut report = storage::verify(&disk, &mut visit)?;
            let contents = contents(&disk, &mut report);
            if again.is_settled(&mut report) {
                let skipped = storage::read_skipped(&disk);
                let skipped = skipped.map_err(|error| report.problems.push(error));
                let mut found = instances.into_inspection(report, contents);
                found.skipped = skipped.unwrap_or_default();
                found.last_command = LastCommand::read(&disk);
                return Ok(found);
            }
            again.pause();
        }
    }

    /// What an operator should do about a problem.
    pub fn advice(&self, problem: &StorageError) -> &'static str {
        let file = match problem {
            StorageError::Damaged { file, .. } => file.as_str(),
            StorageError::Format { .. } => {
                return "another version of the program wrote it: use that version";
            }
            StorageError::Io { .. } => return "see to the disk and its permissions, and look again",
            _ => "",
        };
        if self.report.holder.is_some() {
            return "the directory is in use and may have changed meanwhile: look again; if it \
                    stays, stop the replica and keep a copy of the directory";
        }
        if file.starts_with("snapshot-") && self.falls_back() {
            return "the replica can start without this file, from what was there before it; \
                    keep a copy, and watch the disk";
        }
        "the replica refuses to start from this, and must not start without it: its promises may \
         be lost. Keep a copy of the directory; the others go on as long as they are a majority, \
         and a new cluster can be made from a backup (`isonomy restore`)"
    }

    /// Whether only snapshots are damaged, and the log reaches back to a sound one or to the
    /// beginning.
    fn falls_back(&self) -> bool {
        let snapshot = |problem: &StorageError| match problem {
            StorageError::Damaged { file, .. } => file.starts_with("snapshot-"),
            _ => false,
        };
        let start = self.report.segments.first().map(|segment| segment.first);
        let from = self.report.snapshots.last().map_or(0, |last| last.position.records());
        self.report.problems.iter().all(snapshot) && start.is_some_and(|start| start <= from)
    }
}

/// Whether the record contains the size of the cluster.
fn has_vector(record: &epochs::Record<Record>) -> bool {
    let epochs::Record::Core(record) = record else { return false };
    let without = |it: &Record| {
        matches!(it, Record::Joined { .. } | Record::Reserved { .. } | Record::EarlyCommit { .. })
    };
    record.protocol().is_some_and(|record| !without(record))
}

/// What the log says about one instance.
#[derive(Clone, Copy, Default)]
struct Known {
    phase: Phase,
    nop: bool,
    ballot: Ballot,
}

/// Collects what the records say of the last epoch that began in the log.
#[derive(Default)]
struct Instances {
    records: u64,
    /// The number of members in each epoch, as far as it is known.
    replicas: BTreeMap<u32, usize>,
    /// The last epoch, and its list unless that was before the log.
    epoch: u32,
    list: Option<Membership>,
    reserved: Slot,
    known: FxHashMap<InstanceId, Known>,
}

impl Instances {
    fn take(&mut self, record: &[u8]) -> Result<(), String> {
        let (epoch, record) = self.decode(Bytes::copy_from_slice(record))?;
        self.records += 1;
        let record = match record {
            epochs::Record::Start(list) | epochs::Record::Joined(list) => {
                self.begin(list);
                return Ok(());
            }
            epochs::Record::Core(replica::Record::Protocol(record)) => record,
            _ => return Ok(()),
        };
        // What an attempt to join left behind says nothing.
        if self.list.is_some() && epoch != self.epoch {
            return Ok(());
        }
        self.epoch = epoch;
        let mut note = |id: InstanceId, phase: Phase, ballot: Ballot, nop: bool| {
            let known = self.known.entry(id).or_default();
            known.phase = known.phase.max(phase);
            known.ballot = known.ballot.max(ballot);
            known.nop = nop;
        };
        match record {
            Record::PreAccepted { id, .. } => note(id, Phase::PreAccepted, Ballot::OWNER, false),
            Record::Accepted { id, ballot, value, .. } => {
                note(id, Phase::Accepted, ballot, value.is_nop());
            }
            Record::Joined { id, ballot } | Record::Validated { id, ballot, .. } => {
                note(id, Phase::Initial, ballot, false);
            }
            Record::Learned { id, .. } => note(id, Phase::Initial, Ballot::OWNER, false),
            Record::Agreed { .. } | Record::EarlyCommit { .. } => {}
            Record::Reserved { up_to } => self.reserved = self.reserved.max(up_to),
            Record::Committed { id, value, .. } => {
                note(id, Phase::Committed, Ballot::OWNER, value == Value::Nop);
            }
        }
        Ok(())
    }

    /// Counts a record of a protocol whose instances have no owner.
    fn take_other(&mut self, protocol: ProtocolKind, record: &[u8]) -> Result<(), String> {
        let (record, limits) = (Bytes::copy_from_slice(record), Limits::new(MAX_REPLICAS));
        let list = with_protocol!(protocol, P => {
            type OfReplica = epochs::Record<<P as Protocol>::Record>;
            let decoded = decode_record::<OfReplica>(record, &limits);
            match decoded.map_err(|error| error.to_string())?.1 {
                epochs::Record::Start(list) | epochs::Record::Joined(list) => Some(list),
                _ => None,
            }
        });
        self.records += 1;
        list.into_iter().for_each(|list| self.begin(list));
        Ok(())
    }

    /// An epoch begins.
    fn begin(&mut self, list: Membership) {
        self.replicas.insert(list.epoch(), list.len());
        self.epoch = list.epoch();
        self.known.clear();
        self.reserved = 0;
        self.list = Some(list);
    }

    /// Decodes a record, and returns its epoch. The first record with a vector gives the number of
    /// members, unless their list was found.
    fn decode(&mut self, record: Bytes) -> Result<(u32, epochs::Record<Record>), String> {
        let epoch = record_epoch(&record).map_err(|error| error.to_string())?;
        let epoch = epoch.checked_sub(FIRST_EPOCH).ok_or("it is of no epoch")?;
        let decode = |replicas: usize| {
            decode_record::<epochs::Record<Record>>(record.clone(), &Limits::new(replicas))
                .map(|(_, it)| (epoch, it))
        };
        if let Some(replicas) = self.replicas.get(&epoch) {
            return decode(*replicas).map_err(|error| error.to_string());
        }
        let first = match decode(MAX_REPLICAS) {
            // These records have no vector, so any size decodes them.
            Ok((_, record)) if !has_vector(&record) => {
                if let epochs::Record::Joining(list) = &record {
                    self.replicas.insert(list.epoch(), list.len());
                }
                return Ok((epoch, record));
            }
            other => other,
        };
        let fits = |replicas: usize| Some((replicas, decode(replicas).ok()?));
        match (1..=MAX_REPLICAS).find_map(fits) {
            Some((replicas, record)) => {
                self.replicas.insert(epoch, replicas);
                Ok(record)
            }
            None => first.map_err(|error| error.to_string()),
        }
    }

    fn into_inspection(
        self,
        report: Report,
        contents: Vec<Option<SnapshotContents>>,
    ) -> Inspection {
        let mut owners: BTreeMap<ReplicaId, OwnersInstances> = BTreeMap::new();
        for (id, known) in &self.known {
            let owner = owners.entry(id.replica).or_default();
            owner.highest = owner.highest.max(id.slot);
            owner.highest_round = owner.highest_round.max(known.ballot.round());
            *match known.phase {
                Phase::Initial => &mut owner.initial,
                Phase::PreAccepted => &mut owner.pre_accepted,
                Phase::Accepted => &mut owner.accepted,
                Phase::Committed if known.nop => &mut owner.nops,
                Phase::Committed => &mut owner.committed,
            } += 1;
        }
        let Instances { records, replicas, epoch, mut list, reserved, .. } = self;
        let mut replicas = replicas.get(&epoch).copied();
        if let Some(told) = contents.iter().flatten().last()
            && told.list.as_ref().map_or(0, Membership::epoch) >= epoch
        {
            replicas = Some(told.executed.floor().len());
            list.clone_from(&told.list);
        }
        let (skipped, last_command) = (BTreeSet::new(), None);
        Inspection {
            report,
            contents,
            records,
            replicas,
            list,
            reserved,
            skipped,
            last_command,
            owners,
        }
    }
}

/// The size of the cluster, if this record contains it.
pub(super) fn size_in(record: &[u8]) -> Option<usize> {
    let mut instances = Instances::default();
    instances.decode(Bytes::copy_from_slice(record)).ok()?;
    instances.replicas.into_values().next()
}

#[cfg(test)]
mod tests;
