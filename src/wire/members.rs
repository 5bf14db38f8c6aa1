//! What a replica tells a client of the cluster's members.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::values::put_varint;
use super::{DecodeError, Flaw, Reader, Wire};
pub use crate::replica::epochs::Role;
use crate::types::{MAX_REPLICAS, Member, MemberId, Membership};

/// The members of a cluster, as one replica knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Members {
    /// The replica.
    pub replica: MemberId,
    /// What it is to the cluster.
    pub role: Role,
    /// The present list; for a removed replica the one that removed it, and `None` for one that has
    /// heard of none.
    pub list: Option<Membership>,
    /// The members that are known to take part. A new one is not among them until it has the state.
    pub begun: Vec<MemberId>,
    /// The members that the replica reaches, itself included.
    pub reached: Vec<MemberId>,
    /// How much of another replica's state has arrived, in bytes, and the length of all of it,
    /// while the replica waits for that.
    pub receiving: Option<(u64, u64)>,
    /// For each observer that the replica has heard lately, how many decisions it is behind. An
    /// observer knows that of itself alone.
    pub behind: Vec<(MemberId, u64)>,
}

impl Members {
    /// What `replica` knows when it knows of no members.
    pub fn unknown(replica: MemberId, role: Role) -> Members {
        let (begun, reached, behind) = (Vec::new(), Vec::new(), Vec::new());
        Members { replica, role, list: None, begun, reached, receiving: None, behind }
    }

    /// Without observers, the encoding is that of a version that knew none.
    fn has_observers(&self) -> bool {
        self.list.as_ref().is_some_and(|list| !list.observers().is_empty())
    }
}

/// A line for each member.
impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(list) = &self.list else {
            return write!(f, "{} waits to be made a member", self.replica);
        };
        write!(f, "epoch {}, as {} sees it", list.epoch(), self.replica)?;
        for Member { id, address, .. } in list.members() {
            let part = if self.begun.contains(id) { "takes part" } else { "gets ready" };
            let reach = if self.reached.contains(id) { "" } else { ", not reached" };
            write!(f, "\n{id}  {address}  {part}{reach}")?;
        }
        for Member { id, address, .. } in list.observers() {
            write!(f, "\n{id}  {address}  observes, ")?;
            match self.behind.iter().find(|(of, _)| of == id) {
                Some((_, behind)) => write!(f, "{behind} decisions behind")?,
                None => write!(f, "not heard by {}", self.replica)?,
            }
        }
        Ok(())
    }
}

impl Wire for Role {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Role::Member => 1,
            Role::Joining => 2,
            Role::Removed => 3,
            Role::Stranger => 4,
            Role::Observer => 5,
        });
    }

    fn decode(from: &mut Reader<'_>) -> Result<Role, DecodeError> {
        let start = from.offset();
        match from.byte("a role")? {
            1 => Ok(Role::Member),
            2 => Ok(Role::Joining),
            3 => Ok(Role::Removed),
            4 => Ok(Role::Stranger),
            5 => Ok(Role::Observer),
            kind => from.refuse(start, Flaw::Kind { what: "a role", kind }),
        }
    }
}

impl Wire for Members {
    fn encode(&self, out: &mut BytesMut) {
        self.replica.encode(out);
        self.role.encode(out);
        self.list.encode(out);
        self.begun.encode(out);
        self.reached.encode(out);
        self.receiving.encode(out);
        if self.has_observers() {
            put_varint(out, self.behind.len() as u64);
            for (observer, behind) in &self.behind {
                observer.encode(out);
                behind.encode(out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Members, DecodeError> {
        let mut members = Members {
            replica: from.read()?,
            role: from.read()?,
            list: from.read()?,
            begun: from.read()?,
            reached: from.read()?,
            receiving: from.read()?,
            behind: Vec::new(),
        };
        if members.has_observers() {
            for _ in 0..from.count("observers", MAX_REPLICAS, 2)? {
                members.behind.push((from.read()?, from.read()?));
            }
        }
        Ok(members)
    }
}
