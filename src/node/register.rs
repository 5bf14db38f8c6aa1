//! Whom a replica lets in: every peer is known by its data directory, for good, and by how far it
//! was heard to be. A peer that comes with another directory, with less than that, or from memory a
//! second time, has lost what it voted for; it must not vote again (a wiped disk).
//!
//! Nor may two replicas be in one quorum that have acted on different histories of a third. So each
//! says in its hello what it remembers of all. What was told is compared with every hello and every
//! frame from then on. What a peer hears after its hello is compared when it connects again.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::error;

use super::shared::lock;
use crate::mesh::Refusal;
use crate::replica::Memory;
use crate::storage::{Disk, Identity, Met};
use crate::types::{Began, Chain, Known, LogPosition, Presence, ReplicaId, ReplicaSet};

/// What is remembered of replicas, here and elsewhere.
#[derive(Default)]
struct Memories {
    /// What was heard here. The core keeps it in its log; here it is at hand, and may be ahead by
    /// what waits for the core.
    own: Memory,
    /// What each peer has said that it remembers, in its newest hello.
    told: BTreeMap<ReplicaId, BTreeMap<ReplicaId, Known>>,
    /// What each peer has shown of itself on its newest connection. It is remembered from the first
    /// frame on: nothing rests on a peer that has only said hello. An older copy that others refuse
    /// at once leaves no trace here.
    shown: BTreeMap<ReplicaId, Known>,
}

impl Memories {
    /// What others have said of a replica. What it has said of itself is not among it.
    fn told_of(&self, of: ReplicaId) -> impl Iterator<Item = (ReplicaId, Known)> {
        let others = self.told.iter().filter(move |(by, _)| **by != of);
        others.filter_map(move |(by, told)| Some((*by, *told.get(&of)?)))
    }

    /// What is remembered of a replica, and by whom.
    fn all_of(&self, of: ReplicaId, us: ReplicaId) -> impl Iterator<Item = (ReplicaId, Known)> {
        let own = self.own.of(of).map(|known| (us, known));
        own.into_iter().chain(self.told_of(of))
    }
}

/// What a replica that keeps nothing does before it lets the first peer in.
pub(super) struct BeforeFirstPeer(Box<dyn Fn() -> io::Result<()> + Send + Sync>);

impl BeforeFirstPeer {
    pub(super) fn new(note: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        BeforeFirstPeer(Box::new(note))
    }
}

impl fmt::Debug for BeforeFirstPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeFirstPeer")
    }
}

