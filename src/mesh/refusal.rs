//! Why a connection is refused or closed. Each reason has a code and a sentence that tells the
//! operator of the other end what to do. Codes are QUIC application close codes.

use std::collections::BTreeSet;
use std::fmt;

use quinn::{ConnectionError, VarInt};

use super::VERSION;
use super::votes::Votes;
use crate::types::Versions;
use crate::types::{Known, MemberId};

/// Why this end closes a connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The closing end does not need the connection any more.
    #[error("done")]
    Done,
    /// The closing end shuts down.
    #[error("shutting down")]
    ShuttingDown,
    /// A newer connection between the two replicas has replaced this one.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The two replicas are already connected, because both had dialled.
    #[error("already connected")]
    Duplicate,
    /// The other end sent no hello in time.
    #[error("no hello in time")]
    HelloTimeout,
    /// The hello cannot be decoded.
    #[error("the hello cannot be understood: is the other end isonomy?")]
    BadHello,
    /// The other end uses another version of the hello.
    #[error("version {theirs} is not spoken here, only {VERSION}: upgrade the older end")]
    Version {
        /// The version in the refused hello.
        theirs: u16,
    },
    /// The other end belongs to another cluster.
    #[error("this is cluster {ours}, not {theirs}: check `cluster` and the addresses")]
    WrongCluster {
        /// The refusing end's cluster.
        ours: String,
        /// The cluster in the refused hello.
        theirs: String,
    },
    /// The other end's cluster has another origin: another backup, or none.
    #[error(
        "{id} began with {}, and this replica with {}: restore all replicas of a cluster from one \
         backup",
        backup(*.theirs), backup(*.ours)
    )]
    OtherOrigin {
        /// The replica that is refused.
        id: MemberId,
        /// The backup that the refusing end was restored from; 0 if none.
        ours: u64,
        /// The other end's.
        theirs: u64,
    },
    /// The other end runs another protocol.
    #[error(
        "{id} runs the protocol {theirs:?}, and this replica {ours:?}: set the same `protocol` for \
         all replicas of a cluster"
    )]
    OtherProtocol {
        /// The replica that is refused.
        id: MemberId,
        /// The refusing end's protocol.
        ours: String,
        /// The other end's.
        theirs: String,
    },
    /// The other end wanted to reach another replica.
    #[error("this is {ours}, not {wanted}: check the addresses of the peers")]
    WrongReplica {
        /// The refusing replica.
        ours: MemberId,
        /// The replica that the other end wanted.
        wanted: MemberId,
    },
    /// The other end has this replica's own number.
    #[error("this replica is {0} itself: each needs a number of its own, and none dials itself")]
    Itself(MemberId),
    /// Too many replicas are connected that are not in the list of members here.
    #[error(
        "{most} replicas are connected here that are not in the list of members: try again, and \
         stop those that are not to become members"
    )]
    TooManyGuests {
        /// The limit.
        most: usize,
    },
    /// The certificate does not carry the name that the hello claims.
    #[error("the certificate is not valid as {claimed}: issue one for that name")]
    WrongCertificate {
        /// The name that the hello's claim requires.
        claimed: String,
    },
    /// A replica has lost records that this end or another replica has heard of.
    #[error(
        "{id} is remembered by {by} with {known} records in its log, and {shown} of them are in \
         what it comes with: its directory is an older copy, or lost the end of its log"
    )]
    OlderCopy {
        /// The replica.
        id: MemberId,
        /// The replica that has heard more of it.
        by: MemberId,
        /// How many records its log held.
        known: u64,
        /// How many of them it may still have, as far as this end knows.
        shown: u64,
    },
    /// This end has lost records that the other end has heard of.
    #[error(
        "{peer} remembers this replica with {known} records in its log, {}: this directory is an \
         older copy, or lost the end of its log",
        left(*.held)
    )]
    OlderHere {
        /// The other end, which remembers more.
        peer: MemberId,
        /// How many records this end's log held.
        known: u64,
        /// How many of them are left; `None` if they belong to a life that this directory never
        /// had.
        held: Option<u64>,
    },
    /// Two replicas have acted on different histories of a third.
    #[error(
        "{id} remembers {third} up to {}, and {by} up to {}: {third} has gone on from an older \
         copy of its directory, and those who heard it may have executed different commands. Stop \
         all replicas, decide whose state is right, and restore all from a backup of that one",
        place_in_life(.theirs), place_in_life(.ours)
    )]
    Contradiction {
        /// The replica that is refused.
        id: MemberId,
        /// The replica that both remember.
        third: MemberId,
        /// The replica that remembers it differently: the refusing end, or one that has told it.
        by: MemberId,
        /// What that replica remembers.
        ours: Known,
        /// What the other end remembers.
        theirs: Known,
    },
    /// The other end counts quorums among other members.
    #[error(
        "{id} has the replicas {} in its list, and this replica {}: make [replicas] the same in \
         all files",
        Numbers(.theirs), Numbers(.ours)
    )]
    OtherMembers {
        /// The replica that is refused.
        id: MemberId,
        /// The refusing end's list.
        ours: BTreeSet<MemberId>,
        /// The other end's.
        theirs: BTreeSet<MemberId>,
    },
    /// The other end forgets sessions after another time.
    #[error(
        "{id} forgets sessions after {theirs} ms, and this replica after {ours} ms: the time is \
         the cluster's; to change it, stop all replicas, change all files, and start them"
    )]
    OtherSessionIdle {
        /// The replica that is refused.
        id: MemberId,
        /// The refusing end's time in milliseconds.
        ours: u64,
        /// The other end's.
        theirs: u64,
    },
    /// The other end skips different requests.
    #[error(
        "{id} skips other requests than this replica: start both with the same `--skip` \
         (`isonomy inspect` lists what a directory has)"
    )]
    OtherSkips {
        /// The replica that is refused.
        id: MemberId,
    },
    /// One end keeps its votes on a disk and the other does not.
    #[error(
        "{id} keeps its records {}, and this replica {}: set `durability` to \"memory\" for all \
         replicas of a cluster or for none",
        place(*.theirs), place(*.ours)
    )]
    OtherDurability {
        /// The replica that is refused.
        id: MemberId,
        /// What the refusing end does.
        ours: Votes,
        /// What the other end does.
        theirs: Votes,
    },
    /// The two ends understand no version of a format in common.
    #[error(
        "{id} has {what} in {theirs}, and this replica in {ours}: upgrade the older of the two, \
         release by release"
    )]
    OtherFormat {
        /// The replica that is refused.
        id: MemberId,
        /// The format.
        what: &'static str,
        /// The refusing end's versions.
        ours: Versions,
        /// The other end's.
        theirs: Versions,
    },
    /// A client and a replica understand no version of their frames in common.
    #[error(
        "the client speaks {theirs} of the client protocol, and the replica {ours}: upgrade the \
         older of the two"
    )]
    OtherClient {
        /// The replica's versions.
        ours: Versions,
        /// The client's.
        theirs: Versions,
    },
    /// A replica comes with another data directory than the one it is known by.
    #[error(
        "{id} is known here by data directory {known:016x}, not {theirs:016x}: it may have voted \
         with what it has lost, and cannot take part with anything else"
    )]
    OtherDirectory {
        /// The replica.
        id: MemberId,
        /// The number of the directory it is known by; 0 if it kept its records in memory.
        known: u64,
        /// The number in the refused hello.
        theirs: u64,
    },
    /// A replica that kept its records in memory was started again.
    #[error("{0} was restarted and has forgotten its votes: it cannot take part again")]
    Forgetful(MemberId),
    /// Two processes run as the same replica.
    #[error(
        "another process runs as {0}, with this directory or a copy of it, and is connected here: \
         only one of the two may run"
    )]
    Clone(MemberId),
    /// The limit on connected clients is reached.
    #[error("too many clients: try another replica, or raise its `max_clients`")]
    TooManyClients,
    /// The limit on connections of one certificate is reached.
    #[error(
        "this certificate has {most} connections here already: share them, give each program a \
         certificate of its own, or raise the replica's `max_clients_per_certificate`"
    )]
    TooManyConnections {
        /// The limit.
        most: usize,
    },
    /// The announced frame is larger than allowed.
    #[error("a frame of {bytes} bytes, and {limit} is the limit")]
    FrameTooLarge {
        /// The announced length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The other end violated the rules of the streams.
    #[error("unexpected {0}")]
    Protocol(&'static str),
    /// The other end does not read its answers, or does not finish a request.
    #[error(
        "nothing has moved for too long: answers have to be read, and requests sent to their end"
    )]
    TooSlow,
    /// The client sent nothing for too long.
    #[error("idle for too long")]
    Idle,
    /// The closing end failed to handle what it was sent.
    #[error("internal error: see the log of this end")]
    Internal,
    /// The closing end cannot store which peers it has met.
    #[error("this end cannot write down whom it meets: see its log")]
    NotNoted,
}

