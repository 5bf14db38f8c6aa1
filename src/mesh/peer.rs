//! Connections between replicas, from the first hello to the last frame. Both ends work the same,
//! except for who speaks first.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use super::credentials::certificate_has_name;
use super::hello::{self, PeerHello};
use super::link::Link;
use super::links::LinkUse;
use super::names::replica_name;
use super::refusal::{Closed, Refusal};
use super::stream::{self, FrameStream, write_frames};
use super::{Hub, Introduction, Lane, tls};
use crate::types::{MemberId, Presence};

/// How soon frames that the node did not take are offered again.
const RETRY_DELIVERY: Duration = Duration::from_millis(1);
/// A process that is silent for this long gives way to another one of the same replica.
const SILENCE: Duration = Duration::from_millis(450);
/// After this pause, everything sent earlier has arrived.
pub(super) const LAST_PACKETS: Duration = Duration::from_millis(50);
/// How often to check whether it has answered.
const LOOK: Duration = Duration::from_millis(10);

/// A connection that has become current, and what is still to be sent on its hello stream.
pub(super) struct Established {
    link: LinkUse,
    connection: Connection,
    serial: u64,
    /// The commit, if this end has the lower id.
    commit: Option<BytesMut>,
    hello: SendStream,
}

/// Sends the first hello, on a connection that this end has dialled.
pub(super) async fn greet(
    hub: &Hub,
    link: LinkUse,
    connection: &Connection,
) -> Result<Established, Closed> {
    let (mut tx, mut rx) = connection.open_bi().await?;
    hello::send(&mut tx, &own_hello(hub, &link, 0).encode()).await?;
    let theirs = PeerHello::decode(&hello::receive(&mut rx).await?)?;
    identify(hub, &theirs, connection)?;
    if theirs.from != link.peer {
        return Err(Refusal::WrongReplica { ours: hub.id, wanted: theirs.to }.into());
    }
    let judged = judge(hub, &link, &theirs).await?;
    tls::widen(connection, &hub.limits);
    let (serial, commit) = if hub.id < link.peer {
        let (serial, generation) = commit(hub, &link, connection, &theirs, judged)?;
        let mut ready = BytesMut::new();
        ready.put_u64_le(generation);
        (serial, Some(ready))
    } else {
        (obey(hub, &link, connection, &theirs, theirs.generation, judged)?, None)
    };
    Ok(Established { link, connection: connection.clone(), serial, commit, hello: tx })
}

/// Answers the hello on a connection that a replica has dialled; `None` if it was refused and told
/// why.
pub(super) async fn answer(
    hub: &Hub,
    connection: &Connection,
) -> Result<Option<Established>, Closed> {
    let (tx, rx) = connection.accept_bi().await?;
    let mut hello = (tx, rx);
    let theirs = PeerHello::decode(&hello::receive(&mut hello.1).await?)?;
    identify(hub, &theirs, connection)?;
    let link = hub.links.enter(theirs.from)?;
    match answer_peer(hub, &link, connection, &theirs, hello).await {
        Ok((serial, commit, hello)) => {
            let connection = connection.clone();
            Ok(Some(Established { link, connection, serial, commit, hello }))
        }
        Err(why) if why.is_routine() => Err(why),
        Err(why) => {
            if let Closed::Here(refusal) = &why {
                refusal.close(connection);
            }
            // Log each reason once, because a refused peer comes again and again. What was said of
            // a guest is forgotten with its link.
            let is_news = link.note_refusal(why.to_string());
            if if link.is_dialled() { is_news } else { hub.refused.admits(Instant::now()) } {
                let remote = connection.remote_address();
                warn!(us = %hub.id, peer = %link.peer, %remote, %why, "refused");
            }
            // The callback may end the process; give the other end time to receive the reason
            // first.
            sleep(LAST_PACKETS).await;
            hub.inbound.on_refused(link.peer, &why);
            Ok(None)
        }
    }
}

