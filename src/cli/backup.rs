//! `isonomy backup` and `isonomy restore`: write a replica's state to one file, and make new data
//! directories from it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::{BAD_DATA, Unwritten, complain, say};
use crate::machine::Kv;
use crate::node::{self, BackupError, BackupOptions, Source};
use crate::storage::StorageError;
use crate::types::{Executed, MemberId, RequestId};

/// Write a replica's state to a file, for `isonomy restore`.
///
/// If the replica is stopped, the backup has everything in its data directory. If it is running,
/// the backup has its newest snapshot, which may be old: `isonomy snapshot` takes a new one. The
/// data directory is not changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy backup cluster/1.data monday.backup
  isonomy backup cluster/1.data monday.backup --force

Exit codes:
  0  the backup is durable on disk
  2  the backup cannot be written; an older file of this name is unchanged
  4  the data directory cannot be used")]
pub(super) struct Backup {
    /// The replica's data directory
    dir: PathBuf,
    /// File to write
    file: PathBuf,
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
    /// Leave out a request that crashes the state machine; may be given more than once
    #[arg(long, value_name = "REQUEST")]
    skip: Vec<RequestId>,
}

/// Create a replica's data directory from a backup.
///
/// The restored replicas are a new cluster. Stop all replicas, restore each of them from the same
/// backup, and start them. Replicas that were restored from different backups refuse each other,
/// and so do restored replicas and those of the old cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy restore monday.backup cluster/1.data --replica 1
  isonomy restore monday.backup cluster/2.data --replica 2

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
    replica: u32,
}

impl Backup {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let skip = self.skip.iter().copied().collect();
        let options = BackupOptions { overwrite: self.force, skip };
        let made = match node::backup(Kv::new(), &self.dir, &self.file, &options) {
            Ok(made) => made,
            Err(error) => return refused(error),
        };
        let (file, replica) = (self.file.display(), made.replica.number());
        say(format_args!("{file}: replica {replica} of cluster {}", made.cluster))?;
        print(&made)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(replica) = MemberId::new(self.replica).filter(|it| it.position().is_some()) else {
            bail!("--replica {}: replicas are numbered from 1 to 63", self.replica);
        };
        let made = match node::restore::<Kv>(&self.file, &self.dir, replica) {
            Ok(made) => made,
            Err(error) => return refused(error),
        };
        let (dir, cluster, n) = (self.dir.display(), &made.cluster, made.replicas);
        say(format_args!("{dir}: replica {} of {n} of cluster {cluster}", self.replica))?;
        print(&made)?;
        say("restore all replicas of the cluster from this file before one of them starts")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a backup covers.
fn print(backup: &node::Backup) -> Result<(), Unwritten> {
    let position = backup.position.records();
    match backup.source {
        Source::Stopped => say(format_args!("the replica was stopped: all {position} records"))?,
        Source::Snapshot => say(format_args!(
            "the replica was running: its newest snapshot, up to record {position}. What came \
             later is not in it"
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
