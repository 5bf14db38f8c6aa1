//! `isonomy backup` and `isonomy restore`: a replica's state as one file, and new data directories
//! from that.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::{BAD_DATA, Unwritten, complain, say};
use crate::machine::Kv;
use crate::node::{self, BackupError, BackupOptions, Source};
use crate::types::{Executed, ReplicaId, RequestId};

/// Write the state of a replica to one file, for `isonomy restore`.
///
/// Of a replica that is stopped, all that its data directory holds; of one that runs, its newest
/// snapshot, which may be some time old. The directory is not changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy backup cluster/1.data monday.backup
  isonomy backup cluster/1.data monday.backup --force

Exit code 0 once the file is safe on the disk, 2 if it cannot be written, 4 if the data directory
cannot be used. Without success there is no file, or the one that was there before.")]
pub(super) struct Backup {
    /// The replica's data directory
    dir: PathBuf,
    /// The file to be written
    file: PathBuf,
    /// Overwrite the file if there is one
    #[arg(long)]
    force: bool,
    /// Leave out a request in the log that the state machine does not survive; may be given often
    #[arg(long, value_name = "REQUEST")]
    skip: Vec<RequestId>,
}

/// Make a replica's data directory from a backup.
///
/// For a new cluster: stop all replicas, restore all of them from the same backup, and start them.
/// Replicas that were not restored from the same backup refuse each other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy restore monday.backup cluster/1.data --replica 1
  isonomy restore monday.backup cluster/2.data --replica 2

Exit code 0 once the directory is safe on the disk, 2 if it cannot be made, 4 if the backup is
damaged.")]
pub(super) struct Restore {
    /// The file that `isonomy backup` has written
    file: PathBuf,
    /// The data directory to be made: a new one, or an empty one
    dir: PathBuf,
    /// Which replica it is for
    #[arg(long, value_name = "N")]
    replica: u8,
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
        let Some(replica) = ReplicaId::new(self.replica) else {
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

/// What a backup stands for.
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

/// A set of executed instances, in words.
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
