//! The links of one mesh. A *peer* is dialled. A *guest* is not: it is a replica of this cluster
//! that connects by itself, because it shall become a member or is one no longer. Its link lasts as
//! long as its connections. After `link`; `hub` holds it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::config::ConnectionLimits;
use super::link::{Link, PeerStatus};
use super::refusal::Refusal;
use crate::types::{Address, MemberId};

/// At most so many guests at a time. Each has a certificate of its own, and costs two queues.
pub(super) const MAX_GUESTS: usize = 64;

/// What a mesh has carried to and from all peers and guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames written to connections. Some may be lost with a connection.
    pub frames_sent: u64,
    /// Bytes written, including frame headers.
    pub bytes_sent: u64,
    /// Frames handed to the node.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Frames that were refused by a queue or discarded with a lost connection.
    pub frames_dropped: u64,
}

impl Traffic {
    fn add(&mut self, of: &PeerStatus) {
        self.frames_sent += of.frames_sent;
        self.bytes_sent += of.bytes_sent;
        self.frames_received += of.frames_received;
        self.bytes_received += of.bytes_received;
        self.frames_dropped += of.frames_dropped;
    }
}

/// All links of one mesh.
pub(super) struct Links {
    limits: ConnectionLimits,
    state: RwLock<State>,
}

/// Invariants:
///
/// 1. An entry's link is dialled, or has users. At most [`MAX_GUESTS`] are not dialled, apart from
///    those whose connections are being closed.
/// 2. `tickets` and `committed` never decrease, so neither a task that dials nor a generation is
///    taken for one of an earlier link to the same replica.
#[derive(Default)]
struct State {
    entries: BTreeMap<MemberId, Entry>,
    /// The number of tasks that were to dial.
    tickets: u64,
    /// The highest generation committed on the links that are gone.
    committed: u64,
    /// What those have carried.
    gone: Traffic,
}

struct Entry {
    link: Arc<Link>,
    /// The number of connections and attempts that use the link.
    users: usize,
}

/// A link that is to be dialled, by the task with this ticket.
pub(super) struct ToDial {
    pub(super) link: Arc<Link>,
    pub(super) ticket: u64,
}

impl State {
    fn guests(&self) -> usize {
        self.entries.values().filter(|entry| !entry.link.is_dialled()).count()
    }

    /// Removes a link that is neither dialled nor used.
    fn remove(&mut self, peer: MemberId) {
        if let Some(Entry { link, .. }) = self.entries.remove(&peer) {
            self.committed = self.committed.max(link.committed());
            self.gone.add(&link.status());
        }
    }
}

impl Links {
    pub(super) fn new(limits: &ConnectionLimits) -> Links {
        Links { limits: limits.clone(), state: RwLock::default() }
    }

    /// Sets who is dialled, and where. Returns those that were not dialled before. A peer that is
    /// not dialled any longer and is connected becomes a guest, if there is room for one more.
    pub(super) fn set(&self, peers: BTreeMap<MemberId, Address>) -> Vec<ToDial> {
        let mut state = self.write();
        let dialled = state.entries.iter().filter(|(_, entry)| entry.link.is_dialled());
        let dropped: Vec<MemberId> =
            dialled.map(|(peer, _)| *peer).filter(|peer| !peers.contains_key(peer)).collect();
        let mut begun = Vec::new();
        for (peer, address) in peers {
            let committed = state.committed;
            let entry = state.entries.entry(peer).or_insert_with(|| Entry {
                link: Arc::new(Link::new(peer, &self.limits, committed)),
                users: 0,
            });
            let link = Arc::clone(&entry.link);
            if !link.is_dialled() {
                state.tickets += 1;
                let ticket = state.tickets;
                begun.push(ToDial { link: Arc::clone(&link), ticket });
                link.begin_dialling(address, ticket);
            } else if link.address().as_ref() != Some(&address) {
                link.set_address(address);
            }
        }
        for peer in dropped {
            let Some(entry) = state.entries.get(&peer) else { continue };
            let (link, users) = (Arc::clone(&entry.link), entry.users);
            link.end_dialling();
            if users == 0 {
                state.remove(peer);
            } else if state.guests() > MAX_GUESTS {
                link.refuse(&Refusal::TooManyGuests { most: MAX_GUESTS });
            }
        }
        begun
    }

    /// The link to a replica that has connected.
    ///
    /// # Errors
    /// If it is not dialled, and there are too many guests.
    pub(super) fn enter(self: &Arc<Links>, peer: MemberId) -> Result<LinkUse, Refusal> {
        let mut state = self.write();
        if !state.entries.contains_key(&peer) {
            if state.guests() >= MAX_GUESTS {
                return Err(Refusal::TooManyGuests { most: MAX_GUESTS });
            }
            let link = Arc::new(Link::new(peer, &self.limits, state.committed));
            state.entries.insert(peer, Entry { link, users: 0 });
        }
        let entry = state.entries.get_mut(&peer).expect("it is there by now");
        entry.users += 1;
        Ok(LinkUse { links: Arc::clone(self), link: Arc::clone(&entry.link) })
    }

