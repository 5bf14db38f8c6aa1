//! The members of a cluster, and how one list of them follows another.
//!
//! A member has a number for life. Within an *epoch*, the time in which the list stays the same, it
//! also has a position: its place in the list, by number. Protocols know positions alone
//! ([`ReplicaId`]). An epoch ends with a command that changes the list: it conflicts with every
//! other command, so all replicas execute it after the same commands.

mod encoding;
#[cfg(test)]
mod tests;

use std::fmt;

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

/// The list of members of one epoch, and of its observers. An *observer* has a number, an address
/// and a directory as a member has. It has no vote and no position: it follows what the members
/// execute, and answers local reads. Nothing waits for it.
///
/// Invariants:
///
/// 1. There is at least one member, and with the observers at most [`MAX_REPLICAS`]. Both are in
///    the order of their numbers, and no number is there twice.
/// 2. `highest` is the highest number that any member or observer has had in this epoch or an
///    earlier one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    epoch: u32,
    members: Vec<Member>,
    observers: Vec<Member>,
    highest: MemberId,
}

/// A change of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new member joins.
    Add(Member),
    /// A new observer joins.
    Observe(Member),
    /// An observer becomes a member, under its number.
    Promote(MemberId),
    /// A member or an observer leaves for good.
    Remove(MemberId),
    /// A new member takes the place of one that leaves for good, in one step; a new observer that
    /// of an observer.
    Replace {
        /// Who leaves.
        old: MemberId,
        /// Who joins.
        new: Member,
    },
    /// A member or an observer is reached elsewhere from now on.
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
    #[error("a cluster has at most {MAX_REPLICAS} members, observers included")]
    TooMany,
    /// It has a vote already.
    #[error("{0} is a member already, with a vote")]
    NoObserver(MemberId),
    /// The number of epochs is used up.
    #[error("the list of members was changed too often")]
    NoEpoch,
}

/// The members' numbers, then those of the observers.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, member) in self.members.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, member.id)?;
        }
        for (index, observer) in self.observers.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "; observers " } else { ", " }, observer.id)?;
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

impl Membership {
    /// The list that a cluster begins with, in any order.
    ///
    /// # Errors
    /// [`BadMembership`] if it is empty or too long, or if two members share a number.
    pub fn first(members: Vec<Member>) -> Result<Membership, BadMembership> {
        let highest = members.iter().map(|member| member.id).max();
        let highest = highest.ok_or(BadMembership("there is no member"))?;
        Membership { epoch: 0, members, observers: Vec::new(), highest }.checked()
    }

    fn checked(mut self) -> Result<Membership, BadMembership> {
        self.members.sort_by_key(|member| member.id);
        self.observers.sort_by_key(|observer| observer.id);
        if self.members.is_empty() {
            return Err(BadMembership("there is no member"));
        }
        if self.members.len() + self.observers.len() > MAX_REPLICAS {
            return Err(BadMembership("there are too many members"));
        }
        let mut numbers: Vec<MemberId> = self.all().map(|member| member.id).collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(BadMembership("two members have one number"));
        }
        if numbers.last().is_some_and(|last| *last > self.highest) {
            return Err(BadMembership("a member has a number above the highest"));
        }
        Ok(self)
    }

    /// How many times the list was changed.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The highest number that any member or observer has had so far. The next one to join has a
    /// higher one.
    pub const fn highest(&self) -> MemberId {
        self.highest
    }

    /// The members, by number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The observers, by number.
    pub fn observers(&self) -> &[Member] {
        &self.observers
    }

    /// The members, then the observers.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(&self.observers)
    }

    /// Whether it is an observer.
    pub fn is_observer(&self, id: MemberId) -> bool {
        self.observers.binary_search_by_key(&id, |it| it.id).is_ok()
    }

    /// Whether the replica with this number and this data directory is an observer.
    pub fn is_observed_by(&self, id: MemberId, directory: u64) -> bool {
        let found = self.observers.binary_search_by_key(&id, |it| it.id);
        let named = found.map(|at| self.observers[at].directory);
        named.is_ok_and(|named| named == 0 || named == directory)
    }

    /// The place of an observer after the positions of the members, for what is sent to it. It is
    /// no position: nobody counts it.
    pub(crate) fn place_of_observer(&self, id: MemberId) -> Option<ReplicaId> {
        let found = self.observers.binary_search_by_key(&id, |it| it.id).ok()?;
        Some(ReplicaId::from_index(self.members.len() + found))
    }

    /// The member at a position, or the observer at a place after them.
    pub(crate) fn at_place(&self, place: ReplicaId) -> Option<MemberId> {
        Some(self.all().nth(place.index())?.id)
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
            Change::Add(member) => {
                next.admit(member)?;
                next.members.push(member.clone());
            }
            Change::Observe(observer) => {
                next.admit(observer)?;
                next.observers.push(observer.clone());
            }
            Change::Promote(id) => {
                if next.position(*id).is_some() {
                    return Err(BadChange::NoObserver(*id));
                }
                let (list, place) = next.find(*id)?;
                let observer = list.remove(place);
                next.members.push(observer);
                next.members.sort_by_key(|member| member.id);
            }
            Change::Remove(id) => {
                if next.members.len() == 1 && next.position(*id).is_some() {
                    return Err(BadChange::Last(*id));
                }
                let (list, place) = next.find(*id)?;
                list.remove(place);
            }
            Change::Replace { old, new } => {
                let is_observer = next.is_observer(*old);
                let (list, place) = next.find(*old)?;
                list.remove(place);
                next.admit(new)?;
                let list = if is_observer { &mut next.observers } else { &mut next.members };
                list.push(new.clone());
            }
            Change::Move { id, address } => {
                let others = next.all().filter(|it| it.id != *id);
                check_address(others, address)?;
                let (list, place) = next.find(*id)?;
                list[place].address = address.clone();
            }
        }
        Ok(next)
    }

    /// Where a member or an observer is.
    fn find(&mut self, id: MemberId) -> Result<(&mut Vec<Member>, usize), BadChange> {
        for list in [&mut self.members, &mut self.observers] {
            if let Ok(place) = list.binary_search_by_key(&id, |it| it.id) {
                return Ok((list, place));
            }
        }
        Err(BadChange::Unknown(id))
    }

    /// Uses up the number of a new member or observer.
    fn admit(&mut self, new: &Member) -> Result<(), BadChange> {
        let least = self.highest.0.checked_add(1).map(MemberId).ok_or(BadChange::TooMany)?;
        if new.id < least {
            return Err(BadChange::Used { given: new.id, least });
        }
        if self.members.len() + self.observers.len() == MAX_REPLICAS {
            return Err(BadChange::TooMany);
        }
        check_address(self.all(), &new.address)?;
        self.highest = new.id;
        Ok(())
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
}

/// Whether nobody of these is reached at `address`.
fn check_address<'a>(
    mut of: impl Iterator<Item = &'a Member>,
    address: &Address,
) -> Result<(), BadChange> {
    match of.find(|it| it.address == *address) {
        Some(at) => Err(BadChange::Taken { at: at.id, address: address.clone() }),
        None => Ok(()),
    }
}
