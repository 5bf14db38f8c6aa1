//! The files of a cluster's directory: `init` writes them, `serve` and the client commands read
//! them.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::store::StoreFile;
use crate::mesh::{Credentials, check_addresses};
use crate::node::{Durability, Limits};
use crate::protocol::ProtocolKind;
use crate::types::{Address, MAX_REPLICAS, MemberId, Optimisations, ReplicaId, Slot, Timing};

/// The name of the client's file in a cluster's directory.
pub(super) const CLIENT_FILE: &str = "client.toml";
/// The name of the administrator's file there.
pub(super) const ADMIN_FILE: &str = "admin.toml";

/// The settings of one replica: `1.toml` and so on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaFile {
    pub(super) cluster: String,
    pub(super) replica: u32,
    /// Whether it waits to be made a member, if its data directory is new.
    #[serde(default)]
    pub(super) join: bool,
    /// The protocol's name as written.
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    listen: Option<Spanned<SocketAddr>>,
    #[serde(default)]
    pub(super) durability: DurabilityName,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    /// The preferred leader, if the protocol has one.
    #[serde(default)]
    leader: Option<u32>,
    /// Whether proposals are sent before they are durable, or how many slots to reserve for that.
    #[serde(default)]
    reserved_slots: Option<ReservedSlots>,
    /// Whether commits are answered before they are durable.
    #[serde(default)]
    silent_orphans: Option<bool>,
    /// Whether a leader answers reads alone while it holds a lease.
    #[serde(default)]
    pub(super) leases: Option<bool>,
    /// How long a session must be unused before it may be forgotten.
    #[serde(default, deserialize_with = "session_idle")]
    pub(super) session_idle_seconds: Option<u64>,
    /// How many bytes the log grows between two snapshots.
    #[serde(default, deserialize_with = "snapshot_every")]
    snapshot_every: Option<u64>,
    /// The most sessions that the clients of one certificate may use in an era.
    #[serde(default, deserialize_with = "client_sessions")]
    client_sessions: Option<usize>,
    /// The most bytes of decisions kept for an absent replica.
    #[serde(default, deserialize_with = "keep_for_absent")]
    keep_for_absent: Option<usize>,
    /// The most client connections, in all and with one certificate.
    #[serde(default, deserialize_with = "connections")]
    max_clients: Option<usize>,
    #[serde(default, deserialize_with = "share_of_connections")]
    max_clients_per_certificate: Option<Spanned<usize>>,
    /// The most handshakes of strangers at a time.
    #[serde(default, deserialize_with = "connections")]
    max_handshakes: Option<usize>,
    /// How long a client may send no request, and how long it may not read its answers, before it
    /// is disconnected.
    #[serde(default, deserialize_with = "client_patience")]
    client_idle_seconds: Option<u64>,
    #[serde(default, deserialize_with = "client_patience")]
    client_stall_seconds: Option<u64>,
    /// Where the state is kept.
    #[serde(default)]
    pub(super) store: StoreFile,
    pub(super) tls: Tls,
    replicas: BTreeMap<String, Spanned<Address>>,
}

/// Longer than any reasonable wait, and far below an overflow of times.
const TEN_YEARS: u64 = 10 * 365 * 86_400;
/// Far more than one replica can serve.
const MOST_CONNECTIONS: usize = 100_000;
/// With less, a replica would need a snapshot after every short absence.
const LEAST_KEPT: usize = 16 << 10;

fn session_idle<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    within(from, 1..=TEN_YEARS, "sessions would be forgotten at once").map(Some)
}

fn snapshot_every<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let why = "the replica would do little else than take snapshots";
    within(from, Limits::LEAST_SNAPSHOT_EVERY..=1 << 50, why).map(Some)
}

fn client_sessions<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let most = Limits::default().sessions;
    within(from, 1..=most, "no client would be served").map(Some)
}

fn keep_for_absent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let most = Limits::default().kept_bytes;
    let why = "a replica that was away for a moment would need a snapshot";
    within(from, LEAST_KEPT..=most, why).map(Some)
}