/// Returns the serial of the connection, the commit if this end has the lower id, and the stream.
async fn answer_peer(
    hub: &Hub,
    link: &Link,
    connection: &Connection,
    theirs: &PeerHello,
    (mut tx, mut rx): (SendStream, RecvStream),
) -> Result<(u64, Option<BytesMut>, SendStream), Closed> {
    let judged = judge(hub, link, theirs).await?;
    tls::widen(connection, &hub.limits);
    let (serial, commit) = if hub.id < link.peer {
        let (serial, generation) = commit(hub, link, connection, theirs, judged)?;
        (serial, Some(own_hello(hub, link, generation).encode()))
    } else {
        hello::send(&mut tx, &own_hello(hub, link, 0).encode()).await?;
        let ready = hello::receive(&mut rx).await?;
        let generation = u64::from_le_bytes(ready.try_into().map_err(|_| Refusal::BadHello)?);
        (obey(hub, link, connection, theirs, generation, judged)?, None)
    };
    Ok((serial, commit, tx))
}

fn own_hello(hub: &Hub, link: &Link, generation: u64) -> PeerHello {
    let (lost_life, lost_generation) = link.lost();
    let Introduction { held, knows, epoch, members } = hub.inbound.introduce();
    PeerHello {
        cluster: hub.cluster.clone(),
        from: hub.id,
        to: link.peer,
        shown: Presence { held: held.max(hub.presence.held), ..hub.presence },
        knows,
        origin: hub.origin,
        epoch,
        members,
        lost_life,
        lost_generation,
        generation,
        terms: hub.terms.clone(),
    }
}

/// Whether the hello is meant for this replica, and the certificate proves who sent it.
fn identify(hub: &Hub, hello: &PeerHello, connection: &Connection) -> Result<(), Refusal> {
    check_addressee(hub, &hello.cluster, hello.to)?;
    if hello.from == hub.id {
        return Err(Refusal::Itself(hub.id));
    }
    check_certificate(connection, replica_name(&hub.cluster, hello.from))
}

/// How a replica may connect.
#[derive(Clone, Copy)]
struct Judged {
    /// The peer's life that gives way to it, if any.
    silent: Option<u64>,
    /// The version of the frames.
    frames: u8,
}

/// Whether the replica that sent the hello may connect.
async fn judge(hub: &Hub, link: &Link, hello: &PeerHello) -> Result<Judged, Refusal> {
    let id = hello.from;
    if hello.origin != hub.origin {
        let (ours, theirs) = (hub.origin, hello.origin);
        return Err(Refusal::OtherOrigin { id, ours, theirs });
    }
    compare_lists(&hub.inbound.introduce(), hello)?;
    let frames = hub.terms.compare(id, &hello.terms)?;
    if hub.terms.votes != hello.terms.votes && link.is_dialled() && link.tell_flushing() {
        let (ours, theirs) = (hub.terms.votes, hello.terms.votes);
        warn!(us = %hub.id, peer = %id, ?ours, ?theirs, "only one of the two flushes its votes");
    }
    // Before any waiting: an older copy is told at once, whichever other process runs.
    admit(hub, hello).await?;
    let silent = make_way(link, hello).await?;
    if silent.is_some() {
        admit(hub, hello).await?;
    }
    Ok(Judged { silent, frames })
}

/// Whether the sender of a hello counts quorums as this replica does. Each epoch has one list of
/// members, and only replicas of the same epoch form quorums. A stranger is in none yet.
fn compare_lists(ours: &Introduction, hello: &PeerHello) -> Result<(), Refusal> {
    let same_epoch = ours.epoch.is_some() && ours.epoch == hello.epoch;
    if !same_epoch || ours.members == hello.members {
        return Ok(());
    }
    let (ours, theirs) = (ours.members.clone(), hello.members.clone());
    Err(Refusal::OtherMembers { id: hello.from, ours, theirs })
}

/// Asks the node, which may have to write to the disk: on another thread, so that the event loop
/// does not wait for it.
async fn admit(hub: &Hub, hello: &PeerHello) -> Result<(), Refusal> {
    let inbound = Arc::clone(&hub.inbound);
    let (from, shown, knows) = (hello.from, hello.shown, hello.knows.clone());
    let asked = tokio::task::spawn_blocking(move || inbound.admit(from, shown, &knows));
    asked.await.unwrap_or(Err(Refusal::Internal))
}