/// The peers met so far; kept on the disk, if there is one.
pub(super) struct Register {
    us: ReplicaId,
    identity: Mutex<Identity>,
    disk: Option<Arc<dyn Disk>>,
    before_first_peer: Option<BeforeFirstPeer>,
    memory: Mutex<Memories>,
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
            us: identity.replica,
            identity: Mutex::new(identity),
            disk: Some(disk),
            before_first_peer: None,
            memory: Mutex::new(Memories { own: memory, ..Memories::default() }),
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
            us: replica,
            identity: Mutex::new(identity),
            disk: None,
            before_first_peer: None,
            memory: Mutex::default(),
            durable: AtomicU64::new(0),
            is_new: true,
            settled: AtomicBool::new(false),
        }
    }

    /// The same, with what it does before it lets the first peer in.
    pub(super) fn before_first_peer(self, note: Option<BeforeFirstPeer>) -> Register {
        Register { before_first_peer: note, ..self }
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

    /// What to tell peers: how far the log here is durable, and what is remembered of all.
    pub(super) fn introduce(&self) -> (LogPosition, Vec<(ReplicaId, Known)>) {
        let memory = lock(&self.memory);
        let all = memory.own.all().into_iter().map(|heard| heard.peer);
        let knows = all.filter_map(|of| Some((of, memory.own.of(of)?))).collect();
        (self.durable(), knows)
    }

    /// Whether a peer may connect that shows itself like this and remembers that of this replica
    /// and of others; noted before the answer. Blocks while the disk does.
    pub(super) fn admit(
        &self,
        peer: ReplicaId,
        shown: Presence,
        knows: &[(ReplicaId, Known)],
    ) -> Result<(), Refusal> {
        let mut identity = lock(&self.identity);
        let known = identity.met.get(&peer).copied();
        judge(peer, known, shown)?;
        {
            let memory = lock(&self.memory);
            let mut all = memory.all_of(peer, self.us);
            if let Some((by, known)) = all.find(|(_, known)| !known.may_be(&shown)) {
                return Err(older(peer, by, known, shown));
            }
        }
        if let Some((_, known)) = knows.iter().find(|(of, _)| *of == self.us) {
            self.judge_itself(&identity, peer, *known)?;
        }
        self.compare(peer, knows)?;
        let life = if shown.directory == 0 { shown.life } else { 0 };
        let met = Met { directory: shown.directory, life };
        if known == Some(met) {
            return Ok(());
        }
        match &self.disk {
            Some(disk) => identity.meet(&**disk, peer, met).map_err(|why| {
                error!(us = %self.us, %peer, %why, "cannot write down whom it meets");
                Refusal::NotNoted
            }),
            None => {
                let note = self.before_first_peer.as_ref().filter(|_| identity.met.is_empty());
                note.map_or(Ok(()), |note| (note.0)()).map_err(|why| {
                    error!(us = %identity.replica, %peer, %why, "cannot note that it meets others");
                    Refusal::NotNoted
                })?;
                identity.met.insert(peer, met);
                Ok(())
            }
        }
    }

    /// Whether a peer that remembers this of others may be in a quorum with this replica. If so,
    /// what it remembers is kept.
    fn compare(&self, peer: ReplicaId, knows: &[(ReplicaId, Known)]) -> Result<(), Refusal> {
        let (us, mut memory) = (self.us, lock(&self.memory));
        let others = knows.iter().filter(|(of, _)| *of != us && *of != peer);
        for (third, theirs) in others.copied() {
            let mut all = memory.all_of(third, us).filter(|(by, _)| *by != peer);
            if let Some((by, ours)) = all.find(|(_, ours)| !ours.agrees(&theirs)) {
                return Err(Refusal::Contradiction { id: peer, third, by, ours, theirs });
            }
        }
        memory.told.insert(peer, knows.iter().copied().collect());
        Ok(())
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

    /// A peer is connected, and its frames come next.
    pub(super) fn met(&self, peer: ReplicaId, shown: Presence) {
        // What is in memory has no log that could get shorter.
        if self.disk.is_some() {
            lock(&self.memory).shown.insert(peer, shown.known());
        }
    }

    /// A frame of a peer says how far its log is durable: what is known of it now, if that is news
    /// and has to be kept.
    ///
    /// # Errors
    /// If others remember another history of that peer. Its frame must not be acted on.
    pub(super) fn heard(
        &self,
        peer: ReplicaId,
        held: LogPosition,
    ) -> Result<Option<Known>, Refusal> {
        let mut memory = lock(&self.memory);
        let before = memory.own.of(peer);
        let Some(shown) = memory.shown.get(&peer).copied() else { return Ok(None) };
        let same = before.filter(|known| known.life == shown.life && known.began.is_some());
        if same.is_some_and(|known| held <= known.held) {
            return Ok(None);
        }
        let now = Known { held, ..shown };
        if let Some((id, theirs)) = memory.told_of(peer).find(|(_, told)| !told.agrees(&now)) {
            let by = self.us;
            return Err(Refusal::Contradiction { id, third: peer, by, ours: now, theirs });
        }
        memory.own.met(peer, now);
        Ok(memory.own.of(peer))
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
            error!(us = %self.us, %why, "cannot write down that it was refused");
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

fn older(id: ReplicaId, by: ReplicaId, known: Known, shown: Presence) -> Refusal {
    if known.directory != shown.directory {
        // It was never met here, and has met the one that told of it.
        let (known, theirs) = (known.directory, shown.directory);
        return Refusal::OtherDirectory { id, known, theirs };
    }
    Refusal::OlderCopy { id, by, known: known.held.records(), shown: shown.began.records() }
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

    fn remembered(life: u64, began: u64, held: u64) -> Known {
        shown(7, life, began, held).known()
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
            open(&disk).admit(peer(number), shown, &[])
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
            assert_eq!(register.admit(peer(2), shown(0, 1, 0, 0), &[]), Ok(()));
        }
        let again = register.admit(peer(2), shown(0, 2, 0, 0), &[]);
        assert_eq!(again, Err(Refusal::Forgetful(peer(2))));
        let late = Refusal::OtherDirectory { id: peer(2), known: 0, theirs: 8 };
        assert_eq!(register.admit(peer(2), shown(8, 1, 0, 0), &[]), Err(late));
        register.met(peer(2), shown(0, 1, 0, 0));
        assert_eq!(register.heard(peer(2), at(0)), Ok(None), "it has no log");
    }

    #[test]
    fn in_memory_nobody_is_let_in_before_that_is_noted() {
        let (notes, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let (counted, failing) = (Arc::clone(&notes), Arc::clone(&fails));
        let note = BeforeFirstPeer::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
            if failing.load(Ordering::Relaxed) { full() } else { Ok(()) }
        });
        let register = Register::in_memory("c", "epaxos", peer(1)).before_first_peer(Some(note));
        let admit = |number, shown| register.admit(peer(number), shown, &[]);
        let noted = || notes.load(Ordering::Relaxed);
        for times in 1..=2 {
            assert_eq!(admit(2, shown(0, 1, 0, 0)), Err(Refusal::NotNoted));
            assert_eq!(noted(), times, "it is tried again");
        }
        fails.store(false, Ordering::Relaxed);
        assert_eq!(admit(2, shown(0, 1, 0, 0)), Ok(()));
        assert_eq!(noted(), 3);
        assert_eq!(admit(2, shown(0, 1, 0, 0)), Ok(()), "it reconnects");
        assert_eq!(admit(3, shown(0, 1, 0, 0)), Ok(()));
        assert_eq!(noted(), 3, "once is enough");
    }

    #[test]
    fn a_peer_that_lacks_what_was_heard_of_it_is_refused_until_it_is_the_one_again() {
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        let admit = |shown| register.admit(peer(2), shown, &[]);
        assert_eq!(admit(shown(7, 3, 0, 10)), Ok(()));
        register.met(peer(2), shown(7, 3, 0, 10));
        assert!(register.introduce().1.is_empty(), "it has said nothing yet");
        assert!(register.heard(peer(2), at(12)).unwrap().is_some());
        assert_eq!(register.heard(peer(2), at(12)), Ok(None), "that is no news");
        assert_eq!(register.heard(peer(3), at(12)), Ok(None), "it was never met");
        let why = Refusal::OlderCopy { id: peer(2), by: peer(1), known: 12, shown: 11 };
        assert_eq!(admit(shown(7, 4, 11, 40)), Err(why));
        assert_eq!(admit(shown(7, 3, 0, 11)), Ok(()), "it has said more since it said hello");
        assert_eq!(admit(shown(7, 4, 12, 12)), Ok(()));
        assert_eq!(register.introduce().1, [(peer(2), remembered(3, 0, 12))]);
        register.met(peer(2), shown(7, 4, 12, 12));
        assert!(register.heard(peer(2), at(12)).unwrap().is_some(), "it is in another life");
        assert_eq!(register.introduce().1, [(peer(2), remembered(4, 12, 12))]);
    }

    /// Of replica 3, whose directory was copied at 10 records. In life 4 it was heard at 12; in
    /// life 9 it goes on from the copy.
    #[test]
    fn a_peer_that_has_acted_on_another_history_of_a_third_is_refused() {
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        let admit = |theirs| register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
        register.met(peer(3), shown(7, 4, 0, 10));
        assert_eq!(admit(remembered(9, 10, 11)), Ok(()), "nothing was heard of it here");
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        let admit = |theirs| register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
        register.met(peer(3), shown(7, 4, 0, 10));
        register.heard(peer(3), at(12)).unwrap();
        let (ours, theirs) = (remembered(4, 0, 12), remembered(9, 10, 11));
        let why = Refusal::Contradiction { id: peer(2), third: peer(3), by: peer(1), ours, theirs };
        let words = why.to_string();
        for part in ["r2 remembers r3 up to record 11", "r1 up to record 12", "from a backup"] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(admit(theirs), Err(why));
        let unknown = Known { began: None, ..theirs };
        for theirs in [remembered(9, 12, 40), remembered(4, 0, 40), remembered(2, 0, 0), unknown] {
            assert_eq!(admit(theirs), Ok(()), "{theirs:?}");
        }
    }

    #[test]
    fn what_a_peer_has_told_of_a_third_counts_as_if_it_was_heard_here() {
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        let admit = |by, theirs| register.admit(peer(by), shown(8, 1, 0, 0), &[(peer(3), theirs)]);
        let (original, copy) = (remembered(4, 0, 12), remembered(9, 10, 11));
        assert_eq!(admit(2, original), Ok(()));
        let older = Refusal::OlderCopy { id: peer(3), by: peer(2), known: 12, shown: 10 };
        assert_eq!(register.admit(peer(3), shown(7, 9, 10, 10), &[]), Err(older));
        let wiped = Refusal::OtherDirectory { id: peer(3), known: 7, theirs: 6 };
        assert_eq!(register.admit(peer(3), shown(6, 1, 0, 0), &[]), Err(wiped));
        let (id, by) = (peer(4), peer(2));
        let parted =
            Refusal::Contradiction { id, third: peer(3), by, ours: original, theirs: copy };
        assert_eq!(admit(4, copy), Err(parted));
        assert_eq!(admit(2, remembered(5, 12, 20)), Ok(()), "it knows best what it remembers");
    }

    #[test]
    fn a_frame_of_a_life_that_is_known_to_be_short_by_then_is_not_acted_on() {
        let register = open(&Arc::new(FaultyDisk::new(1, 64 << 20)));
        register.admit(peer(3), shown(7, 9, 10, 10), &[]).unwrap();
        register.met(peer(3), shown(7, 9, 10, 10));
        let (theirs, ours) = (remembered(4, 0, 12), remembered(9, 10, 11));
        register.admit(peer(2), shown(8, 1, 0, 0), &[(peer(3), theirs)]).unwrap();
        let (id, third, by) = (peer(2), peer(3), peer(1));
        let why = Refusal::Contradiction { id, third, by, ours, theirs };
        assert_eq!(register.heard(third, at(11)), Err(why));
        assert!(register.introduce().1.is_empty(), "it is not remembered");
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
            let known = Known { directory, ..remembered(life, 0, held) };
            register.admit(peer(2), shown(7, 1, 0, 0), &[(peer(1), known)])
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
        assert_eq!(register.admit(peer(2), shown(7, 3, 0, 0), &[]), Err(Refusal::NotNoted));
        let other = register.admit(peer(2), shown(8, 3, 0, 0), &[]);
        assert_eq!(other, Ok(()), "it was not let in before");
    }
}
