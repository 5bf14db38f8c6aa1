//! The bytes of an identity: the present version is written, and older ones are read. After
//! `identity`, whose file has them.

use std::collections::{BTreeMap, BTreeSet};

use super::{FILE, Identity, Met};
use crate::storage::StorageError;
use crate::types::{
    Began, Chain, LogPosition, MAX_LIVES, MAX_REPLICAS, MemberId, Membership, ReplicaId, ReplicaSet,
};

const MAGIC: [u8; 8] = *b"isonoiam";
const VERSION: u32 = 6;
/// The first version that stores the protocol, and the only protocol before it.
const PROTOCOL_SINCE: u32 = 4;
const BEFORE: &str = "epaxos";
/// The first version that stores the cluster's members and the directory's lives.
const LIVES_SINCE: u32 = 5;
/// The first version with members' numbers of four bytes, with replicas that joined, and with
/// replicas that were removed.
const WIDE_SINCE: u32 = 6;
/// The oldest version that can be read.
const OLDEST: u32 = 3;
/// The length of everything in the shortest version but the names, the lives, the members and the
/// replicas met.
const FIXED: usize = 45;
/// The longest name of a cluster in bytes.
const MAX_CLUSTER: usize = 1024;
/// The longest name of a protocol, including its length byte.
const MAX_PROTOCOL: usize = 256;
/// The number of a member.
const NUMBER: usize = 4;
/// A life and the position where it began.
const LIFE: usize = 16;
/// A replica that was met.
const MET: usize = NUMBER + 16;
/// The replicas met are bounded by their counter.
pub(super) const LONGEST: usize = FIXED
    + MAX_CLUSTER
    + MAX_PROTOCOL
    + NUMBER * MAX_REPLICAS
    + LIFE * MAX_LIVES
    + MET * 255
    + Membership::MAX_BYTES
    + 16;