impl Refusal {
    /// The application close code of this reason.
    pub const fn code(&self) -> u32 {
        match self {
            Refusal::Done => 0x0,
            Refusal::ShuttingDown => 0x1,
            Refusal::Replaced => 0x2,
            Refusal::Duplicate => 0x3,
            Refusal::HelloTimeout => 0x10,
            Refusal::BadHello => 0x11,
            Refusal::Version { .. } => 0x12,
            Refusal::WrongCluster { .. } => 0x13,
            Refusal::WrongReplica { .. } => 0x14,
            Refusal::Itself(_) => 0x15,
            Refusal::WrongCertificate { .. } => 0x16,
            Refusal::OlderCopy { .. } => 0x17,
            Refusal::Clone(_) => 0x18,
            Refusal::TooManyClients => 0x19,
            Refusal::OtherDirectory { .. } => 0x1a,
            Refusal::Forgetful(_) => 0x1b,
            Refusal::OtherOrigin { .. } => 0x1c,
            Refusal::OtherProtocol { .. } => 0x1d,
            Refusal::OlderHere { .. } => 0x1e,
            Refusal::OtherMembers { .. } => 0x1f,
            Refusal::FrameTooLarge { .. } => 0x20,
            Refusal::Protocol(_) => 0x21,
            Refusal::TooSlow => 0x22,
            Refusal::Idle => 0x23,
            Refusal::TooManyConnections { .. } => 0x24,
            Refusal::OtherSessionIdle { .. } => 0x28,
            Refusal::OtherDurability { .. } => 0x29,
            Refusal::OtherFormat { .. } => 0x2a,
            Refusal::OtherSkips { .. } => 0x2b,
            Refusal::Contradiction { .. } => 0x2c,
            Refusal::TooManyGuests { .. } => 0x2d,
            Refusal::OtherClient { .. } => 0x2e,
            Refusal::Internal => 0x30,
            Refusal::NotNoted => 0x31,
        }
    }

