//! Reads what a directory's replica had executed, and its state. It takes the same steps as a
//! replica that starts (see `start`), but it starts no thread, uses no network and writes nothing.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::{BackupError, Source};
use crate::machine::{Applier, StateMachine, StateView, Unrestored};
use crate::node::PoisonedCommand;
use crate::node::inspect::size_in;
use crate::node::panics::panic_text;
use crate::node::records::Records;
use crate::node::status::NodeProtocol;
use crate::protocol::ProtocolKind;
use crate::replica::epochs::{self, Epochs};
use crate::replica::{self, Checkpoint, Limits, Output};
use crate::storage::{FileDisk, Identity, Reading, SnapshotReader, StorageError, read_skipped};
use crate::types::{
    Executed, LogPosition, Member, MemberId, Membership, Optimisations, Quorums, ReplicaId,
    RequestId, Retention, Settings, Timing,
};
use crate::wire::{self, Front, ReadSnapshotError, SnapshotDecoder};

/// How often to read the directory of a running replica: its files may be removed during a reading.
const ATTEMPTS: usize = 3;

/// What a directory holds.
pub(super) struct Taken<P: NodeProtocol> {
    pub(super) cluster: String,
    pub(super) replica: MemberId,
    /// The members of the last epoch.
    pub(super) list: Membership,
    pub(super) source: Source,
    pub(super) position: LogPosition,
    pub(super) checkpoint: Checkpoint<P::Snapshot, P::Record>,
    pub(super) state: StateView,
}

/// The protocol of the replica that a directory belongs to. The directory may be in use.
pub(super) fn protocol(directory: &Path) -> Result<ProtocolKind, BackupError> {
    let name = || directory.display().to_string();
    let failed = |error| BackupError::Storage { directory: name(), error };
    let identity = FileDisk::read_only(directory).and_then(|disk| Identity::read(&disk));
    let identity = identity.map_err(failed)?.ok_or_else(|| BackupError::Nothing(name()))?;
    let unknown =
        |_| BackupError::Protocol { directory: name(), protocol: identity.protocol.clone() };
    identity.protocol.parse().map_err(unknown)
}

/// Reads everything in a stopped replica's directory, or the newest snapshot of a running one.
pub(super) fn take<S: StateMachine, P: NodeProtocol>(
    machine: S,
    directory: &Path,
    skip: &BTreeSet<RequestId>,
) -> Result<Taken<P>, BackupError> {
    let name = directory.display().to_string();
    let failed = |error| BackupError::Storage { directory: name.clone(), error };
    match FileDisk::hold(directory) {
        Ok(disk) => {
            let disk = Arc::new(disk);
            let mut skipped = read_skipped(&*disk).map_err(failed)?;
            skipped.extend(skip);
            let reading = Reading::of(disk).map_err(failed)?;
            let reading = reading.ok_or_else(|| BackupError::Nothing(name.clone()))?;
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
            for _ in 1..ATTEMPTS {
                if let Ok(Some(taken)) = newest_snapshot::<S, P>(directory) {
                    return Ok(taken);
                }
            }
            let taken = newest_snapshot::<S, P>(directory).map_err(failed)?;
            taken.ok_or(BackupError::NoSnapshot(name))
        }
        Err(error) => Err(failed(error)),
    }
}

/// The newest snapshot, read while a replica may be writing.
fn newest_snapshot<S: StateMachine, P: NodeProtocol>(
    directory: &Path,
) -> Result<Option<Taken<P>>, StorageError> {
    let disk = FileDisk::read_only(directory)?;
    let Some(mut reading) = Reading::of(Arc::new(disk))? else { return Ok(None) };
    let Some(reader) = &mut reading.snapshot else { return Ok(None) };
    let list = first_list(&reading.identity, None)?;
    let Identity { cluster, replica, .. } = reading.identity;
    let position = reader.info().position;
    let begun = begin::<S, P>(reader, &cluster, list)?;
    let Begin { list, executed, shared, own, applier } = begun;
    let checkpoint = Checkpoint { position, executed, shared, own };
    let (source, state) = (Source::Snapshot, applier.view());
    Ok(Some(Taken { cluster, replica, list, source, position, checkpoint, state }))
}

/// The contents of a snapshot.
struct Begin<S, P: NodeProtocol> {
    list: Membership,
    executed: Executed,
    shared: P::Snapshot,
    own: Vec<replica::Record<P::Record>>,
    applier: Applier<S>,
}

