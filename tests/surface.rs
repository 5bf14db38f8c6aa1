//! The public API. Every type in it can be printed, sent and shared, errors are errors, and every
//! public type must be listed here.
#![cfg(all(feature = "authority", feature = "redb"))]

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::fs;
use std::path::Path;

use isonomy::machine::Kv;

fn value<T: Clone + Debug + Send + Sync + 'static>() {}
fn error<T: Error + Debug + Display + Send + Sync + 'static>() {}
/// A type that need not be `Clone`, because it exists once or is used up.
fn single<T: Debug + Send + Sync + 'static>() {}
/// Types of which one thread makes a value and another uses it up.
fn handed<T: Debug + Send + 'static>() {}

/// Checks that types meet the bounds of a function, and lists their names.
macro_rules! public {
    ($list:ident: $bound:ident, $($room:ident::$name:ident$(<$of:ty>)?),* $(,)?) => {
        fn $list() -> Vec<(&'static str, &'static str)> {
            $($bound::<isonomy::$room::$name$(<$of>)?>();)*
            vec![$((stringify!($room), stringify!($name))),*]
        }
    };
}

public!(
    values: value,
    client::Client<Kv>,
    client::ClientConfig,
    client::Members,
    client::Role,
    client::ServerInfo,
    machine::Kv,
    machine::KvCommand,
    machine::KvOutput,
    machine::RedbOptions,
    network::ClientConfig,
    network::Congestion,
    network::ConnectionLimits,
    network::Credentials,
    network::Resolver,
    network::Signed,
    network::Wan,
    network::WanControl,
    node::Backup,
    node::BackupOptions,
    node::Durability,
    node::Explanation,
    node::FastSlow,
    node::Latency,
    node::Limits,
    node::LogMetrics,
    node::Members,
    node::Metrics,
    node::PathLatency,
    node::Paths,
    node::PeerStatus,
    node::Phase,
    node::Progress,
    node::ProtocolKind,
    node::ProtocolStanding,
    node::Reach,
    node::Receiving,
    node::Replica<Kv>,
    node::ReplicaStatus,
    node::RestoreOptions,
    node::Restored,
    node::Role,
    node::Session<Kv>,
    node::Silence,
    node::SnapshotInfo,
    node::SnapshotMetrics,
    node::Source,
    node::Standing,
    node::Status,
    testkit::Begin,
    testkit::Cases,
    testkit::Checked,
    testkit::CheckpointsChecked,
    testkit::Promise,
    types::Access,
    types::Address,
    types::Ballot,
    types::ClientId,
    types::Command,
    types::Consistency,
    types::Deps,
    types::Era,
    types::Executed,
    types::Footprint,
    types::InstanceId,
    types::KeyHash,
    types::Keys,
    types::LogPosition,
    types::MemberId,
    types::Optimisations,
    types::ReplicaId,
    types::ReplicaSet,
    types::RequestId,
    types::Slot,
    types::Timing,
);

public!(
    errors: error,
    client::ClientError,
    client::ConnectError,
    client::NoAnswer,
    client::NoBackup,
    client::Refusal,
    client::Rejected,
    machine::CodecError,
    machine::RestoreError,
    network::BadName,
    network::CredentialsError,
    network::MeshError,
    node::BackupError,
    node::Fault,
    node::NotConverged,
    node::PoisonedCommand,
    node::NotChanged,
    node::ProposeError,
    node::Rejected,
    node::SnapshotError,
    node::StartError,
    node::StorageError,
    node::Unanswered,
    node::Unknown,
    node::UnknownProtocol,
    testkit::Breach,
    types::BadAddress,
    types::UnknownRequest,
    types::UnsupportedSize,
);

public!(
    singles: single,
    machine::RedbSource,
    network::Authority,
    network::Issued,
    network::Request,
    node::LocalCluster<Kv>,
    node::LocalClusterBuilder<Kv>,
    node::ReplicaBuilder<Kv>,
    testkit::Random,
);

public!(handed_on: handed, machine::Checkpoint, machine::RedbKv, machine::View);

/// Traits that a module re-exports: they have no bounds to meet.
const TRAITS: [(&str, &str); 1] = [("machine", "MachineSource")];