/// Two processes may run as one replica, with a directory and its copy. The connected one stays if
/// it is alive. If it was killed, QUIC would notice only after the idle timeout, which is too long
/// for its successor to wait. So it is probed.
async fn make_way(link: &Link, hello: &PeerHello) -> Result<Option<u64>, Refusal> {
    let Some((connection, life)) = link.current().filter(|(_, life)| *life != hello.shown.life)
    else {
        return Ok(None);
    };
    let begun = Instant::now();
    // Packets that a process sent before it was killed may still be under way.
    sleep((connection.rtt() * 2).clamp(LAST_PACKETS, SILENCE / 2)).await;
    let before = connection.stats().udp_rx.datagrams;
    // The datagram is never read, but QUIC acknowledges it. An error means that the connection is
    // gone.
    let _ = connection.send_datagram(Bytes::from_static(b"?"));
    while begun.elapsed() < SILENCE && connection.close_reason().is_none() {
        if connection.stats().udp_rx.datagrams > before {
            return Err(Refusal::Clone(hello.from));
        }
        sleep(LOOK).await;
    }
    Ok(Some(life))
}

/// Whether a hello is meant for this replica of this cluster.
pub(super) fn check_addressee(hub: &Hub, cluster: &str, to: MemberId) -> Result<(), Refusal> {
    if cluster != hub.cluster {
        let (ours, theirs) = (hub.cluster.clone(), cluster.to_owned());
        return Err(Refusal::WrongCluster { ours, theirs });
    }
    if to != hub.id {
        return Err(Refusal::WrongReplica { ours: hub.id, wanted: to });
    }
    Ok(())
}

/// Whether the other end's certificate carries the name that it claims. TLS has already verified
/// the certificate against a trusted authority.
pub(super) fn check_certificate(connection: &Connection, claimed: String) -> Result<(), Refusal> {
    let identity = connection.peer_identity();
    let chain = identity.as_ref().and_then(|i| i.downcast_ref::<Vec<CertificateDer<'static>>>());
    match chain.and_then(|chain| chain.first()) {
        Some(certificate) if certificate_has_name(certificate, &claimed).is_ok() => Ok(()),
        _ => Err(Refusal::WrongCertificate { claimed }),
    }
}

fn commit(
    hub: &Hub,
    link: &Link,
    connection: &Connection,
    hello: &PeerHello,
    judged: Judged,
) -> Result<(u64, u64), Refusal> {
    let Judged { silent, frames } = judged;
    link.install(connection, frames, &*hub.inbound, hello.shown, |arbiter| {
        arbiter.commit(hub.presence.life, hello, silent)
    })
}

fn obey(
    hub: &Hub,
    link: &Link,
    connection: &Connection,
    hello: &PeerHello,
    generation: u64,
    judged: Judged,
) -> Result<u64, Refusal> {
    let Judged { silent, frames } = judged;
    link.install(connection, frames, &*hub.inbound, hello.shown, |arbiter| {
        arbiter.obey(hello, generation, silent)
    })
    .map(|(serial, ())| serial)
}

/// Runs an established connection to its end.
pub(super) async fn run(hub: Arc<Hub>, established: Established) {
    let Established { link, connection, serial, commit, hello } = established;
    let remote = connection.remote_address();
    // Whoever has a certificate may come and go as a guest.
    let is_logged = link.is_dialled() || hub.guests.admits(Instant::now());
    if is_logged {
        let guest = !link.is_dialled();
        info!(us = %hub.id, peer = %link.peer, %remote, guest, "connected");
    }
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    writers.spawn(say_commit(hello, commit));
    for lane in Lane::ALL {
        writers.spawn(write_lane(link.shared(), connection.clone(), serial, lane));
        readers.spawn(read_lane(Arc::clone(&hub), link.shared(), connection.clone(), serial));
    }
    let flushed = async { while writers.join_next().await.is_some() {} };
    let why = tokio::select! {
        closed = connection.closed() => Closed::from(closed),
        () = panicked(&mut readers) => {
            // The node's callback panicked. A closed connection is better than an unread one.
            error!(us = %hub.id, peer = %link.peer, "handling frames panicked");
            Refusal::Internal.close(&connection);
            Refusal::Internal.into()
        }
        () = flushed => {
            // Only at shutdown do all writers end before the connection.
            Refusal::ShuttingDown.close(&connection);
            Refusal::ShuttingDown.into()
        }
    };
    readers.shutdown().await;
    link.uninstall(serial, &*hub.inbound, why.to_string());
    if is_logged {
        info!(us = %hub.id, peer = %link.peer, %why, "disconnected");
    }
}

/// Waits until a task panics, which may be never.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err() {
            return;
        }
    }
    std::future::pending().await
}

