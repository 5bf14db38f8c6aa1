//! `isonomy put`, `get`, `del` and `cas`: clients of a running cluster over QUIC.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;

use super::config::{ADMIN_FILE, CLIENT_FILE, ClientFile, read};
use super::files::ADMIN;
use super::value::{Source, bytes};
use super::{NO, NO_ANSWER, NOT_DONE, complain, write_out};
use crate::client::{Client, ClientConfig, ClientError, ConnectError, Rejected};
use crate::machine::{Kv, KvCommand, KvOutput};
use crate::types::{Consistency, MemberId};

/// Which cluster, and how long to try.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The cluster's directory, as written by `isonomy init`
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Use only this replica [default: the nearest that answers]
    #[arg(long, value_name = "N")]
    replica: Option<u32>,
    /// Give up after this many seconds, 0.001 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    timeout: f64,
    /// The file of the client to act as.
    #[arg(skip = CLIENT_FILE)]
    file: &'static str,
}

/// Set a key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy put greeting hello --cluster cluster
  isonomy put greeting hello --cluster cluster --replica 2
  isonomy put balance -5 --cluster cluster
  isonomy put photo --file photo.jpg --cluster cluster
  tar c notes | isonomy put notes - --cluster cluster
  isonomy put --cluster cluster -- key --a-value-with-hyphens

Exit codes:
  0  the key is set
  2  wrong arguments, or a file that cannot be used
  3  no answer: the key may or may not be set
  5  not executed: no replica could be reached, or none accepted the command")]
pub(super) struct Put {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// The value; - reads it from standard input, up to the end and byte for byte
    #[arg(allow_negative_numbers = true, required_unless_present = "file")]
    value: Option<OsString>,
    /// Read the value from this file
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Print the value of a key.
///
/// The read is linearizable: it sees every write that was answered before it began, at any replica.
///
/// To a file or a pipe, the value is written byte for byte, with no newline added. On a terminal a
/// newline follows, and bytes that are no text are escaped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy get greeting --cluster cluster
  isonomy get greeting --cluster cluster --replica 3 --local
  isonomy get photo --cluster cluster > photo.jpg

Exit codes:
  0  the value was printed
  1  there is no such key, or the value could not be written
  2  wrong arguments, or a file that cannot be used
  3  no answer
  5  no replica could be reached, or none accepted the read")]
pub(super) struct Get {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// Read the replica's own state, which may be stale, without asking the others
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

Exit codes:
  0  the key is removed
  1  there was no such key
  2  wrong arguments, or a file that cannot be used
  3  no answer: the key may or may not be removed
  5  not executed: no replica could be reached, or none accepted the command")]
pub(super) struct Del {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    #[command(flatten)]
    target: Target,
}

/// Set a key if it has the expected value (compare and swap).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cas greeting hello goodbye --cluster cluster
  isonomy cas greeting hello --absent --cluster cluster
  isonomy cas photo --expected-file old.jpg --file new.jpg --cluster cluster

Exit codes:
  0  the key is set
  1  there is no such key, or it has another value, shown on standard error
  2  wrong arguments, or a file that cannot be used
  3  no answer: the key may or may not be set
  5  not executed: no replica could be reached, or none accepted the command")]
pub(super) struct Cas {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// The expected value and the new value, without those that flags give; - reads one of them
    /// from standard input
    #[arg(num_args = 0..=2, value_names = ["EXPECTED", "NEW"], allow_negative_numbers = true)]
    values: Vec<OsString>,
    /// Set the key only if it does not exist
    #[arg(long, conflicts_with = "expected_file")]
    absent: bool,
    /// Read the expected value from this file
    #[arg(long, value_name = "FILE")]
    expected_file: Option<PathBuf>,
    /// Read the new value from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Put {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let argument = self.value.map(Source::of);
        let source = self
            .file
            .map(Source::File)
            .or(argument)
            .context("give the value, or --file with a file that has it")?;
        let command = KvCommand::Put { key: bytes(self.key), value: source.read()? };
        self.target.ask(command, None)
    }
}

impl Get {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let consistency = match self.local {
            true => Consistency::Local,
            false => Consistency::Linearizable,
        };
        self.target.ask(KvCommand::Get { key: bytes(self.key) }, Some(consistency))
    }
}

impl Del {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.target.ask(KvCommand::Del { key: bytes(self.key) }, None)
    }
}

impl Cas {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Cas { key, values, absent, expected_file, file, target } = self;
        let mut values = values.into_iter().map(Source::of);
        let expected = match (absent, expected_file) {
            (true, _) => None,
            (false, Some(file)) => Some(Source::File(file)),
            (false, None) => Some(
                values
                    .next()
                    .context("give the expected value and the new one, or add --absent")?,
            ),
        };
        let new = file.map(Source::File).or_else(|| values.next());
        let new = new.context("give the new value as well, or add --absent")?;
        if values.next().is_some() {
            bail!("with --absent, --expected-file or --file, give only the values they leave out");
        }
        if expected == Some(Source::Stdin) && new == Source::Stdin {
            bail!("- stands for standard input, which can be only one of the two values");
        }
        let expected = expected.map(Source::read).transpose()?;
        target.ask(KvCommand::Cas { key: bytes(key), expected, value: new.read()? }, None)
    }
}

impl Target {
    /// As an administrator, for a command that has flags of its own.
    pub(super) fn administrator(cluster: PathBuf, replica: Option<u32>, timeout: f64) -> Target {
        Target { cluster, replica, timeout, file: ADMIN_FILE }
    }

    /// The same, with the certificate of an administrator.
    pub(super) fn into_administrator(self) -> Target {
        Target { file: ADMIN_FILE, ..self }
    }

