//! Ids of replicas, instances, clients and requests.

use std::fmt;
use std::str::FromStr;

/// The largest cluster. The limit comes from replica sets, which are 64-bit masks.
pub const MAX_REPLICAS: usize = 63;

/// A position in one owner's sequence of instances; the first is 1, and 0 means "none".
pub type Slot = u64;

/// No owner reaches this slot. Messages with a higher one are refused.
pub const MAX_SLOT: Slot = 1 << 60;

/// The number of a replica within its cluster: 1, 2, … n.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(u8);

impl ReplicaId {
    /// The replica with this number, or `None` unless it is between 1 and [`MAX_REPLICAS`].
    pub const fn new(number: u8) -> Option<ReplicaId> {
        if number >= 1 && number as usize <= MAX_REPLICAS { Some(ReplicaId(number)) } else { None }
    }

    /// The replica at a zero-based index; the inverse of [`ReplicaId::index`].
    ///
    /// # Panics
    /// If `index` is not below [`MAX_REPLICAS`].
    pub fn from_index(index: usize) -> ReplicaId {
        assert!(index < MAX_REPLICAS, "a replica index is below MAX_REPLICAS");
        ReplicaId(u8::try_from(index + 1).expect("MAX_REPLICAS fits a byte"))
    }

    /// The replica's number, from 1.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The replica's zero-based index in vectors with one entry per replica.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// All replicas of a cluster of `n`, in order.
    pub fn all(n: usize) -> impl DoubleEndedIterator<Item = ReplicaId> + Clone {
        (0..n).map(ReplicaId::from_index)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An instance of consensus: the `slot`-th that `replica` owns. Shown as `r2.17`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The owner: the only replica that may propose a command here.
    pub replica: ReplicaId,
    /// The owner's sequence number, from 1.
    pub slot: Slot,
}

impl InstanceId {
    /// The owner under which the slots of a single sequence are stored; no replica owns them.
    pub const LOG: ReplicaId = ReplicaId(1);

    /// The `slot`-th instance of `replica`.
    pub const fn new(replica: ReplicaId, slot: Slot) -> InstanceId {
        InstanceId { replica, slot }
    }

    /// The order inside one component: by slot, then by owner (PROTOCOL.md §6).
    pub const fn execution_key(self) -> (Slot, ReplicaId) {
        (self.slot, self.replica)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.replica, self.slot)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client session. The client chooses it once, at random: two live sessions never share one.
///
/// The upper 24 bits tell whose session it is: each name in a certificate has a *share* of 2^40
/// ids, found by hashing the name. Replicas refuse a network client that uses an id of another
/// share. (Two names may hash to one share, one pair in 16 million; each would still have to guess
/// the other's 40 bits.) The first share and the last are for callers in a replica's process: the
/// first for ids that they choose, the last for ids that are drawn. No name has either share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// The cluster itself. Its commands end eras ([`Era::end`](super::Era::end)) and close what
    /// sessions have finished ([`Era::close`](super::Era::close)). No client uses it.
    pub const CLUSTER: ClientId = ClientId(u64::MAX);
    /// The commands that change the list of members ([`Membership`](super::Membership)). No
    /// client's.
    #[doc(hidden)]
    pub const MEMBERS: ClientId = ClientId(u64::MAX - 1);

    /// Whether only replicas propose under this id.
    pub const fn is_internal(self) -> bool {
        self.0 >= ClientId::MEMBERS.0
    }

    /// How many bits number the sessions of one share.
    const SHARE_BITS: u32 = 40;
    /// The last share.
    const DRAWN: u64 = u64::MAX >> ClientId::SHARE_BITS;

    /// A session of the client with this name in its certificate; uses the lower 40 bits of
    /// `random`.
    pub fn of(name: &str, random: u64) -> ClientId {
        ClientId(share(name) << ClientId::SHARE_BITS | within_share(random))
    }

    /// Whether a session may be used by the client with this name.
    pub fn belongs_to(self, name: &str) -> bool {
        self.0 >> ClientId::SHARE_BITS == share(name)
    }

