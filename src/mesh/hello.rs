//! The application hello: what both ends of a new connection exchange before any frame. In TLS 1.3
//! a client with a bad certificate may believe that it is connected; an answered hello proves that
//! it is.
//!
//! All on the one bidirectional stream. A length in two bytes, little-endian, precedes each
//! message:
//!
//! ```text
//! peers:   dialler → PeerHello   acceptor → PeerHello   dialler → Ready(generation)
//! clients: client  → ClientHello replica  → ClientHello  then frames, on the same stream
//! ```
//!
//! A hello says which versions of the frames its sender understands, from the oldest to the newest.
//! Both ends use the lower of the newest. The first replicas and clients of version 7 said less.
//! Replicas had one version of each format, in the place of the oldest. What came later follows
//! after all that they read.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use quinn::{RecvStream, SendStream};

use super::VERSION;
use super::refusal::{Closed, Refusal};
use super::terms::Terms;
use super::votes::Votes;
use crate::types::Versions;
use crate::types::{Known, LogPosition, MAX_REPLICAS, MemberId, Presence};

const MAGIC: [u8; 4] = *b"isnm";
/// The longest hello in bytes; checked before any allocation for it.
const MAX_HELLO_BYTES: usize = 4096;
const PEER: u8 = 1;
const CLIENT: u8 = 2;
/// The version of the frames of clients and replicas that do not say any.
pub(super) const UNSAID: u8 = 2;

/// What one replica tells another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PeerHello {
    pub(super) cluster: String,
    pub(super) from: MemberId,
    pub(super) to: MemberId,
    /// What the sender says of itself. Its life distinguishes its process from all others.
    pub(super) shown: Presence,
    /// What the sender remembers of the others and of the receiver, in ascending order.
    pub(super) knows: Vec<(MemberId, Known)>,
    /// The backup that the sender's cluster was restored from; 0 if it was not restored.
    pub(super) origin: u64,
    /// The epoch that the sender is in; `None` if it has heard of none yet.
    pub(super) epoch: Option<u32>,
    /// The members of that epoch.
    pub(super) members: BTreeSet<MemberId>,
    /// The receiver's life in the last connection that ended at the sender; 0 if there is none.
    pub(super) lost_life: u64,
    /// That connection's generation.
    pub(super) lost_generation: u64,
    /// This connection's generation, if the lower id sends this as an answer; else 0.
    pub(super) generation: u64,
    /// The sender's terms, from its configuration.
    pub(super) terms: Terms,
}

/// What a client tells a replica; the replica answers with its own values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ClientHello {
    pub(super) cluster: String,
    pub(super) to: MemberId,
    /// The client's name in its certificate.
    pub(super) name: String,
    /// The versions of the frames that the sender understands.
    pub(super) frames: Versions,
}

