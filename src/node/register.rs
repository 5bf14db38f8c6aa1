//! Which peers a replica admits. It knows every peer by its data directory, for good, and by how
//! much of that peer's log it has heard to be durable. A peer may come with another directory, with
//! a shorter log, or from memory a second time. It has then lost votes (a wiped disk), and must not
//! vote again.
//!
//! Two replicas that acted on different histories of a third must not be in one quorum either. So
//! each replica says in its hello what it remembers of all others. That is compared with every
//! later hello and every later frame. What a peer hears after its hello is compared when it
//! reconnects.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::error;

use super::panics::lock;
use crate::mesh::Refusal;
use crate::replica::Memory;
use crate::storage::{Disk, Identity, Met};
use crate::types::{Began, Chain, Known, LogPosition, Presence, ReplicaId, ReplicaSet};

/// What replicas remember of each other, here and elsewhere.
#[derive(Default)]
struct Memories {
    /// What was heard here. The core keeps it in its log. This copy is quick to read, and may
    /// contain news that still waits for the core.
    own: Memory,
    /// What each peer remembers, according to its newest hello.
    told: BTreeMap<ReplicaId, BTreeMap<ReplicaId, Known>>,
    /// What each peer has shown of itself on its newest connection. It is remembered only from the
    /// first frame on, because nothing depends on a peer that has only said hello. So an older copy
    /// that others refuse at once leaves no trace here.
    shown: BTreeMap<ReplicaId, Known>,
}

impl Memories {
    /// What others have said of a replica, excluding what it has said of itself.
    fn told_of(&self, of: ReplicaId) -> impl Iterator<Item = (ReplicaId, Known)> {
        let others = self.told.iter().filter(move |(by, _)| **by != of);
        others.filter_map(move |(by, told)| Some((*by, *told.get(&of)?)))
    }

    /// Everything remembered of a replica, and which replica remembers it.
    fn all_of(&self, of: ReplicaId, us: ReplicaId) -> impl Iterator<Item = (ReplicaId, Known)> {
        let own = self.own.of(of).map(|known| (us, known));
        own.into_iter().chain(self.told_of(of))
    }
}

/// What a replica without a disk does before it admits the first peer.
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

/// The peers met so far; stored on the disk, if there is one.
pub(super) struct Register {
    us: ReplicaId,
    identity: Mutex<Identity>,
    disk: Option<Arc<dyn Disk>>,
    before_first_peer: Option<BeforeFirstPeer>,
    memory: Mutex<Memories>,
    /// How many records of the local log are durable.
    durable: AtomicU64,
    /// The log was empty at this start.
    is_new: bool,
    /// A majority counts quorums as this replica does.
    agreed: AtomicBool,
}

impl Register {
    /// The register of a replica with a directory. `memory` is what it remembers of its peers.
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
            agreed: AtomicBool::new(held > LogPosition::default()),
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
            agreed: AtomicBool::new(false),
        }
    }

    /// Adds what the replica does before it admits the first peer.
    pub(super) fn before_first_peer(self, note: Option<BeforeFirstPeer>) -> Register {
        Register { before_first_peer: note, ..self }
    }

    /// What this replica says of itself in a hello.
    pub(super) fn presence(&self) -> Presence {
        let identity = lock(&self.identity);
        let Began { life, at } = identity.chain.present().expect("a life has begun");
        Presence { directory: identity.directory, life, began: at, held: self.durable() }
    }

    /// The backup that the cluster was restored from; 0 if it was not restored.
    pub(super) fn origin(&self) -> u64 {
        lock(&self.identity).origin
    }

    /// What to tell peers: how much of the local log is durable, and what is remembered of all.
    pub(super) fn introduce(&self) -> (LogPosition, Vec<(ReplicaId, Known)>) {
        let memory = lock(&self.memory);
        let all = memory.own.all().into_iter().map(|heard| heard.peer);
        let knows = all.filter_map(|of| Some((of, memory.own.of(of)?))).collect();
        (self.durable(), knows)
    }

    /// Whether a peer may connect that shows `shown` of itself and remembers `knows` of this
    /// replica and others. The decision is stored before the answer. It blocks while the disk does.
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

    /// Whether a peer that remembers this of others may share a quorum with this replica. If so,
    /// its memory is kept.
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

    /// Whether this replica still has everything that a peer remembers of it.
    fn judge_itself(
        &self,
        identity: &Identity,
        peer: ReplicaId,
        known: Known,
    ) -> Result<(), Refusal> {
        let held = self.durable();
        // A peer that knows another directory refuses this one itself.
        if known.directory != identity.directory || identity.chain.holds(known, held) {
            return Ok(());
        }
        let held = identity.chain.keeps(known.life, held).map(LogPosition::records);
        Err(Refusal::OlderHere { peer, known: known.held.records(), held })
    }

    /// A peer is connected; its frames follow.
    pub(super) fn met(&self, peer: ReplicaId, shown: Presence) {
        // A replica in memory has no log that could become shorter.
        if self.disk.is_some() {
            lock(&self.memory).shown.insert(peer, shown.known());
        }
    }

    /// A peer's frame says how much of its log is durable. Returns what is known of the peer now,
    /// if that is new and must be stored.
    ///
    /// # Errors
    /// If others remember another history of that peer. The frame must then be ignored.
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

    /// Notes how much of the local log is durable.
    pub(super) fn note_durable(&self, durable: LogPosition) {
        self.durable.store(durable.records(), Ordering::Release);
    }

    fn durable(&self) -> LogPosition {
        LogPosition::new(self.durable.load(Ordering::Acquire))
    }

    /// Whether the log was empty at this start.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether a majority counts quorums as this replica does, now or in an earlier life.
    pub(super) fn others_agree(&self) -> bool {
        self.agreed.load(Ordering::Acquire)
    }

    /// Notes that a majority counts quorums as this replica does.
    pub(super) fn note_agreement(&self) {
        self.agreed.store(true, Ordering::Release);
    }

    /// Stores that this replica was refused for good, if the disk allows it.
    pub(super) fn cast_out(&self) {
        let mut identity = lock(&self.identity);
        if let Some(disk) = &self.disk
            && let Err(why) = identity.cast_out(&**disk)
        {
            // The peers remember what this replica has lost and will refuse it again.
            error!(us = %self.us, %why, "cannot write down that it was refused");
        }
    }
}

/// The rule of admission for a peer that was met before.
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
        // It was never met here, but it has met the replica that told of it.
        let (known, theirs) = (known.directory, shown.directory);
        return Refusal::OtherDirectory { id, known, theirs };
    }
    Refusal::OlderCopy { id, by, known: known.held.records(), shown: shown.began.records() }
}
