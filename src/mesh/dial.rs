//! Keeps dialling one peer whenever it isn't connected, at a growing pace.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::Hub;
use super::link::Link;
use super::names::replica_name;
use super::peer::{self, Established};
use super::refusal::{Closed, Refusal};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The higher id lets the lower dial first: two dials that cross cost one in vain.
const HEAD_START: Duration = Duration::from_millis(50);
/// A connection that lived this long was no failed attempt.
const STABLE: Duration = Duration::from_secs(1);

/// Runs until the mesh shuts down.
pub(super) async fn keep_dialling(hub: Arc<Hub>, link: Arc<Link>) {
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
                pause_and_grow(&hub, &mut up, &mut pause).await;
            }
            continue;
        }
        match dial(&hub, &link).await {
            Ok(established) => {
                hub.spawn(peer::run(Arc::clone(&hub), established));
                continue;
            }
            Err(why) if why.is_for_good() && link.note_error(why.to_string()) => {
                warn!(us = %hub.id, peer = %link.peer, %why, "refused for good");
                hub.inbound.on_outcast(link.peer, &why);
            }
            Err(why) if why.is_routine() => debug!(us = %hub.id, peer = %link.peer, %why, "dial"),
            // Said once for each reason: attempts are many, and the status shows the last.
            Err(why) if link.note_error(why.to_string()) => {
                let addr = link.addr();
                warn!(us = %hub.id, peer = %link.peer, %addr, %why, "cannot connect");
            }
            Err(_) => {}
        }
        pause_and_grow(&hub, &mut up, &mut pause).await;
    }
}

/// Waits for about `pause` and doubles it. The jitter keeps replicas from dialling in step.
async fn pause_and_grow(hub: &Hub, up: &mut Receiver<bool>, pause: &mut Duration) {
    let jitter = rand::rng().random_range(0.5..1.0);
    wait(up, pause.mul_f64(jitter)).await;
    *pause = (*pause * 2).min(hub.limits.max_backoff);
}

/// Waits, but no longer than until the peer itself has connected.
async fn wait(up: &mut Receiver<bool>, pause: Duration) {
    let _ = timeout(pause, up.wait_for(|up| *up)).await;
}

async fn dial(hub: &Hub, link: &Arc<Link>) -> Result<Established, Closed> {
    let name = replica_name(&hub.cluster, link.peer);
    let connecting = hub
        .endpoint()
        .ok_or(Refusal::ShuttingDown)?
        .connect_with(hub.dialling.clone(), link.addr(), &name)
        .map_err(|e| Closed::Dial(e.to_string()))?;
    let attempt = async {
        let connection = connecting.await?;
        // Nothing is awaited after the connection is installed, so the time-out can't orphan one.
        peer::greet(hub, link, &connection).await.inspect_err(|why| {
            if let Closed::Here(refusal) = why {
                refusal.close(&connection);
            }
        })
    };
    timeout(hub.limits.handshake_timeout, attempt).await.unwrap_or(Err(Closed::Timeout))
}