impl PeerHello {
    pub(super) fn encode(&self) -> BytesMut {
        let mut out = preamble(PEER, &self.cluster);
        out.put_u32_le(self.from.number());
        out.put_u32_le(self.to.number());
        let (shown, terms) = (&self.shown, &self.terms);
        for field in [
            shown.directory,
            shown.life,
            shown.began.records(),
            shown.held.records(),
            self.origin,
            self.epoch.map_or(0, |epoch| u64::from(epoch) + 1),
            self.lost_life,
            self.lost_generation,
            self.generation,
            terms.idle_ms(),
            terms.skipped,
        ] {
            out.put_u64_le(field);
        }
        out.put_slice(&[terms.votes.code(), terms.frames.oldest, terms.snapshots.oldest]);
        put_text(&mut out, &terms.protocol);
        put_memory(&mut out, &self.knows);
        put_members(&mut out, &self.members);
        out.put_slice(&[terms.frames.newest, terms.snapshots.newest]);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<PeerHello, Refusal> {
        let (cluster, mut rest) = open(bytes, PEER)?;
        let from = replica(&mut rest)?;
        let to = replica(&mut rest)?;
        let mut field = || number(&mut rest);
        let shown = Presence {
            directory: field()?,
            life: field()?,
            began: LogPosition::new(field()?),
            held: LogPosition::new(field()?),
        };
        let (origin, epoch) = (field()?, field()?);
        let epoch = match epoch.checked_sub(1).map(u32::try_from) {
            None => None,
            Some(Ok(epoch)) => Some(epoch),
            Some(Err(_)) => return Err(Refusal::BadHello),
        };
        let (lost_life, lost_generation, generation) = (field()?, field()?, field()?);
        let session_idle = Duration::from_millis(field()?);
        let skipped = field()?;
        let votes = Votes::of_code(byte(&mut rest)?).ok_or(Refusal::BadHello)?;
        let (frames, snapshots) = (byte(&mut rest)?, byte(&mut rest)?);
        let protocol = text(&mut rest)?;
        let knows = memory(&mut rest)?;
        let members = members(&mut rest)?;
        let frames = versions(frames, &mut rest)?;
        let snapshots = versions(snapshots, &mut rest)?;
        Ok(PeerHello {
            cluster,
            from,
            to,
            shown,
            knows,
            origin,
            epoch,
            members,
            lost_life,
            lost_generation,
            generation,
            terms: Terms { protocol, session_idle, votes, skipped, frames, snapshots },
        })
    }
}

impl ClientHello {
    pub(super) fn encode(&self) -> BytesMut {
        let mut out = preamble(CLIENT, &self.cluster);
        out.put_u32_le(self.to.number());
        put_text(&mut out, &self.name);
        out.put_slice(&[self.frames.oldest, self.frames.newest]);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<ClientHello, Refusal> {
        let (cluster, mut rest) = open(bytes, CLIENT)?;
        let to = replica(&mut rest)?;
        let name = text(&mut rest)?;
        let oldest = rest.try_get_u8().unwrap_or(UNSAID);
        let frames = versions(oldest, &mut rest)?;
        Ok(ClientHello { cluster, to, name, frames })
    }
}

/// Sends one message of the hello.
pub(super) async fn send(stream: &mut SendStream, message: &[u8]) -> Result<(), Closed> {
    let length = u16::try_from(message.len()).map_err(|_| Refusal::BadHello)?;
    let mut out = BytesMut::with_capacity(2 + message.len());
    out.put_u16_le(length);
    out.put_slice(message);
    stream.write_all(&out).await.map_err(write_error)
}

/// Receives one message of the hello, at most [`MAX_HELLO_BYTES`] long.
pub(super) async fn receive(stream: &mut RecvStream) -> Result<Vec<u8>, Closed> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.map_err(read_error)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > MAX_HELLO_BYTES {
        return Err(Refusal::BadHello.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.map_err(read_error)?;
    Ok(message)
}

fn write_error(error: quinn::WriteError) -> Closed {
    match error {
        quinn::WriteError::ConnectionLost(lost) => lost.into(),
        _ => Refusal::BadHello.into(),
    }
}

fn read_error(error: quinn::ReadExactError) -> Closed {
    match error {
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost)) => lost.into(),
        _ => Refusal::BadHello.into(),
    }
}

/// The start of a hello in every version, followed by the cluster.
fn preamble(kind: u8, cluster: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u8(kind);
    put_text(&mut out, cluster);
    out
}

/// Checks the preamble; returns the cluster and the rest. Bytes after the fields of this version
/// are ignored, so that a later version can add fields.
fn open(bytes: &[u8], kind: u8) -> Result<(String, &[u8]), Refusal> {
    let mut rest = bytes.strip_prefix(&MAGIC).ok_or(Refusal::BadHello)?;
    let theirs = rest.try_get_u16_le().map_err(|_| Refusal::BadHello)?;
    if theirs != VERSION {
        return Err(Refusal::Version { theirs });
    }
    if rest.try_get_u8() != Ok(kind) {
        return Err(Refusal::BadHello);
    }
    Ok((text(&mut rest)?, rest))
}

fn put_text(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    out.put_u8(u8::try_from(bytes.len()).expect("names are checked to be short"));
    out.put_slice(bytes);
}

fn text(rest: &mut &[u8]) -> Result<String, Refusal> {
    let length = usize::from(rest.try_get_u8().map_err(|_| Refusal::BadHello)?);
    let (text, after) = rest.split_at_checked(length).ok_or(Refusal::BadHello)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| Refusal::BadHello)
}

fn byte(rest: &mut &[u8]) -> Result<u8, Refusal> {
    rest.try_get_u8().map_err(|_| Refusal::BadHello)
}

/// The versions from `oldest` to the one that follows, if one does.
fn versions(oldest: u8, rest: &mut &[u8]) -> Result<Versions, Refusal> {
    let newest = rest.try_get_u8().unwrap_or(oldest);
    if newest < oldest { Err(Refusal::BadHello) } else { Ok(Versions { oldest, newest }) }
}

fn number(rest: &mut &[u8]) -> Result<u64, Refusal> {
    rest.try_get_u64_le().map_err(|_| Refusal::BadHello)
}