    /// Whether this is a normal end of a connection, with no fault at either end.
    pub(super) const fn is_routine(&self) -> bool {
        self.code() < 0x10
    }

    /// Closes the connection with this reason.
    pub(super) fn close(&self, connection: &quinn::Connection) {
        connection.close(VarInt::from_u32(self.code()), self.to_string().as_bytes());
    }
}

fn left(held: Option<u64>) -> String {
    match held {
        Some(held) => format!("of which {held} are here"),
        None => "in a life that this directory never had".to_owned(),
    }
}

fn place_in_life(known: &Known) -> String {
    let Known { directory, life, began, held } = known;
    let began = began.map(|at| format!(", which began at {}", at.records())).unwrap_or_default();
    format!(
        "record {} in life {life:016x}{began}, of data directory {directory:016x}",
        held.records()
    )
}

fn place(votes: Votes) -> &'static str {
    if votes == Votes::InMemory { "in memory" } else { "on disk" }
}

/// The numbers of some replicas, for display.
struct Numbers<'a>(&'a BTreeSet<MemberId>);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for replica in self.0.iter() {
            write!(f, "{comma}{}", replica.number())?;
            comma = ", ";
        }
        Ok(())
    }
}

/// A cluster's origin as text.
fn backup(origin: u64) -> String {
    if origin == 0 { "nothing".to_owned() } else { format!("backup {origin:016x}") }
}

