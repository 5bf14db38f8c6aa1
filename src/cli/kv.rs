//! `isonomy put`, `get`, `del`, `cas`: clients of a running cluster, over QUIC.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;

use super::config::{CLIENT_FILE, ClientFile, read};
use super::{NO, NO_ANSWER, complain};
use crate::client::{Client, ClientConfig, ClientError, ConnectError, Rejected};
use crate::machine::{Kv, KvCommand, KvOutput};
use crate::types::{Consistency, ReplicaId};

/// Which cluster, and how long to try.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The cluster's directory, as `isonomy init` wrote it
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Ask this replica and no other [default: the nearest that answers]
    #[arg(long, value_name = "N")]
    replica: Option<u8>,
    /// How long to try before giving up
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    timeout: f64,
}

/// Set a key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy put greeting hello --cluster cluster
  isonomy put greeting hello --cluster cluster --replica 2

Exit code 0 once it is done, and 3 without an answer: it may or may not have been done then.")]
pub(super) struct Put {
    /// The key
    key: String,
    /// Its new value
    value: String,
    #[command(flatten)]
    target: Target,
}

/// Print the value of a key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy get greeting --cluster cluster
  isonomy get greeting --cluster cluster --replica 3 --local

Exit code 1 if there is no such key, 3 without an answer.")]
pub(super) struct Get {
    /// The key
    key: String,
    /// Ask for the replica's state as it is, which may be behind
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    target: Target,
}

/// Remove a key.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  isonomy del greeting --cluster cluster

Exit code 1 if there was no such key, 3 without an answer.")]
pub(super) struct Del {
    /// The key
    key: String,
    #[command(flatten)]
    target: Target,
}

/// Set a key if it has the expected value (compare and swap).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cas greeting hello goodbye --cluster cluster
  isonomy cas greeting hello --absent --cluster cluster

Exit code 1 if the value is another one, which is then printed; 3 without an answer.")]
pub(super) struct Cas {
    /// The key
    key: String,
    /// The expected value and the new one; with --absent, the new one
    #[arg(required = true, num_args = 1..=2, value_names = ["EXPECTED", "NEW"])]
    values: Vec<String>,
    /// Expect that there is no such key
    #[arg(long)]
    absent: bool,
    #[command(flatten)]
    target: Target,
}

impl Put {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let command = KvCommand::Put { key: self.key.into(), value: self.value.into() };
        self.target.ask(command, None)
    }
}

impl Get {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let consistency = match self.local {
            true => Consistency::Local,
            false => Consistency::Linearizable,
        };
        self.target.ask(KvCommand::Get { key: self.key.into() }, Some(consistency))
    }
}

impl Del {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.target.ask(KvCommand::Del { key: self.key.into() }, None)
    }
}

impl Cas {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (expected, value) = match (self.absent, self.values.as_slice()) {
            (false, [expected, new]) => (Some(Bytes::from(expected.clone())), new),
            (true, [new]) => (None, new),
            (false, _) => bail!("name the expected value and the new one, or add --absent"),
            (true, _) => bail!("with --absent, name only the new value"),
        };
        let value = Bytes::from(value.clone());
        self.target.ask(KvCommand::Cas { key: self.key.into(), expected, value }, None)
    }
}

impl Target {
    /// Asks, prints the answer, and says what the shell should think of it.
    fn ask(&self, command: KvCommand, read: Option<Consistency>) -> anyhow::Result<ExitCode> {
        let answer = self.answer(async |client| match read {
            Some(consistency) => client.read(command, consistency).await,
            None => client.execute(command).await,
        })?;
        answer.map_or_else(Ok, |output| print(&output))
    }

    /// Connects and asks: the answer, or what to tell the shell if there is none.
    pub(super) fn answer<T>(
        &self,
        ask: impl AsyncFnOnce(&Client<Kv>) -> Result<T, ClientError>,
    ) -> anyhow::Result<Result<T, ExitCode>> {
        let config = self.config()?;
        let runtime = super::runtime(1)?;
        runtime.block_on(async {
            let client = match Client::<Kv>::connect(config).await {
                Ok(client) => client,
                Err(ConnectError::Unreachable(why)) => {
                    return Ok(Err(no_answer(format_args!(
                        "no replica could be reached: {why}. Is one running, at the address in {}?",
                        self.cluster.join(CLIENT_FILE).display()
                    ))));
                }
                Err(error) => return Err(error.into()),
            };
            let output = ask(&client).await;
            client.close().await;
            match output {
                Ok(output) => Ok(Ok(output)),
                Err(
                    error @ (ClientError::Unknown(_)
                    | ClientError::Rejected(
                        Rejected::Refused { .. } | Rejected::Unreachable(_),
                    )),
                ) => Ok(Err(no_answer(format_args!("{error}")))),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let path = self.cluster.join(CLIENT_FILE);
        let file: ClientFile = read(&path)?;
        let mut replicas = file.replicas().with_context(|| path.display().to_string())?;
        if let Some(number) = self.replica {
            replicas.retain(|id, _| ReplicaId::new(number) == Some(*id));
            if replicas.is_empty() {
                bail!("--replica {number}: {} has no such replica", path.display());
            }
        }
        let patience = Duration::try_from_secs_f64(self.timeout).ok();
        let patience = patience.filter(|it| (0.001..=86_400.0).contains(&it.as_secs_f64()));
        let patience = patience.with_context(|| {
            format!("--timeout {}: take between 0.001 and 86400 seconds", self.timeout)
        })?;
        let credentials = file.tls.credentials(&path)?;
        let mut config = ClientConfig::new(file.cluster, file.client, credentials, replicas);
        config.patience = patience;
        Ok(config)
    }
}

/// Prints what is to be printed of an answer.
fn print(output: &KvOutput) -> anyhow::Result<ExitCode> {
    let no = |line: &str| {
        complain(line);
        Ok(ExitCode::from(NO))
    };
    match output {
        KvOutput::Value(Some(value)) => {
            let mut out = std::io::stdout().lock();
            let printed = out.write_all(value).and_then(|()| out.write_all(b"\n"));
            printed.context("cannot write to standard output")?;
            Ok(ExitCode::SUCCESS)
        }
        KvOutput::Done | KvOutput::Deleted(true) | KvOutput::Swapped => Ok(ExitCode::SUCCESS),
        KvOutput::Value(None) | KvOutput::Deleted(false) | KvOutput::Mismatch(None) => {
            no("there is no such key")
        }
        KvOutput::Mismatch(Some(found)) => {
            no(&format!("it is {:?} instead", String::from_utf8_lossy(found)))
        }
        KvOutput::Values(_) | KvOutput::TooLarge { .. } | KvOutput::TooManyKeys { .. } => {
            bail!("the replica answered something else than was asked")
        }
    }
}

fn no_answer(why: std::fmt::Arguments<'_>) -> ExitCode {
    complain(format_args!("error: {why}"));
    ExitCode::from(NO_ANSWER)
}
