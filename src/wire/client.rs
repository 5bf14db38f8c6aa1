//! Messages between clients and replicas, on one long stream in each direction.
//!
//! A client may have many requests under way. Replies come in any order and name their request. The
//! replica computes a command's footprint itself, because it has the state machine.

use bytes::{BufMut, Bytes, BytesMut};

use super::members::Members;
use super::offer::Offer;
use super::peer::take_version;
use super::versions::{BACKUPS, CLIENT_VERSIONS};
use super::{DecodeError, Flaw, Limits, Reader, Wire};
use crate::replica::Rejection;
use crate::types::{Change, ClientId, Era, MemberId, Membership, RequestId};

/// A request exceeds its payload, and a reply its output, by less than this many bytes.
pub const CLIENT_HEADER_BYTES: usize = 64;

/// A client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Identifies the reply. For commands it also makes retries safe at any replica, because one id
    /// is executed once.
    pub request: RequestId,
    /// The client has finished all its requests below this sequence; 0 if it does not say.
    pub floor: u64,
    /// What the client asks for.
    pub ask: Ask,
}

/// What a client asks for. Payloads are the state machine's commands in the user's encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ask {
    /// Execute a command exactly once and return its output.
    Execute(Bytes),
    /// Answer a read-only command from this replica's current state: fast, but possibly stale.
    ReadLocal(Bytes),
    /// Answer a read-only command so that it sees everything answered before it was asked.
    ReadLinearizable(Bytes),
    /// Return the replica's description.
    Status,
    /// Take a snapshot, and answer once it is durable.
    Snapshot,
    /// Return the members of the cluster as the replica knows them.
    Members,
    /// Change the members, and answer once the replica works by the new list.
    ChangeMembers {
        /// The change. What it says of a new member's directory is ignored.
        change: Change,
        /// Whether to make it although no member may fail after it.
        force: bool,
    },
    /// Take a snapshot after the whole cluster has agreed, and keep it to be fetched.
    Backup,
    /// A part of such a snapshot.
    Fetch {
        /// The snapshot's name.
        snapshot: u64,
        /// Where the part begins.
        offset: u64,
        /// Its length in bytes, at most [`MAX_PART`].
        bytes: u32,
    },
}

/// The longest part of a snapshot that a client can fetch at once, in bytes.
pub const MAX_PART: u32 = 1 << 20;

/// A replica's reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The request that this answers.
    pub request: RequestId,
    /// The result of the request.
    pub outcome: Outcome,
}

/// The result of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It was executed (or read); this is the state machine's output.
    Output(Bytes),
    /// The answer to [`Ask::Status`].
    Status(ServerInfo),
    /// It had no effect and never will.
    Rejected(Refusal),
    /// The answer to [`Ask::Snapshot`].
    Snapshot {
        /// How many records of the replica's log the snapshot covers.
        position: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// It may have been executed, or may be executed later; asking again under the same id is safe.
    /// The text explains why, for people.
    Unknown(String),
    /// It was executed, but there is no output to send, and no replica has one.
    NoAnswer(NoAnswer),
    /// The answer to [`Ask::Members`].
    Members(Members),
    /// The answer to [`Ask::ChangeMembers`]: the new list.
    Changed(Membership),
    /// The answer to [`Ask::Backup`].
    Backup(Offer),
    /// The answer to [`Ask::Fetch`].
    Part(Bytes),
}

/// Why a command that was executed has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// Its output is longer than an answer may be.
    #[error("executed, but its answer of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// The length of the output.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It was executed earlier, and its output is no longer kept.
    #[error("executed, but its output is not kept any more")]
    Forgotten,
}

/// Why a request had no effect and never will.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many requests are waiting.
    #[error("the replica has too many commands waiting; slow down and try again")]
    Overloaded,
    /// The replica cannot decode the request; the text explains why, for people.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The replica is shutting down: ask another.
    #[error("the replica is shutting down")]
    Stopping,
    /// Ask this replica instead.
    #[error("ask replica {0} instead")]
    Redirect(MemberId),
    /// The replica's disk is full: ask another.
    #[error("the replica's disk is full")]
    DiskFull,
    /// The session has expired: begin a new one in this era.
    #[error("the session has expired: it is {0} now")]
    Expired(Era),
    /// The replica has not reached a quorum for a while and proposes nothing: ask another. The text
    /// says which replicas it lacks, for people.
    #[error("not proposed: {0}")]
    NoQuorum(String),
    /// No new session is accepted now: use one session for many commands, or wait.
    #[error("the replica takes no more sessions for now; use one session for many commands")]
    TooManySessions,
    /// The replica was removed from the cluster, or waits to be made a member: ask one that is.
    #[error("the replica is no member of the cluster")]
    NoMember,
    /// The replica is an observer, and answers local reads alone: ask a member. Its greeting has
    /// the list of these.
    #[error("the replica is an observer and has no vote: ask a member, or read locally")]
    Observes,
    /// The members were not changed; the text explains why, for people.
    #[error("the members were not changed: {0}")]
    NotChanged(String),
    /// No snapshot was taken for a backup; the text explains why, for people.
    #[error("no backup: {0}")]
    NoBackup(String),
    /// The replica's release is too old for such a request. Found at the client's end.
    #[error("{0} is of an older release, which cannot do this: upgrade it")]
    Older(MemberId),
    /// The snapshot is not kept any more: begin the backup anew.
    #[error("the snapshot is not kept any more")]
    Gone,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        match rejection {
            Rejection::Overloaded | Rejection::Full => Refusal::Overloaded,
            Rejection::NoQuorum => Refusal::NoQuorum(rejection.to_string()),
            Rejection::TooLarge => Refusal::BadRequest(rejection.to_string()),
        }
    }
}

