//! `isonomy serve`: runs one replica of a cluster made by `init`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::config::{ReplicaFile, read};
use super::lines::Lines;
use super::mark::Mark;
use super::repeats::{Limited, Repeats};
use super::store::{self, OTHER_STORE, StoreName};
use super::{BAD_DATA, NO, REMOVED, UNUSABLE, in_words};
use crate::machine::{Kv, StateMachine};
use crate::node::{Fault, PoisonedCommand, Replica, ReplicaBuilder, Role, StartError};
use crate::storage::StorageError;
use crate::types::{Address, RequestId};

/// How often to check whether lines were left out.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Run one replica of a replicated key-value store.
///
/// Once the replica accepts clients, it prints one line to standard output that begins with
/// `ready`. One that joins a cluster first prints a line that begins with `waits`, with the command
/// that makes it a member. Its log goes to standard error; lines that repeat are counted instead of
/// printed. A reader that is slow or gone does not stop the replica.
///
/// The replica keeps its state in the data directory that its file names. After any stop or crash,
/// start it again, and it continues from there. With `--store redb`, the state may be larger than
/// memory. With `durability = "memory"` it keeps nothing, and
/// must not come back after it has met another replica: a mark beside its file prevents that.
///
/// SIGTERM or Ctrl-C shuts it down: it answers what is in flight, and closes its connections. A
/// second signal stops it at once. SIGHUP is ignored.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy serve cluster/1.toml
  isonomy serve cluster/2.toml --log debug
  isonomy serve cluster/3.toml --store redb

Exit codes:
  0  stopped by a signal
  1  the replica failed
  2  wrong arguments, or a file that cannot be used
  3  stopped at once, by a second signal
  4  the data directory cannot be used, or the other replicas refuse this one
  6  the replica was removed from the cluster: do not start it again")]
pub(super) struct Serve {
    /// The replica's file, as written by `isonomy init`
    file: PathBuf,
    /// Log level: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// Where the state is kept, instead of what the file says under [store]
    ///
    /// The replicas of a cluster may have different stores. A replica that was in memory may go on
    /// with redb, and then keeps it.
    #[arg(long, value_name = "KIND")]
    store: Option<StoreName>,
    /// Never execute this request, as the log or an error names it; may be given more than once
    ///
    /// For a command that crashes every replica. Start all replicas with the same --skip; each
    /// remembers it. See "A command that no replica survives" in the guide (src/GUIDE.md, or
    /// `guide` in the documentation).
    #[arg(long, value_name = "REQUEST")]
    skip: Vec<RequestId>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (out, log) = (Lines::to(std::io::stdout())?, Lines::to(std::io::stderr())?);
        // The default hook would block on a slow reader, and the panic would not be reported.
        let panics = log.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            panics.say(format_args!("thread {:?} {panic}", thread.name().unwrap_or("unnamed")));
        }));
        let code = self.serve(&out, &log).unwrap_or_else(|error| {
            log.say(format_args!("error: {}", in_words(&error)));
            ExitCode::from(UNUSABLE)
        });
        out.flush();
        log.flush();
        Ok(code)
    }

    /// The replica in the file.
    fn configure<S: StateMachine>(
        &self,
        builder: ReplicaBuilder<S>,
        file: &ReplicaFile,
    ) -> anyhow::Result<ReplicaBuilder<S>> {
        let name = || self.file.display().to_string();
        let replicas = file.replicas().with_context(name)?;
        let credentials = file.tls.credentials(&self.file)?;
        let mut builder = builder
            .id(file.replica)
            .cluster(&file.cluster)
            .peers(replicas.into_iter().map(|(id, address)| (id.number(), address)))
            .tls(credentials)
            .durability(file.durability.into())
            .protocol(file.protocol().with_context(name)?)
            .timing(file.timing().with_context(name)?)
            .optimisations(file.optimisations())
            .leases(file.leases.unwrap_or(true))
            .limits(file.limits())
            .join(file.join);
        for request in &self.skip {
            builder = builder.skip(*request);
        }
        if let Some(seconds) = file.session_idle_seconds {
            builder = builder.session_idle(Duration::from_secs(seconds));
        }
        if let Some(listen) = file.listen() {
            builder = builder.listen(listen);
        }
        Ok(builder)
    }

    fn serve(self, out: &Lines, log: &Lines) -> anyhow::Result<ExitCode> {
        let file: ReplicaFile = read(&self.file)?;
        let name = || self.file.display().to_string();
        let data_dir = file.data_dir(&self.file).with_context(name)?;
        let (kind, options) =
            (file.store.kind(self.store), file.store.options().with_context(name)?);
        let repeats = log_to(log, self.log);
        match kind {
            StoreName::Memory => {
                tracing::info!(store = "memory", "the state is in memory");
                self.serve_from(Replica::builder(Kv::new()), file, data_dir, (out, log, repeats))
            }
            StoreName::Redb => {
                let source = store::source(data_dir.as_deref(), options).with_context(name)?;
                self.serve_from(Replica::builder_from(source), file, data_dir, (out, log, repeats))
            }
        }
    }

    fn serve_from<S: StateMachine>(
        self,
        builder: ReplicaBuilder<S>,
        file: ReplicaFile,
        data_dir: Option<PathBuf>,
        (out, log, repeats): (&Lines, &Lines, Arc<Repeats>),
    ) -> anyhow::Result<ExitCode> {
        let mut builder = self.configure(builder, &file)?;
        let id = file.replica;
        let mark = match data_dir {
            Some(dir) => {
                builder = builder.data_dir(dir);
                None
            }
            None => Some(Arc::new(Mark::beside(&self.file, id)?)),
        };
        if let Some(mark) = &mark {
            if file.replicas()?.len() == 1 {
                // A single replica has no peers, and its first answer already counts.
                mark.leave()?;
            }
            let mark = Arc::clone(mark);
            builder = builder.before_first_peer(move || mark.leave());
        }
        let runtime = super::runtime(1)?;
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                repeats.tell();
            }
        });
        runtime.block_on(async {
            // Before the first vote, so that no request to stop is missed.
            let mut stop = pin!(super::interrupted());
            super::outlive_terminal();
            let started = tokio::select! {
                started = builder.start() => started,
                // It is still reading its log and has sent nothing to any peer.
                () = &mut stop => return Ok(ExitCode::SUCCESS),
            };
            let replica = match started {
                Ok(replica) => replica,
                Err(error) => {
                    // It has talked to no peer, so it may try again.
                    mark.inspect(|mark| mark.erase());
                    return not_started(&self.file, error, log);
                }
            };
            tokio::select! {
                () = stop => {
                    tracing::info!("stopping");
                    replica.shutdown().await;
                }
                () = attend(&replica, &file, out) => {}
            }
            if let (Some(Fault::OtherList { .. }), Some(mark)) = (replica.fault(), mark)
                && replica.metrics().await.is_some_and(|metrics| metrics.turns == 0)
            {
                // It has taken no step, so it has not voted.
                mark.erase();
            }
            Ok(replica.fault().map_or(ExitCode::SUCCESS, |fault| failed(id, &fault, log)))
        })
    }
}

