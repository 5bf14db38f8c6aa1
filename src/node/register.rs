//! Whom a replica lets in: every peer is known by its data directory, for good, and by how far it
//! was heard to be. A peer that comes with another directory, with less than that, or from memory a
//! second time, has lost what it voted for; it must not vote again (a wiped disk).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::error;

use super::shared::lock;
use crate::mesh::Refusal;
use crate::replica::Memory;
use crate::storage::{Disk, Identity, Met};
use crate::types::{Began, Chain, Known, LogPosition, Presence, ReplicaId, ReplicaSet};

/// The peers met so far; kept on the disk, if there is one.
pub(super) struct Register {
    identity: Mutex<Identity>,
    disk: Option<Arc<dyn Disk>>,
    /// What is remembered of the peers. The core keeps it in its log; here it is at hand, and may
    /// be ahead by what waits for the core.
    memory: Mutex<Memory>,
    /// How many records of the log here are durable.
    durable: AtomicU64,
    /// The log was empty when this life began.
    is_new: bool,
    /// Enough peers count quorums as this replica does.
    settled: AtomicBool,
}

impl Register {
    /// The register of a replica that keeps it in its directory, and remembers this of its peers.
    pub(super) fn on_disk(identity: Identity, disk: Arc<dyn Disk>, memory: Memory) -> Register {
        let held = identity.chain.present().map_or(LogPosition::default(), |began| began.at);
        Register {
            identity: Mutex::new(identity),
            disk: Some(disk),
            memory: Mutex::new(memory),
            durable: AtomicU64::new(held.records()),
            is_new: held == LogPosition::default(),
            settled: AtomicBool::new(held > LogPosition::default()),
        }
    }

    /// The register of a replica that keeps everything in memory.
    pub(super) fn in_memory(cluster: &str, protocol: &str, replica: ReplicaId) -> Register {
        let mut chain = Chain::default();
        chain.begin(rand::random(), LogPosition::default());
        let identity = Identity {
            cluster: cluster.to_owned(),
            protocol: protocol.to_owned(),
            members: ReplicaSet::EMPTY,
            replica,
            incarnation: 1,
            directory: 0,
            origin: 0,
            outcast: false,
            chain,
            met: BTreeMap::new(),
        };
        Register {
            identity: Mutex::new(identity),
            disk: None,
            memory: Mutex::default(),
            durable: AtomicU64::new(0),
            is_new: true,
            settled: AtomicBool::new(false),
        }
    }

    /// What this replica says of itself.
    pub(super) fn presence(&self) -> Presence {
        let identity = lock(&self.identity);
        let Began { life, at } = identity.chain.present().expect("a life has begun");
        Presence { directory: identity.directory, life, began: at, held: self.durable() }
    }

    /// The backup that its cluster was restored from; 0 if it began with nothing.
    pub(super) fn origin(&self) -> u64 {
        lock(&self.identity).origin
    }

    /// What to tell a peer: how far the log here is durable, and what is remembered of it.
    pub(super) fn introduce(&self, peer: ReplicaId) -> (LogPosition, Option<Known>) {
        (self.durable(), lock(&self.memory).of(peer))
    }

    /// Whether a peer may connect that shows itself like this and remembers that of this replica;
    /// noted before the answer. Blocks while the disk does.
    pub(super) fn admit(
        &self,
        peer: ReplicaId,
        shown: Presence,
        knows: Option<Known>,
    ) -> Result<(), Refusal> {
        let mut identity = lock(&self.identity);
        let known = identity.met.get(&peer).copied();
        judge(peer, known, shown)?;
        if let Some(known) = lock(&self.memory).of(peer).filter(|known| !known.may_be(&shown)) {
            return Err(older(peer, known, shown));
        }
        if let Some(known) = knows {
            self.judge_itself(&identity, peer, known)?;
        }
        let life = if shown.directory == 0 { shown.life } else { 0 };
        let met = Met { directory: shown.directory, life };
        if known == Some(met) {
            return Ok(());
        }
        match &self.disk {
            Some(disk) => identity.meet(&**disk, peer, met).map_err(|why| {
                error!(us = %identity.replica, %peer, %why, "cannot write down whom it meets");
                Refusal::NotNoted
            }),
            None => {
                identity.met.insert(peer, met);
                Ok(())
            }
        }
    }

