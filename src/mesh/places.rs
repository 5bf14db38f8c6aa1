//! Places for the connections of strangers and clients. Each certificate may have a bounded number,
//! so that one client with many connections cannot take everyone's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use super::account::Account;
use super::config::ConnectionLimits;
use super::queue::Outbox;
use super::refusal::Refusal;

/// The role in which a connection needs a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It claims to be a replica, and keeps the place only during its hello.
    Peer,
    Client,
}

/// A connection's place; dropping it frees the place.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) account: Arc<Account>,
}

impl Place {
    /// Takes a place for a connection with a proven certificate, or returns why there is none.
    pub(super) fn take(
        places: &Arc<Places>,
        connection: &Connection,
        role: Role,
    ) -> Result<Place, Refusal> {
        let identity = connection.peer_identity();
        let chain =
            identity.as_ref().and_then(|i| i.downcast_ref::<Vec<CertificateDer<'static>>>());
        let certificate = chain.and_then(|chain| chain.first()).ok_or(Refusal::BadHello)?;
        let (number, account) = places.enter(certificate, role)?;
        Ok(Place { places: Arc::clone(places), number, account })
    }

    /// The client's hello is done. Frames queued for it are sent before the mesh shuts down.
    pub(super) fn attach(&self, outbox: &Arc<Outbox>) {
        if let Some(taken) = self.places.lock().taken.get_mut(&self.number) {
            taken.outbox = Some(Arc::clone(outbox));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(self.number);
    }
}

/// The places of one mesh's connections: counted, bounded, and notified at shutdown.
pub(super) struct Places {
    limits: ConnectionLimits,
    state: Mutex<Holders>,
    left: Notify,
}

/// Invariants:
/// 1. `accounts` has the certificates with a connection in `taken`, and counts their connections.
/// 2. `clients` counts the entries of `taken` in the role of a client.
#[derive(Default)]
struct Holders {
    next: u64,
    taken: HashMap<u64, Taken>,
    clients: usize,
    accounts: HashMap<CertificateDer<'static>, (Arc<Account>, usize)>,
}

struct Taken {
    certificate: CertificateDer<'static>,
    role: Role,
    /// `Some` once the hello is done.
    outbox: Option<Arc<Outbox>>,
}

impl Places {
    pub(super) fn new(limits: &ConnectionLimits) -> Places {
        Places { limits: limits.clone(), state: Mutex::default(), left: Notify::new() }
    }

    /// Takes a place for a connection with this certificate.
    fn enter(
        &self,
        certificate: &CertificateDer<'static>,
        role: Role,
    ) -> Result<(u64, Arc<Account>), Refusal> {
        let mut state = self.lock();
        let most = self.limits.max_clients_per_certificate;
        if state.accounts.get(certificate).is_some_and(|(_, connections)| *connections >= most) {
            return Err(Refusal::TooManyConnections { most });
        }
        if role == Role::Client && state.clients >= self.limits.max_clients {
            return Err(Refusal::TooManyClients);
        }
        state.next += 1;
        let number = state.next;
        state.clients += usize::from(role == Role::Client);
        let (account, connections) = state
            .accounts
            .entry(certificate.clone())
            .or_insert_with(|| (Account::new(number, &self.limits), 0));
        *connections += 1;
        let account = Arc::clone(account);
        let taken = Taken { certificate: certificate.clone(), role, outbox: None };
        state.taken.insert(number, taken);
        Ok((number, account))
    }

    fn leave(&self, number: u64) {
        let mut state = self.lock();
        let Some(taken) = state.taken.remove(&number) else { return };
        state.clients -= usize::from(taken.role == Role::Client);
        if let Some((_, connections)) = state.accounts.get_mut(&taken.certificate) {
            *connections -= 1;
            if *connections == 0 {
                state.accounts.remove(&taken.certificate);
            }
        }
        drop(state);
        self.left.notify_waiters();
    }

    /// The number of connections whose hello is done.
    pub(super) fn count(&self) -> usize {
        self.lock().taken.values().filter(|taken| taken.outbox.is_some()).count()
    }

    /// Lets every client's writer end once its queue is empty.
    pub(super) fn finish(&self) {
        let state = self.lock();
        let outboxes = state.taken.values().filter_map(|taken| taken.outbox.as_ref());
        outboxes.for_each(|outbox| outbox.finish());
    }

    /// Waits until the last client has left.
    pub(super) async fn wait_none(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        // The code under this lock cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(byte: u8) -> CertificateDer<'static> {
        vec![byte].into()
    }

    #[test]
    fn one_certificate_leaves_places_to_the_others_and_gets_its_own_back() {
        let limits = ConnectionLimits {
            max_clients: 4,
            max_clients_per_certificate: 2,
            ..ConnectionLimits::default()
        };
        let clients = Places::new(&limits);
        let enter =
            |byte, role| clients.enter(&certificate(byte), role).map(|(n, a)| (n, a.number()));
        let first = enter(1, Role::Client).unwrap();
        let second = enter(1, Role::Client).unwrap();
        assert_eq!(first.1, second.1, "one account");
        let too_many = Err(Refusal::TooManyConnections { most: 2 });
        assert_eq!(enter(1, Role::Client), too_many);
        assert_eq!(enter(1, Role::Peer), too_many, "under whichever role");
        for byte in [2, 3] {
            assert_ne!(enter(byte, Role::Client).unwrap().1, first.1);
        }
        assert_eq!(enter(4, Role::Client), Err(Refusal::TooManyClients));
        assert!(enter(4, Role::Peer).is_ok(), "a peer needs no client's place");
        clients.leave(first.0);
        assert!(enter(4, Role::Client).is_ok());
        clients.leave(second.0);
        clients.leave(second.0);
        let again = enter(1, Role::Peer).unwrap();
        assert_ne!(again.1, first.1, "nothing is kept of who has left");
        assert_eq!(clients.lock().clients, 3);
    }
}