async fn say_commit(mut stream: SendStream, commit: Option<BytesMut>) {
    // If this fails, the connection is lost, and `run` notices.
    if let Some(commit) = commit {
        let _ = hello::send(&mut stream, &commit).await;
    }
    let _ = stream.finish();
}

async fn write_lane(link: Arc<Link>, connection: Connection, serial: u64, lane: Lane) {
    let writing = async {
        let mut stream = connection.open_uni().await?;
        // An error means that the connection is gone; the write then fails, too.
        let _ = stream.set_priority(lane.priority());
        stream.write_all(&[lane.tag()]).await.map_err(|_| Refusal::Done)?;
        write_frames(link.outbox(lane), serial, &mut stream, &link.counters, None).await
    };
    if let Err(why) = writing.await {
        // A connection without one of its lanes is useless, even if QUIC considers it fine.
        debug!(peer = %link.peer, ?lane, %why, "writing ended");
        Refusal::Protocol("end of a lane").close(&connection);
    }
}

async fn read_lane(hub: Arc<Hub>, link: Arc<Link>, connection: Connection, serial: u64) {
    match read_frames(&hub, &link, &connection, serial).await {
        Ok(()) => debug!(peer = %link.peer, "a lane was finished"),
        Err(Closed::Here(refusal)) => {
            if link.is_dialled() || hub.refused.admits(Instant::now()) {
                warn!(us = %hub.id, peer = %link.peer, %refusal, "closing the connection");
            }
            refusal.close(&connection);
        }
        Err(why) => debug!(peer = %link.peer, %why, "reading ended"),
    }
}

async fn read_frames(
    hub: &Hub,
    link: &Link,
    connection: &Connection,
    serial: u64,
) -> Result<(), Closed> {
    let mut lane = connection.accept_uni().await?;
    let mut tag = [0];
    lane.read_exact(&mut tag).await.map_err(stream::read_exact_error)?;
    if !Lane::ALL.iter().any(|known| known.tag() == tag[0]) {
        return Err(Refusal::Protocol("lane").into());
    }
    let mut stream = FrameStream::new(lane, hub.limits.peer_frame_bytes);
    let mut frames = Vec::new();
    while stream.read(&mut frames).await? {
        link.deliver(serial, &*hub.inbound, &mut frames);
        while !frames.is_empty() {
            // The node has no room. The unread stream holds the peer back meanwhile.
            tokio::time::sleep(RETRY_DELIVERY).await;
            link.deliver(serial, &*hub.inbound, &mut frames);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::hello::tests::peer;
    use crate::types::MemberId;

    #[test]
    fn lists_are_compared_within_an_epoch_only() {
        let hello = peer();
        let ours = |epoch, n| Introduction {
            epoch,
            members: MemberId::all(n).collect(),
            ..Introduction::default()
        };
        assert_eq!(compare_lists(&ours(Some(0), 3), &hello), Ok(()));
        let other = compare_lists(&ours(Some(0), 5), &hello).expect_err("another list");
        let said = other.to_string();
        for words in ["r1 has the replicas 1, 2, 3 in", "1, 2, 3, 4, 5:", "[replicas]"] {
            assert!(said.contains(words), "{said}");
        }
        for epoch in [Some(1), None] {
            assert_eq!(compare_lists(&ours(epoch, 5), &hello), Ok(()), "{epoch:?}");
        }
        let stranger = PeerHello { epoch: None, members: [].into(), ..hello };
        for epoch in [Some(0), None] {
            assert_eq!(compare_lists(&ours(epoch, 5), &stranger), Ok(()), "{epoch:?}");
        }
    }
}
