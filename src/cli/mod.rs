//! The command line: it parses the flags, calls the library and returns the exit code.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 success; 1 the
//! answer is no (a missing key, an unexpected value, a failed check, a failed replica), or the
//! result cannot be written; 2 a request is invalid or impossible; 3 no answer from the cluster; 4
//! a replica's data directory or a backup cannot be used; 5 a client's command was not executed and
//! never will be; 6 a replica was removed from its cluster.

mod backup;
mod cert;
mod compare;
mod config;
mod demo;
mod files;
mod generate;
mod init;
mod inspect;
mod kv;
mod lines;
mod load;
mod mark;
mod member;
mod repeats;
mod serve;
mod sim;
mod snapshot;
mod store;
mod value;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Exit code: the answer is no.
const NO: u8 = 1;
/// Exit code: the request is invalid or impossible.
const UNUSABLE: u8 = 2;
/// Exit code: there is no answer. A client's command may or may not have been executed, unless the
/// error says that it was.
const NO_ANSWER: u8 = 3;
/// Exit code: a data directory cannot be used.
const BAD_DATA: u8 = 4;
/// Exit code: a client's command was not executed and never will be. No replica was reached, or
/// none accepted it.
const NOT_DONE: u8 = 5;
/// Exit code: the replica was removed from the cluster, and must not be started again.
const REMOVED: u8 = 6;

/// Leaderless consensus: every replica can lead every command.
#[derive(Debug, Parser)]
#[command(
    name = "isonomy",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Load(Box<load::Load>),
    Init(init::Init),
    Cert(cert::Cert),
    Inspect(inspect::Inspect),
    Serve(serve::Serve),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Snapshot(snapshot::Snapshot),
    Member(member::MemberCommand),
    Put(kv::Put),
    Get(kv::Get),
    Del(kv::Del),
    Cas(kv::Cas),
    Compare(compare::Compare),
    Sim(sim::Args),
}

const AFTER_HELP: &str = "\
Start here: `isonomy demo` runs a whole cluster under load and needs no setup. \
`isonomy COMMAND --help` explains a command and has examples.

Exit codes:
  0  success
  1  the answer is no, a check or a replica failed, or a result was not written
  2  wrong arguments, or a file that cannot be used
  3  no answer from the cluster: a command may or may not have been executed
  4  a data directory or a backup cannot be used
  5  not executed: no replica could be reached, or none accepted the command
  6  the replica was removed from the cluster";

/// Runs the command line, starting with the program's name. The exit codes are described above.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let printed = unless_gone(error.print());
            return match (error.use_stderr(), printed) {
                // If the message cannot be printed, there is no one to tell.
                (true, _) => ExitCode::from(UNUSABLE),
                (false, Ok(())) => ExitCode::SUCCESS,
                (false, Err(unwritten)) => {
                    complain(format_args!("error: {unwritten}"));
                    ExitCode::from(NO)
                }
            };
        }
    };
    let done = match arguments.command {
        Command::Demo(demo) => demo.run(),
        Command::Load(load) => load.run(),
        Command::Init(init) => init.run(),
        Command::Cert(cert) => cert.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Serve(serve) => serve.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Member(member) => member.run(),
        Command::Put(put) => put.run(),
        Command::Get(get) => get.run(),
        Command::Del(del) => del.run(),
        Command::Cas(cas) => cas.run(),
        Command::Compare(compare) => compare.run(),
        Command::Sim(args) => sim::run(&args),
    };
    done.unwrap_or_else(|error| {
        complain(format_args!("error: {}", in_words(&error)));
        ExitCode::from(if error.is::<Unwritten>() { NO } else { UNUSABLE })
    })
}