    /// The link that the task with this ticket is to dial; `None` if it is not to any longer.
    pub(super) fn enter_to_dial(self: &Arc<Links>, link: &Link, ticket: u64) -> Option<LinkUse> {
        let mut state = self.write();
        let entry = state.entries.get_mut(&link.peer)?;
        if !entry.link.is_dialled_by(ticket) {
            return None;
        }
        entry.users += 1;
        Some(LinkUse { links: Arc::clone(self), link: Arc::clone(&entry.link) })
    }

    /// The link to this replica, if there is one.
    pub(super) fn get(&self, peer: MemberId) -> Option<Arc<Link>> {
        self.read().entries.get(&peer).map(|entry| Arc::clone(&entry.link))
    }

    /// Whether a peer is dialled at this host.
    pub(super) fn is_peer_at(&self, host: IpAddr) -> bool {
        self.read().entries.values().any(|entry| entry.link.is_at(host))
    }

    /// All links, in order of the replicas' numbers.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.read().entries.values().map(|entry| Arc::clone(&entry.link)).collect()
    }

    /// What was carried so far.
    pub(super) fn traffic(&self) -> Traffic {
        let state = self.read();
        let mut all = state.gone;
        state.entries.values().for_each(|entry| all.add(&entry.link.status()));
        all
    }

    fn leave(&self, link: &Link) {
        let mut state = self.write();
        let entry = state.entries.get_mut(&link.peer).expect("a used link has an entry");
        entry.users -= 1;
        if entry.users == 0 && !entry.link.is_dialled() {
            state.remove(link.peer);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The code under this lock keeps the state consistent at every point.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's or an attempt's use of a link. While it exists, the link stays.
pub(super) struct LinkUse {
    links: Arc<Links>,
    link: Arc<Link>,
}

impl LinkUse {
    /// The link, for the tasks of the connection.
    pub(super) fn shared(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

impl Deref for LinkUse {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for LinkUse {
    fn drop(&mut self) {
        self.links.leave(&self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::member_id as id;

    fn peers(numbers: impl IntoIterator<Item = u32>) -> BTreeMap<MemberId, Address> {
        let address = |number| format!("10.0.0.1:{number}").parse().expect("an address");
        numbers.into_iter().map(|number| (id(number), address(number))).collect()
    }

    fn links() -> Arc<Links> {
        Arc::new(Links::new(&ConnectionLimits::default()))
    }

    fn numbers(links: &Links) -> Vec<u32> {
        links.all().iter().map(|link| link.peer.number()).collect()
    }

    #[test]
    fn a_link_lasts_while_it_is_dialled_or_used() {
        let links = links();
        let begun: Vec<_> = links.set(peers([1, 2])).iter().map(|it| it.ticket).collect();
        assert_eq!(begun, [1, 2]);
        let one = links.get(id(1)).expect("a peer");
        let attempt = links.enter_to_dial(&one, 1).expect("it is to be dialled");
        assert!(links.set(peers([2, 3])).iter().all(|it| it.ticket == 3), "2 is dialled already");
        assert_eq!(numbers(&links), [1, 2, 3], "1 is in use");
        assert!(links.enter_to_dial(&one, 1).is_none());
        let guest = links.enter(id(1)).expect("there is room");
        drop(attempt);
        assert_eq!(numbers(&links), [1, 2, 3]);
        drop(guest);
        assert_eq!(numbers(&links), [2, 3]);
        let again = links.set(peers([1, 2, 3])).remove(0);
        assert!(links.enter_to_dial(&again.link, 1).is_none(), "that was another task");
        assert!(links.enter_to_dial(&one, again.ticket).is_some());
    }

    #[test]
    fn a_changed_address_is_dialled_by_the_task_that_there_is() {
        let links = links();
        links.set(peers([1]));
        let moved = [(id(1), "10.0.0.2:1".parse().expect("an address"))];
        assert!(links.set(moved.clone().into()).is_empty());
        let link = links.get(id(1)).expect("a peer");
        assert_eq!(link.address(), Some(moved[0].1.clone()));
    }

    #[test]
    fn guests_are_bounded_and_take_no_place_of_a_peer() {
        let links = links();
        links.set(peers(1..=3));
        let most = u32::try_from(MAX_GUESTS).expect("few");
        let mut guests: Vec<_> =
            (4..4 + most).map(|it| links.enter(id(it)).expect("room")).collect();
        let refused = || links.enter(id(1000)).err();
        assert_eq!(refused(), Some(Refusal::TooManyGuests { most: MAX_GUESTS }));
        assert!(links.enter(id(4)).is_ok(), "it is here already");
        assert!(links.enter(id(3)).is_ok(), "it is no guest");
        let begun = links.set(peers([1, 2, 3, 4, 1000]));
        assert_eq!(begun.iter().map(|it| it.link.peer).collect::<Vec<_>>(), [id(4), id(1000)]);
        assert!(links.enter(id(1000)).is_ok() && links.enter(id(1001)).is_ok());
        guests.clear();
        assert_eq!(numbers(&links), [1, 2, 3, 4, 1000]);
    }
}