/// Why a connection ended or was never established.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// This end refused or closed it.
    #[error("{0}")]
    Here(Refusal),
    /// The other end closed it, with this code (see [`Refusal::code`]) and reason.
    #[error("the other end says: {reason} (code {code:#x})")]
    There {
        /// The application close code.
        code: u64,
        /// The other end's reason.
        reason: String,
    },
    /// TLS or the network failed; this is QUIC's error.
    #[error("{0}")]
    Connection(ConnectionError),
    /// The host name resolves to no address that is reachable from here.
    #[error("cannot find {address}: {why}")]
    Resolve {
        /// The host and the port.
        address: String,
        /// The resolver's error.
        why: String,
    },
    /// The host has several addresses, and no replica answers at any.
    #[error("no connection at any address: {failures}")]
    Nowhere {
        /// The error at each.
        failures: String,
        /// Whether any of them answered.
        answered: bool,
    },
    /// The connection cannot even be attempted.
    #[error("cannot dial: {0}")]
    Dial(String),
    /// The attempt took too long.
    #[error("no answer in time")]
    Timeout,
    /// The handshake stalled, and its place was given to another.
    #[error("stalled in the handshake while others wanted in")]
    Crowded,
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Closed {
        match error {
            ConnectionError::ApplicationClosed(close) => Closed::There {
                code: close.error_code.into_inner(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            other => Closed::Connection(other),
        }
    }
}

impl From<Refusal> for Closed {
    fn from(refusal: Refusal) -> Closed {
        Closed::Here(refusal)
    }
}

impl Closed {
    /// The application close code, from either end.
    pub fn code(&self) -> Option<u64> {
        match self {
            Closed::Here(refusal) => Some(u64::from(refusal.code())),
            Closed::There { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the other end answered, and then refused or broke off.
    pub fn is_answered(&self) -> bool {
        match self {
            Closed::Here(_) | Closed::There { .. } => true,
            Closed::Connection(why) => matches!(
                why,
                ConnectionError::VersionMismatch
                    | ConnectionError::TransportError(_)
                    | ConnectionError::ConnectionClosed(_)
                    | ConnectionError::ApplicationClosed(_)
            ),
            Closed::Nowhere { answered, .. } => *answered,
            Closed::Resolve { .. } | Closed::Dial(_) | Closed::Timeout | Closed::Crowded => false,
        }
    }

    /// Whether this end is refused for good: it has lost promises or votes, or may have.
    pub fn is_for_good(&self) -> bool {
        // The codes of `OlderCopy`, `OtherDirectory`, `Forgetful`.
        let there = matches!(self, Closed::There { code: 0x17 | 0x1a | 0x1b, .. });
        there || matches!(self, Closed::Here(Refusal::OlderHere { .. }))
    }

    /// Whether the other end is connected with another process of this replica.
    pub fn is_clone(&self) -> bool {
        matches!(self, Closed::There { code: 0x18, .. })
    }

    /// Whether the two ends have different lists of members.
    pub fn is_other_list(&self) -> bool {
        self.code() == Some(0x1f)
    }

    /// Whether this is a normal end of a connection, with no fault at either end.
    pub(super) fn is_routine(&self) -> bool {
        match self {
            Closed::Here(refusal) => refusal.is_routine(),
            Closed::There { code, .. } => *code < 0x10,
            _ => false,
        }
    }
}
