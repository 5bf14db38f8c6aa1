//! What a replica tells a client that fetches a backup.

use bytes::{BufMut, BytesMut};

use super::{DecodeError, Reader, Wire};
use crate::types::{MemberId, Membership};

/// A snapshot that a replica has taken for a backup, and keeps for a while.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The replica.
    pub replica: MemberId,
    /// The name of the protocol that it runs.
    pub protocol: String,
    /// The members when it was taken.
    pub list: Membership,
    /// How many records of the replica's log it covers.
    pub position: u64,
    /// Its name: the hash of its bytes.
    pub snapshot: u64,
    /// Its length.
    pub bytes: u64,
}

impl Wire for Offer {
    fn encode(&self, out: &mut BytesMut) {
        self.replica.encode(out);
        self.protocol.encode(out);
        self.list.encode(out);
        self.position.encode(out);
        out.put_u64_le(self.snapshot);
        self.bytes.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Offer, DecodeError> {
        Ok(Offer {
            replica: from.read()?,
            protocol: from.read()?,
            list: from.read()?,
            position: from.read()?,
            snapshot: from.fixed("a snapshot")?,
            bytes: from.read()?,
        })
    }
}