    /// Asks, prints the answer, and returns the exit code.
    fn ask(&self, command: KvCommand, read: Option<Consistency>) -> anyhow::Result<ExitCode> {
        let answer = self.answer(async |client| match read {
            Some(consistency) => client.read(command, consistency).await,
            None => client.execute(command).await,
        })?;
        answer.map_or_else(Ok, |output| print(&output))
    }

    /// Connects and asks. Returns the answer, or the exit code if there is none.
    pub(super) fn answer<T>(
        &self,
        ask: impl AsyncFnOnce(&Client<Kv>) -> Result<T, ClientError>,
    ) -> anyhow::Result<Result<T, ExitCode>> {
        let config = self.config()?;
        let runtime = super::runtime(1)?;
        runtime.block_on(async {
            let client = match Client::<Kv>::connect(config).await {
                Ok(client) => client,
                // No replica was asked.
                Err(error @ ConnectError::Unreachable(_)) => {
                    let file = self.cluster.join(self.file);
                    let file = file.display();
                    let why = format!("{error}. Is a replica running at an address in {file}?");
                    return Ok(Err(failed(NOT_DONE, &why)));
                }
                Err(error @ ConnectError::Refused(_)) => return Ok(Err(failed(NOT_DONE, &error))),
                Err(error) => return Err(error.into()),
            };
            let output = ask(&client).await;
            client.close().await;
            match output.map_err(|error| (code(&error), error)) {
                Ok(output) => Ok(Ok(output)),
                Err((Some(code), error)) => Ok(Err(failed(code, &error))),
                Err((None, error)) => Err(error.into()),
            }
        })
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let path = self.cluster.join(self.file);
        if self.file == ADMIN_FILE && !path.exists() {
            bail!(
                "{} is not there, and only an administrator may do this. Where `ca.key` is, this \
                 makes it, with a certificate and a key:\n  isonomy cert issue {} \
                 {ADMIN} --admin",
                path.display(),
                self.cluster.display()
            );
        }
        let file: ClientFile = read(&path)?;
        let mut replicas = file.replicas().with_context(|| path.display().to_string())?;
        if let Some(number) = self.replica {
            replicas.retain(|id, _| MemberId::new(number) == Some(*id));
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
        for certificate in credentials.expiring(SystemTime::now()) {
            complain(format_args!("warning: {certificate} (isonomy cert renew)"));
        }
        let mut config = ClientConfig::new(file.cluster, file.client, credentials, replicas);
        config.patience = patience;
        config.brief = true;
        config.follow = self.replica.is_none();
        Ok(config)
    }
}

/// The exit code for a command without an answer; `None` if the command itself is at fault.
fn code(error: &ClientError) -> Option<u8> {
    match error {
        // A command whose answer is lost was executed, but its result is just as unknown.
        ClientError::Unknown(_) | ClientError::NoAnswer(_) => Some(NO_ANSWER),
        ClientError::Rejected(Rejected::Refused { .. } | Rejected::Unreachable(_)) => {
            Some(NOT_DONE)
        }
        ClientError::Rejected(_) => None,
    }
}

/// Prints an answer and returns the exit code.
fn print(output: &KvOutput) -> anyhow::Result<ExitCode> {
    let no = |line: &str| {
        complain(line);
        Ok(ExitCode::from(NO))
    };
    match output {
        KvOutput::Value(Some(value)) => {
            let is_shown = std::io::stdout().is_terminal();
            write_out(&if is_shown { for_terminal(value) } else { value.clone() })?;
            Ok(ExitCode::SUCCESS)
        }
        KvOutput::Done | KvOutput::Deleted(true) | KvOutput::Swapped => Ok(ExitCode::SUCCESS),
        KvOutput::Value(None) | KvOutput::Deleted(false) | KvOutput::Mismatch(None) => {
            no("there is no such key")
        }
        KvOutput::Mismatch(Some(found)) => no(&format!("it is \"{}\" instead", shortened(found))),
        KvOutput::Values(_) | KvOutput::TooLarge { .. } | KvOutput::TooManyKeys { .. } => {
            bail!("the replica's answer does not fit the command: is it of another version?")
        }
    }
}

/// The start of a value, on one line.
fn shortened(value: &Bytes) -> String {
    const MOST: usize = 200;
    let text = match std::str::from_utf8(value) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => value.escape_ascii().to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes in all)", &text[..at], value.len()),
        None => text,
    }
}

/// A value for display. Control characters could make a terminal do anything.
fn for_terminal(value: &Bytes) -> Bytes {
    let is_shown = |c: char| !c.is_control() || c == '\n' || c == '\t';
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(is_shown) => format!("{text}\n").into(),
        _ => format!("{}\n", value.escape_ascii()).into(),
    }
}

fn failed(code: u8, why: &dyn std::fmt::Display) -> ExitCode {
    complain(format_args!("error: {why}"));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{NoAnswer, Refusal};

    #[test]
    fn an_exit_code_tells_whether_the_command_was_executed() {
        let refused = Rejected::Refused { patience: Duration::ZERO, last: Refusal::Overloaded };
        let cases: [(ClientError, Option<u8>); 7] = [
            (ClientError::Unknown("timed out".to_owned()), Some(3)),
            (NoAnswer::Forgotten.into(), Some(3)),
            (NoAnswer::TooLarge { bytes: 2, limit: 1 }.into(), Some(3)),
            (refused.into(), Some(5)),
            (Rejected::Unreachable(Duration::ZERO).into(), Some(5)),
            (Rejected::BadCommand("too long".to_owned()).into(), None),
            (Rejected::Writes.into(), None),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&error), expected, "{error:?}");
        }
    }
}