/// Says when the replica takes part, or that it does not yet, and waits for its end.
async fn attend<S: StateMachine>(replica: &Replica<S>, file: &ReplicaFile, out: &Lines) {
    let (number, addr) = (file.replica, replica.local_addr());
    let who = format!("replica {number} of {} at {addr}", file.cluster);
    if let Some(words) = waits(replica.role(), file.own_address()) {
        out.say(format_args!("waits: {who} {words}"));
    }
    if replica.wait_member().await {
        let observes = replica.role() == Role::Observer;
        let how = if observes { ", as an observer: it answers local reads" } else { "" };
        out.say(format_args!("ready: {who}{how}"));
    }
    replica.wait_stopped().await;
}

/// What a replica in this role waits for before it takes part, if it waits.
fn waits(role: Role, own: Option<(u32, &Address)>) -> Option<String> {
    let place = own.map_or_else(String::new, |(id, address)| format!("{id}@{address}"));
    match role {
        Role::Stranger => Some(format!(
            "is no member yet. Make it one with `isonomy member add {place} --cluster DIR`, or \
             with `isonomy member replace OLD {place} --cluster DIR` in the place of another; or \
             an observer with `isonomy member add {place} --observer --cluster DIR`"
        )),
        Role::Joining => Some("is in the list, and fetches the state first".to_owned()),
        Role::Removed => Some(
            "was removed from the cluster, and ends once the others need nothing of it".to_owned(),
        ),
        _ => None,
    }
}

/// Reports a replica that does not start, and returns the exit code.
fn not_started(file: &Path, error: StartError, log: &Lines) -> anyhow::Result<ExitCode> {
    if let StartError::Restore(Fault::Poisoned(command)) = &error {
        log.say(format_args!("error: {}: {error}\n{}", file.display(), skip(command)));
        return Ok(ExitCode::from(NO));
    }
    let StartError::Storage { error: storage, .. } = &error else {
        return Err(error).with_context(|| file.display().to_string());
    };
    if let StorageError::Removed { .. } = storage {
        log.say(format_args!("error: {}: {error}", file.display()));
        return Ok(ExitCode::from(REMOVED));
    }
    log.say(format_args!("error: {}: {error}\n{}", file.display(), remedy(storage)));
    Ok(ExitCode::from(BAD_DATA))
}