fn connections<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    within(from, 1..=MOST_CONNECTIONS, "no client could connect").map(Some)
}

fn share_of_connections<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Spanned<usize>>, D::Error> {
    let share = Spanned::<u64>::deserialize(from)?;
    let number = checked(*share.get_ref(), 1..=MOST_CONNECTIONS, "no client could connect")?;
    Ok(Some(Spanned::new(share.span(), number)))
}

fn client_patience<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    within(from, 1..=TEN_YEARS, "every client would be disconnected at once").map(Some)
}

/// A number in the valid range; `why` says what a smaller one would cause. The parser adds the
/// position.
fn within<'de, D: Deserializer<'de>, N: TryFrom<u64> + PartialOrd + Display>(
    from: D,
    range: RangeInclusive<N>,
    why: &str,
) -> Result<N, D::Error> {
    checked(u64::deserialize(from)?, range, why)
}

fn checked<N: TryFrom<u64> + PartialOrd + Display, E: serde::de::Error>(
    number: u64,
    range: RangeInclusive<N>,
    why: &str,
) -> Result<N, E> {
    let (least, most) = (range.start(), range.end());
    match N::try_from(number) {
        Ok(fits) if range.contains(&fits) => Ok(fits),
        Ok(small) if small < *least => Err(E::custom(format!(
            "{number} is too small: below {least}, {why}. Take a number up to {most}"
        ))),
        _ => Err(E::custom(format!("{number} is too large: take {least} to {most}"))),
    }
}

/// On, off, or the number of slots to reserve at a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "`reserved_slots` is true, false or a number up to 65536")]
enum ReservedSlots {
    Switch(bool),
    Number(Slot),
}

/// How durable a replica's promises are, as named in files and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum DurabilityName {
    /// A loss of power: it is flushed to disk first
    #[default]
    Fsync,
    /// The end of the process: it is handed to the operating system first
    Os,
    /// Nothing: it is in memory only, and a replica that has stopped must not come back
    Memory,
}

/// As the file has it.
impl Display for DurabilityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DurabilityName::Fsync => "fsync",
            DurabilityName::Os => "os",
            DurabilityName::Memory => "memory",
        })
    }
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Durability {
        match name {
            DurabilityName::Fsync => Durability::Fsync,
            DurabilityName::Os => Durability::Os,
            DurabilityName::Memory => Durability::Memory,
        }
    }
}

/// The settings of a client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientFile {
    pub(super) cluster: String,
    pub(super) client: String,
    pub(super) tls: Tls,
    replicas: BTreeMap<String, Spanned<Address>>,
}

/// The certificates and the key, relative to the file that names them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// A file whose lines may be valid one by one but not together.
pub(super) trait Checked {
    /// # Errors
    /// The position of the wrong line, and what is wrong with it.
    fn check(&self) -> Result<(), (Range<usize>, String)>;
}

