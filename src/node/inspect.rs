//! What a replica's directory holds, without touching it: for operators, whether the replica runs
//! or not. Beside the running replica; after `storage`, which reads the bytes, and `wire`, which
//! says what the records mean.

mod again;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::status::with_protocol;
use crate::machine::sessions_in;
use crate::protocol::epaxos::{Phase, ProtocolSnapshot, Record};
use crate::protocol::{Protocol, ProtocolKind, UnknownProtocol};
use crate::replica;
use crate::storage::{
    self, FileDisk, Identity, LastCommand, Report, SnapshotInfo, SnapshotReader, StorageError,
};
use crate::types::{
    Ballot, Deps, Era, Executed, InstanceId, LogPosition, MAX_REPLICAS, ReplicaId, RequestId, Slot,
    Value,
};
use crate::wire::{Limits, Snapshot, decode_own_snapshot, decode_record, replicas_in_snapshot};
use again::Again;

/// What a replica's directory holds.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Files, checksums, and everything that is wrong.
    pub report: Report,
    /// What is in each of the report's snapshots, as far as it can be understood.
    pub contents: Vec<Option<SnapshotContents>>,
    /// Records in the log.
    pub records: u64,
    /// The size of the cluster, if any record tells.
    pub replicas: Option<usize>,
    /// The last slot that the replica has reserved for itself; 0 for none.
    pub reserved: Slot,
    /// Requests that the replica never executes: see
    /// [`ReplicaBuilder::skip`](super::ReplicaBuilder::skip).
    pub skipped: BTreeSet<RequestId>,
    /// The command that the replica's last life ended in, or that a running one is at, as far as it
    /// left a trail.
    pub last_command: Option<LastCommand>,
    /// The instances that the log has records of, by owner: of EPaxos* alone, where they have one.
    pub owners: BTreeMap<ReplicaId, OwnersInstances>,
}

/// What a snapshot holds, without the state.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotContents {
    /// What is executed.
    pub executed: Executed,
    /// The era of the sessions, and their number.
    pub sessions: (Era, usize),
    /// The length of the state in bytes, sessions included.
    pub state_bytes: u64,
    /// What the replica shares with others; `None` if it runs another protocol than EPaxos*, of
    /// which `executed` says all.
    pub shared: Option<SharedContents>,
    /// Records of the replica's own: promises, votes, and decisions that were not executed.
    pub own: usize,
}

/// What a snapshot of EPaxos* holds for every replica alike.
#[derive(Clone, PartialEq, Debug)]
pub struct SharedContents {
    /// Everything up to here is forgotten: every member has executed it.
    pub floor: Deps,
    /// The highest cut that is known to be established.
    pub cut: Deps,
    /// Everything up to here has no record any more.
    pub dropped: Deps,
    /// Executed decisions that are kept for others.
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
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(say)? {
            bytes.extend_from_slice(&chunk);
        }
        let bytes = Bytes::from(bytes);
        let replicas = replicas_in_snapshot(&bytes).ok_or("it is no replica's snapshot")?;
        let limits = Limits::new(replicas);
        let protocol = protocol(whose)?;
        if protocol == ProtocolKind::EPaxos {
            let decoded =
                decode_own_snapshot::<ProtocolSnapshot, Record>(&bytes, &whose.cluster, &limits);
            let (snapshot, own) = decoded.map_err(|error| error.to_string())?;
            return SnapshotContents::new(snapshot, own.len(), |shared| Some(shared.into()));
        }
        with_protocol!(protocol, P => {
            type Decoded = (
                Snapshot<<P as Protocol>::Snapshot>,
                Vec<replica::Record<<P as Protocol>::Record>>,
            );
            let decoded: Result<Decoded, _> = decode_own_snapshot(&bytes, &whose.cluster, &limits);
            let (snapshot, own) = decoded.map_err(|error| error.to_string())?;
            SnapshotContents::new(snapshot, own.len(), |_| None)
        })
    }

    fn new<S>(
        snapshot: Snapshot<S>,
        own: usize,
        shared: impl FnOnce(S) -> Option<SharedContents>,
    ) -> Result<SnapshotContents, String> {
        let sessions = sessions_in(&snapshot.state).map_err(|error| error.to_string())?;
        Ok(SnapshotContents {
            executed: snapshot.own.executed,
            sessions: (sessions.era(), sessions.len()),
            state_bytes: snapshot.state.len() as u64,
            shared: shared(snapshot.shared),
            own,
        })
    }
}

