//! `isonomy cert`: the certificates that `init` made, their ends, and new ones in their place.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::config::{CLIENT_FILE, ClientFile, read};
use super::{NO, say};
use crate::mesh::{Authority, WARN_DAYS, certificate_end};
use crate::types::ReplicaId;

/// Look after the certificates of a cluster's directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cert list cluster
  isonomy cert renew cluster
  isonomy cert renew cluster --replica 2

Exit code 0 if all is well, 1 if `list` finds a certificate that ends within thirty days, 2 if the
directory cannot be used.")]
pub(super) struct Cert {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say when each certificate ends
    List {
        /// The cluster's directory, as `isonomy init` wrote it
        dir: PathBuf,
    },
    /// Issue the certificates anew, for the same keys: the private keys stay as they are
    ///
    /// Needs `ca.key`, and the old certificates, expired or not. A running replica goes on with the
    /// certificate it has read: copy the new one to its machine, and restart the replicas one after
    /// the other.
    Renew {
        /// The cluster's directory, as `isonomy init` wrote it
        dir: PathBuf,
        /// The certificate of this replica alone [default: all replicas' and the client's]
        #[arg(long, value_name = "N")]
        replica: Option<u8>,
    },
}

/// Whose certificate.
#[derive(Clone, Copy)]
enum Owner {
    Replica(ReplicaId),
    Client,
}

impl Owner {
    fn file(self, dir: &Path) -> PathBuf {
        match self {
            Owner::Replica(id) => dir.join(format!("{}.pem", id.number())),
            Owner::Client => dir.join("client.pem"),
        }
    }
}

impl Cert {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::List { dir } => list(&dir),
            Action::Renew { dir, replica } => renew(&dir, replica),
        }
    }
}

fn owners(file: &ClientFile) -> anyhow::Result<Vec<Owner>> {
    let replicas = file.replicas()?.into_keys().map(Owner::Replica);
    Ok(replicas.chain([Owner::Client]).collect())
}

fn list(dir: &Path) -> anyhow::Result<ExitCode> {
    let file: ClientFile = read(&dir.join(CLIENT_FILE))?;
    let (mut is_soon, mut seen) = (false, 0);
    let authority = dir.join("ca.pem");
    let files = owners(&file)?.into_iter().map(|owner| owner.file(dir));
    for path in std::iter::once(authority).chain(files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // On a replica's machine there are only its own.
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
    let mut owners = owners(&file)?;
    if let Some(number) = replica {
        owners.retain(|owner| matches!(owner, Owner::Replica(id) if id.number() == number));
        if owners.is_empty() {
            bail!("--replica {number}: {} has no such replica", dir.join(CLIENT_FILE).display());
        }
    }
    let text = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let key = dir.join("ca.key");
    let key = text(&key).context("certificates are issued where the authority's key is")?;
    let authority = Authority::from_pem(&file.cluster, &text(&dir.join("ca.pem"))?, &key)?;
    // All are made before the first is written.
    let mut renewed = Vec::new();
    for owner in owners {
        let path = owner.file(dir);
        let old = text(&path)?;
        let new = match owner {
            Owner::Replica(id) => authority.renew_replica(id, &old),
            Owner::Client => authority.renew_client(&file.client, &old),
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

/// Puts a file in the place of another one, in one step: at any moment the one or the other is
/// whole.
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
