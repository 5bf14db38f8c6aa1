//! The protocols by name, as in settings, on the command line and in reports.

use std::fmt;
use std::str::FromStr;

use super::Protocol as _;
use super::epaxos::EPaxos;
use super::fast_paxos::FastPaxos;
use super::multipaxos::MultiPaxos;
use super::paxos::Paxos;

/// One of the protocols that replicas can run. All replicas of a cluster run the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum ProtocolKind {
    /// EPaxos*: no leader, one round trip to a fast quorum unless commands conflict.
    #[default]
    EPaxos,
    /// Multi-Paxos: a stable leader, one round trip from it to a majority.
    MultiPaxos,
    /// Fast Paxos: every replica proposes to a fast quorum; a coordinator resolves collisions.
    FastPaxos,
    /// Paxos as first published: one slot at a time, two round trips each, any proposer.
    Paxos,
}

impl ProtocolKind {
    /// All of them.
    pub const ALL: &'static [ProtocolKind] = &[
        ProtocolKind::EPaxos,
        ProtocolKind::MultiPaxos,
        ProtocolKind::FastPaxos,
        ProtocolKind::Paxos,
    ];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            ProtocolKind::EPaxos => EPaxos::NAME,
            ProtocolKind::MultiPaxos => MultiPaxos::NAME,
            ProtocolKind::FastPaxos => FastPaxos::NAME,
            ProtocolKind::Paxos => Paxos::NAME,
        }
    }
}

impl fmt::Display for ProtocolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ProtocolKind {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<ProtocolKind, UnknownProtocol> {
        let found = ProtocolKind::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| UnknownProtocol(name.to_owned()))
    }
}

/// No protocol has this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownProtocol(String);

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no protocol {:?}; there are", self.0)?;
        let mut comma = "";
        for kind in ProtocolKind::ALL {
            write!(f, "{comma} {:?}", kind.name())?;
            comma = ",";
        }
        Ok(())
    }
}

impl std::error::Error for UnknownProtocol {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_its_protocol() {
        for kind in ProtocolKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
        assert_eq!(ProtocolKind::default().name(), "epaxos");
    }

    #[test]
    fn a_wrong_name_is_told_the_right_ones() {
        let error = "raft".parse::<ProtocolKind>().expect_err("there is none");
        let said = error.to_string();
        assert!(ProtocolKind::ALL.iter().all(|kind| said.contains(kind.name())), "{said}");
    }
}
