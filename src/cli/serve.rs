//! `isonomy serve`: one replica of a cluster that `init` laid out.

use std::fs::OpenOptions;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::config::{Durability, ReplicaFile, read};
use super::{NO, complain, say};
use crate::machine::Kv;
use crate::node::Replica;

/// Run one replica of a key-value store.
///
/// Prints one line that begins with `ready` to standard output once it accepts clients, and its log
/// to standard error. SIGTERM and Ctrl-C stop it in good order: it answers what is under way and
/// takes its leave of the others; a second one stops it at once.
///
/// It keeps everything in memory. A replica that has stopped, however it stopped, has forgotten
/// what it voted for and must not come back: a mark beside its file sees to that. The cluster goes
/// on as long as a majority lives.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy serve cluster/1.toml
  isonomy serve cluster/2.toml --log debug")]
pub(super) struct Serve {
    /// The replica's file, as `isonomy init` wrote it
    file: PathBuf,
    /// How much to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let file: ReplicaFile = read(&self.file)?;
        let replicas = file.replicas().with_context(|| self.file.display().to_string())?;
        let credentials = file.tls.credentials(&self.file)?;
        log_to_stderr(self.log);
        let Durability::Memory = file.durability;
        let id = file.replica;
        let mark = Mark::leave(&self.file, id)?;
        tracing::warn!("in memory only: once replica {id} has stopped, it must not come back");
        let mut builder = Replica::builder(Kv::new())
            .id(id)
            .cluster(&file.cluster)
            .peers(replicas.iter().map(|(id, addr)| (id.number(), *addr)))
            .tls(credentials);
        if let Some(listen) = file.listen {
            builder = builder.listen(listen);
        }
        let runtime = super::runtime(1)?;
        runtime.block_on(async {
            // Before the first vote: what is asked to stop must not be missed.
            let stop = super::interrupted();
            let replica = match builder.start().await {
                Ok(replica) => replica,
                Err(error) => {
                    // It has spoken to nobody, so it may try again.
                    mark.erase();
                    return Err(error).with_context(|| self.file.display().to_string());
                }
            };
            let addr = replica.local_addr();
            say(format_args!("ready: replica {id} of {} at {addr}", file.cluster));
            tokio::select! {
                () = stop => {
                    tracing::info!("stopping");
                    replica.shutdown().await;
                }
                () = replica.wait_stopped() => {}
            }
            Ok(replica.fault().map_or(ExitCode::SUCCESS, |fault| {
                complain(format_args!("error: replica {id} has failed: {fault}"));
                ExitCode::from(NO)
            }))
        })
    }
}

/// A file beside the replica's own that says that it has run.
struct Mark(PathBuf);

impl Mark {
    fn leave(file: &Path, id: u8) -> anyhow::Result<Mark> {
        let path = file.with_extension("ran");
        let text = format!(
            "Replica {id} has been started. It keeps its votes in memory, so it must not be \
             started again.\n"
        );
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        match opened.and_then(|mut mark| mark.write_all(text.as_bytes())) {
            Ok(()) => Ok(Mark(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "replica {id} has run before (see {}). It kept its votes in memory and has \
                 forgotten them; with it the cluster could decide one thing twice. The others go \
                 on without it; for a new cluster use `isonomy init`",
                path.display()
            ),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }

    fn erase(self) {
        // If this fails, the replica is refused where it need not be: the safe side.
        let _ = std::fs::remove_file(self.0);
    }
}

fn log_to_stderr(level: LevelFilter) {
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    // The libraries below say much that only their authors can use.
    let filter = Targets::new().with_target("isonomy", level);
    let filter = filter.with_default(level.min(LevelFilter::WARN));
    tracing_subscriber::registry().with(lines).with(filter).init();
}