/// The bytes of an identity.
pub(super) fn encode(identity: &Identity) -> Vec<u8> {
    let length = u16::try_from(identity.cluster.len()).ok();
    let length = length.filter(|length| usize::from(*length) <= MAX_CLUSTER);
    let length = length.expect("a cluster's name has at most 1024 bytes");
    let mut bytes = Vec::with_capacity(FIXED + identity.cluster.len() + MET * identity.met.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(identity.directory.to_le_bytes());
    bytes.extend(identity.incarnation.to_le_bytes());
    bytes.extend(identity.origin.to_le_bytes());
    bytes.extend(identity.replica.number().to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(identity.cluster.as_bytes());
    let length = u8::try_from(identity.protocol.len());
    bytes.push(length.expect("a protocol's name has at most 255 bytes"));
    bytes.extend(identity.protocol.as_bytes());
    bytes.push(identity.outcast.into());
    bytes.push(u8::try_from(identity.members.len()).expect("a cluster has at most 63 members"));
    for member in &identity.members {
        bytes.extend(member.number().to_le_bytes());
    }
    let lives = identity.chain.lives();
    bytes.extend(u16::try_from(lives.len()).expect("a chain is bounded").to_le_bytes());
    for began in lives {
        bytes.extend(began.life.to_le_bytes());
        bytes.extend(began.at.records().to_le_bytes());
    }
    bytes.push(u8::try_from(identity.met.len()).expect("at most 255 are remembered"));
    for (peer, met) in &identity.met {
        bytes.extend(peer.number().to_le_bytes());
        bytes.extend(met.directory.to_le_bytes());
        bytes.extend(met.life.to_le_bytes());
    }
    bytes.push(identity.joins.into());
    let removed = identity.removed.as_ref().map(Membership::to_bytes).unwrap_or_default();
    let length = u16::try_from(removed.len()).expect("a list has at most 32 KiB");
    bytes.extend(length.to_le_bytes());
    bytes.extend(&removed);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The identity in these bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<Identity, StorageError> {
    let damaged = |offset: usize, what| StorageError::damaged(FILE, offset as u64, what);
    if bytes.len() < FIXED {
        return Err(damaged(bytes.len(), "the file ends here"));
    }
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    if body[..8] != MAGIC || crc32fast::hash(body).to_le_bytes() != *crc {
        return Err(damaged(0, "its checksum does not fit"));
    }
    let version = u32::from_le_bytes(body[8..12].try_into().expect("four bytes"));
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(StorageError::Format { file: FILE.into(), found: version, known: VERSION });
    }
    let [directory, incarnation, origin] = [12, 20, 28].map(|at| u64_at(body, at).unwrap_or(0));
    let mut from = Fields { left: &body[36..], version };
    // Where the field that cannot be read begins.
    let at = |from: &Fields<'_>| body.len() - from.left.len();
    let found = |at: usize, what| move || damaged(at, what);
    let replica = from.member().ok_or_else(found(36, "no replica's number"))?;
    let start = at(&from);
    let cluster = from.text::<2>().ok_or_else(found(start, "no cluster's name"))?;
    let start = at(&from);
    let protocol = match version < PROTOCOL_SINCE {
        true => BEFORE.to_owned(),
        false => {
            let name = from.text::<1>().filter(|name| !name.is_empty());
            name.ok_or_else(found(start, "no protocol's name"))?
        }
    };
    let start = at(&from);
    let outcast = from.flag().ok_or_else(found(start, "neither refused nor not"))?;
    let (mut members, mut chain) = (BTreeSet::new(), Chain::default());
    let start = at(&from);
    if version >= LIVES_SINCE {
        members = from.members().ok_or_else(found(start, "no list of members"))?;
        chain = from.chain().ok_or_else(found(start, "no chain of lives"))?;
    }
    let start = at(&from);
    let met = from.met().ok_or_else(found(start, "no list of replicas met"))?;
    let (mut joins, mut removed) = (false, None);
    let start = at(&from);
    if version >= WIDE_SINCE {
        joins = from.flag().ok_or_else(found(start, "neither joined nor not"))?;
        removed = from.removed().ok_or_else(found(start, "no list of members at its end"))?;
    }
    if !from.left.is_empty() {
        return Err(damaged(at(&from), "more follows the last field"));
    }
    Ok(Identity {
        cluster,
        protocol,
        members,
        joins,
        removed,
        replica,
        incarnation,
        directory,
        origin,
        outcast,
        chain,
        met,
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The fields that are left, of an identity of this version.
struct Fields<'a> {
    left: &'a [u8],
    version: u32,
}

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(bytes)?;
        self.left = left;
        Some(taken)
    }

    /// A number of `N` bytes, at most eight.
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let mut number = [0; 8];
        number[..N].copy_from_slice(self.take(N)?);
        Some(u64::from_le_bytes(number))
    }

    fn length<const N: usize>(&mut self) -> Option<usize> {
        usize::try_from(self.number::<N>()?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.number::<1>()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A text after its length, which has `N` bytes.
    fn text<const N: usize>(&mut self) -> Option<String> {
        let length = self.length::<N>()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn member(&mut self) -> Option<MemberId> {
        if self.version >= WIDE_SINCE {
            return MemberId::new(u32::try_from(self.number::<NUMBER>()?).ok()?);
        }
        let number = u8::try_from(self.number::<1>()?).ok()?;
        ReplicaId::new(number).map(MemberId::of)
    }

    fn members(&mut self) -> Option<BTreeSet<MemberId>> {
        if self.version < WIDE_SINCE {
            return self.number::<8>().map(of_bits);
        }
        let count = self.length::<1>()?;
        let members: BTreeSet<_> = (0..count).map(|_| self.member()).collect::<Option<_>>()?;
        (members.len() == count).then_some(members)
    }

    fn chain(&mut self) -> Option<Chain> {
        let count = self.length::<2>()?;
        let lives = self.take(count * LIFE)?.as_chunks::<LIFE>().0.iter();
        let began = lives.map(|life| {
            Some(Began { life: u64_at(life, 0)?, at: LogPosition::new(u64_at(life, 8)?) })
        });
        Chain::restored(began.collect::<Option<_>>()?)
    }

    /// An older version stored an incarnation instead of a life. It is meaningless for a replica
    /// that has a directory.
    fn met(&mut self) -> Option<BTreeMap<MemberId, Met>> {
        let count = self.length::<1>()?;
        let lives = self.version >= LIVES_SINCE;
        let met = (0..count).map(|_| {
            let (peer, directory) = (self.member()?, self.number::<8>()?);
            let life = self.number::<8>()?;
            let life = if lives || directory == 0 { life } else { 0 };
            Some((peer, Met { directory, life }))
        });
        let met: BTreeMap<_, _> = met.collect::<Option<_>>()?;
        (met.len() == count).then_some(met)
    }

    /// The list by which the replica was removed; none if it has no bytes.
    fn removed(&mut self) -> Option<Option<Membership>> {
        let length = self.length::<2>()?;
        match self.take(length)? {
            [] => Some(None),
            list => Membership::from_bytes(list).ok().map(Some),
        }
    }
}

fn of_bits(members: u64) -> BTreeSet<MemberId> {
    ReplicaSet::from_bits(members).iter().map(MemberId::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::member_id as member;

    fn identity() -> Identity {
        Identity {
            cluster: "blue".into(),
            protocol: "multi-paxos".into(),
            replica: member(2),
            incarnation: 5,
            directory: 77,
            origin: 9,
            outcast: true,
            members: MemberId::all(3).collect(),
            joins: false,
            removed: None,
            chain: chain(),
            met: [(member(3), Met { directory: 3, life: 4 })].into(),
        }
    }

    fn chain() -> Chain {
        let mut chain = Chain::default();
        chain.begin(11, LogPosition::new(0));
        chain.begin(12, LogPosition::new(40));
        chain
    }

    /// The bytes that an older version wrote.
    fn before(identity: &Identity, version: u32) -> Vec<u8> {
        let small = |member: MemberId| u8::try_from(member.number()).expect("it is small");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        for number in [identity.directory, identity.incarnation, identity.origin] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(small(identity.replica));
        bytes.extend(u16::try_from(identity.cluster.len()).expect("short").to_le_bytes());
        bytes.extend(identity.cluster.as_bytes());
        if version >= PROTOCOL_SINCE {
            bytes.push(u8::try_from(identity.protocol.len()).expect("short"));
            bytes.extend(identity.protocol.as_bytes());
        }
        bytes.push(identity.outcast.into());
        if version >= LIVES_SINCE {
            let bits = identity.members.iter().map(|it| 1u64 << (it.number() - 1)).sum::<u64>();
            bytes.extend(bits.to_le_bytes());
            let lives = identity.chain.lives();
            bytes.extend(u16::try_from(lives.len()).expect("few").to_le_bytes());
            for began in lives {
                bytes.extend(began.life.to_le_bytes());
                bytes.extend(began.at.records().to_le_bytes());
            }
        }
        bytes.push(u8::try_from(identity.met.len()).expect("few"));
        for (peer, met) in &identity.met {
            bytes.push(small(*peer));
            bytes.extend(met.directory.to_le_bytes());
            bytes.extend(met.life.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn list() -> Membership {
        let member = |id: MemberId| {
            let address = format!("10.0.0.{}:7400", id.number()).parse().expect("an address");
            crate::types::Member { id, address, directory: 0 }
        };
        Membership::first(MemberId::all(3).map(member).collect()).expect("a list")
    }

    #[test]
    fn an_identity_is_read_as_it_was_written_and_no_part_of_it_is() {
        let far = member(70_000);
        let joined = Identity {
            replica: far,
            members: [member(1), far].into(),
            joins: true,
            removed: Some(list()),
            met: [(member(300), Met { directory: 3, life: 0 })].into(),
            ..identity()
        };
        for identity in [identity(), joined] {
            let bytes = encode(&identity);
            assert_eq!(decode(&bytes).expect("it is whole"), identity);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn the_version_with_numbers_of_one_byte_is_read() {
        assert_eq!(decode(&before(&identity(), 5)).expect("it is whole"), identity());
    }

    #[test]
    fn before_there_was_a_choice_it_was_epaxos() {
        let met = [(member(3), Met { directory: 3, life: 0 })].into();
        let (members, chain) = (BTreeSet::new(), Chain::default());
        let known = Identity { members, chain, met, ..identity() };
        assert_eq!(decode(&before(&identity(), 4)).expect("it is whole"), known);
        let expected = Identity { protocol: "epaxos".into(), ..known };
        assert_eq!(decode(&before(&identity(), 3)).expect("it is whole"), expected);
        expected.check_members(&MemberId::all(5).collect()).expect("it takes the list it is given");
    }

    #[test]
    fn a_later_version_and_a_protocol_without_a_name_are_refused() {
        let mut bytes = encode(&identity());
        bytes.truncate(bytes.len() - 4);
        bytes[8] = 9;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let later = decode(&bytes);
        assert!(matches!(later, Err(StorageError::Format { found: 9, .. })), "{later:?}");
        let nameless = encode(&Identity { protocol: String::new(), ..identity() });
        assert!(matches!(decode(&nameless), Err(StorageError::Damaged { .. })));
    }

    #[test]
    fn other_terms_are_told_apart_from_another_replica() {
        let (identity, ours) = (identity(), member(2));
        let same = identity.check("blue", ours);
        assert!(matches!(same, Err(StorageError::Outcast)), "{same:?}");
        let removed = Identity { removed: Some(list()), ..identity.clone() };
        let said = removed.check("blue", ours).expect_err("its number is used up").to_string();
        assert!(said.contains("removed") && said.contains("r1, r2, r3"), "{said}");
        let foreign = identity.check("red", ours);
        assert!(matches!(foreign, Err(StorageError::Foreign { .. })), "{foreign:?}");
        identity.check_protocol("multi-paxos").expect("the same");
        identity.check_members(&MemberId::all(3).collect()).expect("the same");
        let other = identity.check_protocol("epaxos").expect_err("a protocol");
        let said = other.to_string();
        assert!(said.contains("\"multi-paxos\"") && said.contains("\"epaxos\""), "{said}");
        let other = identity.check_members(&MemberId::all(5).collect()).expect_err("a list");
        let said = other.to_string();
        assert!(said.contains("replicas 1, 2, 3") && said.contains("1, 2, 3, 4, 5"), "{said}");
    }
}
