//! The links of a client to the replicas: first those that it was configured with, then, unless it
//! is to use only them, those in the newest list of members that any of them has told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::link::{Link, keep_connected};
use crate::mesh::ClientEndpoint;
use crate::types::{Address, MemberId, Membership};

/// Links to the members.
pub(super) struct Links {
    endpoint: ClientEndpoint,
    /// Notified whenever a link connects, fails to, or hears of another list.
    changed: watch::Sender<u64>,
    /// Whether the links follow the list that the replicas tell of.
    follows: bool,
    state: Mutex<State>,
}

/// Invariant: each link has a task that keeps it connected, and no other task does.
struct State {
    links: BTreeMap<MemberId, (Arc<Link>, AbortHandle)>,
    /// The epoch of the list that the links follow; 0 for the configured ones.
    epoch: u32,
    /// The observers in that list.
    observers: BTreeSet<MemberId>,
    /// Aborted with the links.
    tasks: JoinSet<()>,
}

impl Links {
    /// Begins to connect with these replicas. If `follows`, the links follow the list that the
    /// replicas tell of.
    pub(super) fn start(
        replicas: BTreeMap<MemberId, Address>,
        endpoint: ClientEndpoint,
        follows: bool,
    ) -> Arc<Links> {
        let (observers, tasks) = (BTreeSet::new(), JoinSet::new());
        let state = State { links: BTreeMap::new(), epoch: 0, observers, tasks };
        let changed = watch::Sender::new(0);
        let links = Arc::new(Links { endpoint, changed, follows, state: Mutex::new(state) });
        {
            let mut state = links.lock();
            for (id, address) in replicas {
                links.begin(&mut state, id, vec![address]);
            }
            if follows {
                let changes = links.changed.subscribe();
                state.tasks.spawn(follow(Arc::downgrade(&links), changes));
            }
        }
        links
    }

    /// Notified whenever a link connects or fails to.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All links.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.lock().links.values().map(|(link, _)| Arc::clone(link)).collect()
    }

    /// The connected links: the one to `prefer` first, then by distance.
    pub(super) fn in_order(&self, prefer: Option<MemberId>) -> Vec<(Duration, Arc<Link>)> {
        let links = self.all().into_iter();
        let mut links: Vec<_> = links.filter_map(|link| Some((link.rtt()?, link))).collect();
        links.sort_by_key(|(rtt, link)| (Some(link.replica) != prefer, *rtt));
        links
    }

    /// Whether there is a single replica to ask, and there will be no other.
    pub(super) fn is_single(&self) -> bool {
        !self.follows && self.lock().links.len() == 1
    }

    /// Those of these links that lead to members with a vote; all of them if none does.
    pub(super) fn voters(
        &self,
        mut links: Vec<(Duration, Arc<Link>)>,
    ) -> Vec<(Duration, Arc<Link>)> {
        let state = self.lock();
        let votes = |(_, link): &(Duration, Arc<Link>)| !state.observers.contains(&link.replica);
        if links.iter().any(votes) {
            links.retain(votes);
        }
        links
    }

    fn begin(&self, state: &mut State, id: MemberId, addresses: Vec<Address>) {
        let link = Arc::new(Link::new(id, addresses, self.changed.clone()));
        let task = keep_connected(Arc::clone(&link), self.endpoint.clone());
        let task = state.tasks.spawn(task);
        state.links.insert(id, (link, task));
    }

    /// Follows the newest list that a replica has told, if it is newer.
    fn follow_newest(&self) {
        let mut state = self.lock();
        let told = state.links.values().filter_map(|(link, _)| link.list());
        let Some(list) = told.max_by_key(Membership::epoch) else { return };
        if list.epoch() <= state.epoch {
            return;
        }
        debug!(epoch = list.epoch(), members = %list, "the cluster's members changed");
        state.epoch = list.epoch();
        state.observers = list.observers().iter().map(|observer| observer.id).collect();
        let is_gone = |id: &MemberId| list.all().all(|member| member.id != *id);
        let gone: Vec<_> = state.links.keys().copied().filter(is_gone).collect();
        for id in gone {
            State::end(&mut state, id);
        }
        for member in list.all() {
            let before = state.links.get(&member.id).map(|(link, _)| Arc::clone(link));
            let known = before.as_ref().map_or(&[][..], |link| link.addresses());
            // Clients may reach a replica by another address than replicas do: one that works is
            // kept, and the one before is tried again if the new one does not.
            let works = before.as_ref().is_some_and(|link| link.rtt().is_some());
            if works || known.first() == Some(&member.address) {
                continue;
            }
            let earlier = known.iter().filter(|it| **it != member.address).take(1).cloned();
            let addresses = std::iter::once(member.address.clone()).chain(earlier).collect();
            State::end(&mut state, member.id);
            self.begin(&mut state, member.id, addresses);
        }
        // Remove ended tasks, or the set would grow with every change.
        while state.tasks.try_join_next().is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The code under this lock keeps the state consistent at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, id: MemberId) {
        if let Some((link, task)) = self.links.remove(&id) {
            task.abort();
            link.end();
        }
    }
}

async fn follow(links: Weak<Links>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        let Some(links) = links.upgrade() else { return };
        links.follow_newest();
    }
}