/// The protocol that a directory is written in.
fn protocol(whose: &Identity) -> Result<ProtocolKind, String> {
    whose.protocol.parse().map_err(|unknown: UnknownProtocol| unknown.to_string())
}

/// What is in a report's snapshots; what makes no sense is one of its problems from then on.
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

/// The instances of one owner, as far as a log has records of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnersInstances {
    /// The highest slot.
    pub highest: Slot,
    /// Promised or learned of, and never voted for.
    pub initial: u64,
    /// Voted for at the owner's ballot.
    pub pre_accepted: u64,
    /// Voted for after that, and not known to be decided.
    pub accepted: u64,
    /// Decided: commands.
    pub committed: u64,
    /// Decided: nothing is executed.
    pub nops: u64,
    /// The highest round of any ballot: 0 if nobody but the owner ever led an instance.
    pub highest_round: u32,
}

impl Inspection {
    /// Reads all of a directory, checks every checksum and decodes every record. Nothing is
    /// written or locked.
    ///
    /// # Errors
    /// Only if there is no such directory, or it may not be read; whatever is wrong inside is in
    /// the report.
    pub fn of(directory: impl AsRef<Path>) -> Result<Inspection, StorageError> {
        let disk = FileDisk::read_only(directory)?;
        // If it cannot be read, the report will say so.
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

    /// Whether only snapshots are damaged, and the log reaches back to one that is not or to the
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

/// Whether the record tells the size of the cluster.
fn has_vector(record: &replica::Record<Record>) -> bool {
    let without = |it: &Record| {
        matches!(it, Record::Joined { .. } | Record::Reserved { .. } | Record::EarlyCommit { .. })
    };
    record.protocol().is_some_and(|record| !without(record))
}

/// What is known of an instance.
#[derive(Clone, Copy, Default)]
struct Known {
    phase: Phase,
    nop: bool,
    ballot: Ballot,
}

/// Gathers what the records say.
#[derive(Default)]
struct Instances {
    records: u64,
    replicas: Option<usize>,
    reserved: Slot,
    known: FxHashMap<InstanceId, Known>,
}

impl Instances {
    fn take(&mut self, record: &[u8]) -> Result<(), String> {
        let record = self.decode(Bytes::copy_from_slice(record))?;
        self.records += 1;
        let replica::Record::Protocol(record) = record else { return Ok(()) };
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

    /// Counts a record that is not about instances with owners.
    fn take_other(&mut self, protocol: ProtocolKind, record: &[u8]) -> Result<(), String> {
        let (record, limits) = (Bytes::copy_from_slice(record), Limits::new(MAX_REPLICAS));
        let decoded = with_protocol!(protocol, P => {
            type OfReplica = replica::Record<<P as Protocol>::Record>;
            decode_record::<OfReplica>(record, &limits).map(|_| ())
        });
        decoded.map_err(|error| error.to_string())?;
        self.records += 1;
        Ok(())
    }

    /// Decodes a record of a cluster whose size the first vector tells.
    fn decode(&mut self, record: Bytes) -> Result<replica::Record<Record>, String> {
        let decode = |replicas: usize| {
            decode_record::<replica::Record<Record>>(record.clone(), &Limits::new(replicas))
                .map(|(_, it)| it)
        };
        if let Some(replicas) = self.replicas {
            return decode(replicas).map_err(|error| error.to_string());
        }
        let first = match decode(MAX_REPLICAS) {
            // These have no vector, so any size will do.
            Ok(record) if !has_vector(&record) => return Ok(record),
            other => other,
        };
        let fits = |replicas: usize| Some((replicas, decode(replicas).ok()?));
        match (1..=MAX_REPLICAS).find_map(fits) {
            Some((replicas, record)) => {
                self.replicas = Some(replicas);
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
        let Instances { records, mut replicas, reserved, .. } = self;
        if let Some(told) = contents.iter().flatten().last() {
            replicas = Some(told.executed.floor().len());
        }
        let (skipped, last_command) = (BTreeSet::new(), None);
        Inspection { report, contents, records, replicas, reserved, skipped, last_command, owners }
    }
}

/// The size of the cluster, if this record tells.
pub(super) fn size_in(record: &[u8]) -> Option<usize> {
    let mut instances = Instances::default();
    instances.decode(Bytes::copy_from_slice(record)).ok()?;
    instances.replicas
}

#[cfg(test)]
mod tests;
