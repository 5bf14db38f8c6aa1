//! `isonomy cert request` and `isonomy cert sign`: a certificate for a key that never leaves the
//! replica's machine, from an authority that is elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Args;

use super::super::config::{CLIENT_FILE, ClientFile, read};
use super::super::files::{Secrecy, write};
use super::super::member::Place;
use super::super::say;
use super::newcomer::{Like, check_number};
use super::{authority, replace, text};
use crate::mesh::{Request, Signed, certificate_end};
use crate::types::{Address, MemberId};

/// Make a replica's key on its own machine, and a request for its certificate.
///
/// Writes N.key and N.csr to the directory. Take N.csr to where `ca.key` is, and sign it there with
/// `isonomy cert sign`. The key stays here.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  isonomy cert request replica 4 --cluster blue")]
pub(super) struct Make {
    /// The directory for the replica's files; it is made if it is not there
    dir: PathBuf,
    /// The new replica's number
    #[arg(value_name = "N")]
    id: MemberId,
    /// The cluster's name, as `isonomy init` was given it
    #[arg(long, value_name = "NAME", default_value = "isonomy")]
    cluster: String,
}

impl Make {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Make { dir, id, cluster } = self;
        let request = Request::new(&cluster, id)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let name = id.number().to_string();
        let path = dir.join(format!("{name}.csr"));
        if path.exists() {
            bail!("{} exists already: it may be on its way. Sign it, or remove it", path.display());
        }
        write(&dir.join(format!("{name}.key")), &request.key_pem(), Secrecy::Secret)?;
        write(&path, request.pem(), Secrecy::Public)?;
        say(format_args!(
            "{}: a request for the certificate of replica {name} of {cluster}. Next, where ca.key \
             is:\n  isonomy cert sign DIR {name}.csr --address HOST:PORT\nBoth commands show which \
             key it is for. Compare:\n  SHA-256 {}",
            path.display(),
            request.key_digest()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sign a request for a replica's certificate that was made on another machine.
///
/// Writes N.pem beside the request, and a copy to the cluster's directory. With --address, also
/// writes N.toml and ca.pem beside the request: all that a replica needs that is to join. Needs
/// `ca.key`.
///
/// Whoever gets the certificate can act as the replica. So see first that the key shown is the one
/// that `isonomy cert request` has shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cert sign cluster 4.csr --address 10.0.0.4:7400
  isonomy cert sign cluster 2.csr --again")]
pub(super) struct Sign {
    /// The cluster's directory, as written by `isonomy init`
    dir: PathBuf,
    /// The request
    #[arg(value_name = "N.csr")]
    request: PathBuf,
    /// Sign although the replica has a certificate already; both stay good
    #[arg(long)]
    again: bool,
    /// Where the replica will be reached, if it is to join
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<Address>,
    #[command(flatten)]
    like: Like,
}

impl Sign {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Sign { dir, request, again, address, like } = self;
        let cluster: ClientFile = read(&dir.join(CLIENT_FILE))?;
        let signed = authority(&dir, &cluster)?.sign(&text(&request)?);
        let Signed { id, certificate_pem, key_digest } =
            signed.with_context(|| request.display().to_string())?;
        if !again {
            check_number(&dir, &cluster, id)
                .context("with --again it is signed nevertheless, for a key that was made anew")?;
        }
        let name = id.number().to_string();
        let beside = request.with_file_name(format!("{name}.pem"));
        let own = dir.join(format!("{name}.pem"));
        let file = match address {
            Some(address) => Some(like.file(&dir, &cluster, &Place { id, address })?),
            None => None,
        };
        if let Some(file) = &file {
            write(&request.with_file_name(format!("{name}.toml")), file, Secrecy::Public)?;
        }
        // What stands in the cluster's directory tells the next request that the number is used.
        replace(&own, &certificate_pem)?;
        let elsewhere = !is_same(&own, &beside);
        if elsewhere {
            replace(&beside, &certificate_pem)?;
        }
        if elsewhere && file.is_some() {
            replace(&request.with_file_name("ca.pem"), &text(&dir.join("ca.pem"))?)?;
        }
        let (day, _) = certificate_end(&own, SystemTime::now())?;
        let more = if file.is_some() { format!(", {name}.toml") } else { String::new() };
        say(format_args!(
            "{}: for replica {name} of {}, until {day}, for the key\n  SHA-256 {key_digest}\nThe \
             replica's machine needs it beside {name}.key, with ca.pem{more}",
            beside.display(),
            cluster.cluster
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}