/// What is remembered of replicas, preceded by their number.
fn put_memory(out: &mut BytesMut, knows: &[(MemberId, Known)]) {
    out.put_u8(u8::try_from(knows.len()).expect("no more than there are replicas"));
    for (replica, Known { directory, life, began, held }) in knows {
        out.put_u32_le(replica.number());
        out.put_u8(began.is_some().into());
        let began = began.unwrap_or_default();
        for field in [*directory, *life, began.records(), held.records()] {
            out.put_u64_le(field);
        }
    }
}

fn memory(rest: &mut &[u8]) -> Result<Vec<(MemberId, Known)>, Refusal> {
    let count = usize::from(byte(rest)?);
    if count > MAX_REPLICAS {
        return Err(Refusal::BadHello);
    }
    let mut knows = Vec::with_capacity(count);
    for _ in 0..count {
        let (of, with_began) = (replica(rest)?, byte(rest)?);
        if with_began > 1 || knows.last().is_some_and(|(before, _)| *before >= of) {
            return Err(Refusal::BadHello);
        }
        let (directory, life) = (number(rest)?, number(rest)?);
        let (began, held) = (LogPosition::new(number(rest)?), LogPosition::new(number(rest)?));
        let began = (with_began == 1).then_some(began);
        knows.push((of, Known { directory, life, began, held }));
    }
    Ok(knows)
}

/// The members of an epoch, preceded by how many there are.
fn put_members(out: &mut BytesMut, members: &BTreeSet<MemberId>) {
    out.put_u8(u8::try_from(members.len()).expect("no more than a cluster has"));
    for member in members {
        out.put_u32_le(member.number());
    }
}

fn members(rest: &mut &[u8]) -> Result<BTreeSet<MemberId>, Refusal> {
    let count = usize::from(byte(rest)?);
    if count > MAX_REPLICAS {
        return Err(Refusal::BadHello);
    }
    let mut members = BTreeSet::new();
    for _ in 0..count {
        let member = replica(rest)?;
        if members.last().is_some_and(|before| *before >= member) {
            return Err(Refusal::BadHello);
        }
        members.insert(member);
    }
    Ok(members)
}

fn replica(rest: &mut &[u8]) -> Result<MemberId, Refusal> {
    rest.try_get_u32_le().ok().and_then(MemberId::new).ok_or(Refusal::BadHello)
}

