//! `isonomy backup` and `isonomy restore`: write a replica's state to one file, and make new data
//! directories from it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::kv::Target;
use super::{BAD_DATA, NO_ANSWER, Unwritten, complain, say};
use crate::client::NoBackup;
use crate::machine::Kv;
use crate::node::{self, Backup as Made, BackupError, BackupOptions, RestoreOptions, Source};
use crate::storage::StorageError;
use crate::types::{Executed, MemberId, RequestId};

/// Write the state of a cluster to a file, for `isonomy restore`.
///
/// With --cluster, a replica of the running cluster takes a snapshot for it. The backup has
/// everything that any replica had answered before the command began. This needs an
/// administrator's certificate.
///
/// With a data directory, everything in it is backed up if its replica is stopped. If that runs,
/// the backup has its newest snapshot, which may be old, and for which nobody else was asked. The
/// data directory is not changed.
#[derive(Debug, Args)]
#[command(
    override_usage = "\
isonomy backup --cluster <DIR> <FILE> [OPTIONS]
       isonomy backup <DATA_DIR> <FILE> [OPTIONS]",
    after_help = "\
Examples:
  isonomy backup --cluster cluster monday.backup
  isonomy backup --cluster cluster monday.backup --replica 2 --timeout 300
  isonomy backup cluster/1.data monday.backup --force

Exit codes:
  0  the backup is durable on disk
  2  the backup cannot be written; an older file of this name is unchanged
  3  no answer, or it was cut off: nothing was written
  4  the data directory cannot be used
  5  nothing was written: no replica was reached, or none took a snapshot"
)]
pub(super) struct Backup {
    /// The replica's data directory, unless --cluster is given; and the file to write
    #[arg(required = true, num_args = 1..=2, value_names = ["DATA_DIR", "FILE"])]
    paths: Vec<PathBuf>,
    /// The directory of the running cluster, as written by `isonomy init`
    #[arg(long, value_name = "DIR")]
    cluster: Option<PathBuf>,
    /// Use only this replica [default: the nearest that answers]
    #[arg(long, value_name = "N", requires = "cluster")]
    replica: Option<u32>,
    /// Give up when nothing has come for this many seconds, 0.001 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, requires = "cluster")]
    timeout: f64,
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
    /// Leave out a request that crashes the state machine, of a stopped replica; may be given more
    /// than once
    #[arg(long, value_name = "REQUEST", conflicts_with = "cluster")]
    skip: Vec<RequestId>,
}

/// Create a replica's data directory from a backup.
///
/// The restored replicas are a new cluster. It has the members of the old one, or those that
/// --members says. Restore each of them from the same backup and with the same members, and start
/// them. Replicas that were restored from different backups or with different members refuse each
/// other, and so do restored replicas and those of the old cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy restore monday.backup cluster/1.data --replica 1
  isonomy restore monday.backup cluster/2.data --replica 2
  isonomy restore monday.backup larger/5.data --replica 5 --members 1,2,3,4,5

Exit codes:
  0  the data directory is durable on disk
  2  the data directory cannot be created
  4  the backup is damaged")]
pub(super) struct Restore {
    /// Backup, as written by `isonomy backup`
    file: PathBuf,
    /// Data directory to create; it may exist if it is empty
    dir: PathBuf,
    /// Number of the replica that gets this directory
    #[arg(long, value_name = "N")]
    replica: MemberId,
    /// Numbers of all replicas of the new cluster [default: those of the backup]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    members: Vec<MemberId>,
}

