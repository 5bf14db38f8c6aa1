//! `isonomy cert replica`: the files of a replica that is to join a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Args;

use super::super::config::{CLIENT_FILE, ClientFile, ReplicaFile, read};
use super::super::files::{NewReplica, Secrecy, Settings, write, write_issued};
use super::super::member::Place;
use super::super::say;
use super::{authority, found};
use crate::mesh::{certificate_end, check_addresses};
use crate::types::{MAX_REPLICAS, MemberId};

/// Make the files of a replica that is to join the cluster.
///
/// Writes N.toml, N.pem and N.key to the directory. The replica started with them waits until
/// `isonomy member add` or `isonomy member replace` makes it a member. Needs `ca.key`. To make the
/// key on the replica's own machine, use `isonomy cert request` there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy cert replica cluster 4@10.0.0.4:7400
  isonomy cert replica cluster 5@r5.example.com:7400 --like old/1.toml")]
pub(super) struct Newcomer {
    /// The cluster's directory, as written by `isonomy init`
    dir: PathBuf,
    /// The new replica's number, higher than any before it, and its address
    #[arg(value_name = "N@HOST:PORT")]
    new: Place,
    #[command(flatten)]
    like: Like,
}

/// Where a new replica's settings come from.
#[derive(Debug, Args)]
pub(super) struct Like {
    /// A replica's file with the cluster's protocol, `durability` and `session_idle_seconds`
    /// [default: that of a replica in the directory]
    #[arg(long, value_name = "FILE")]
    like: Option<PathBuf>,
}

impl Newcomer {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Newcomer { dir, new, like } = self;
        let cluster: ClientFile = read(&dir.join(CLIENT_FILE))?;
        let authority = authority(&dir, &cluster)?;
        check_number(&dir, &cluster, new.id)?;
        let text = like.file(&dir, &cluster, &new)?;
        let name = new.id.number().to_string();
        let path = dir.join(format!("{name}.toml"));
        write(&path, &text, Secrecy::Public)?;
        write_issued(&dir, &name, &authority.issue_replica(new.id)?)?;
        let (day, _) = certificate_end(&dir.join(format!("{name}.pem")), SystemTime::now())?;
        let dir = dir.display();
        say(format_args!(
            "{}: replica {name}, whose certificate is good until {day}. Next, on its machine, with \
             {name}.toml, {name}.pem, {name}.key and ca.pem:\n  isonomy serve {dir}/{name}.toml\n\
             and, while it runs, where {dir}/admin.toml is, one of\n  \
             isonomy member add {new} --cluster {dir}\n  \
             isonomy member replace OLD {new} --cluster {dir}",
            path.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses a number that a replica has, or may have had.
pub(super) fn check_number(dir: &Path, cluster: &ClientFile, new: MemberId) -> anyhow::Result<()> {
    let (numbers, _) = found(dir)?;
    let highest = cluster.replicas()?.into_keys().chain(numbers).max();
    if let Some(highest) = highest.filter(|highest| new <= *highest) {
        bail!(
            "{} is not free: {} has replica {}. No number is used twice, so take a higher one",
            new.number(),
            dir.display(),
            highest.number()
        );
    }
    for extension in ["toml", "key", "csr", "data"] {
        let path = dir.join(format!("{}.{extension}", new.number()));
        if path.exists() {
            bail!(
                "{} exists already. No number is used twice, so take a higher one than {}",
                path.display(),
                new.number()
            );
        }
    }
    Ok(())
}

impl Like {
    /// The text of the file of a replica that is to join.
    pub(super) fn file(
        &self,
        dir: &Path,
        cluster: &ClientFile,
        new: &Place,
    ) -> anyhow::Result<String> {
        let settings = self.settings(dir, cluster)?;
        // A replica that has the address must be the one that is to be replaced. Of a cluster as
        // large as can be, one has to go, too; any of the others is enough.
        let others = cluster.replicas()?.into_iter().filter(|(_, at)| *at != new.address);
        let mut addresses: std::collections::BTreeMap<_, _> =
            others.take(MAX_REPLICAS - 1).collect();
        addresses.insert(new.id, new.address.clone());
        check_addresses(&addresses, None).with_context(|| new.to_string())?;
        let joins = true;
        let cluster = &cluster.cluster;
        Ok(NewReplica { cluster, id: new.id, settings, joins, addresses: &addresses }.file())
    }

    fn settings(&self, dir: &Path, cluster: &ClientFile) -> anyhow::Result<Settings> {
        let replicas = cluster.replicas()?;
        let mut files = replicas.keys().map(|id| dir.join(format!("{}.toml", id.number())));
        let path = self.like.clone().or_else(|| files.find(|path| path.exists()));
        let path = path.with_context(|| {
            format!("{} has no replica's file: name one with --like", dir.display())
        })?;
        let file: ReplicaFile = read(&path)?;
        if file.cluster != cluster.cluster {
            bail!(
                "{} is of the cluster {}, and not of {}",
                path.display(),
                file.cluster,
                cluster.cluster
            );
        }
        Ok(Settings {
            protocol: file.protocol().with_context(|| path.display().to_string())?,
            durability: file.durability,
            session_idle_seconds: file.session_idle_seconds,
        })
    }
}
