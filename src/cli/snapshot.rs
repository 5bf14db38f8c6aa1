//! `isonomy snapshot`: has a running replica write a snapshot.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::kv::Target;
use super::say;

/// Have a running replica write a snapshot now, and wait until it is safe on the disk.
///
/// Replicas do this by themselves as their logs grow. Asked for, it makes what `isonomy backup`
/// reads of a running replica as new as can be.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy snapshot --cluster cluster --replica 1
  isonomy snapshot --cluster cluster --replica 1 --timeout 60

Exit code 0 once it is done; 2 if none can be written; 3 without an answer; 5 if no replica was
reached, or none took it.")]
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