    /// Whether this replica holds all that a peer remembers of it.
    fn judge_itself(
        &self,
        identity: &Identity,
        peer: ReplicaId,
        known: Known,
    ) -> Result<(), Refusal> {
        let held = self.durable();
        // A peer that knows another directory refuses this one by itself.
        if known.directory != identity.directory || identity.chain.holds(known, held) {
            return Ok(());
        }
        let held = identity.chain.keeps(known.life, held).map(LogPosition::records);
        Err(Refusal::OlderHere { peer, known: known.held.records(), held })
    }

    /// A peer is connected: what is known of it now, if that has to be kept.
    pub(super) fn met(&self, peer: ReplicaId, shown: Presence) -> Option<Known> {
        // What is in memory has no log that could get shorter.
        self.disk.as_ref()?;
        let mut memory = lock(&self.memory);
        memory.met(peer, shown.known());
        memory.of(peer)
    }

    /// A frame of a peer says how far its log is durable: what is known of it now, if that is news.
    pub(super) fn heard(&self, peer: ReplicaId, held: LogPosition) -> Option<Known> {
        let mut memory = lock(&self.memory);
        memory.of(peer).filter(|known| known.held < held)?;
        memory.heard(peer, held);
        memory.of(peer)
    }

    /// The log here is durable up to this position.
    pub(super) fn note_durable(&self, durable: LogPosition) {
        self.durable.store(durable.records(), Ordering::Release);
    }

    fn durable(&self) -> LogPosition {
        LogPosition::new(self.durable.load(Ordering::Acquire))
    }

    /// Whether its log was empty when this life began.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether enough peers count quorums as this replica does, now or in an earlier life.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Enough peers count quorums as this replica does.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Notes that this replica was refused for good, as well as it can.
    pub(super) fn cast_out(&self) {
        let mut identity = lock(&self.identity);
        if let Some(disk) = &self.disk
            && let Err(why) = identity.cast_out(&**disk)
        {
            // The peers remember what it lacks, and will refuse it again.
            error!(us = %identity.replica, %why, "cannot write down that it was refused");
        }
    }
}

/// The rule.
fn judge(id: ReplicaId, known: Option<Met>, shown: Presence) -> Result<(), Refusal> {
    let Some(known) = known else { return Ok(()) };
    if known.directory != shown.directory {
        let (known, theirs) = (known.directory, shown.directory);
        return Err(Refusal::OtherDirectory { id, known, theirs });
    }
    if known.directory == 0 && known.life != shown.life {
        return Err(Refusal::Forgetful(id));
    }
    Ok(())
}