/// Standard output did not accept a result.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result to standard output: {0}")]
struct Unwritten(#[from] io::Error);

/// A reader that closes the pipe is not an error.
fn unless_gone(written: io::Result<()>) -> Result<(), Unwritten> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes to standard output.
fn write_out(bytes: &[u8]) -> Result<(), Unwritten> {
    let mut out = io::stdout().lock();
    unless_gone(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Writes a line to standard output.
fn say(line: impl std::fmt::Display) -> Result<(), Unwritten> {
    write_out(format!("{line}\n").as_bytes())
}

/// Writes a result after which there is more to do. If it cannot be written, reports that and
/// returns false.
fn tell(result: impl std::fmt::Display) -> bool {
    say(result).inspect_err(|unwritten| complain(format_args!("error: {unwritten}"))).is_ok()
}

/// Writes a line to standard error.
fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// An error with its causes, each only once: many errors end with the text of their cause.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(cause.trim_end()) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}

/// A runtime with this many threads for clients and signals; replicas have their own threads.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Listens for Ctrl-C and SIGTERM from this call on, and completes at the first. The second one
/// ends the process. Must be called within a runtime.
fn interrupted() -> impl Future<Output = ()> {
    let (sender, receiver) = oneshot::channel();
    let mut signals = Signals::listen();
    tokio::spawn(async move {
        signals.next().await;
        let _ = sender.send(());
        signals.next().await;
        std::process::exit(i32::from(NO_ANSWER));
    });
    async {
        // The task above may outlive the receiver.
        let _ = receiver.await;
    }
}

/// Ignores SIGHUP from this call on, so that closing the terminal does not end the process. Must be
/// called within a runtime.
#[cfg(unix)]
fn outlive_terminal() {
    use tokio::signal::unix::{SignalKind, signal};
    // If it cannot be handled, it ends the process as usual.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(
                "SIGHUP is ignored: a replica outlives its terminal, and reads its file only once"
            );
        }
    });
}

/// This system has no such signal.
#[cfg(not(unix))]
fn outlive_terminal() {}

/// The signals that ask the process to stop. If they cannot be handled, they end it as usual.
#[cfg(unix)]
struct Signals(std::io::Result<[tokio::signal::unix::Signal; 2]>);

#[cfg(unix)]
impl Signals {
    fn listen() -> Signals {
        use tokio::signal::unix::{SignalKind, signal};
        let both = signal(SignalKind::interrupt())
            .and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?]));
        Signals(both)
    }

    async fn next(&mut self) {
        let Ok([interrupt, terminate]) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// The signals that ask the process to stop. If they cannot be handled, they end it as usual.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Signals {
        Signals
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Parses a switch of a flag.
fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("take on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    /// `command` and all its subcommands, with their full names.
    fn all(command: &clap::Command, name: &str, into: &mut Vec<(String, clap::Command)>) {
        into.push((name.to_owned(), command.clone()));
        for below in command.get_subcommands() {
            all(below, &format!("{name} {}", below.get_name()), into);
        }
    }

    #[test]
    fn every_command_has_an_example_and_tables_that_fit_a_terminal() {
        let mut commands = Vec::new();
        all(&Arguments::command(), "isonomy", &mut commands);
        assert!(commands.len() > 15, "{}", commands.len());
        for (name, command) in commands {
            let text = command.get_after_help().expect(&name).to_string();
            let example = if command.has_subcommands() { "isonomy " } else { &name };
            assert!(text.contains(example), "{name} has no example: {text}");
            // Paragraphs are wrapped, but a table would lose its columns.
            for line in text.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.len() <= 80, "{name}: {line}");
            }
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name}: {}", argument.get_id());
            }
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let read = crate::mesh::CredentialsError::Read { path: "a.pem".into(), source: missing() };
        let error = anyhow::Error::from(read).context("c/1.toml");
        assert_eq!(in_words(&error), "c/1.toml: cannot read a.pem: no such file");
        let error = anyhow::Error::from(missing()).context("cannot write b");
        assert_eq!(in_words(&error), "cannot write b: no such file");
    }

    #[test]
    fn counts_of_nothing_are_refused() {
        let flags = [
            ["sim", "--seeds"],
            ["sim", "--replicas"],
            ["sim", "--clients"],
            ["sim", "--commands"],
            ["sim", "--millis"],
            ["sim", "--threads"],
        ];
        for [command, flag] in flags {
            let parse = |value| Arguments::try_parse_from(["isonomy", command, flag, value]);
            assert!(parse("1").is_ok(), "{flag} 1");
            assert!(parse("0").is_err(), "{flag} 0");
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        let parse =
            |value| Arguments::try_parse_from(["isonomy", "demo", "--reserved-slots", value]);
        assert!(parse("on").is_ok() && parse("off").is_ok());
        assert!(parse("true").is_err());
    }
}
