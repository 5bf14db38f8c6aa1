//! The files of a cluster's directory, as `init` and `cert` write them. `config` reads them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;

use super::config::DurabilityName;
use crate::mesh::Issued;
use crate::protocol::ProtocolKind;
use crate::types::{Address, MemberId};

/// The name of the first client in its certificate.
pub(super) const CLIENT: &str = "cli";
/// The name of the first administrator in its certificate, and of its files.
pub(super) const ADMIN: &str = "admin";

/// The settings that all replicas of a cluster have to share.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) protocol: ProtocolKind,
    pub(super) durability: DurabilityName,
    /// Only if it is not the usual.
    pub(super) session_idle_seconds: Option<u64>,
}

/// A replica that gets its files.
pub(super) struct NewReplica<'a> {
    pub(super) cluster: &'a str,
    pub(super) id: MemberId,
    pub(super) settings: Settings,
    /// It waits to be made a member of a cluster that runs.
    pub(super) joins: bool,
    /// Its own included.
    pub(super) addresses: &'a BTreeMap<MemberId, Address>,
}

/// The part of a replica's file about what it may save.
const OPTIMISATIONS: &str = "\
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
";

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

impl NewReplica<'_> {
    /// The text of its file.
    pub(super) fn file(&self) -> String {
        let NewReplica { cluster, id, settings, joins, addresses } = self;
        let Settings { protocol, durability, session_idle_seconds } = settings;
        let port = addresses.get(id).map_or(0, Address::port);
        let (own, keeps) = (id.number(), *durability != DurabilityName::Memory);
        let data_dir = if keeps { "data_dir" } else { "# data_dir" };
        let idle = session_idle_seconds.map(|seconds| {
            format!(
                "\n# How long a session must be unused before it may be forgotten: the same for \
                 all replicas.\nsession_idle_seconds = {seconds}\n"
            )
        });
        let idle = idle.unwrap_or_default();
        let join = if *joins { "join = true" } else { "# join = false" };
        format!(
            "\
# Replica {own} of the cluster {cluster}. Run it with: isonomy serve {own}.toml

# The cluster's name, as it stands in every certificate.
cluster = \"{cluster}\"

# Which replica this is.
replica = {own}

# Whether the replica waits to be made a member of a cluster that runs (isonomy member add), if its
# data directory is new. It is of no effect once the directory is there.
{join}

# The protocol: the same for all replicas, and for as long as the cluster lives.
protocol = \"{protocol}\"

# Which replica is to lead, where the protocol has a leader: the same in every file. It stands for
# election before the others, and that is all: a leader that lives is not replaced for it.
# leader = 1

# Where to listen, if not at its address below: where that is translated, say, or a name that this
# machine knows as another address. [::] is every address of this machine, IPv4 and IPv6.
# listen = \"[::]:{port}\"

# Where it keeps its votes and what was decided; made at the first start. If it is ever lost, the
# replica must not be started without it: the others refuse it. A new replica takes its place then
# (isonomy member replace).
{data_dir} = \"{own}.data\"

# What a vote has to survive before the replica speaks of it. \"fsync\": the loss of power.
# \"os\": the end of the process only, which is faster. \"memory\" (remove the line above then):
# nothing, so a replica that has stopped must not come back.
durability = \"{durability}\"

{OPTIMISATIONS}{idle}
{CLIENTS}
# Paths are seen from this file's directory. The key is this replica's identity: keep it secret.
[tls]
authority = \"ca.pem\"
certificate = \"{own}.pem\"
key = \"{own}.key\"

# Where each replica is reached, by peers and clients alike, over UDP: an IP address or a host's
# name, which is looked up whenever it is dialled. The same in every file when the cluster begins.
# Once its members have changed, replicas go by the list that they have agreed on.
[replicas]
{}",
            listed(addresses)
        )
    }
}

/// The text of the file of the first client.
pub(super) fn client_file(cluster: &str, addresses: &BTreeMap<MemberId, Address>) -> String {
    let whose = format!(
        "\
# What clients of the cluster {cluster} need: isonomy get KEY --cluster DIR, with this file's
# directory for DIR."
    );
    let secret = "Whoever has the key may read and write.";
    let client = Owner { whose, name: CLIENT, secret, files: "client" };
    client.file(cluster, addresses)
}

/// The text of the file of the administrator with this name.
pub(super) fn admin_file(
    cluster: &str,
    name: &str,
    addresses: &BTreeMap<MemberId, Address>,
) -> String {
    let whose = format!(
        "\
# What an administrator of the cluster {cluster} needs: isonomy member list --cluster DIR, and the
# other commands of isonomy member, with this file's directory for DIR."
    );
    let secret = "\
Whoever has the key may read and write, and
# may add, remove and replace members. Keep it secret, and away from programs that need it not.";
    Owner { whose, name, secret, files: name }.file(cluster, addresses)
}

/// Whose file it is, in words, and the names in it.
struct Owner<'a> {
    whose: String,
    name: &'a str,
    secret: &'a str,
    files: &'a str,
}

impl Owner<'_> {
    fn file(&self, cluster: &str, addresses: &BTreeMap<MemberId, Address>) -> String {
        let Owner { whose, name, secret, files } = self;
        format!(
            "\
{whose}

# The cluster's name, as it stands in every certificate.
cluster = \"{cluster}\"

# The name in the client's certificate.
client = \"{name}\"

# Paths are seen from this file's directory. {secret}
[tls]
authority = \"ca.pem\"
certificate = \"{files}.pem\"
key = \"{files}.key\"

# Where each replica is reached: an IP address or a host's name, and a port. One that answers is
# enough.
[replicas]
{}",
            listed(addresses)
        )
    }
}

fn listed(addresses: &BTreeMap<MemberId, Address>) -> String {
    addresses.iter().map(|(id, address)| format!("{} = \"{address}\"\n", id.number())).collect()
}

/// Writes a certificate and its key; neither file may exist.
pub(super) fn write_issued(dir: &Path, name: &str, issued: &Issued) -> anyhow::Result<()> {
    let certificate = dir.join(format!("{name}.pem"));
    write(&certificate, &issued.certificate_pem(), Secrecy::Public)?;
    write(&dir.join(format!("{name}.key")), &issued.key_pem(), Secrecy::Secret)
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    Public,
    Secret,
}

/// Writes a new file.
pub(super) fn write(path: &Path, text: &str, secrecy: Secrecy) -> anyhow::Result<()> {
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
