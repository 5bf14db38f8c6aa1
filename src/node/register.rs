//! Which peers a replica admits. It knows every member by its data directory, for good, and by how
//! much of that peer's log it has heard to be durable. A peer may come with another directory, with
//! a shorter log, or from memory a second time. It has then lost votes (a wiped disk), and must not
//! vote again.
//!
//! Two replicas that acted on different histories of a third must not be in one quorum either. So
//! each replica says in its hello what it remembers of all others. That is compared with every
//! later hello and every later frame. What a peer hears after its hello is compared when it
//! reconnects.
//!
//! All of that is about members. A *guest*, which is in no list here, is admitted without being
//! remembered.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::error;

use super::panics::lock;
use crate::mesh::{Introduction, Refusal};
use crate::storage::{Disk, Identity, Met};
use crate::types::{Began, Chain, Known, LogPosition, MemberId, Membership, Presence, Quorums};

/// What replicas remember of each other, here and elsewhere.
#[derive(Default)]
struct Memories {
    /// The list of the epoch that the replica is in; `None` if it has heard of none yet.
    list: Option<List>,
    /// What was heard here. The core keeps it in its log. This copy is quick to read, and may
    /// contain news that still waits for the core.
    own: BTreeMap<MemberId, Known>,
    /// What each peer remembers, according to its newest hello.
    told: BTreeMap<MemberId, BTreeMap<MemberId, Known>>,
    /// What each peer has shown of itself on its newest connection. It is remembered only from the
    /// first frame on, because nothing depends on a peer that has only said hello. So an older copy
    /// that others refuse at once leaves no trace here.
    shown: BTreeMap<MemberId, Known>,
    /// What each guest that is connected has shown of itself. A guest is in no list here, and
    /// nothing depends on it.
    guests: BTreeMap<MemberId, Presence>,
}

/// The members of an epoch.
struct List {
    epoch: u32,
    /// For each, the number of the directory that it has to come with; 0 if that was not decided.
    members: BTreeMap<MemberId, u64>,
    /// The same for each observer. It is a guest: nothing depends on what it remembers.
    observers: BTreeMap<MemberId, u64>,
}

impl Memories {
    fn is_member(&self, id: MemberId) -> bool {
        self.list.as_ref().is_some_and(|list| list.members.contains_key(&id))
    }

    /// Why a replica that shows this of itself is not the one that the list names, if it names one.
    fn named_otherwise(&self, id: MemberId, shown: Presence) -> Option<Refusal> {
        let list = self.list.as_ref()?;
        let known = *list.members.get(&id).or(list.observers.get(&id))?;
        let own = own_number(&shown);
        let theirs = shown.directory;
        (known != 0 && known != own).then_some(Refusal::OtherDirectory { id, known, theirs })
    }

    /// What others have said of a replica, excluding what it has said of itself.
    fn told_of(&self, of: MemberId) -> impl Iterator<Item = (MemberId, Known)> {
        let others = self.told.iter().filter(move |(by, _)| **by != of);
        others.filter_map(move |(by, told)| Some((*by, *told.get(&of)?)))
    }