#[cfg(test)]
pub(super) mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::types::member_id as id;

    fn known(of: u32, began: Option<u64>) -> (MemberId, Known) {
        let (began, held) = (began.map(LogPosition::new), LogPosition::new(4));
        (id(of), Known { directory: 3, life: 2, began, held })
    }

    pub(in crate::mesh) fn peer() -> PeerHello {
        PeerHello {
            cluster: "alpha".into(),
            from: id(1),
            to: id(3),
            shown: Presence {
                directory: 8,
                life: u64::MAX,
                began: LogPosition::new(7),
                held: LogPosition::new(300),
            },
            knows: vec![known(1, Some(2)), known(3, None)],
            origin: 9,
            epoch: Some(0),
            members: MemberId::all(3).collect(),
            lost_life: 5,
            lost_generation: 6,
            generation: 4,
            terms: Terms {
                protocol: "multi-paxos".into(),
                votes: Votes::HandedOver,
                skipped: 3,
                frames: Versions { oldest: 2, newest: 3 },
                ..Terms::default()
            },
        }
    }

    #[test]
    fn hellos_survive_the_wire_and_every_cut_is_refused() {
        let bytes = peer().encode();
        assert_eq!(PeerHello::decode(&bytes), Ok(peer()));
        for cut in 0..bytes.len() - 2 {
            assert_eq!(PeerHello::decode(&bytes[..cut]), Err(Refusal::BadHello));
        }
        let members = BTreeSet::new();
        let stranger = PeerHello { knows: Vec::new(), epoch: None, members, ..peer() };
        assert_eq!(PeerHello::decode(&stranger.encode()), Ok(stranger));
        let twice = PeerHello { knows: vec![known(1, None); 2], ..peer() };
        assert_eq!(PeerHello::decode(&twice.encode()), Err(Refusal::BadHello));
        let late = PeerHello { from: id(u32::MAX), epoch: Some(u32::MAX), ..peer() };
        assert_eq!(PeerHello::decode(&late.encode()), Ok(late));
        let client = client(id(2), "a");
        let bytes = client.encode();
        assert_eq!(ClientHello::decode(&bytes), Ok(client));
        assert_eq!(PeerHello::decode(&bytes), Err(Refusal::BadHello));
    }

    fn client(to: MemberId, name: &str) -> ClientHello {
        let frames = Versions { oldest: 2, newest: 3 };
        ClientHello { cluster: "alpha".into(), to, name: name.into(), frames }
    }

    /// Without the last bytes, as the first of version 7 said it.
    #[test]
    fn one_that_says_only_one_version_understands_that() {
        let bytes = peer().encode();
        let first = PeerHello::decode(&bytes[..bytes.len() - 2]).unwrap();
        let terms = Terms { frames: Versions::only(2), ..peer().terms };
        assert_eq!(first, PeerHello { terms, ..peer() });
        let bytes = client(id(2), "a").encode();
        let first = ClientHello::decode(&bytes[..bytes.len() - 2]).unwrap();
        assert_eq!(first, ClientHello { frames: Versions::only(2), ..client(id(2), "a") });
        let mut upside_down = bytes.to_vec();
        *upside_down.last_mut().unwrap() = 1;
        assert_eq!(ClientHello::decode(&upside_down), Err(Refusal::BadHello));
    }

    #[test]
    fn the_longest_hello_is_not_too_long() {
        let all = || (1..=u32::try_from(MAX_REPLICAS).unwrap()).map(|of| known(of, Some(1)));
        let name = "n".repeat(255);
        let terms = Terms { protocol: name.clone(), ..Terms::default() };
        let members = MemberId::all(MAX_REPLICAS).collect();
        let longest = PeerHello { cluster: name, terms, knows: all().collect(), members, ..peer() };
        let bytes = longest.encode();
        assert!(bytes.len() <= MAX_HELLO_BYTES, "{} bytes", bytes.len());
        assert_eq!(PeerHello::decode(&bytes), Ok(longest.clone()));
        let knows = all().chain(all().take(1)).collect();
        let more = PeerHello { knows, ..longest.clone() };
        assert_eq!(PeerHello::decode(&more.encode()), Err(Refusal::BadHello));
        let members = (1..=64).map(id).collect();
        let more = PeerHello { members, ..longest };
        assert_eq!(PeerHello::decode(&more.encode()), Err(Refusal::BadHello));
    }

    #[test]
    fn a_list_out_of_order_and_an_epoch_beyond_all_are_refused() {
        let bytes = peer().encode();
        let members = bytes.len() - 14;
        // The version, the kind, the cluster, two numbers, the presence and the origin.
        let epoch = 4 + 2 + 1 + 6 + 8 + 32 + 8;
        assert_eq!(bytes[epoch], 1, "here is the epoch");
        let twice = [bytes[members..members + 4].to_vec(), bytes[members..members + 8].to_vec()];
        let (twice, none, beyond) = (twice.concat(), vec![0; 4], vec![2, 0, 0, 0, 1]);
        for (at, what) in [(members, twice), (members, none), (epoch, beyond)] {
            let mut bytes = bytes.clone();
            bytes[at..at + what.len()].copy_from_slice(&what);
            assert_eq!(PeerHello::decode(&bytes), Err(Refusal::BadHello), "{what:?}");
        }
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense() {
        let mut bytes = peer().encode();
        bytes[4] = 9;
        assert_eq!(PeerHello::decode(&bytes), Err(Refusal::Version { theirs: 9 }));
        bytes[0] = b'x';
        assert_eq!(PeerHello::decode(&bytes), Err(Refusal::BadHello));
    }

    #[test]
    fn damaged_hellos_are_refused_or_say_something_else() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let client = client(peer().to, "eve");
        let (mut accepted, mut refused) = (0, 0);
        for round in 0..1_000_000 {
            let as_peer = round % 2 == 0;
            let mut bytes = if as_peer { peer().encode() } else { client.encode() }.to_vec();
            for _ in 0..rng.random_range(1..=2) {
                let at = rng.random_range(0..=bytes.len());
                match rng.random_range(0..4) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
                    1 if at < bytes.len() => bytes[at] = rng.random(),
                    2 => bytes.insert(at, rng.random()),
                    _ => bytes.truncate(at),
                }
            }
            let again = match as_peer {
                true => PeerHello::decode(&bytes).map(|hello| hello.encode()),
                false => ClientHello::decode(&bytes).map(|hello| hello.encode()),
            };
            match again {
                // Bytes after the known fields belong to a later version. A memory counts only if
                // its flag is set.
                Ok(again) => {
                    // The last two bytes may be missing.
                    let length = again.len() - 2;
                    assert!(
                        bytes.len() >= length && (as_peer || bytes.starts_with(&again[..length]))
                    );
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
    }
}