/// Reads a replica's or a client's file.
pub(super) fn read<T: DeserializeOwned + Checked>(path: &Path) -> anyhow::Result<T> {
    if path.is_dir() {
        bail!("{0} is a directory: name a file in it, such as {0}/1.toml", path.display());
    }
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    // The parser's message contains the line and the column.
    let file: T =
        toml::from_str(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    file.check().map_err(|(at, why)| {
        let line = text.get(..at.start).unwrap_or_default().matches('\n').count() + 1;
        anyhow!("{}, line {line}: {why}", path.display())
    })?;
    Ok(file)
}

impl Checked for ReplicaFile {
    fn check(&self) -> Result<(), (Range<usize>, String)> {
        let own = MemberId::new(self.replica);
        let entry = self.replicas.get(&self.replica.to_string());
        // Only a program can learn which port the system has chosen.
        if let Some(entry) = entry.filter(|entry| entry.get_ref().port() == 0) {
            return Err((entry.span(), "port 0 is no port at which others find it".to_owned()));
        }
        if let Some(listen) = self.listen.as_ref().filter(|listen| listen.get_ref().port() == 0) {
            let why = "`listen` has port 0, a new port at each start: name one".to_owned();
            return Err((listen.span(), why));
        }
        let all = self.limits().mesh.max_clients;
        let share = self.max_clients_per_certificate.as_ref();
        if let Some(share) = share.filter(|share| *share.get_ref() > all) {
            let why = format!(
                "`max_clients_per_certificate` is {}, and `max_clients` {all}: one certificate \
                 cannot have more than all together",
                share.get_ref()
            );
            return Err((share.span(), why));
        }
        let listen = self.listen().or_else(|| entry?.get_ref().socket());
        check(&self.replicas, own.map(|own| (own, listen)))
    }
}

impl Checked for ClientFile {
    fn check(&self) -> Result<(), (Range<usize>, String)> {
        check(&self.replicas, None)
    }
}

fn check(
    written: &BTreeMap<String, Spanned<Address>>,
    own: Option<(MemberId, Option<SocketAddr>)>,
) -> Result<(), (Range<usize>, String)> {
    // Invalid numbers are reported where they are used.
    let Ok(replicas) = addresses(written) else { return Ok(()) };
    check_addresses(&replicas, own).map_err(|bad| {
        let is_it = |key: &&String| key.parse() == Ok(bad.replica.number());
        let key = written.keys().find(is_it);
        let at = key.and_then(|key| written.get(key)).map_or(0..0, Spanned::span);
        (at, bad.to_string())
    })
}

impl Tls {
    /// Reads the certificates and the key named in the file `from`.
    pub(super) fn credentials(&self, from: &Path) -> anyhow::Result<Credentials> {
        let dir = from.parent().unwrap_or(Path::new(""));
        let [authority, certificate, key] =
            [&self.authority, &self.certificate, &self.key].map(|path| dir.join(path));
        Ok(Credentials::from_pem_files(&authority, &certificate, &key)?)
    }
}

impl ReplicaFile {
    /// The replica's data directory, if it has one; `from` is the file that names it.
    pub(super) fn data_dir(&self, from: &Path) -> anyhow::Result<Option<PathBuf>> {
        match (self.durability, &self.data_dir) {
            (DurabilityName::Memory, None) => Ok(None),
            (DurabilityName::Memory, Some(_)) => bail!(
                "`durability = \"memory\"` keeps nothing, so `data_dir` must not be set: remove \
                 one of the two lines"
            ),
            (_, Some(dir)) => Ok(Some(from.parent().unwrap_or(Path::new("")).join(dir))),
            (_, None) => {
                bail!(
                    "`data_dir` is missing: name the directory where this replica keeps its state"
                )
            }
        }
    }

    /// Its number and its address among the replicas.
    pub(super) fn own_address(&self) -> Option<(u32, &Address)> {
        let entry = self.replicas.get(&self.replica.to_string())?;
        Some((self.replica, entry.get_ref()))
    }

    /// The address where it listens, if it differs from its address among the replicas.
    pub(super) fn listen(&self) -> Option<SocketAddr> {
        self.listen.as_ref().map(|listen| *listen.get_ref())
    }

    /// The cluster's protocol.
    pub(super) fn protocol(&self) -> anyhow::Result<ProtocolKind> {
        let name = self.protocol.as_deref();
        let kind = name.map(str::parse).transpose().context("`protocol` cannot be used")?;
        Ok(kind.unwrap_or_default())
    }

    /// The timeouts and intervals, as far as the file sets them.
    pub(super) fn timing(&self) -> anyhow::Result<Timing> {
        let leader = match self.leader {
            Some(number) if !self.replicas.contains_key(&number.to_string()) => {
                bail!("`leader = {number}`, but [replicas] has no entry {number}")
            }
            Some(number) => {
                let wished = u8::try_from(number).ok().and_then(ReplicaId::new);
                Some(wished.with_context(|| {
                    format!("`leader = {number}`: only a number up to {MAX_REPLICAS} can be named")
                })?)
            }
            None => None,
        };
        Ok(Timing { leader, ..Timing::default() })
    }

    /// The optimisations.
    pub(super) fn optimisations(&self) -> Optimisations {
        let usual = Optimisations::default();
        Optimisations {
            silent_orphans: self.silent_orphans.unwrap_or(usual.silent_orphans),
            reserved_slots: match self.reserved_slots {
                None => usual.reserved_slots,
                Some(ReservedSlots::Switch(on)) => {
                    if on {
                        Optimisations::RESERVED_BLOCK
                    } else {
                        0
                    }
                }
                Some(ReservedSlots::Number(slots)) => slots,
            },
        }
    }

    /// The replica's limits.
    pub(super) fn limits(&self) -> Limits {
        let usual = Limits::default();
        let (mesh, seconds) = (usual.mesh.clone(), Duration::from_secs);
        let mesh = crate::mesh::ConnectionLimits {
            max_clients: self.max_clients.unwrap_or(mesh.max_clients),
            max_clients_per_certificate: self
                .max_clients_per_certificate
                .as_ref()
                .map_or(mesh.max_clients_per_certificate, |share| *share.get_ref()),
            max_handshakes: self.max_handshakes.unwrap_or(mesh.max_handshakes),
            client_idle: self.client_idle_seconds.map_or(mesh.client_idle, seconds),
            client_stall: self.client_stall_seconds.map_or(mesh.client_stall, seconds),
            ..mesh
        };
        Limits {
            mesh,
            snapshot_every: self.snapshot_every.unwrap_or(usual.snapshot_every),
            keep_for_absent_bytes: self.keep_for_absent.unwrap_or(usual.keep_for_absent_bytes),
            client_sessions: self.client_sessions.unwrap_or(usual.client_sessions),
            ..usual
        }
    }

    /// All replicas and their addresses.
    pub(super) fn replicas(&self) -> anyhow::Result<BTreeMap<MemberId, Address>> {
        let replicas = addresses(&self.replicas)?;
        if !replicas.keys().any(|id| id.number() == self.replica) {
            let own = self.replica;
            bail!("`replica = {own}`, but [replicas] has no entry {own}: add it");
        }
        Ok(replicas)
    }
}

impl ClientFile {
    /// All replicas and their addresses.
    pub(super) fn replicas(&self) -> anyhow::Result<BTreeMap<MemberId, Address>> {
        addresses(&self.replicas)
    }
}

fn addresses(
    written: &BTreeMap<String, Spanned<Address>>,
) -> anyhow::Result<BTreeMap<MemberId, Address>> {
    let mut replicas = BTreeMap::new();
    for (key, addr) in written {
        let id = key.parse().ok().and_then(MemberId::new);
        let id = id.with_context(|| format!("[replicas]: {key:?} is no number from 1 on"))?;
        if replicas.insert(id, addr.get_ref().clone()).is_some() {
            bail!("[replicas] names replica {} twice: remove one of the two lines", id.number());
        }
    }
    if !(1..=MAX_REPLICAS).contains(&replicas.len()) {
        bail!("[replicas] names {} replicas: take 1 to {MAX_REPLICAS}", replicas.len());
    }
    Ok(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_on_clients_are_those_of_the_file() {
        let text = |settings: &str| {
            format!(
                "cluster = \"a\"\nreplica = 1\n{settings}[tls]\nauthority = \"\"\n\
                 certificate = \"\"\nkey = \"\"\n[replicas]\n1 = \"127.0.0.1:1\"\n"
            )
        };
        let limits = |settings: &str| {
            let file: ReplicaFile = toml::from_str(&text(settings)).unwrap();
            let mesh = file.limits().mesh;
            let times = [mesh.client_idle, mesh.client_stall].map(|time| time.as_secs());
            (mesh.max_clients, mesh.max_clients_per_certificate, mesh.max_handshakes, times)
        };
        assert_eq!(limits(""), (1024, 64, 128, [600, 30]));
        let all = "max_clients = 5\nmax_clients_per_certificate = 4\nmax_handshakes = 3\n\
                   client_idle_seconds = 2\nclient_stall_seconds = 1\n";
        assert_eq!(limits(all), (5, 4, 3, [2, 1]));
    }
}
