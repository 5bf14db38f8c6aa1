//! Reads what a directory's replica had executed, and its state. It takes the same steps as a
//! replica that starts (see `start`), but it starts no thread, uses no network and writes nothing.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{BackupError, Source};
use crate::machine::{Applier, StateMachine, StateView};
use crate::node::EPOCH;
use crate::node::PoisonedCommand;
use crate::node::inspect::size_in;
use crate::node::panics::panic_text;
use crate::protocol::Protocol;
use crate::protocol::epaxos::{EPaxos, ProtocolSnapshot, Record};
use crate::replica::{self, Checkpoint, Core, Limits, Output};
use crate::storage::{FileDisk, Identity, Reading, SnapshotReader, StorageError, read_skipped};
use crate::types::{
    Era, LogPosition, Optimisations, Quorums, ReplicaId, RequestId, Retention, Settings, Timing,
};
use crate::wire::{self, Front, ReadSnapshotError, SnapshotDecoder, decode_record};

/// How often to read the directory of a running replica: its files may be removed during a reading.
const ATTEMPTS: usize = 3;

/// What a directory holds.
pub(super) struct Taken {
    pub(super) cluster: String,
    pub(super) replica: ReplicaId,
    pub(super) replicas: usize,
    pub(super) source: Source,
    pub(super) position: LogPosition,
    pub(super) checkpoint: Checkpoint<ProtocolSnapshot, Record>,
    pub(super) state: StateView,
    /// The era of the sessions, and their number.
    pub(super) sessions: (Era, usize),
}

/// Reads everything in a stopped replica's directory, or the newest snapshot of a running one.
pub(super) fn take<S: StateMachine>(
    machine: S,
    directory: &Path,
    skip: &BTreeSet<RequestId>,
) -> Result<Taken, BackupError> {
    let name = directory.display().to_string();
    let failed = |error| BackupError::Storage { directory: name.clone(), error };
    match FileDisk::hold(directory) {
        Ok(disk) => {
            let disk = Arc::new(disk);
            let mut skipped = read_skipped(&*disk).map_err(failed)?;
            skipped.extend(skip);
            let reading = Reading::of(disk).map_err(failed)?;
            let reading = reading.ok_or_else(|| BackupError::Nothing(name.clone()))?;
            check_protocol(&reading.identity, &name)?;
            let taken = all(machine, reading, &skipped).map_err(|error| match error {
                NotTaken::Storage(error) => failed(error),
                NotTaken::Poisoned(command) => {
                    BackupError::Poisoned { directory: name.clone(), command: *command }
                }
                NotTaken::TooLateToSkip(request) => {
                    BackupError::TooLateToSkip { directory: name.clone(), request }
                }
            })?;
            taken.ok_or_else(|| BackupError::Nothing(name.clone()))
        }
        Err(StorageError::Locked { .. }) => {
            let identity = FileDisk::read_only(directory).and_then(|disk| Identity::read(&disk));
            if let Some(identity) = identity.map_err(failed)? {
                check_protocol(&identity, &name)?;
            }
            for _ in 1..ATTEMPTS {
                if let Ok(Some(taken)) = newest_snapshot::<S>(directory) {
                    return Ok(taken);
                }
            }
            let taken = newest_snapshot::<S>(directory).map_err(failed)?;
            taken.ok_or(BackupError::NoSnapshot(name))
        }
        Err(error) => Err(failed(error)),
    }
}

/// `found` can start a new cluster from an EPaxos* directory only.
fn check_protocol(identity: &Identity, directory: &str) -> Result<(), BackupError> {
    if identity.protocol == EPaxos::NAME {
        return Ok(());
    }
    let (directory, protocol) = (directory.to_owned(), identity.protocol.clone());
    Err(BackupError::Protocol { directory, protocol })
}

/// The newest snapshot, read while a replica may be writing.
fn newest_snapshot<S: StateMachine>(directory: &Path) -> Result<Option<Taken>, StorageError> {
    let disk = FileDisk::read_only(directory)?;
    let Some(mut reading) = Reading::of(Arc::new(disk))? else { return Ok(None) };
    let Some(reader) = &mut reading.snapshot else { return Ok(None) };
    let Identity { cluster, replica, .. } = reading.identity;
    let position = reader.info().position;
    let Begin { replicas, executed, shared, own, applier } = begin::<S>(reader, &cluster)?;
    let checkpoint = Checkpoint { position, executed, shared, own };
    let (source, (state, sessions)) = (Source::Snapshot, view(&applier));
    Ok(Some(Taken { cluster, replica, replicas, source, position, checkpoint, state, sessions }))
}

/// The contents of a snapshot.
struct Begin<S> {
    replicas: usize,
    executed: crate::types::Executed,
    shared: ProtocolSnapshot,
    own: Vec<replica::Record<Record>>,
    applier: Applier<S>,
}

