//! The versions of every format, in one place. A connection uses the lower of the newest versions
//! that its two ends understand. A file is written in one version, and read in all that are listed.
//!
//! | format | where | written | read |
//! |---|---|---|---|
//! | hello | `mesh`, its preamble | 7 | 7 |
//! | frames between replicas | [`PEER_VERSIONS`] | as agreed | 2, 3 |
//! | frames of clients | [`CLIENT_VERSIONS`] | as agreed | 2, 3 |
//! | snapshot, sent or stored | [`SNAPSHOT_VERSIONS`] | 2 | 1, 2 |
//! | record | [`RECORD_VERSION`](super::RECORD_VERSION) | 1 | 1 |
//! | list of members | `types::Membership` | 1 | 1 |
//! | state, in a snapshot | `machine::Applier` | 4 | 2, 3, 4 |
//! | identity | `storage::identity` | 6 | 3 to 6 |
//! | segment of the log | `storage::log` | 1 | 1 |
//! | file of a snapshot | `storage::snapshot` | 1 | 1 |
//! | backup | `node::backup` | 3 | 1, 2, 3 |
//!
//! A release understands every version that the release before it writes, so replicas and clients
//! of two neighbouring releases work together, and a newer replica opens the directory of an older
//! one. A format that is stored, or that one replica sends another without knowing who will read it
//! (a snapshot), takes two releases: the first reads the new version and writes the old one, the
//! second writes the new one. So an upgrade can be undone until the release after it is installed.
//!
//! Version 3 of the frames between replicas has the layout of version 2. It is the first that is
//! agreed on, so later versions need not be known at both ends. Version 3 of the frames of clients
//! adds backups.

use std::fmt;

/// The versions of a format that one end understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The lowest.
    pub oldest: u8,
    /// The highest.
    pub newest: u8,
}

/// The versions of the frames between replicas.
pub const PEER_VERSIONS: Versions = Versions { oldest: 2, newest: 3 };
/// The versions of the frames between clients and replicas.
pub const CLIENT_VERSIONS: Versions = Versions { oldest: 2, newest: 3 };
/// The versions of the snapshots that replicas send each other.
pub const SNAPSHOT_VERSIONS: Versions = Versions::only(super::SNAPSHOT_VERSION);
/// The version in which a client can ask for a backup.
pub const BACKUPS: u8 = 3;

impl Versions {
    /// One version.
    pub const fn only(version: u8) -> Versions {
        Versions { oldest: version, newest: version }
    }

    /// The version that two ends use; `None` if there is none that both understand.
    pub fn agreed(self, theirs: Versions) -> Option<u8> {
        let version = self.newest.min(theirs.newest);
        (version >= self.oldest.max(theirs.oldest)).then_some(version)
    }

    /// Whether this is one of them.
    pub const fn contain(self, version: u8) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_use_the_lower_of_their_newest_versions_if_both_understand_it() {
        let of = |oldest, newest| Versions { oldest, newest };
        for (ours, theirs, agreed) in [
            (of(2, 3), of(2, 3), Some(3)),
            (of(2, 3), of(2, 2), Some(2)),
            (of(2, 3), of(3, 4), Some(3)),
            (of(2, 3), of(1, 9), Some(3)),
            (of(2, 3), of(4, 5), None),
            (of(2, 2), of(3, 3), None),
        ] {
            assert_eq!(ours.agreed(theirs), agreed, "{ours} and {theirs}");
            assert_eq!(theirs.agreed(ours), agreed, "either end finds the same");
        }
        assert_eq!(of(2, 3).to_string(), "versions 2 to 3");
        assert_eq!(Versions::only(2).to_string(), "version 2");
    }
}
