//! The members of a cluster, and how one list of them follows another.
//!
//! A member has a number for life. Within an *epoch*, the time in which the list stays the same, it
//! also has a position: its place in the list, by number. Protocols know positions alone
//! ([`ReplicaId`]). An epoch ends with a command that changes the list: it conflicts with every
//! other command, so all replicas execute it after the same commands.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Address, ClientId, Command, Footprint, MAX_REPLICAS, ReplicaId, RequestId};

/// The number of a member, from 1. No two members of a cluster ever have the same, not even one
/// after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(u32);

impl MemberId {
    /// The member with this number; `None` for 0.
    pub const fn new(number: u32) -> Option<MemberId> {
        if number > 0 { Some(MemberId(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The members of a cluster that begins with `n`, in order.
    pub fn all(n: usize) -> impl DoubleEndedIterator<Item = MemberId> + Clone {
        ReplicaId::all(n).map(MemberId::of)
    }

    /// The member at a position in the list that a cluster begins with: its members are numbered
    /// from 1 without a gap.
    pub fn of(position: ReplicaId) -> MemberId {
        MemberId(position.number().into())
    }

    /// Its position in the list that a cluster begins with; the inverse of [`MemberId::of`]. `None`
    /// if no such list is long enough.
    pub fn position(self) -> Option<ReplicaId> {
        u8::try_from(self.0).ok().and_then(ReplicaId::new)
    }
}

/// The member with this number, for tests and simulations.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn member_id(number: u32) -> MemberId {
    MemberId::new(number).expect("not 0")
}

impl std::str::FromStr for MemberId {
    type Err = &'static str;

    /// Its number, with or without the `r` before it.
    fn from_str(text: &str) -> Result<MemberId, &'static str> {
        let number = text.strip_prefix('r').unwrap_or(text).parse().ok();
        number.and_then(MemberId::new).ok_or("a member's number is a whole number from 1 on")
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member, and where it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number.
    pub id: MemberId,
    /// Where the other members reach it.
    pub address: Address,
    /// The data directory that has the number, or the life of a replica that keeps its records in
    /// memory: of two machines that were given one number, a single one is the member. 0 in the
    /// list that a cluster begins with: there, whoever comes first is.
    pub directory: u64,
}

/// The list of members of one epoch.
///
/// Invariants:
///
/// 1. There is at least one member, and at most [`MAX_REPLICAS`]; they are in the order of their
///    numbers, each once.
/// 2. `highest` is the highest number that any member has had in this epoch or an earlier one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    epoch: u32,
    members: Vec<Member>,
    highest: MemberId,
}

/// A change of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new member joins.
    Add(Member),
    /// A member leaves for good.
    Remove(MemberId),
    /// A new member takes the place of one that leaves for good, in one step.
    Replace {
        /// Who leaves.
        old: MemberId,
        /// Who joins.
        new: Member,
    },
    /// A member is reached elsewhere from now on.
    Move {
        /// Who.
        id: MemberId,
        /// Where.
        address: Address,
    },
}

/// Why a list cannot be changed so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadChange {
    /// There is no such member.
    #[error(
        "the cluster has no member {}: `isonomy member list` shows those that it has",
        .0.number()
    )]
    Unknown(MemberId),
    /// The number was used before.
    #[error(
        "the number {} is used or was used: a new member gets {} or higher",
        given.number(), least.number()
    )]
    Used {
        /// The number given.
        given: MemberId,
        /// The lowest that is free.
        least: MemberId,
    },
    /// Another member is reached there.
    #[error("member {} is reached at {address} already", at.number())]
    Taken {
        /// Who.
        at: MemberId,
        /// Where.
        address: Address,
    },
    /// There would be none.
    #[error("member {} is the only one: a cluster keeps at least one member", .0.number())]
    Last(MemberId),
    /// There would be too many.
    #[error("a cluster has at most {MAX_REPLICAS} members")]
    TooMany,
    /// The number of epochs is used up.
    #[error("the list of members was changed too often")]
    NoEpoch,
}

/// The members' numbers.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, member) in self.members.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, member.id)?;
        }
        Ok(())
    }
}