fn begin<S: StateMachine, P: NodeProtocol>(
    reader: &mut SnapshotReader,
    cluster: &str,
    first: Option<Membership>,
) -> Result<Begin<S, P>, StorageError> {
    let file = reader.info().file.clone();
    // The checksums are right, so the writer wrote something that this version cannot decode.
    let wrong = |what: String| StorageError::Damaged { file: file.clone(), offset: 0, what };
    let say = |error: ReadSnapshotError<StorageError>| error.either(|it| wrong(it.to_string()));
    let mut decoder = SnapshotDecoder::new(|| reader.next_chunk());
    let replicas = decoder.replicas().map_err(say)?;
    let replicas = replicas.ok_or_else(|| wrong("it is no replica's snapshot".into()))?;
    let limits = wire::Limits::new(replicas);
    let Front { list, executed, shared } = decoder.front(cluster, &limits).map_err(say)?;
    // A directory of an older version does not know its members.
    let first = first.filter(|first| first.len() == replicas);
    let list = list.or(first).unwrap_or_else(|| numbered(replicas));
    let applier = decoder.state(|from| Applier::restore_whole(from)).map_err(say)?;
    let applier = applier.map_err(|error| match error {
        Unrestored::Checkpoint { number, .. } => {
            StorageError::StateOnDisk { file: file.clone(), number }
        }
        Unrestored::State(error) => wrong(error.to_string()),
    })?;
    let mut own = Vec::new();
    decoder.own(&limits, |record| own.push(record)).map_err(say)?;
    Ok(Begin { list, executed, shared, own, applier })
}

/// Everything in a stopped replica's directory; `None` if it has no records.
fn all<S: StateMachine, P: NodeProtocol>(
    machine: S,
    mut reading: Reading,
    skipped: &BTreeSet<RequestId>,
) -> Result<Option<Taken<P>>, NotTaken> {
    let first = match reading.identity.joins {
        true => None,
        false => first_list(&reading.identity, Some(&reading))?,
    };
    let Identity { cluster, replica, directory, .. } = reading.identity.clone();
    let mut epochs =
        Epochs::<P>::new(replica, directory, first.clone(), settings(), Limits::default());
    let mut out = Output::default();
    // Replicas that start from this backup compare contents with the same key.
    let mut applier = Applier::new(machine).keyed(rand::random());
    let mut poisoned = None;
    if let Some(reader) = &mut reading.snapshot {
        let position = reader.info().position;
        let begun = begin::<S, P>(reader, &cluster, first)?;
        applier = begun.applier.keyed(rand::random());
        if let Some(it) = skipped.iter().find(|it| applier.sessions().is_used(**it)) {
            return Err(NotTaken::TooLateToSkip(*it));
        }
        applier.skip(skipped.iter().copied());
        let epoch = begun.list.epoch();
        epochs.restore_snapshot(begun.list, begun.shared, &begun.executed, position);
        for record in begun.own {
            let restored = epochs.restore(epoch, epochs::Record::Core(record), &mut out);
            restored.map_err(|lost| StorageError::Missing { what: lost.to_string() })?;
            apply(&mut applier, &mut out)?;
        }
    } else {
        applier.skip(skipped.iter().copied());
    }
    let mut records = Records::after(epochs.lists());
    let position = reading.replay(&mut |position, record| {
        let position = position.records();
        let (epoch, record) = records
            .decode(record)
            .map_err(|error| format!("record {position} makes no sense: {error}"))?;
        let restored = epochs.restore(epoch, record, &mut out);
        restored.map_err(|lost| format!("record {position}: {lost}"))?;
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
    if position == LogPosition::default() {
        return Ok(None);
    }
    let Some((list, checkpoint)) = epochs.checkpoint() else { return Ok(None) };
    let (source, state) = (Source::Stopped, applier.view());
    Ok(Some(Taken { cluster, replica, list, source, position, checkpoint, state }))
}

/// The list of the first epoch, in which addresses play no part here. A directory of an older
/// version does not have it, but its first record tells how many members there are; `None` if there
/// is no record, and for a replica that joined later.
fn first_list(
    identity: &Identity,
    reading: Option<&Reading>,
) -> Result<Option<Membership>, StorageError> {
    if !identity.members.is_empty() {
        return Ok(Some(of_numbers(identity.members.iter().copied())));
    }
    Ok(reading.map(size_of).transpose()?.flatten().map(numbered))
}

/// A first list of this many members.
fn numbered(members: usize) -> Membership {
    of_numbers(MemberId::all(members))
}

fn of_numbers(numbers: impl Iterator<Item = MemberId>) -> Membership {
    let member = |id: MemberId| {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Member { id, address: nowhere.into(), directory: 0 }
    };
    Membership::first(numbers.map(member).collect()).expect("some members, each once")
}

/// Settings of a replica that only restores: it never takes a step.
pub(super) fn settings() -> Settings {
    Settings {
        me: ReplicaId::from_index(0),
        quorums: Quorums::new(1).expect("a supported size"),
        seed: 0,
        timing: Timing::default(),
        optimisations: Optimisations::NONE,
        retention: Retention::default(),
        leases: true,
    }
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