    /// Everything remembered of a replica, and which replica remembers it.
    fn all_of(&self, of: MemberId, us: MemberId) -> impl Iterator<Item = (MemberId, Known)> {
        let own = self.own.get(&of).map(|known| (us, *known));
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
    us: MemberId,
    identity: Mutex<Identity>,
    disk: Option<Arc<dyn Disk>>,
    before_first_peer: Option<BeforeFirstPeer>,
    /// That was done.
    noted: AtomicBool,
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
    pub(super) fn on_disk(
        identity: Identity,
        disk: Arc<dyn Disk>,
        memory: BTreeMap<MemberId, Known>,
    ) -> Register {
        let held = identity.chain.present().map_or(LogPosition::default(), |began| began.at);
        Register {
            us: identity.replica,
            identity: Mutex::new(identity),
            disk: Some(disk),
            before_first_peer: None,
            noted: AtomicBool::new(false),
            memory: Mutex::new(Memories { own: memory, ..Memories::default() }),
            durable: AtomicU64::new(held.records()),
            is_new: held == LogPosition::default(),
            agreed: AtomicBool::new(held > LogPosition::default()),
        }
    }

    /// The register of a replica that keeps everything in memory.
    pub(super) fn in_memory(cluster: &str, protocol: &str, replica: MemberId) -> Register {
        let mut chain = Chain::default();
        chain.begin(rand::random(), LogPosition::default());
        let identity = Identity {
            cluster: cluster.to_owned(),
            protocol: protocol.to_owned(),
            members: BTreeSet::new(),
            joins: false,
            removed: None,
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
            noted: AtomicBool::new(false),
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

    /// The replica is in this epoch now. `members` says for each member which directory it has to
    /// come with (for a replica that keeps its records in memory, which life); 0 if that was not
    /// decided; `observers` says the same of those. Returns the guests that have become members, or
    /// have a member's number: the caller has to disconnect them.
    ///
    /// What was known of replicas that are no members is forgotten: their numbers are used up.
    pub(super) fn set_list(
        &self,
        epoch: u32,
        members: BTreeMap<MemberId, u64>,
        observers: BTreeMap<MemberId, u64>,
    ) -> Vec<(MemberId, Refusal)> {
        lock(&self.identity).met.retain(|peer, _| members.contains_key(peer));
        let mut memory = lock(&self.memory);
        memory.own.retain(|peer, _| members.contains_key(peer));
        memory.shown.retain(|peer, _| members.contains_key(peer));
        memory.told.retain(|peer, _| members.contains_key(peer));
        for told in memory.told.values_mut() {
            told.retain(|of, _| members.contains_key(of));
        }
        memory.list = Some(List { epoch, members, observers });
        let guests = std::mem::take(&mut memory.guests);
        let mut wrong = Vec::new();
        for (guest, shown) in guests {
            // As a member it says hello again, so that whom this replica meets is written down.
            let again = memory.is_member(guest).then_some(Refusal::Replaced);
            let why = memory.named_otherwise(guest, shown).or(again);
            wrong.extend(why.map(|why| (guest, why)));
            memory.guests.insert(guest, shown);
        }
        wrong
    }

    /// The data directory of a connected guest, or its life if it keeps its records in memory: for
    /// the list in which it becomes a member.
    pub(super) fn newcomer(&self, guest: MemberId) -> Option<u64> {
        lock(&self.memory).guests.get(&guest).map(own_number)
    }

    /// Whether the replica that is connected under this member's number is another one than the
    /// list names. It is disconnected; what it still says is not the member's word.
    pub(super) fn is_impostor(&self, peer: MemberId) -> bool {
        let memory = lock(&self.memory);
        memory.is_member(peer) && memory.guests.contains_key(&peer)
    }

    /// How many other members are not among these.
    pub(super) fn missing(&self, connected: &BTreeSet<MemberId>) -> usize {
        let memory = lock(&self.memory);
        let members = memory.list.iter().flat_map(|list| list.members.keys());
        members.filter(|member| **member != self.us && !connected.contains(member)).count()
    }

    /// What to tell peers.
    pub(super) fn introduce(&self) -> Introduction {
        let memory = lock(&self.memory);
        let members = memory.list.iter().flat_map(|list| list.members.keys().copied());
        Introduction {
            held: self.durable(),
            knows: memory.own.iter().map(|(of, known)| (*of, *known)).collect(),
            epoch: memory.list.as_ref().map(|list| list.epoch),
            members: members.collect(),
        }
    }

    /// Whether a peer may connect that shows `shown` of itself and remembers `knows` of this
    /// replica and others. For a member the decision is stored before the answer; it blocks while
    /// the disk does. A guest may connect unless it is known not to be the one that has its number.
    pub(super) fn admit(
        &self,
        peer: MemberId,
        shown: Presence,
        knows: &[(MemberId, Known)],
    ) -> Result<(), Refusal> {
        let mut identity = lock(&self.identity);
        let known = identity.met.get(&peer).copied();
        judge(peer, known, shown)?;
        let is_member;
        {
            let memory = lock(&self.memory);
            is_member = memory.is_member(peer);
            if let Some(why) = memory.named_otherwise(peer, shown) {
                return Err(why);
            }
            let mut all = memory.all_of(peer, self.us);
            if let Some((by, known)) = all.find(|(_, known)| !known.may_be(&shown)) {
                return Err(older(peer, by, known, shown));
            }
        }
        // Nothing depends on what a guest remembers.
        if is_member {
            if let Some((_, known)) = knows.iter().find(|(of, _)| *of == self.us) {
                self.judge_itself(&identity, peer, *known)?;
            }
            self.compare(peer, knows)?;
        }
        let life = if shown.directory == 0 { shown.life } else { 0 };
        let met = Met { directory: shown.directory, life };
        if known == Some(met) {
            return Ok(());
        }
        match &self.disk {
            Some(_) if !is_member => Ok(()),
            Some(disk) => identity.meet(&**disk, peer, met).map_err(|why| {
                error!(us = %self.us, %peer, %why, "cannot write down whom it meets");
                Refusal::NotNoted
            }),
            None => {
                let is_first = !self.noted.load(Ordering::Acquire);
                let note = self.before_first_peer.as_ref().filter(|_| is_first);
                note.map_or(Ok(()), |note| (note.0)()).map_err(|why| {
                    error!(us = %identity.replica, %peer, %why, "cannot note that it meets others");
                    Refusal::NotNoted
                })?;
                self.noted.store(true, Ordering::Release);
                if is_member {
                    identity.met.insert(peer, met);
                }
                Ok(())
            }
        }
    }

    /// Whether a peer that remembers this of others may share a quorum with this replica. If so,
    /// its memory is kept.
    fn compare(&self, peer: MemberId, knows: &[(MemberId, Known)]) -> Result<(), Refusal> {
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
        peer: MemberId,
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
    pub(super) fn met(&self, peer: MemberId, shown: Presence) {
        self.note_presence(&mut lock(&self.memory), peer, shown);
    }

    fn note_presence(&self, memory: &mut Memories, peer: MemberId, shown: Presence) {
        // It may have become a member since it was admitted, and not be the one that is meant.
        if !memory.is_member(peer) || memory.named_otherwise(peer, shown).is_some() {
            memory.guests.insert(peer, shown);
        } else if self.disk.is_some() {
            // A replica in memory has no log that could become shorter.
            memory.shown.insert(peer, shown.known());
        }
    }

    /// A peer is not connected any longer.
    pub(super) fn left(&self, peer: MemberId) {
        lock(&self.memory).guests.remove(&peer);
    }

    /// A peer's frame says how much of its log is durable. Returns what is known of the peer now,
    /// if that is new and must be stored.
    ///
    /// # Errors
    /// If others remember another history of that peer. The frame must then be ignored.
    pub(super) fn heard(
        &self,
        peer: MemberId,
        held: LogPosition,
    ) -> Result<Option<Known>, Refusal> {
        let mut memory = lock(&self.memory);
        let before = memory.own.get(&peer).copied();
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
        let known = Known::or_later(before, now);
        memory.own.insert(peer, known);
        Ok(Some(known))
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

    /// Notes that a majority counts quorums as this replica does, if those that are connected and
    /// this replica are a quorum of the list.
    pub(super) fn note_agreement(&self, connected: &BTreeSet<MemberId>) {
        let missing = self.missing(connected);
        let members = lock(&self.memory).list.as_ref().map_or(0, |list| list.members.len());
        if Quorums::new(members).is_ok_and(|quorums| missing <= quorums.f) {
            self.agreed.store(true, Ordering::Release);
        }
    }

    /// Stores that this replica was removed from the cluster, if the disk allows it.
    pub(super) fn retire(&self, list: &Membership) {
        let mut identity = lock(&self.identity);
        if let Some(disk) = &self.disk
            && let Err(why) = identity.retire(&**disk, list)
        {
            // The others answer it with their list again, and it retires again.
            error!(us = %self.us, %why, "cannot write down that it was removed");
        }
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

/// What tells a replica from another one with its number: its directory, or its life if it keeps
/// its records in memory.
fn own_number(shown: &Presence) -> u64 {
    if shown.directory == 0 { shown.life } else { shown.directory }
}

/// The rule of admission for a peer that was met before.
fn judge(id: MemberId, known: Option<Met>, shown: Presence) -> Result<(), Refusal> {
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

fn older(id: MemberId, by: MemberId, known: Known, shown: Presence) -> Refusal {
    if known.directory != shown.directory {
        // It was never met here, but it has met the replica that told of it.
        let (known, theirs) = (known.directory, shown.directory);
        return Refusal::OtherDirectory { id, known, theirs };
    }
    Refusal::OlderCopy { id, by, known: known.held.records(), shown: shown.began.records() }
}
