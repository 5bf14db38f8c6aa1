//! `isonomy cert`: lists, renews and issues the certificates of a cluster made by `init`.
//!
//! `newcomer` makes the files of a replica that is to join, and `request` does so where its key and
//! the authority's are on different machines. Both use this file.

mod newcomer;
mod request;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::config::{ADMIN_FILE, CLIENT_FILE, ClientFile, read};
use super::files::{ADMIN, Secrecy, admin_file, write, write_issued};
use super::{NO, say};
use crate::mesh::{Authority, WARN_DAYS, certificate_end};
use crate::types::MemberId;

/// List, renew and issue the certificates of a cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cert list cluster
  isonomy cert renew cluster
  isonomy cert renew cluster --replica 2
  isonomy cert issue cluster billing
  isonomy cert replica cluster 4@10.0.0.4:7400

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
    ///
    /// With --admin, the client may also change the members (`isonomy member`). If the directory
    /// has no admin.toml yet, it is written for this one.
    #[command(after_help = "\
Examples:
  isonomy cert issue cluster billing
  isonomy cert issue cluster admin --admin")]
    Issue {
        /// The cluster's directory, as written by `isonomy init`
        dir: PathBuf,
        /// Name of the client: lower-case letters, digits and hyphens
        name: String,
        /// Let it change the members, too
        #[arg(long)]
        admin: bool,
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
        replica: Option<u32>,
    },
    Replica(newcomer::Newcomer),
    Request(request::Make),
    Sign(request::Sign),
}

/// More than any file of certificates, keys or requests has.
const MOST_BYTES: u64 = 4 << 20;

/// The owner of a certificate.
enum Owner {
    Replica(MemberId),
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
            Action::Issue { dir, name, admin } => issue(&dir, &name, admin),
            Action::List { dir } => list(&dir),
            Action::Renew { dir, replica } => renew(&dir, replica),
            Action::Replica(newcomer) => newcomer.run(),
            Action::Request(make) => make.run(),
            Action::Sign(sign) => sign.run(),
        }
    }
}

fn owners(dir: &Path, file: &ClientFile) -> anyhow::Result<Vec<Owner>> {
    let (numbers, names) = found(dir)?;
    let replicas: BTreeSet<MemberId> = file.replicas()?.into_keys().chain(numbers).collect();
    let replicas = replicas.into_iter().map(Owner::Replica);
    Ok(replicas.chain([Owner::Client]).chain(names.into_iter().map(Owner::Named)).collect())
}

/// Whose certificates are in this directory: replicas, and clients that have their key there. The
/// keys of replicas may be elsewhere.
fn found(dir: &Path) -> anyhow::Result<(Vec<MemberId>, Vec<String>)> {
    let (mut numbers, mut names) = (Vec::new(), Vec::new());
    let entries = fs::read_dir(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot look at {}", dir.display()))?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_none_or(|it| it != "pem") {
            continue;
        }
        if let Some(id) = numbered(name) {
            numbers.push(id);
        } else if path.with_extension("key").exists() && !is_taken(name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok((numbers, names))
}

/// The replica whose files have this name.
fn numbered(name: &str) -> Option<MemberId> {
    let id = name.parse().ok().and_then(MemberId::new)?;
    (id.number().to_string() == name).then_some(id)
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

/// The text of a file of certificates, keys or requests.
fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let file =
        fs::File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
    file.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

fn issue(dir: &Path, name: &str, is_admin: bool) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let authority = authority(dir, &file)?;
    let issued = match is_admin {
        true => authority.issue_administrator(name)?,
        false => authority.issue_client(name)?,
    };
    let there = ["pem", "key"].map(|extension| dir.join(format!("{name}.{extension}")));
    if let Some(path) = there.iter().find(|path| path.exists()) {
        bail!("{} exists already: take another name", path.display());
    }
    if is_taken(name) || name == file.client {
        bail!("{name:?} is not free: a replica or the client of {CLIENT_FILE} has this name");
    }
    if name == ADMIN && !is_admin {
        bail!("{name:?} is an administrator's name: add --admin, or take another name");
    }
    write_issued(dir, name, &issued)?;
    let (day, _) = certificate_end(&there[0], SystemTime::now())?;
    let settings = dir.join(if is_admin { ADMIN_FILE } else { CLIENT_FILE });
    if is_admin && !settings.exists() {
        let text = admin_file(&file.cluster, name, &file.replicas()?);
        write(&settings, &text, Secrecy::Public)?;
        say(format_args!(
            "{}: until {day}\n{} names it: `isonomy member` uses it with --cluster {}",
            there[0].display(),
            settings.display(),
            dir.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings.file_name().unwrap_or_default().to_string_lossy();
    say(format_args!(
        "{}: until {day}\nThe program needs a directory with ca.pem, {name}.pem, {name}.key and a \
         copy of {settings}, in\nwhich these lines are\n  client = \"{name}\"\n  \
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

fn renew(dir: &Path, replica: Option<u32>) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let mut owners = owners(dir, &file)?;
    if let Some(number) = replica {
        owners.retain(|owner| matches!(owner, Owner::Replica(id) if id.number() == number));
        if owners.is_empty() {
            let file = dir.join(CLIENT_FILE);
            bail!(
                "--replica {number}: there is no such replica in {}, and no {number}.pem",
                file.display()
            );
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
