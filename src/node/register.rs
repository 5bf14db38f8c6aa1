//! Whom a replica lets in: every peer is known by its data directory, for good, and by the newest
//! incarnation it was met in. A peer that comes with another directory, or from memory a second
//! time, has lost what it voted for; it must not vote again (reliability.md, "wiped disk").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tracing::error;

use super::shared::lock;
use crate::mesh::Refusal;
use crate::storage::{Disk, Identity, Life};
use crate::types::ReplicaId;

/// The peers met so far; kept on the disk, if there is one.
pub(super) struct Register {
    identity: Mutex<Identity>,
    disk: Option<Arc<dyn Disk>>,
}

impl Register {
    /// The register of a replica that keeps it in its directory.
    pub(super) fn on_disk(identity: Identity, disk: Arc<dyn Disk>) -> Register {
        Register { identity: Mutex::new(identity), disk: Some(disk) }
    }

    /// The register of a replica that keeps everything in memory.
    pub(super) fn in_memory(
        cluster: &str,
        protocol: &str,
        replica: ReplicaId,
        incarnation: u64,
    ) -> Register {
        let identity = Identity {
            cluster: cluster.to_owned(),
            protocol: protocol.to_owned(),
            replica,
            incarnation,
            directory: 0,
            origin: 0,
            outcast: false,
            met: BTreeMap::new(),
        };
        Register { identity: Mutex::new(identity), disk: None }
    }

    /// This replica's own life.
    pub(super) fn own(&self) -> Life {
        let identity = lock(&self.identity);
        Life { directory: identity.directory, incarnation: identity.incarnation }
    }

    /// The backup that its cluster was restored from; 0 if it began with nothing.
    pub(super) fn origin(&self) -> u64 {
        lock(&self.identity).origin
    }

    /// Whether a peer may connect in this life; noted before the answer. Blocks while the disk
    /// does.
    pub(super) fn admit(&self, peer: ReplicaId, life: Life) -> Result<(), Refusal> {
        let mut identity = lock(&self.identity);
        let known = identity.met.get(&peer).copied();
        judge(peer, known, life)?;
        if known == Some(life) {
            return Ok(());
        }
        match &self.disk {
            Some(disk) => identity.meet(&**disk, peer, life).map_err(|why| {
                error!(us = %identity.replica, %peer, %why, "cannot write down whom it meets");
                Refusal::NotNoted
            }),
            None => {
                identity.met.insert(peer, life);
                Ok(())
            }
        }
    }

    /// Notes that this replica was refused for good, as well as it can.
    pub(super) fn cast_out(&self) {
        let mut identity = lock(&self.identity);
        if let Some(disk) = &self.disk
            && let Err(why) = identity.cast_out(&**disk)
        {
            // The peers have written it down as well, and will refuse it again.
            error!(us = %identity.replica, %why, "cannot write down that it was refused");
        }
    }
}

/// The rule.
fn judge(id: ReplicaId, known: Option<Life>, theirs: Life) -> Result<(), Refusal> {
    let Some(known) = known else { return Ok(()) };
    if known.directory != theirs.directory {
        let (known, theirs) = (known.directory, theirs.directory);
        return Err(Refusal::OtherDirectory { id, known, theirs });
    }
    if known.directory == 0 && known.incarnation != theirs.incarnation {
        return Err(Refusal::Forgetful(id));
    }
    if theirs.incarnation < known.incarnation {
        let (theirs, seen) = (theirs.incarnation, known.incarnation);
        return Err(Refusal::StaleIncarnation { id, theirs, seen });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FaultyDisk, Operation, Store, StoreOptions};

    fn peer(number: u8) -> ReplicaId {
        ReplicaId::new(number).unwrap()
    }

    fn life(directory: u64, incarnation: u64) -> Life {
        Life { directory, incarnation }
    }

    fn open(disk: &Arc<FaultyDisk>) -> Register {
        let options = StoreOptions {
            cluster: "c".to_owned(),
            replica: peer(1),
            protocol: "epaxos".to_owned(),
            log: Default::default(),
            snapshots: Default::default(),
        };
        let shared: Arc<dyn Disk> = disk.clone();
        let opening = Store::open(Arc::clone(&shared), &options).unwrap();
        Register::on_disk(opening.identity, shared)
    }

    fn assert_rule(register: impl Fn() -> Register) {
        assert_eq!(register().admit(peer(2), life(7, 3)), Ok(()));
        assert_eq!(register().admit(peer(2), life(7, 3)), Ok(()), "it reconnects");
        assert_eq!(register().admit(peer(2), life(7, 5)), Ok(()), "it was restarted");
        let stale = Refusal::StaleIncarnation { id: peer(2), theirs: 4, seen: 5 };
        assert_eq!(register().admit(peer(2), life(7, 4)), Err(stale));
        let wiped = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 8 };
        assert_eq!(register().admit(peer(2), life(8, 9)), Err(wiped));
        let forgot = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 0 };
        assert_eq!(register().admit(peer(2), life(0, 9)), Err(forgot));
        assert_eq!(register().admit(peer(2), life(7, 5)), Ok(()), "what was refused left no trace");
        assert_eq!(register().admit(peer(3), life(0, 99)), Ok(()));
        assert_eq!(register().admit(peer(3), life(0, 99)), Ok(()));
        let again = Err(Refusal::Forgetful(peer(3)));
        assert_eq!(register().admit(peer(3), life(0, 100)), again);
        let late = Refusal::OtherDirectory { id: peer(3), known: 0, theirs: 8 };
        assert_eq!(register().admit(peer(3), life(8, 1)), Err(late));
    }

    #[test]
    fn a_peer_is_known_by_its_directory_across_restarts() {
        let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
        assert_rule(|| {
            disk.lose_power();
            open(&disk)
        });
    }

    #[test]
    fn a_peer_is_known_in_memory_too() {
        let register = Arc::new(Register::in_memory("c", "epaxos", peer(1), 5));
        assert_eq!(register.own(), life(0, 5));
        for _ in 0..2 {
            assert_eq!(register.admit(peer(2), life(0, 1)), Ok(()));
        }
        assert_eq!(register.admit(peer(2), life(0, 2)), Err(Refusal::Forgetful(peer(2))));
    }

    #[test]
    fn nobody_is_let_in_who_cannot_be_noted() {
        let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
        let register = open(&disk);
        disk.fail_next(Operation::Sync);
        assert_eq!(register.admit(peer(2), life(7, 3)), Err(Refusal::NotNoted));
        assert_eq!(register.admit(peer(2), life(8, 3)), Ok(()), "it was not let in before");
    }
}
