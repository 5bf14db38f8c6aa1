//! `isonomy cert`: lists, renews and issues the certificates of a cluster made by `init`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::config::{CLIENT_FILE, ClientFile, read};
use super::{NO, init, say};
use crate::mesh::{Authority, WARN_DAYS, certificate_end};
use crate::types::ReplicaId;

/// List, renew and issue the certificates of a cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cert list cluster
  isonomy cert renew cluster
  isonomy cert renew cluster --replica 2
  isonomy cert issue cluster billing

Exit codes:
  0  success
  1  `list` found a certificate that ends within 30 days
  2  wrong arguments, or a directory that cannot be used")]
pub(super) struct Cert {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Issue a certificate for another client program
    ///
    /// Replicas bound connections and sessions per certificate, and serve certificates in turn, so
    /// a program with its own certificate has its own share. Writes NAME.pem and NAME.key to the
    /// directory, and prints what else the program needs. Needs `ca.key`. The replicas need no
    /// change.
    #[command(after_help = "Example:\n  isonomy cert issue cluster billing")]
    Issue {
        /// The cluster's directory, as written by `isonomy init`
        dir: PathBuf,
        /// Name of the client: lower-case letters, digits and hyphens
        name: String,
    },
    /// List when each certificate ends
    #[command(after_help = "Example:\n  isonomy cert list cluster")]
    List {
        /// The cluster's directory, as written by `isonomy init`
        dir: PathBuf,
    },
    /// Renew certificates; the private keys stay the same
    ///
    /// Needs `ca.key` and the old certificates, expired or not. A running replica keeps the
    /// certificate it has read. So copy each new one to its machine, and restart the replicas one
    /// after the other.
    #[command(after_help = "\
Examples:
  isonomy cert renew cluster
  isonomy cert renew cluster --replica 2")]
    Renew {
        /// The cluster's directory, as written by `isonomy init`
        dir: PathBuf,
        /// Renew only this replica's certificate [default: those of all replicas and clients]
        #[arg(long, value_name = "N")]
        replica: Option<u8>,
    },
}

/// The owner of a certificate.
enum Owner {
    Replica(ReplicaId),
    /// The client in `client.toml`.
    Client,
    /// Another client with an issued certificate.
    Named(String),
}

impl Owner {
    fn file(&self, dir: &Path) -> PathBuf {
        match self {
            Owner::Replica(id) => dir.join(format!("{}.pem", id.number())),
            Owner::Client => dir.join("client.pem"),
            Owner::Named(name) => dir.join(format!("{name}.pem")),
        }
    }
}

impl Cert {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Issue { dir, name } => issue(&dir, &name),
            Action::List { dir } => list(&dir),
            Action::Renew { dir, replica } => renew(&dir, replica),
        }
    }
}

fn owners(dir: &Path, file: &ClientFile) -> anyhow::Result<Vec<Owner>> {
    let replicas = file.replicas()?.into_keys().map(Owner::Replica);
    let named = issued(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    Ok(replicas.chain([Owner::Client]).chain(named.into_iter().map(Owner::Named)).collect())
}

/// The names of the clients whose certificates and keys are in this directory.
fn issued(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_certificate = path.extension().is_some_and(|it| it == "pem");
        if is_certificate && path.with_extension("key").exists() && !is_taken(name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether this name belongs to the authority, a replica or the first client.
fn is_taken(name: &str) -> bool {
    name == "ca" || name == "client" || name.bytes().all(|byte| byte.is_ascii_digit())
}

fn authority(dir: &Path, file: &ClientFile) -> anyhow::Result<Authority> {
    let key = text(&dir.join("ca.key"));
    let key = key.context("only where the authority's key is can certificates be issued")?;
    Ok(Authority::from_pem(&file.cluster, &text(&dir.join("ca.pem"))?, &key)?)
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn issue(dir: &Path, name: &str) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let issued = authority(dir, &file)?.issue_client(name)?;
    let there = ["pem", "key"].map(|extension| dir.join(format!("{name}.{extension}")));
    if let Some(path) = there.iter().find(|path| path.exists()) {
        bail!("{} exists already: take another name", path.display());
    }
    if is_taken(name) || name == file.client {
        bail!("{name:?} is not free: a replica or the client of {CLIENT_FILE} has this name");
    }
    init::issue(dir, name, &issued)?;
    let (day, _) = certificate_end(&there[0], SystemTime::now())?;
    say(format_args!(
        "{}: until {day}\nThe program needs a directory with ca.pem, {name}.pem, {name}.key and a \
         copy of {CLIENT_FILE}, in\nwhich these lines are\n  client = \"{name}\"\n  \
         certificate = \"{name}.pem\"\n  key = \"{name}.key\"",
        there[0].display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn list(dir: &Path) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let (mut is_soon, mut seen) = (false, 0);
    let authority = dir.join("ca.pem");
    let files = owners(dir, &file)?.into_iter().map(|owner| owner.file(dir));
    for path in std::iter::once(authority).chain(files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A replica's machine has only that replica's files.
        if !path.exists() {
            say(format_args!("{name:<12} is not here"))?;
            continue;
        }
        let (day, left) = certificate_end(&path, SystemTime::now())?;
        let words = match left {
            ..0 => "has expired".to_owned(),
            left => format!("{left} days left"),
        };
        say(format_args!("{name:<12} {day}  {words}"))?;
        is_soon |= left < WARN_DAYS;
        seen += 1;
    }
    if seen == 0 {
        bail!("{} has no certificates", dir.display());
    }
    Ok(if is_soon { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}

fn renew(dir: &Path, replica: Option<u8>) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let mut owners = owners(dir, &file)?;
    if let Some(number) = replica {
        owners.retain(|owner| matches!(owner, Owner::Replica(id) if id.number() == number));
        if owners.is_empty() {
            bail!("--replica {number}: {} has no such replica", dir.join(CLIENT_FILE).display());
        }
    }
    let authority = authority(dir, &file)?;
    // Make all of them before writing the first.
    let mut renewed = Vec::new();
    for owner in owners {
        let path = owner.file(dir);
        let old = text(&path)?;
        let new = match &owner {
            Owner::Replica(id) => authority.renew_replica(*id, &old),
            Owner::Client => authority.renew_client(&file.client, &old),
            Owner::Named(name) => authority.renew_client(name, &old),
        };
        renewed.push((new.with_context(|| path.display().to_string())?, path));
    }
    for (new, path) in &renewed {
        replace(path, new)?;
        let (day, _) = certificate_end(path, SystemTime::now())?;
        say(format_args!("{}: until {day}", path.display()))?;
    }
    say("copy each to its machine, and restart the replicas one after the other")?;
    Ok(ExitCode::SUCCESS)
}

/// Replaces a file in one step: at any moment the old or the new one is complete.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("pem.new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}
