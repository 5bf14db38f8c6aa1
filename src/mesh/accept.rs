//! Accepts connections of peers and clients. At most a bounded number of strangers shake hands at a
//! time.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use tokio::time::{Instant, interval, timeout};
use tracing::{debug, warn};

use super::door::{Door, Seat, Source, Verdict};
use super::places::{Place, Role};
use super::refusal::{Closed, Refusal};
use super::{Hub, peer, pipe, tally, tls};

/// Runs until the mesh shuts down.
pub(super) async fn keep_accepting(hub: Arc<Hub>) {
    let Some(endpoint) = hub.endpoint() else { return };
    let door = Door::new(hub.limits.max_handshakes);
    let mut summary = interval(tally::INTERVAL);
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => open(&hub, &door, incoming),
                None => return,
            },
            _ = summary.tick() => sum_up(&hub),
        }
    }
}

fn open(hub: &Arc<Hub>, door: &Door, incoming: Incoming) {
    let address = incoming.remote_address().ip();
    let is_peer = hub.links.is_peer_at(address);
    let source = Source::new(address, is_peer);
    // An attempt that cannot be asked again to prove its address has proven it already.
    let proven = incoming.remote_address_validated() || !incoming.may_retry();
    match door.knock(source, proven, Instant::now()) {
        Verdict::Enter(seat) => {
            let shared = Arc::clone(hub);
            hub.spawn(async move { handshake(shared, incoming, seat).await });
        }
        // An error returns the attempt; dropping it refuses it.
        Verdict::Prove => drop(incoming.retry()),
        Verdict::Refuse => {
            if hub.refused.admits(Instant::now()) {
                warn!(us = %hub.id, remote = %address, "refused: too many handshakes at a time");
            }
            incoming.refuse();
        }
    }
}

/// Logs how many lines were left out lately.
fn sum_up(hub: &Hub) {
    let tallies =
        [(&*hub.refused, "refused"), (&*hub.cut_off, "cut off"), (&*hub.guests, "made by guests")];
    for (tally, what) in tallies {
        let count = tally.left_out();
        if count > 0 {
            warn!(us = %hub.id, count, "more connections were {what} than are listed here");
        }
    }
}

async fn handshake(hub: Arc<Hub>, incoming: Incoming, seat: Seat) {
    let remote = incoming.remote_address();
    match welcome(&hub, incoming, seat).await {
        Ok(Welcomed::Peer(established)) => peer::run(hub, established).await,
        Ok(Welcomed::Client | Welcomed::Refused) => {}
        Err(why) if why.is_routine() => debug!(us = %hub.id, %remote, %why, "not accepted"),
        Err(why) if hub.refused.admits(Instant::now()) => {
            warn!(us = %hub.id, %remote, %why, "refused");
        }
        Err(_) => {}
    }
}

enum Welcomed {
    Peer(peer::Established),
    Client,
    /// A peer was refused and told why.
    Refused,
}

/// TLS and the hello may each take half of the time. So a stranger who shows no certificate does
/// not occupy a place for longer.
async fn welcome(hub: &Arc<Hub>, incoming: Incoming, seat: Seat) -> Result<Welcomed, Closed> {
    let patience = hub.limits.handshake_timeout / 2;
    let mut seat = seat;
    let connection = tokio::select! {
        shaken = timeout(patience, async { incoming.accept()?.await }) => {
            shaken.unwrap_or(Err(quinn::ConnectionError::TimedOut))?
        }
        () = seat.lost() => return Err(Closed::Crowded),
    };
    // From here on the connection occupies a place of its certificate.
    drop(seat);
    let greeted = timeout(patience, greet(hub, &connection));
    greeted.await.unwrap_or(Err(Refusal::HelloTimeout.into())).inspect_err(|why| {
        if let Closed::Here(refusal) = why {
            refusal.close(&connection);
        }
    })
}

async fn greet(hub: &Arc<Hub>, connection: &Connection) -> Result<Welcomed, Closed> {
    match protocol(connection).as_deref() {
        Some(tls::PEER_ALPN) => {
            let _place = Place::take(&hub.places, connection, Role::Peer)?;
            let answered = peer::answer(hub, connection).await;
            answered.map(|answered| answered.map_or(Welcomed::Refused, Welcomed::Peer))
        }
        Some(tls::CLIENT_ALPN) => {
            let place = Place::take(&hub.places, connection, Role::Client)?;
            pipe::welcome(hub, connection, place).await.map(|()| Welcomed::Client)
        }
        // TLS selects one of the two or fails.
        _ => Err(Refusal::BadHello.into()),
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}