fn older(id: ReplicaId, known: Known, shown: Presence) -> Refusal {
    Refusal::OlderCopy { id, known: known.held.records(), shown: shown.began.records() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FaultyDisk, Operation, Store, StoreOptions};

    fn peer(number: u8) -> ReplicaId {
        ReplicaId::new(number).unwrap()
    }

    fn at(records: u64) -> LogPosition {
        LogPosition::new(records)
    }

    fn shown(directory: u64, life: u64, began: u64, held: u64) -> Presence {
        Presence { directory, life, began: at(began), held: at(held) }
    }

    fn open(disk: &Arc<FaultyDisk>) -> Register {
        let options = StoreOptions {
            cluster: "c".to_owned(),
            replica: peer(1),
            protocol: "epaxos".to_owned(),
            members: ReplicaSet::all(3),
            log: Default::default(),
            snapshots: Default::default(),
        };
        let shared: Arc<dyn Disk> = disk.clone();
        let opening = Store::open(Arc::clone(&shared), &options).unwrap();
        let store = opening.replay(&mut |_, _| Ok(())).unwrap();
        Register::on_disk(store.identity, shared, Memory::default())
    }

    #[test]
    fn a_peer_is_known_by_its_directory_across_restarts() {
        let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
        let admit = |number, shown| {
            disk.lose_power();
            open(&disk).admit(peer(number), shown, None)
        };
        assert_eq!(admit(2, shown(7, 3, 0, 0)), Ok(()));
        assert_eq!(admit(2, shown(7, 3, 0, 9)), Ok(()), "it reconnects");
        assert_eq!(admit(2, shown(7, 5, 9, 9)), Ok(()), "it was restarted");
        let wiped = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 8 };
        assert_eq!(admit(2, shown(8, 9, 0, 0)), Err(wiped));
        let forgot = Refusal::OtherDirectory { id: peer(2), known: 7, theirs: 0 };
        assert_eq!(admit(2, shown(0, 9, 0, 0)), Err(forgot));
        assert_eq!(admit(2, shown(7, 5, 9, 9)), Ok(()), "what was refused left no trace");
    }

    #[test]
    fn a_peer_is_known_in_memory_too() {
        let register = Register::in_memory("c", "epaxos", peer(1));
        for _ in 0..2 {
            assert_eq!(register.admit(peer(2), shown(0, 1, 0, 0), None), Ok(()));
        }
        let again = register.admit(peer(2), shown(0, 2, 0, 0), None);
        assert_eq!(again, Err(Refusal::Forgetful(peer(2))));
        let late = Refusal::OtherDirectory { id: peer(2), known: 0, theirs: 8 };
        assert_eq!(register.admit(peer(2), shown(8, 1, 0, 0), None), Err(late));
        assert_eq!(register.met(peer(2), shown(0, 1, 0, 0)), None, "it has no log");
    }

    #[test]
    fn a_peer_that_lacks_what_was_heard_of_it_is_refused_until_it_is_the_one_again() {
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        let admit = |shown| register.admit(peer(2), shown, None);
        assert_eq!(admit(shown(7, 3, 0, 10)), Ok(()));
        assert!(register.met(peer(2), shown(7, 3, 0, 10)).is_some());
        assert!(register.heard(peer(2), at(12)).is_some());
        assert_eq!(register.heard(peer(2), at(12)), None, "that is no news");
        assert_eq!(register.heard(peer(3), at(12)), None, "it was never met");
        let why = Refusal::OlderCopy { id: peer(2), known: 12, shown: 11 };
        assert_eq!(admit(shown(7, 4, 11, 40)), Err(why));
        assert_eq!(admit(shown(7, 3, 0, 11)), Ok(()), "it has said more since it said hello");
        assert_eq!(admit(shown(7, 4, 12, 12)), Ok(()));
        assert_eq!(register.introduce(peer(2)).1.unwrap().held, at(12));
    }

    #[test]
    fn a_replica_that_lacks_what_a_peer_has_heard_of_it_notices_by_itself() {
        let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
        drop(open(&disk));
        let register = open(&disk);
        register.note_durable(at(20));
        let chain = lock(&register.identity).chain.lives().to_vec();
        let directory = register.presence().directory;
        let admit = |life, held| {
            let known = Known { directory, life, held: at(held) };
            register.admit(peer(2), shown(7, 1, 0, 0), Some(known))
        };
        assert_eq!(admit(chain[1].life, 20), Ok(()));
        assert_eq!(admit(chain[0].life, 0), Ok(()));
        let older = |known, held| Err(Refusal::OlderHere { peer: peer(2), known, held });
        assert_eq!(admit(chain[1].life, 21), older(21, Some(20)));
        assert_eq!(admit(chain[0].life, 1), older(1, Some(0)));
        assert_eq!(admit(1, 5), older(5, None), "a life that it never had");
    }

    #[test]
    fn nobody_is_let_in_who_cannot_be_noted() {
        let disk = Arc::new(FaultyDisk::new(1, 64 << 20));
        let register = open(&disk);
        disk.fail_next(Operation::Sync);
        assert_eq!(register.admit(peer(2), shown(7, 3, 0, 0), None), Err(Refusal::NotNoted));
        let other = register.admit(peer(2), shown(8, 3, 0, 0), None);
        assert_eq!(other, Ok(()), "it was not let in before");
    }
}