/// A list that breaks an invariant of [`Membership`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a list of members: {0}")]
pub struct BadMembership(&'static str);

impl BadMembership {
    /// An address cannot be parsed.
    pub const NO_ADDRESS: BadMembership = BadMembership("an address is none");
    /// The list is not of the epoch that it should be of.
    pub const OTHER_EPOCH: BadMembership = BadMembership("it is of another epoch");
}

/// The encoded form.
#[derive(Serialize, Deserialize)]
struct Encoded {
    epoch: u32,
    highest: u32,
    members: Vec<(u32, String, u64)>,
}

impl Membership {
    /// The first byte of an encoding. Replicas that disagree on what an encoding says would end an
    /// epoch at different times, so they must never be in one cluster: another version of this
    /// needs another version of the protocol between peers.
    const VERSION: u8 = 1;

    /// The longest encoding, in bytes.
    pub const MAX_BYTES: usize = 32 << 10;

    /// The list that a cluster begins with, in any order.
    ///
    /// # Errors
    /// [`BadMembership`] if it is empty or too long, or if two members share a number.
    pub fn first(members: Vec<Member>) -> Result<Membership, BadMembership> {
        let highest = members.iter().map(|member| member.id).max();
        let highest = highest.ok_or(BadMembership("there is no member"))?;
        Membership::checked(0, members, highest)
    }

    fn checked(
        epoch: u32,
        mut members: Vec<Member>,
        highest: MemberId,
    ) -> Result<Membership, BadMembership> {
        members.sort_by_key(|member| member.id);
        if members.is_empty() {
            return Err(BadMembership("there is no member"));
        }
        if members.len() > MAX_REPLICAS {
            return Err(BadMembership("there are too many members"));
        }
        if members.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(BadMembership("two members have one number"));
        }
        if members.iter().any(|member| member.id > highest) {
            return Err(BadMembership("a member has a number above the highest"));
        }
        Ok(Membership { epoch, members, highest })
    }

    /// How many times the list was changed.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The highest number that any member has had so far. The next one to join has a higher one.
    pub const fn highest(&self) -> MemberId {
        self.highest
    }

    /// The members, by number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never: there is at least one member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The position of a member in this epoch; `None` if it is not in the list.
    pub fn position(&self, member: MemberId) -> Option<ReplicaId> {
        let found = self.members.binary_search_by_key(&member, |it| it.id).ok()?;
        Some(ReplicaId::from_index(found))
    }

    /// The position of the member with this number and this data directory; `None` if it is not in
    /// the list, or if another directory has the number.
    pub fn position_of(&self, member: MemberId, directory: u64) -> Option<ReplicaId> {
        let position = self.position(member)?;
        let named = self.members[position.index()].directory;
        (named == 0 || named == directory).then_some(position)
    }

    /// The member at a position; `None` beyond the end of the list.
    pub fn at(&self, position: ReplicaId) -> Option<MemberId> {
        Some(self.members.get(position.index())?.id)
    }

    /// The list of the next epoch, after `change`.
    ///
    /// # Errors
    /// [`BadChange`] if this list cannot be changed so.
    pub fn after(&self, change: &Change) -> Result<Membership, BadChange> {
        let mut next = self.clone();
        next.epoch = self.epoch.checked_add(1).ok_or(BadChange::NoEpoch)?;
        match change {
            Change::Add(member) => next.add(member)?,
            Change::Remove(member) => next.remove(*member)?,
            Change::Replace { old, new } => {
                let place = next.place(*old)?;
                next.members.remove(place);
                next.add(new)?;
            }
            Change::Move { id, address } => {
                let place = next.place(*id)?;
                let mut member = next.members.remove(place);
                next.check_address(address)?;
                member.address = address.clone();
                next.members.insert(place, member);
            }
        }
        Ok(next)
    }

    fn place(&self, member: MemberId) -> Result<usize, BadChange> {
        let found = self.members.binary_search_by_key(&member, |it| it.id);
        found.map_err(|_| BadChange::Unknown(member))
    }

    fn add(&mut self, member: &Member) -> Result<(), BadChange> {
        let least = self.highest.0.checked_add(1).map(MemberId).ok_or(BadChange::TooMany)?;
        if member.id < least {
            return Err(BadChange::Used { given: member.id, least });
        }
        if self.members.len() == MAX_REPLICAS {
            return Err(BadChange::TooMany);
        }
        self.check_address(&member.address)?;
        self.highest = member.id;
        self.members.push(member.clone());
        Ok(())
    }

    fn remove(&mut self, member: MemberId) -> Result<(), BadChange> {
        let place = self.place(member)?;
        if self.members.len() == 1 {
            return Err(BadChange::Last(member));
        }
        self.members.remove(place);
        Ok(())
    }

    fn check_address(&self, address: &Address) -> Result<(), BadChange> {
        match self.members.iter().find(|it| it.address == *address) {
            Some(at) => Err(BadChange::Taken { at: at.id, address: address.clone() }),
            None => Ok(()),
        }
    }

    /// The command that ends the epoch before this one and begins this one. Of several that were
    /// proposed against one epoch, the first in execution order takes effect, and no other.
    pub fn command(&self, origin: ReplicaId) -> Command {
        Command {
            request: self.request(),
            floor: 0,
            origin,
            footprint: Footprint::Everything,
            payload: self.to_bytes(),
        }
    }

    /// The name of [`Membership::command`]. All that were proposed against one epoch share it.
    pub fn request(&self) -> RequestId {
        RequestId::new(ClientId::MEMBERS, u64::from(self.epoch))
    }

    /// The list that `command` begins an epoch with, if it ends `epoch`.
    ///
    /// # Errors
    /// [`BadMembership`] if the payload is no list of the next epoch. All replicas of a cluster
    /// find the same.
    pub fn begun_by(command: &Command, epoch: u32) -> Option<Result<Membership, BadMembership>> {
        let RequestId { client, sequence } = command.request;
        if client != ClientId::MEMBERS || sequence != u64::from(epoch) + 1 {
            return None;
        }
        let next = Membership::from_bytes(&command.payload);
        Some(next.and_then(|next| match next.epoch {
            it if u64::from(it) == sequence => Ok(next),
            _ => Err(BadMembership::OTHER_EPOCH),
        }))
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> Bytes {
        let members = self.members.iter();
        let members = members.map(|it| (it.id.0, it.address.to_string(), it.directory)).collect();
        let encoded = Encoded { epoch: self.epoch, highest: self.highest.0, members };
        let bytes = postcard::to_extend(&encoded, vec![Membership::VERSION]);
        Bytes::from(bytes.expect("numbers and texts have an encoding"))
    }

    /// The address in this text, which must be the one that the address is written as.
    ///
    /// # Errors
    /// [`BadMembership::NO_ADDRESS`].
    pub fn address(text: &str) -> Result<Address, BadMembership> {
        let address = Address::from_str(text).ok().filter(|address| address.to_string() == text);
        address.ok_or(BadMembership::NO_ADDRESS)
    }

    /// The list in an encoding.
    ///
    /// # Errors
    /// [`BadMembership`] if the bytes are no encoding of a list.
    pub fn from_bytes(bytes: &[u8]) -> Result<Membership, BadMembership> {
        if bytes.len() > Membership::MAX_BYTES {
            return Err(BadMembership("it is too long"));
        }
        let (version, bytes) = bytes.split_first().ok_or(BadMembership("it is empty"))?;
        if *version != Membership::VERSION {
            return Err(BadMembership("another version wrote it"));
        }
        let (encoded, rest): (Encoded, _) =
            postcard::take_from_bytes(bytes).map_err(|_| BadMembership("it cannot be decoded"))?;
        if !rest.is_empty() {
            return Err(BadMembership("more follows it"));
        }
        let number = |number| MemberId::new(number).ok_or(BadMembership("a number is 0"));
        let members = encoded.members.into_iter().map(|(id, address, directory)| {
            Ok(Member { id: number(id)?, address: Membership::address(&address)?, directory })
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        if !members.is_sorted_by_key(|member| member.id) {
            return Err(BadMembership("it is out of order"));
        }
        Membership::checked(encoded.epoch, members, number(encoded.highest)?)
    }
}

#[cfg(test)]
mod tests;