/// Reports a replica that has failed, and returns the exit code.
fn failed(id: u32, fault: &Fault, log: &Lines) -> ExitCode {
    let poisoned;
    let (remedy, code) = match fault {
        Fault::Storage(storage) => (remedy(storage), NO),
        Fault::Outcast { .. } => (OUTCAST, BAD_DATA),
        Fault::Poisoned(command) => {
            poisoned = skip(command);
            (poisoned.as_str(), NO)
        }
        Fault::Clone { .. } => (CLONE, BAD_DATA),
        Fault::Contradiction(_) => (CONTRADICTION, BAD_DATA),
        Fault::OtherList { .. } => (OTHER_LIST, BAD_DATA),
        // These two say what to do.
        Fault::NoMember { .. } => ("", BAD_DATA),
        Fault::Removed { .. } => {
            log.say(format_args!("replica {id} has ended: {fault}"));
            return ExitCode::from(REMOVED);
        }
        _ => ("This is a bug. Started again, the replica goes on where its records end.", NO),
    };
    let remedy = if remedy.is_empty() { String::new() } else { format!("\n{remedy}") };
    log.say(format_args!("error: replica {id} has failed: {fault}{remedy}"));
    ExitCode::from(code)
}

/// The remedy for a command at which the state machine panics.
fn skip(command: &PoisonedCommand) -> String {
    let request = command.request;
    format!(
        "This is a bug of the state machine: every replica that executes the request stops like \
         this one. If that happens again, stop all replicas and start each of them once with\n  \
         --skip {request}\nThe request is never executed then, at any replica."
    )
}

/// How a new replica takes the place of this one.
macro_rules! replace {
    ($why:literal) => {
        concat!(
            $why,
            "\nThe others go on without it as long as they are a majority. While they run, a new \
             replica takes its place. It has a number that none has had:\n  \
             1. isonomy cert replica DIR NEW@HOST:PORT     where `ca.key` is\n  \
             2. isonomy serve DIR/NEW.toml                 on its machine\n  \
             3. isonomy member replace OLD NEW@HOST:PORT --cluster DIR\n\
             If too few are left for that, begin anew from a backup: see \"Backups\" in the guide."
        )
    };
}

const OUTCAST: &str = replace!(
    "The others know this replica by another data directory, or by a later state of this one. It \
     may have voted with what it has lost, so it must not take part without it: if the directory \
     they know is still somewhere, put it back."
);

const CLONE: &str = "\
Stop the one that should not run. If that was started from a copy of the data directory, remove \
the copy: a directory is one replica's, and only one may go on from where it was copied.";

const CONTRADICTION: &str = "\
A data directory was put back from an older copy, and replicas have acted on both. They may have \
executed different commands, and do not talk to each other until all begin anew with the state of \
one of them. Which one that is, only you can decide:
  1. stop the clients, and a moment later every replica
  2. isonomy backup DIR FILE                with the directory of the one decided on
  3. move the data directories of all replicas out of the way
  4. isonomy restore FILE DIR --replica N   for every replica, to its `data_dir`
  5. start every replica";

const OTHER_LIST: &str = "\
Nothing was decided here. Make [replicas] the same in the files of all replicas, and start those \
that have stopped.";

const DAMAGED: &str = replace!(
    "What this replica has promised cannot be read any more, and nothing may be guessed, so it \
     does not start."
);

/// The remedy for storage that cannot be used.
fn remedy(error: &StorageError) -> &'static str {
    match error {
        StorageError::Locked { .. } => "Stop that process first: only one may use the directory.",
        StorageError::Foreign { .. } => {
            "Name this replica's own directory as `data_dir` in its file; a new one if it was \
             never started."
        }
        StorageError::OtherProtocol { .. } => {
            "All replicas of a cluster run one protocol for all its life. To change it, move the \
             data to a new cluster."
        }
        StorageError::OtherMembers { .. } => {
            "A file cannot change the members: put back the list in [replicas] that the cluster \
             was begun with. `isonomy member` changes them while the cluster runs."
        }
        StorageError::StateOnDisk { .. } => OTHER_STORE,
        StorageError::Format { .. } => "It was written by a newer version: use that one.",
        StorageError::Outcast => OUTCAST,
        StorageError::Damaged { .. } | StorageError::Missing { .. } => DAMAGED,
        StorageError::Io { error, .. } if !is_failure(error.kind()) => {
            "Nothing is lost by that: name a directory in `data_dir` that this user may read and \
             write, and start the replica again."
        }
        StorageError::Full { .. } => {
            "A start needs room for a few small files. Make some on the disk and start the replica \
             again: what it has answered is safe."
        }
        _ => {
            "Look after the disk, and start the replica again: it checks what is there, and what \
             it has answered is safe if the disk still has it."
        }
    }
}

/// Whether an error means that a disk has failed, and not that this user may not use a path.
fn is_failure(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
    )
}

/// Sends log events to standard error. Returns the counter of repeated lines.
fn log_to(lines: &Lines, level: LevelFilter) -> Arc<Repeats> {
    let repeats = Arc::new(Repeats::default());
    let writer = lines.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    // These errors would go to the same output, and if the terminal is gone, that would panic.
    let lines = lines.log_internal_errors(false);
    // Most messages of the libraries are useful only to their authors.
    let filter = Targets::new().with_target("isonomy", level);
    let filter = filter.with_default(level.min(LevelFilter::WARN));
    let limited = Limited(Arc::clone(&repeats));
    tracing_subscriber::registry().with(lines).with(limited).with(filter).init();
    repeats
}
