//! The versions of every format, in one place. A connection uses the lower of the newest versions
//! that its two ends understand. A file is written in one version, and read in all that are listed.
//!
//! | format | where | written | read |
//! |---|---|---|---|
//! | hello | `mesh`, its preamble | 7 | 7 |
//! | frames between replicas | [`PEER_VERSIONS`] | as agreed | 2, 3 |
//! | frames of clients | [`CLIENT_VERSIONS`] | as agreed | 2, 3 |
//! | snapshot, sent or stored | `wire::SNAPSHOT_VERSIONS` | 2 | 1, 2 |
//! | record | `wire::RECORD_VERSION` | 1 | 1 |
//! | list of members | `types::Membership` | 1, or 2 if it has observers | 1, 2 |
//! | state, in a snapshot | `machine::Applier` | 4, or 5 if the machine has its own disk | 2 to 5 |
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
//! Version 3 of the frames between replicas is the first that is agreed on, so later versions need
//! not be known at both ends. It differs from version 2 where a list of members has observers.
//! Version 3 of the frames of clients adds backups.

use crate::types::Versions;

/// The versions of the frames between replicas.
pub const PEER_VERSIONS: Versions = Versions { oldest: 2, newest: 3 };
/// The version of a replica that knows observers.
pub const OBSERVERS: u8 = 3;
/// The versions of the frames between clients and replicas.
pub const CLIENT_VERSIONS: Versions = Versions { oldest: 2, newest: 3 };
/// The version in which a client can ask for a backup.
pub const BACKUPS: u8 = 3;
