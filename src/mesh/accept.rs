//! Takes in connections of peers and clients, a bounded number of strangers at a time.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::refusal::{Closed, Refusal};
use super::{Hub, peer, pipe, tls};

/// Runs until the mesh shuts down.
pub(super) async fn keep_accepting(hub: Arc<Hub>, endpoint: Endpoint) {
    let most = hub.limits.max_handshakes;
    let handshakes = Arc::new(Semaphore::new(most));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        // Half of the places go only to those who have shown that they receive at their address.
        if handshakes.available_permits() < most / 2 && incoming.may_retry() {
            // An error hands the attempt back, and dropping it refuses it.
            drop(incoming.retry());
            continue;
        }
        let shared = Arc::clone(&hub);
        hub.spawn(async move { handshake(shared, incoming, permit).await });
    }
}

async fn handshake(hub: Arc<Hub>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let welcomed = timeout(hub.limits.handshake_timeout, welcome(&hub, incoming));
    let result = welcomed.await.unwrap_or(Err(Closed::Timeout));
    drop(permit);
    match result {
        Ok(Welcomed::Peer(established)) => peer::run(hub, established).await,
        Ok(Welcomed::Client) => {}
        Err(why) if why.is_routine() => debug!(us = %hub.id, %remote, %why, "not accepted"),
        Err(why) => warn!(us = %hub.id, %remote, %why, "refused"),
    }
}

enum Welcomed {
    Peer(peer::Established),
    Client,
}

async fn welcome(hub: &Arc<Hub>, incoming: Incoming) -> Result<Welcomed, Closed> {
    let connection = incoming.await?;
    let greeted = match protocol(&connection).as_deref() {
        Some(tls::PEER_ALPN) => peer::answer(hub, &connection).await.map(Welcomed::Peer),
        Some(tls::CLIENT_ALPN) => pipe::welcome(hub, &connection).await.map(|()| Welcomed::Client),
        // TLS picks one of the two or fails.
        _ => Err(Refusal::BadHello.into()),
    };
    greeted.inspect_err(|why| {
        if let Closed::Here(refusal) = why {
            refusal.close(&connection);
        }
    })
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}