    /// A session of a caller in a replica's process; uses the lower 40 bits of `random`.
    pub fn local(random: u64) -> ClientId {
        let id = ClientId::DRAWN << ClientId::SHARE_BITS | within_share(random);
        // The last two ids are the cluster's.
        ClientId(id.min(ClientId::MEMBERS.0 - 1))
    }
}

/// The share of a client's name. It must be the same in all versions of clients and replicas.
fn share(name: &str) -> u64 {
    // Never the first or the last share.
    1 + xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % (ClientId::DRAWN - 1)
}

fn within_share(random: u64) -> u64 {
    random & ((1 << ClientId::SHARE_BITS) - 1)
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:x}", self.0)
    }
}

/// Identifies a command, so that it is executed exactly once: a retry carries the same id, at any
/// replica. Shown as `c1f#17`: the session in hexadecimal digits, and the sequence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The session.
    pub client: ClientId,
    /// The session's number of the command, from 1; never reused for another command.
    pub sequence: u64,
}

impl RequestId {
    /// The `sequence`-th command of `client`.
    pub const fn new(client: ClientId, sequence: u64) -> RequestId {
        RequestId { client, sequence }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.client, self.sequence)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a request id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a request is a session and a sequence from 1, as in c1f#17")]
pub struct UnknownRequest;

impl FromStr for RequestId {
    type Err = UnknownRequest;

    /// The inverse of `to_string`.
    fn from_str(text: &str) -> Result<RequestId, UnknownRequest> {
        let (client, sequence) =
            text.strip_prefix('c').and_then(|it| it.split_once('#')).ok_or(UnknownRequest)?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let client = u64::from_str_radix(client, 16).ok().filter(|_| plain(client));
        let sequence = sequence.parse().ok().filter(|it| *it > 0 && plain(sequence));
        match (client, sequence) {
            (Some(client), Some(sequence)) => Ok(RequestId::new(ClientId(client), sequence)),
            _ => Err(UnknownRequest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_one_and_stay_in_range() {
        assert_eq!(ReplicaId::new(0), None);
        assert_eq!(ReplicaId::new(64), None);
        let last = ReplicaId::new(63).expect("the largest number");
        assert_eq!(ReplicaId::from_index(last.index()), last);
    }

    #[test]
    fn a_request_is_read_as_it_is_shown() {
        for request in [RequestId::new(ClientId(0x1f), 17), RequestId::new(ClientId(u64::MAX), 1)] {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        for text in ["", "c1f", "1f#1", "c#1", "c1f#0", "c1f#", "c+1#1", "c1#+1", "c1#-1", "cg#1"] {
            assert_eq!(text.parse::<RequestId>(), Err(UnknownRequest), "{text}");
        }
    }

    #[test]
    fn a_session_belongs_to_one_name_and_never_to_callers_in_the_process() {
        let names = (0..10_000).map(|number| format!("client-{number}"));
        for name in names {
            for random in [0, 7, u64::MAX] {
                let id = ClientId::of(&name, random);
                assert!(id.belongs_to(&name) && !id.belongs_to("somebody"), "{name} {id:?}");
                assert!(!ClientId(random & 0xff_ffff_ffff).belongs_to(&name));
                assert!(!ClientId::local(random).belongs_to(&name));
            }
        }
        assert_eq!(ClientId::of("alice", 0x1_0000_0000_0005), ClientId(0x1d_f969 << 40 | 5));
        assert_eq!(ClientId::local(u64::MAX), ClientId(u64::MAX - 2));
    }

    #[test]
    fn components_run_by_slot_then_owner() {
        let id = |r, s| InstanceId::new(ReplicaId::from_index(r), s);
        let mut ids = [id(0, 2), id(1, 1), id(0, 1)];
        ids.sort_by_key(|id| id.execution_key());
        assert_eq!(ids, [id(0, 1), id(1, 1), id(0, 2)]);
    }
}