impl Backup {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Backup { mut paths, cluster, replica, timeout, force, skip } = self;
        let target = cluster.map(|cluster| Target::administrator(cluster, replica, timeout));
        let file = paths.pop().expect("clap asks for one");
        let made = match (paths.pop(), target) {
            (None, Some(target)) => match of_cluster(target, &file, force)? {
                Ok(made) => made,
                Err(code) => return Ok(code),
            },
            (Some(directory), None) => {
                let skip = skip.into_iter().collect();
                let options = BackupOptions { overwrite: force, skip };
                match node::backup(Kv::new(), &directory, &file, &options) {
                    Ok(made) => made,
                    Err(error) => return refused(error),
                }
            }
            (Some(_), Some(_)) => bail!("give --cluster or a data directory, not both"),
            (None, None) => bail!(
                "say what to back up: a running cluster, with --cluster, or a data directory \
                 before the file"
            ),
        };
        let (file, replica) = (file.display(), made.replica.number());
        let Made { cluster, protocol, .. } = &made;
        say(format_args!("{file}: replica {replica} of cluster {cluster}, which runs {protocol}"))?;
        print(&made)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A backup of a running cluster, or the exit code if there is none.
fn of_cluster(
    target: Target,
    file: &Path,
    overwrite: bool,
) -> anyhow::Result<Result<Made, ExitCode>> {
    let answer = target.answer(async |client| match client.backup(file, overwrite).await {
        Ok(made) => Ok(Ok(made)),
        Err(NoBackup::Client(error)) => Err(error),
        Err(error) => Ok(Err(error)),
    })?;
    match answer {
        Ok(Ok(made)) => Ok(Ok(made)),
        Ok(Err(NoBackup::File(error))) => refused(error).map(Err),
        Ok(Err(error)) => {
            complain(format_args!("error: {error}\nNothing was written. Run it again."));
            Ok(Err(ExitCode::from(NO_ANSWER)))
        }
        Err(code) => Ok(Err(code)),
    }
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let options = RestoreOptions { members: self.members.into_iter().collect() };
        let made = match node::restore::<Kv>(&self.file, &self.dir, self.replica, &options) {
            Ok(made) => made,
            Err(error) => return refused(error),
        };
        let (dir, cluster, n) = (self.dir.display(), &made.cluster, made.members.len());
        say(format_args!("{dir}: replica {} of {n} of cluster {cluster}", self.replica.number()))?;
        print(&made)?;
        say("restore all replicas of the cluster from this file before one of them starts")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a backup covers.
fn print(backup: &Made) -> Result<(), Unwritten> {
    let position = backup.position.records();
    match backup.source {
        Source::Stopped => say(format_args!("the replica was stopped: all {position} records"))?,
        Source::Snapshot => say(format_args!(
            "the replica was running: its newest snapshot, up to record {position}. What came \
             later is not in it"
        ))?,
        Source::Running => say(format_args!(
            "a snapshot of the running cluster, up to record {position}: all that was answered \
             before is in it"
        ))?,
    }
    say(format_args!("executed: {}", executed(&backup.executed)))?;
    if backup.left_out > 0 {
        say(format_args!("{} instances were not executed yet, and are left out", backup.left_out))?;
    }
    let (bytes, sessions, era) = (backup.state_bytes, backup.sessions, backup.era);
    say(format_args!("state: {bytes} bytes, {sessions} sessions, era {era}"))?;
    say(format_args!("backup {:016x}", backup.id))
}

/// A set of executed instances as text.
pub(super) fn executed(executed: &Executed) -> String {
    let owners = executed.floor().iter().map(|(owner, floor)| {
        let above = executed.above(owner).iter();
        let above: String = above.map(|(first, last)| format!(", {first} to {last}")).collect();
        format!("of replica {} up to {floor}{above}", owner.number())
    });
    owners.collect::<Vec<_>>().join("; ")
}

fn refused(error: BackupError) -> anyhow::Result<ExitCode> {
    let hint = match &error {
        BackupError::Storage { error: StorageError::StateOnDisk { .. }, .. } => {
            "\nBack up the running cluster, or a replica whose state is in memory."
        }
        BackupError::Storage { .. } | BackupError::Nothing(_) | BackupError::NoSnapshot(_) => "",
        BackupError::Poisoned { command, .. } => {
            let request = command.request;
            complain(format_args!(
                "error: {error}\nWith --skip {request} the backup is made without it."
            ));
            return Ok(ExitCode::from(BAD_DATA));
        }
        BackupError::Damaged { .. } => "\nUse another backup: nothing of this one can be trusted.",
        BackupError::Exists(_) => bail!("{error}: name another file, or add --force"),
        _ => return Err(error.into()),
    };
    complain(format_args!("error: {error}{hint}"));
    Ok(ExitCode::from(BAD_DATA))
}
