//! The encoding of a list: of records, snapshots, messages and the commands that change it.

use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BadMembership, Member, MemberId, Membership};
use crate::types::Address;

/// The encoded form of a list without observers. With observers, they follow.
#[derive(Serialize, Deserialize)]
struct Encoded {
    epoch: u32,
    highest: u32,
    members: Vec<Place>,
}

/// A number, an address and a directory.
type Place = (u32, String, u64);

impl Membership {
    /// The first byte of the encoding of a list without observers. Replicas that disagree on what
    /// an encoding says would end an epoch at different times, so they must never be in one
    /// cluster: another version of this needs another version of the protocol between peers.
    pub(super) const VERSION: u8 = 1;
    /// The first byte of the encoding of a list with observers.
    pub(super) const OBSERVED: u8 = 2;

    /// The longest encoding, in bytes.
    pub const MAX_BYTES: usize = 32 << 10;

    /// Its encoding.
    pub fn to_bytes(&self) -> Bytes {
        let places = |list: &[Member]| -> Vec<Place> {
            list.iter().map(|it| (it.id.0, it.address.to_string(), it.directory)).collect()
        };
        let (epoch, highest) = (self.epoch, self.highest.0);
        let encoded = Encoded { epoch, highest, members: places(&self.members) };
        let bytes = match &self.observers[..] {
            [] => postcard::to_extend(&encoded, vec![Membership::VERSION]),
            some => postcard::to_extend(&(encoded, places(some)), vec![Membership::OBSERVED]),
        };
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
        let wrong = |_| BadMembership("it cannot be decoded");
        let ((encoded, observers), rest): ((Encoded, Vec<Place>), _) = match *version {
            Membership::VERSION => {
                let (encoded, rest) = postcard::take_from_bytes(bytes).map_err(wrong)?;
                ((encoded, Vec::new()), rest)
            }
            Membership::OBSERVED => postcard::take_from_bytes(bytes).map_err(wrong)?,
            _ => return Err(BadMembership("another version wrote it")),
        };
        if !rest.is_empty() {
            return Err(BadMembership("more follows it"));
        }
        if *version == Membership::OBSERVED && observers.is_empty() {
            return Err(BadMembership("it has no observers, and says that it has"));
        }
        let number = |number| MemberId::new(number).ok_or(BadMembership("a number is 0"));
        let read = |places: Vec<Place>| {
            let members = places.into_iter().map(|(id, address, directory)| {
                Ok(Member { id: number(id)?, address: Membership::address(&address)?, directory })
            });
            let members = members.collect::<Result<Vec<_>, _>>()?;
            match members.is_sorted_by_key(|member| member.id) {
                true => Ok(members),
                false => Err(BadMembership("it is out of order")),
            }
        };
        Membership {
            epoch: encoded.epoch,
            members: read(encoded.members)?,
            observers: read(observers)?,
            highest: number(encoded.highest)?,
        }
        .checked()
    }
}