/// The public types of a module: those it defines and those it re-exports.
fn shown(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_hidden = false;
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        let item = line.trim_start();
        let indent = line.len() - item.len();
        if item.starts_with("#[doc(hidden)]") {
            is_hidden = true;
        } else if item.starts_with("pub use ") {
            let end = rest.find(';').expect("the end of a use");
            let names = if is_hidden { "" } else { &rest[indent + "pub use ".len()..end] };
            let all = names.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_type = |name: &&str| {
                name.starts_with(char::is_uppercase) && name.contains(char::is_lowercase)
            };
            found.extend(all.filter(is_type).map(str::to_owned));
            (is_hidden, rest) = (false, &rest[end + 1..]);
            continue;
        } else if indent == 0 && !item.starts_with("#[") && !item.starts_with("//") {
            let kinds = ["pub struct ", "pub enum "];
            if let Some(name) = kinds.iter().find_map(|kind| item.strip_prefix(kind))
                && !is_hidden
            {
                let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                found.insert(name[..end].to_owned());
            }
            is_hidden = false;
        }
        rest = after;
    }
    found
}

#[test]
fn the_types_of_a_module_are_found() {
    let text = "\
mod a;
pub use a::{One, two, THREE};
pub use b::c::Four;
#[doc(hidden)]
pub use self::{
    d::Hidden,
};
/// Documented.
#[derive(Debug)]
pub struct Five<S>(S);
#[doc(hidden)]
#[derive(Debug)]
pub struct Six;
pub(crate) struct Seven;
    pub enum Inner {}
pub enum Eight { A }
";
    let found: Vec<String> = shown(text).into_iter().collect();
    assert_eq!(found, ["Eight", "Five", "Four", "One"]);
}

#[test]
fn every_public_type_is_listed_and_has_the_common_traits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: &str| fs::read_to_string(root.join(file)).expect(file);
    let lib = read("lib.rs");
    let (_, network) = lib.split_once("pub mod network {").expect("the module");
    let (network, _) = network.split_once("\n}\n").expect("its end");
    let mut public = BTreeSet::new();
    for (room, text) in [
        ("client", read("client/mod.rs")),
        ("machine", read("machine/mod.rs")),
        ("network", network.to_owned()),
        ("node", read("node/mod.rs")),
        ("testkit", read("testkit.rs")),
        ("types", read("types/mod.rs")),
    ] {
        public.extend(shown(&text).into_iter().map(|name| format!("{room}::{name}")));
    }
    let listed = [values(), errors(), singles(), handed_on(), TRAITS.into()].concat();
    let listed: BTreeSet<String> =
        listed.iter().map(|(room, name)| format!("{room}::{name}")).collect();
    let unlisted: Vec<_> = public.difference(&listed).collect();
    assert!(unlisted.is_empty(), "public, and not listed here: {unlisted:?}");
    let gone: Vec<_> = listed.difference(&public).collect();
    assert!(gone.is_empty(), "listed here, and not public: {gone:?}");
}

/// The public modules that the crate declares, so that none is missing above.
#[test]
fn no_other_module_is_public() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let lib = lib.expect("lib.rs");
    let mut modules = BTreeSet::new();
    let mut before = "";
    for line in lib.lines() {
        // Modules that are only pages of documentation hold no items.
        let is_page = line.ends_with("{}");
        if let Some(name) = line.strip_prefix("pub mod ")
            && !is_page
            && before != "#[doc(hidden)]"
        {
            modules.insert(name.trim_end_matches([';', ' ', '{']));
        }
        before = line;
    }
    let expected = ["client", "machine", "network", "node", "rules", "testkit", "types"];
    assert_eq!(modules, BTreeSet::from(expected));
}

/// The first embedding example is run as a documentation test. The README and the crate's first
/// page show the same text, and promise that it is short.
#[test]
fn the_first_embed_fits_in_forty_lines() {
    let embed = include_str!("../src/EMBED.md").trim();
    let lines = embed.lines().count() - 2;
    assert!(embed.starts_with("```rust\n") && (20..=40).contains(&lines), "{lines} lines");
    assert!(include_str!("../README.md").contains(embed), "the README has another one");
}
