//! `isonomy init`: makes a cluster's directory with an authority, certificates for every replica,
//! for clients and for an administrator, and a commented file for each. `files` has the texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::config::{ADMIN_FILE, CLIENT_FILE};
use super::files::{
    ADMIN, CLIENT, NewReplica, Secrecy, Settings, admin_file, client_file, write, write_issued,
};
use super::say;
use crate::mesh::{Authority, check_addresses};
use crate::protocol::ProtocolKind;
use crate::types::{Address, BadAddress, MAX_REPLICAS, MemberId, Quorums};

/// The default port of replicas on hosts of their own.
const DEFAULT_PORT: u16 = 7400;

/// Create a cluster's directory, with certificates and a file for each replica.
///
/// The directory has all that `isonomy serve` and the client commands need. To run replicas on
/// several machines, use --hosts, and copy to each machine its replica's files and `ca.pem`. Keep
/// `ca.key` secret: whoever has it can act as any replica. Whoever has `admin.key` can change the
/// members.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy init cluster --replicas 3
  isonomy init cluster --replicas 5 --listen-base 127.0.0.1:9000 --cluster blue
  isonomy init cluster --hosts r1.example.com,r2.example.com,r3.example.com
  isonomy init cluster --hosts 10.0.0.1:9000,10.0.0.2:9000,[fd00::3]:9000

Exit codes:
  0  the directory is complete
  2  wrong arguments, or the directory is not empty or cannot be written")]
pub(super) struct Init {
    /// Directory to create; it may exist if it is empty
    dir: PathBuf,
    /// Number of replicas on this host, 1 to 63 [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "hosts")]
    replicas: Option<usize>,
    /// Host of all replicas; replica 1 listens on the port after this one, replica 2 on the next,
    /// and so on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen_base: Address,
    /// One host for each replica, by name or IP address [default port: 7400]
    #[arg(long, value_name = "HOST[:PORT],..", value_delimiter = ',', value_parser = host)]
    #[arg(conflicts_with = "listen_base")]
    hosts: Vec<Address>,
    /// Name of the cluster, part of every certificate: lower-case letters, digits, hyphens, dots
    #[arg(long, value_name = "NAME", default_value = "isonomy")]
    cluster: String,
    /// Protocol, fixed for the cluster's lifetime: epaxos, multi-paxos, fast-paxos or paxos
    #[arg(long, value_name = "NAME", default_value_t)]
    protocol: ProtocolKind,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let addresses = self.addresses()?;
        let authority = Authority::new(&self.cluster)?;
        let dir = &self.dir;
        empty_directory(dir)?;
        write(&dir.join("ca.pem"), authority.certificate_pem(), Secrecy::Public)?;
        write(&dir.join("ca.key"), &authority.key_pem(), Secrecy::Secret)?;
        for id in addresses.keys() {
            let name = id.number().to_string();
            write_issued(dir, &name, &authority.issue_replica(*id)?)?;
            let text = NewReplica {
                cluster: &self.cluster,
                id: *id,
                settings: Settings { protocol: self.protocol, ..Settings::default() },
                joins: false,
                addresses: &addresses,
            }
            .file();
            write(&dir.join(format!("{name}.toml")), &text, Secrecy::Public)?;
        }
        write_issued(dir, "client", &authority.issue_client(CLIENT)?)?;
        let text = client_file(&self.cluster, &addresses);
        write(&dir.join(CLIENT_FILE), &text, Secrecy::Public)?;
        write_issued(dir, ADMIN, &authority.issue_administrator(ADMIN)?)?;
        let text = admin_file(&self.cluster, ADMIN, &addresses);
        write(&dir.join(ADMIN_FILE), &text, Secrecy::Public)?;
        say(self.next_steps(&addresses))?;
        Ok(ExitCode::SUCCESS)
    }

    fn addresses(&self) -> anyhow::Result<BTreeMap<MemberId, Address>> {
        let count = match self.hosts.len() {
            0 => self.replicas.unwrap_or(3),
            hosts => hosts,
        };
        if !(1..=MAX_REPLICAS).contains(&count) {
            bail!("{count} replicas: a cluster has between 1 and {MAX_REPLICAS}");
        }
        if !self.hosts.is_empty() {
            let addresses = MemberId::all(count).zip(self.hosts.iter().cloned()).collect();
            check_addresses(&addresses, None).context("--hosts")?;
            return Ok(addresses);
        }
        let base = &self.listen_base;
        let mut addresses = BTreeMap::new();
        for id in MemberId::all(count) {
            let port = u16::try_from(id.number()).ok().and_then(|it| base.port().checked_add(it));
            let port = port.with_context(|| {
                format!("--listen-base {base}: the ports from {} on do not suffice", base.port())
            })?;
            addresses.insert(id, base.at_port(port));
        }
        check_addresses(&addresses, None).with_context(|| {
            format!("--listen-base {base}: name an address, or the machines with --hosts")
        })?;
        Ok(addresses)
    }

    fn next_steps(&self, addresses: &BTreeMap<MemberId, Address>) -> String {
        let (dir, count) = (self.dir.display(), addresses.len());
        let spared = Quorums::new(count).map_or(0, |quorums| quorums.f);
        let place = match self.hosts.is_empty() {
            true => "each in a terminal",
            false => "each on its machine, with N.toml, N.pem, N.key and ca.pem",
        };
        let mut text =
            format!("{dir}: a cluster of {count} that survives {spared} crashed. Next, {place}:\n");
        for id in addresses.keys() {
            let _ = writeln!(text, "  isonomy serve {dir}/{}.toml", id.number());
        }
        let _ = write!(
            text,
            "and then\n  isonomy put greeting hello --cluster {dir}\n  isonomy get greeting \
             --cluster {dir}"
        );
        text
    }
}

/// A host with or without a port.
fn host(text: &str) -> Result<Address, BadAddress> {
    let number = text.trim_start_matches('[').trim_end_matches(']');
    if number.parse::<IpAddr>().is_ok() || !text.contains(':') {
        return Address::new(number, DEFAULT_PORT);
    }
    text.parse()
}

/// Creates the directory. One that is not empty belongs to someone else.
fn empty_directory(dir: &Path) -> anyhow::Result<()> {
    let unusable = || format!("cannot use {} as the cluster's directory", dir.display());
    fs::create_dir_all(dir).with_context(unusable)?;
    if fs::read_dir(dir).with_context(unusable)?.next().is_some() {
        bail!("{} is not empty: name a new directory, or empty it first", dir.display());
    }
    Ok(())
}