/// A replica's description of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The cluster's name.
    pub cluster: String,
    /// The replica.
    pub replica: MemberId,
    /// The members of the cluster; `None` if the replica has heard of none yet.
    pub list: Option<Membership>,
    /// The version of its program.
    pub version: String,
}

/// A replica's first message to every client: its description and its current era. A new session
/// numbers its commands from that era's first sequence.
pub fn greeting(era: Era, info: ServerInfo) -> Reply {
    let request = RequestId::new(ClientId::CLUSTER, era.first_sequence());
    Reply { request, outcome: Outcome::Status(info) }
}

impl Reply {
    /// The era in a greeting; `None` if this is not one.
    pub fn greeting(&self) -> Option<Era> {
        let RequestId { client, sequence } = self.request;
        (client == ClientId::CLUSTER).then(|| Era::of(sequence))
    }
}

/// Appends the frame of a request. The replica understands `version`.
pub fn encode_request(version: u8, request: &Request, out: &mut BytesMut) {
    out.put_u8(version);
    request.request.encode(out);
    request.floor.encode(out);
    request.ask.encode(out);
}

/// Decodes a request. Its payload is a slice of the frame and keeps it alive.
///
/// # Errors
/// If the frame is not the encoding of a request.
pub fn decode_request(frame: Bytes) -> Result<Request, DecodeError> {
    let limits = Limits::default();
    let mut from = Reader::new(&frame, &limits);
    take_version(CLIENT_VERSIONS, &mut from)?;
    let request = Request { request: from.read()?, floor: from.read()?, ask: from.read()? };
    from.finish()?;
    Ok(request)
}

/// Appends the frame of a reply. The client understands `version`.
pub fn encode_reply(version: u8, reply: &Reply, out: &mut BytesMut) {
    out.put_u8(version);
    reply.request.encode(out);
    reply.outcome.encode(out);
}

/// Decodes a reply. Its output is a slice of the frame and keeps it alive.
///
/// # Errors
/// If the frame is not the encoding of a reply.
pub fn decode_reply(frame: Bytes) -> Result<Reply, DecodeError> {
    let limits = Limits::default();
    let mut from = Reader::new(&frame, &limits);
    take_version(CLIENT_VERSIONS, &mut from)?;
    let reply = Reply { request: from.read()?, outcome: from.read()? };
    from.finish()?;
    Ok(reply)
}

impl Ask {
    /// Whether only one replica is to work on it at a time, however long that takes.
    pub fn takes_long(&self) -> bool {
        matches!(self, Ask::Backup | Ask::ChangeMembers { .. })
    }

    /// The version of the frames in which it can be asked first.
    pub fn since(&self) -> u8 {
        match self {
            Ask::Backup | Ask::Fetch { .. } => BACKUPS,
            _ => CLIENT_VERSIONS.oldest,
        }
    }
}

