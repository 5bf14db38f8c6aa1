//! `isonomy init`: makes a cluster's directory with an authority, a certificate for every replica
//! and one for clients, and a commented file for each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::config::CLIENT_FILE;
use super::say;
use crate::mesh::{Authority, Issued, check_addresses};
use crate::protocol::ProtocolKind;
use crate::types::{Address, BadAddress, MAX_REPLICAS, Quorums, ReplicaId};

/// The client's name in its certificate.
const CLIENT: &str = "cli";
/// The default port of replicas on hosts of their own.
const DEFAULT_PORT: u16 = 7400;

/// Create a cluster's directory, with certificates and a file for each replica.
///
/// The directory has all that `isonomy serve` and the client commands need. To run replicas on
/// several machines, use --hosts, and copy to each machine its replica's files and `ca.pem`. Keep
/// `ca.key` secret: whoever has it can act as any replica.
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

/// The part of a replica's file about clients.
const CLIENTS: &str = "\
# Client connections at a time, and how many of them may have the same certificate.
# max_clients = 1024
# max_clients_per_certificate = 64

# Handshakes under way at a time. Attempts beyond it push out those that stall, or are refused.
# max_handshakes = 128

# A client is disconnected when it asks for nothing for this long, and when it reads nothing for
# this long while answers wait for it.
# client_idle_seconds = 600
# client_stall_seconds = 30
";

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
            issue(dir, &name, &authority.issue_replica(*id)?)?;
            let text = self.replica_file(*id, &addresses);
            write(&dir.join(format!("{name}.toml")), &text, Secrecy::Public)?;
        }
        issue(dir, "client", &authority.issue_client(CLIENT)?)?;
        write(&dir.join(CLIENT_FILE), &self.client_file(&addresses), Secrecy::Public)?;
        say(self.next_steps(&addresses))?;
        Ok(ExitCode::SUCCESS)
    }

    fn addresses(&self) -> anyhow::Result<BTreeMap<ReplicaId, Address>> {
        let count = match self.hosts.len() {
            0 => self.replicas.unwrap_or(3),
            hosts => hosts,
        };
        if !(1..=MAX_REPLICAS).contains(&count) {
            bail!("{count} replicas: a cluster has between 1 and {MAX_REPLICAS}");
        }
        if !self.hosts.is_empty() {
            let addresses = ReplicaId::all(count).zip(self.hosts.iter().cloned()).collect();
            check_addresses(&addresses, None).context("--hosts")?;
            return Ok(addresses);
        }
        let base = &self.listen_base;
        let mut addresses = BTreeMap::new();
        for id in ReplicaId::all(count) {
            let port = base.port().checked_add(id.number().into());
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

    fn replica_file(&self, own: ReplicaId, addresses: &BTreeMap<ReplicaId, Address>) -> String {
        let port = addresses.get(&own).map_or(DEFAULT_PORT, Address::port);
        let (cluster, own, protocol) = (&self.cluster, own.number(), self.protocol);
        format!(
            "\
# Replica {own} of the cluster {cluster}. Run it with: isonomy serve {own}.toml

# The cluster's name, as it stands in every certificate.
cluster = \"{cluster}\"

# Which replica this is.
replica = {own}

# The protocol: the same for all replicas, and for as long as the cluster lives.
protocol = \"{protocol}\"

# Which replica is to lead, where the protocol has a leader: the same in every file. It stands for
# election before the others, and that is all: a leader that lives is not replaced for it.
# leader = 1

# Where to listen, if not at its address below: where that is translated, say, or a name that this
# machine knows as another address. [::] is every address of this machine, IPv4 and IPv6.
# listen = \"[::]:{port}\"

# Where it keeps its votes and what was decided; made at the first start. If it is ever lost, the
# replica must not be started without it: the others refuse it.
data_dir = \"{own}.data\"

# What a vote has to survive before the replica speaks of it. \"fsync\": the loss of power.
# \"os\": the end of the process only, which is faster. \"memory\" (remove the line above then):
# nothing, so a replica that has stopped must not come back.
durability = \"fsync\"

# Whether a proposal leaves before it is durable here, in a slot that was reserved beforehand: saves
# one flush of two or three before an answer. After a restart the reserved slots left over are
# decided to be empty. true, false, or how many slots to reserve at a time.
# reserved_slots = true

# Whether a commit is answered before it is durable here: saves another flush. The price: what this
# replica had under way when it stopped must be recovered by the others, without its help. With one
# replica of three gone for good, that leaves the keys concerned unusable until it returns.
# silent_orphans = false

# Whether the leader of Multi-Paxos answers reads alone while it holds a lease: in no round trip.
# Turn it off where a replica's clocks may stand still while the others go on, as those of a virtual
# machine that is paused or moved: it would answer with what is long overwritten.
# leases = true

{CLIENTS}
# Paths are seen from this file's directory. The key is this replica's identity: keep it secret.
[tls]
authority = \"ca.pem\"
certificate = \"{own}.pem\"
key = \"{own}.key\"

# Where each replica is reached, by peers and clients alike, over UDP: an IP address or a host's
# name, which is looked up whenever it is dialled. The same in every file.
[replicas]
{}",
            listed(addresses)
        )
    }

    fn client_file(&self, addresses: &BTreeMap<ReplicaId, Address>) -> String {
        let cluster = &self.cluster;
        format!(
            "\
# What clients of the cluster {cluster} need: isonomy get KEY --cluster DIR, with this file's
# directory for DIR.

# The cluster's name, as it stands in every certificate.
cluster = \"{cluster}\"

# The name in the client's certificate.
client = \"{CLIENT}\"

# Paths are seen from this file's directory. Whoever has the key may read and write.
[tls]
authority = \"ca.pem\"
certificate = \"client.pem\"
key = \"client.key\"

# Where each replica is reached: an IP address or a host's name, and a port.
[replicas]
{}",
            listed(addresses)
        )
    }

    fn next_steps(&self, addresses: &BTreeMap<ReplicaId, Address>) -> String {
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

fn listed(addresses: &BTreeMap<ReplicaId, Address>) -> String {
    addresses.iter().map(|(id, address)| format!("{} = \"{address}\"\n", id.number())).collect()
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

/// Writes a certificate and its key; neither file may exist.
pub(super) fn issue(dir: &Path, name: &str, issued: &Issued) -> anyhow::Result<()> {
    let certificate = dir.join(format!("{name}.pem"));
    write(&certificate, &issued.certificate_pem(), Secrecy::Public)?;
    write(&dir.join(format!("{name}.key")), &issued.key_pem(), Secrecy::Secret)
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    Public,
    Secret,
}

fn write(path: &Path, text: &str, secrecy: Secrecy) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secrecy == Secrecy::Secret {
        use std::os::unix::fs::OpenOptionsExt;
        // Private from the start: a key that was readable even for an instant is not secret.
        options.mode(0o600);
    }
    let file = options.open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
