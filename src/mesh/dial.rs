//! Dials each peer whenever it is not connected, with growing pauses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connecting, Connection};
use rand::RngExt;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Hub;
use super::link::Link;
use super::links::{LinkUse, ToDial};
use super::names::replica_name;
use super::peer::{self, Established};
use super::refusal::{Closed, Refusal};
use crate::types::{Address, MemberId};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The higher id lets the lower dial first, because crossing dials waste one connection.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long an address may take to answer before the next one is dialled, too (RFC 8305).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// A connection that lasted this long does not count as a failed attempt.
const STABLE: Duration = Duration::from_secs(1);

/// Dials these peers from now on, and no others. An entry for this replica is not dialled.
pub(super) fn set_peers(hub: &Arc<Hub>, mut peers: BTreeMap<MemberId, Address>) {
    peers.remove(&hub.id);
    for ToDial { link, ticket } in hub.links.set(peers) {
        hub.spawn(keep_dialling(Arc::clone(hub), link, ticket));
    }
}

/// Runs until the mesh shuts down, or until the peer is not to be dialled any longer.
async fn keep_dialling(hub: Arc<Hub>, link: Arc<Link>, ticket: u64) {
    tokio::select! {
        () = link.dialled_no_longer_by(ticket) => {
            info!(us = %hub.id, peer = %link.peer, "not dialled any longer");
        }
        () = dial_while_down(&hub, &link, ticket) => {}
    }
}

async fn dial_while_down(hub: &Arc<Hub>, link: &Arc<Link>, ticket: u64) {
    let mut up = link.up();
    let mut pause = FIRST_PAUSE;
    if hub.id > link.peer {
        sleep(HEAD_START).await;
    }
    loop {
        if *up.borrow_and_update() {
            let since = Instant::now();
            let _ = up.wait_for(|up| !up).await;
            if since.elapsed() >= STABLE {
                pause = FIRST_PAUSE;
                if hub.id > link.peer {
                    wait(&mut up, HEAD_START).await;
                }
            } else {
                pause_and_grow(hub, &mut up, &mut pause).await;
            }
            continue;
        }
        let Some(own) = hub.links.enter_to_dial(link, ticket) else { return };
        match dial(hub, own).await {
            Ok(established) => {
                hub.spawn(peer::run(Arc::clone(hub), established));
                continue;
            }
            Err(why) if why.is_routine() => debug!(us = %hub.id, peer = %link.peer, %why, "dial"),
            Err(why) => {
                // Log each reason once: there are many attempts, and the status shows the last
                // error.
                if link.note_error(why.to_string()) {
                    let addr = link.address().map(|it| it.to_string()).unwrap_or_default();
                    warn!(us = %hub.id, peer = %link.peer, addr, %why, "cannot connect");
                }
                // The callback may end the process; give the other end time to receive the reason
                // first.
                sleep(peer::LAST_PACKETS).await;
                hub.inbound.on_refused(link.peer, &why);
            }
        }
        pause_and_grow(hub, &mut up, &mut pause).await;
    }
}

/// Waits for about `pause` and doubles it. The jitter keeps replicas from dialling in lockstep.
async fn pause_and_grow(hub: &Hub, up: &mut Receiver<bool>, pause: &mut Duration) {
    let jitter = rand::rng().random_range(0.5..1.0);
    wait(up, pause.mul_f64(jitter)).await;
    *pause = (*pause * 2).min(hub.limits.max_backoff);
}

/// Waits, but at most until the peer itself has connected.
async fn wait(up: &mut Receiver<bool>, pause: Duration) {
    let _ = timeout(pause, up.wait_for(|up| *up)).await;
}

async fn dial(hub: &Hub, link: LinkUse) -> Result<Established, Closed> {
    let name = replica_name(&hub.cluster, link.peer);
    let endpoint = hub.endpoint().ok_or(Refusal::ShuttingDown)?;
    let attempt = async {
        let address = link.address().ok_or(Refusal::Done)?;
        let addresses = hub.resolver.resolve(&address, hub.reach).await?;
        link.note_hosts(&addresses);
        let connection = first_to_answer(&addresses, |addr| {
            let connecting = endpoint.connect_with(hub.dialling.clone(), addr, &name);
            connecting.map_err(|error| Closed::Dial(error.to_string()))
        });
        let connection = connection.await?;
        // Nothing is awaited after the connection is installed, so the timeout cannot orphan it.
        peer::greet(hub, link, &connection).await.inspect_err(|why| {
            if let Closed::Here(refusal) = why {
                refusal.close(&connection);
            }
        })
    };
    timeout(hub.limits.handshake_timeout, attempt).await.unwrap_or(Err(Closed::Timeout))
}

/// Dials the addresses in turn, until one has proven its name; then gives up the others. The next
/// dial starts when the one before has failed or is [`ATTEMPT_DELAY`] old.
pub(super) async fn first_to_answer(
    addresses: &[SocketAddr],
    dial: impl Fn(SocketAddr) -> Result<Connecting, Closed>,
) -> Result<Connection, Closed> {
    let mut attempts = JoinSet::new();
    let mut failures: Vec<(SocketAddr, Closed)> = Vec::new();
    let mut left = addresses.iter().copied();
    loop {
        if let Some(addr) = left.next() {
            match dial(addr) {
                Ok(connecting) => drop(attempts.spawn(async move { (addr, connecting.await) })),
                Err(why) => failures.push((addr, why)),
            }
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok((_, Ok(connection)))) => return Ok(connection),
                Some(Ok((addr, Err(why)))) => failures.push((addr, why.into())),
                // A task ends like this only when the runtime does.
                Some(Err(_)) => return Err(Refusal::ShuttingDown.into()),
                None if left.len() == 0 => return Err(nowhere(failures)),
                None => {}
            },
            () = sleep(ATTEMPT_DELAY), if left.len() > 0 => {}
        }
    }
}

/// The error when no address has answered.
fn nowhere(mut failures: Vec<(SocketAddr, Closed)>) -> Closed {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let answered = failures.iter().any(|(_, why)| why.is_answered());
    let failures = failures.into_iter().map(|(addr, why)| format!("{addr}: {why}"));
    Closed::Nowhere { failures: failures.collect::<Vec<_>>().join("; "), answered }
}