impl Wire for Ask {
    fn encode(&self, out: &mut BytesMut) {
        let (kind, payload) = match self {
            Ask::Execute(payload) => (1, payload),
            Ask::ReadLocal(payload) => (2, payload),
            Ask::ReadLinearizable(payload) => (3, payload),
            Ask::Status => return out.put_u8(4),
            Ask::Snapshot => return out.put_u8(5),
            Ask::Members => return out.put_u8(6),
            Ask::ChangeMembers { change, force } => {
                out.put_u8(7);
                change.encode(out);
                return force.encode(out);
            }
            Ask::Backup => return out.put_u8(8),
            Ask::Fetch { snapshot, offset, bytes } => {
                out.put_u8(9);
                out.put_u64_le(*snapshot);
                offset.encode(out);
                return u64::from(*bytes).encode(out);
            }
        };
        out.put_u8(kind);
        payload.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Ask, DecodeError> {
        let start = from.offset();
        match from.byte("a request")? {
            1 => Ok(Ask::Execute(from.read()?)),
            2 => Ok(Ask::ReadLocal(from.read()?)),
            3 => Ok(Ask::ReadLinearizable(from.read()?)),
            4 => Ok(Ask::Status),
            5 => Ok(Ask::Snapshot),
            6 => Ok(Ask::Members),
            7 => Ok(Ask::ChangeMembers { change: from.read()?, force: from.read()? }),
            8 => Ok(Ask::Backup),
            9 => Ok(Ask::Fetch {
                snapshot: from.fixed("a snapshot")?,
                offset: from.read()?,
                bytes: from.varint32("a length")?,
            }),
            kind => from.refuse(start, Flaw::Kind { what: "a request", kind }),
        }
    }
}

impl Wire for Outcome {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Outcome::Output(output) => {
                out.put_u8(1);
                output.encode(out);
            }
            Outcome::Status(info) => {
                out.put_u8(2);
                info.encode(out);
            }
            Outcome::Rejected(refusal) => {
                out.put_u8(3);
                refusal.encode(out);
            }
            Outcome::NoAnswer(why) => {
                out.put_u8(6);
                why.encode(out);
            }
            Outcome::Unknown(why) => {
                out.put_u8(4);
                why.encode(out);
            }
            Outcome::Snapshot { position, bytes } => {
                out.put_u8(5);
                position.encode(out);
                bytes.encode(out);
            }
            Outcome::Members(members) => {
                out.put_u8(7);
                members.encode(out);
            }
            Outcome::Changed(list) => {
                out.put_u8(8);
                list.encode(out);
            }
            Outcome::Backup(offer) => {
                out.put_u8(9);
                offer.encode(out);
            }
            Outcome::Part(part) => {
                out.put_u8(10);
                part.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
        let start = from.offset();
        match from.byte("an outcome")? {
            1 => Ok(Outcome::Output(from.read()?)),
            2 => Ok(Outcome::Status(from.read()?)),
            3 => Ok(Outcome::Rejected(from.read()?)),
            4 => Ok(Outcome::Unknown(from.read()?)),
            5 => Ok(Outcome::Snapshot { position: from.read()?, bytes: from.read()? }),
            6 => Ok(Outcome::NoAnswer(from.read()?)),
            7 => Ok(Outcome::Members(from.read()?)),
            8 => Ok(Outcome::Changed(from.read()?)),
            9 => Ok(Outcome::Backup(from.read()?)),
            10 => Ok(Outcome::Part(from.read()?)),
            kind => from.refuse(start, Flaw::Kind { what: "an outcome", kind }),
        }
    }
}

impl Wire for NoAnswer {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            NoAnswer::TooLarge { bytes, limit } => {
                out.put_u8(1);
                bytes.encode(out);
                limit.encode(out);
            }
            NoAnswer::Forgotten => out.put_u8(2),
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<NoAnswer, DecodeError> {
        let start = from.offset();
        match from.byte("a reason")? {
            1 => Ok(NoAnswer::TooLarge { bytes: from.read()?, limit: from.read()? }),
            2 => Ok(NoAnswer::Forgotten),
            kind => from.refuse(start, Flaw::Kind { what: "a reason", kind }),
        }
    }
}

impl Wire for Refusal {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Refusal::Overloaded => out.put_u8(1),
            Refusal::BadRequest(why) => {
                out.put_u8(2);
                why.encode(out);
            }
            Refusal::Stopping => out.put_u8(3),
            Refusal::Redirect(replica) => {
                out.put_u8(4);
                replica.encode(out);
            }
            Refusal::DiskFull => out.put_u8(5),
            Refusal::Expired(era) => {
                out.put_u8(6);
                era.encode(out);
            }
            Refusal::NoQuorum(why) => {
                out.put_u8(7);
                why.encode(out);
            }
            Refusal::TooManySessions => out.put_u8(8),
            Refusal::NoMember => out.put_u8(9),
            Refusal::Observes => out.put_u8(14),
            Refusal::NotChanged(why) => {
                out.put_u8(10);
                why.encode(out);
            }
            Refusal::NoBackup(why) => {
                out.put_u8(11);
                why.encode(out);
            }
            Refusal::Gone => out.put_u8(12),
            Refusal::Older(replica) => {
                out.put_u8(13);
                replica.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
        let start = from.offset();
        match from.byte("a refusal")? {
            1 => Ok(Refusal::Overloaded),
            2 => Ok(Refusal::BadRequest(from.read()?)),
            3 => Ok(Refusal::Stopping),
            4 => Ok(Refusal::Redirect(from.read()?)),
            5 => Ok(Refusal::DiskFull),
            6 => Ok(Refusal::Expired(from.read()?)),
            7 => Ok(Refusal::NoQuorum(from.read()?)),
            8 => Ok(Refusal::TooManySessions),
            9 => Ok(Refusal::NoMember),
            10 => Ok(Refusal::NotChanged(from.read()?)),
            11 => Ok(Refusal::NoBackup(from.read()?)),
            12 => Ok(Refusal::Gone),
            13 => Ok(Refusal::Older(from.read()?)),
            14 => Ok(Refusal::Observes),
            kind => from.refuse(start, Flaw::Kind { what: "a refusal", kind }),
        }
    }
}

impl Wire for ServerInfo {
    fn encode(&self, out: &mut BytesMut) {
        self.cluster.encode(out);
        self.replica.encode(out);
        self.list.encode(out);
        self.version.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ServerInfo, DecodeError> {
        Ok(ServerInfo {
            cluster: from.read()?,
            replica: from.read()?,
            list: from.read()?,
            version: from.read()?,
        })
    }
}
