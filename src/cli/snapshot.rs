//! `isonomy snapshot`: asks a running replica to write a snapshot.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::kv::Target;
use super::say;

/// Take a snapshot at a running replica, and wait until it is durable.
///
/// Replicas take snapshots by themselves as their logs grow. Use this before `isonomy backup`,
/// which reads the newest snapshot of a running replica.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy snapshot --cluster cluster --replica 1
  isonomy snapshot --cluster cluster --replica 1 --timeout 60

Exit codes:
  0  the snapshot is durable
  2  wrong arguments, or the replica cannot write a snapshot
  3  no answer: there may or may not be a new snapshot
  5  no snapshot: no replica could be reached, or none accepted the request")]
pub(super) struct Snapshot {
    #[command(flatten)]
    target: Target,
}

impl Snapshot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let begun = Instant::now();
        let answer = self.target.answer(async |client| client.snapshot().await)?;
        let (position, bytes) = match answer {
            Ok(taken) => taken,
            Err(code) => return Ok(code),
        };
        let seconds = begun.elapsed().as_secs_f64();
        say(format_args!(
            "snapshot: up to record {position}, {bytes} bytes, in {seconds:.3} seconds"
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