fn begin<S: StateMachine>(
    reader: &mut SnapshotReader,
    cluster: &str,
) -> Result<Begin<S>, StorageError> {
    let file = reader.info().file.clone();
    // The checksums are right, so the writer wrote something that this version cannot decode.
    let wrong = |what: String| StorageError::Damaged { file: file.clone(), offset: 0, what };
    let say = |error: ReadSnapshotError<StorageError>| error.either(|it| wrong(it.to_string()));
    let mut decoder = SnapshotDecoder::new(|| reader.next_chunk());
    let replicas = decoder.replicas().map_err(say)?;
    let replicas = replicas.ok_or_else(|| wrong("it is no replica's snapshot".into()))?;
    let limits = wire::Limits::new(replicas);
    let Front { epoch, executed, shared } = decoder.front(cluster, &limits).map_err(say)?;
    if epoch != EPOCH {
        return Err(wrong(format!("it is of epoch {epoch}")));
    }
    let applier = decoder.state(|from| Applier::restore_from(from)).map_err(say)?;
    let applier = applier.map_err(|error| wrong(error.to_string()))?;
    let mut own = Vec::new();
    decoder.own(&limits, |record| own.push(record)).map_err(say)?;
    Ok(Begin { replicas, executed, shared, own, applier })
}

/// A view of the state, and what a backup says of the sessions.
fn view<S: StateMachine>(applier: &Applier<S>) -> (StateView, (Era, usize)) {
    let sessions = applier.sessions();
    (applier.view(), (sessions.era(), sessions.len()))
}

/// Everything in a stopped replica's directory; `None` if it has no records.
fn all<S: StateMachine>(
    machine: S,
    mut reading: Reading,
    skipped: &BTreeSet<RequestId>,
) -> Result<Option<Taken>, NotTaken> {
    let Identity { cluster, replica, .. } = reading.identity.clone();
    let begun = match &mut reading.snapshot {
        Some(reader) => Some(begin::<S>(reader, &cluster)?),
        None => None,
    };
    let replicas = match &begun {
        Some(begun) => Some(begun.replicas),
        None => size_of(&reading)?,
    };
    let Some(replicas) = replicas else { return Ok(None) };
    let mut core = core(replica, replicas)?;
    let mut out = Output::default();
    // Replicas that start from this backup compare contents with the same key.
    let mut applier = Applier::new(machine).keyed(rand::random());
    let mut poisoned = None;
    if let Some(begun) = begun {
        applier = begun.applier.keyed(rand::random());
        if let Some(it) = skipped.iter().find(|it| applier.sessions().is_used(**it)) {
            return Err(NotTaken::TooLateToSkip(*it));
        }
        applier.skip(skipped.iter().copied());
        core.restore_snapshot(begun.shared, &begun.executed);
        for record in begun.own {
            core.restore(record, &mut out);
            apply(&mut applier, &mut out)?;
        }
    } else {
        applier.skip(skipped.iter().copied());
    }
    let limits = wire::Limits::new(replicas);
    let position = reading.replay(&mut |position, record| {
        let position = position.records();
        let (epoch, record): (_, replica::Record<Record>) =
            decode_record(Bytes::copy_from_slice(record), &limits)
                .map_err(|error| format!("record {position} makes no sense: {error}"))?;
        if epoch != EPOCH {
            return Err(format!("record {position} is of epoch {epoch}"));
        }
        core.restore(record, &mut out);
        apply(&mut applier, &mut out).map_err(|command| {
            let what = command.to_string();
            poisoned = Some(command);
            what
        })
    });
    if let Some(command) = poisoned {
        return Err(command.into());
    }
    let position = position?;
    let checkpoint = core.checkpoint();
    let (source, (state, sessions)) = (Source::Stopped, view(&applier));
    Ok(Some(Taken { cluster, replica, replicas, source, position, checkpoint, state, sessions }))
}

/// A core that only restores; it never takes a step.
fn core(me: ReplicaId, replicas: usize) -> Result<Core<EPaxos>, StorageError> {
    let missing =
        |error: crate::types::UnsupportedSize| StorageError::Missing { what: error.to_string() };
    let settings = Settings {
        me,
        quorums: Quorums::new(replicas).map_err(missing)?,
        seed: 0,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: true,
    };
    Ok(Core::new(settings.clone(), Limits::default(), EPaxos::new(settings)))
}

/// Why a directory could not be read for a backup.
enum NotTaken {
    Storage(StorageError),
    Poisoned(Box<PoisonedCommand>),
    TooLateToSkip(RequestId),
}

impl From<StorageError> for NotTaken {
    fn from(error: StorageError) -> NotTaken {
        NotTaken::Storage(error)
    }
}

impl From<Box<PoisonedCommand>> for NotTaken {
    fn from(command: Box<PoisonedCommand>) -> NotTaken {
        NotTaken::Poisoned(command)
    }
}

fn apply<S: StateMachine, M, R>(
    applier: &mut Applier<S>,
    out: &mut Output<M, R>,
) -> Result<(), Box<PoisonedCommand>> {
    for execution in out.execute.drain(..) {
        for command in execution.batch.commands() {
            // No caller waits for an answer here. After a panic the state is dropped.
            let applied = catch_unwind(AssertUnwindSafe(|| applier.apply(command, false)));
            applied.map_err(|panic| {
                Box::new(PoisonedCommand::new(execution.id, command, panic_text(&*panic)))
            })?;
        }
    }
    out.clear();
    Ok(())
}

/// The size of the cluster, from the first record that contains it.
fn size_of(reading: &Reading) -> Result<Option<usize>, StorageError> {
    let mut size = None;
    reading.replay(&mut |_, record| {
        if size.is_none() {
            size = size_in(record);
        }
        Ok(())
    })?;
    Ok(size)
}
