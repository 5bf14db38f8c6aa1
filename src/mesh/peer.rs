//! Connections between replicas, from the first hello to the last frame; the same at both ends but
//! for who speaks first.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use quinn::{Connection, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::credentials::certificate_has_name;
use super::hello::{self, PeerHello};
use super::link::Link;
use super::names::replica_name;
use super::refusal::{Closed, Refusal};
use super::stream::{self, FrameStream, write_frames};
use super::{Hub, Lane, tls};
use crate::types::ReplicaId;

/// How soon frames that the node left are offered to it again.
const RETRY_DELIVERY: Duration = Duration::from_millis(1);

/// A connection that has become current, and what is left to be said on it.
pub(super) struct Established {
    link: Arc<Link>,
    connection: Connection,
    serial: u64,
    /// The lower id's commit, if this end is the lower.
    commit: Option<BytesMut>,
    hello: SendStream,
}

/// Says hello first, on a connection this end has dialled.
pub(super) async fn greet(
    hub: &Hub,
    link: &Arc<Link>,
    connection: &Connection,
) -> Result<Established, Closed> {
    let (mut tx, mut rx) = connection.open_bi().await?;
    hello::send(&mut tx, &own_hello(hub, link, 0).encode()).await?;
    let theirs = PeerHello::decode(&hello::receive(&mut rx).await?)?;
    check(hub, &theirs, connection)?;
    if theirs.from != link.peer {
        return Err(Refusal::WrongReplica { ours: hub.id, wanted: theirs.to }.into());
    }
    admit(hub, &theirs).await?;
    tls::widen(connection, &hub.limits);
    let (serial, commit) = if hub.id < link.peer {
        let (serial, generation) = commit(hub, link, connection, &theirs)?;
        let mut ready = BytesMut::new();
        ready.put_u64_le(generation);
        (serial, Some(ready))
    } else {
        (obey(hub, link, connection, &theirs, theirs.generation)?, None)
    };
    Ok(Established {
        link: Arc::clone(link),
        connection: connection.clone(),
        serial,
        commit,
        hello: tx,
    })
}

/// Answers the hello on a connection that a replica has dialled.
pub(super) async fn answer(hub: &Hub, connection: &Connection) -> Result<Established, Closed> {
    let (mut tx, mut rx) = connection.accept_bi().await?;
    let theirs = PeerHello::decode(&hello::receive(&mut rx).await?)?;
    let link = check(hub, &theirs, connection)?;
    admit(hub, &theirs).await?;
    tls::widen(connection, &hub.limits);
    let (serial, commit) = if hub.id < link.peer {
        let (serial, generation) = commit(hub, &link, connection, &theirs)?;
        (serial, Some(own_hello(hub, &link, generation).encode()))
    } else {
        hello::send(&mut tx, &own_hello(hub, &link, 0).encode()).await?;
        let ready = hello::receive(&mut rx).await?;
        let generation = u64::from_le_bytes(ready.try_into().map_err(|_| Refusal::BadHello)?);
        (obey(hub, &link, connection, &theirs, generation)?, None)
    };
    Ok(Established { link, connection: connection.clone(), serial, commit, hello: tx })
}

fn own_hello(hub: &Hub, link: &Link, generation: u64) -> PeerHello {
    let (lost_session, lost_generation) = link.lost();
    PeerHello {
        cluster: hub.cluster.clone(),
        from: hub.id,
        to: link.peer,
        directory: hub.directory,
        origin: hub.origin,
        incarnation: hub.incarnation,
        session: hub.session,
        epoch: 0,
        lost_session,
        lost_generation,
        generation,
        protocol: hub.protocol.clone(),
    }
}

/// Everything about a hello that doesn't depend on other connections.
fn check(hub: &Hub, hello: &PeerHello, connection: &Connection) -> Result<Arc<Link>, Refusal> {
    check_addressee(hub, &hello.cluster, hello.to)?;
    let link = hub.link(hello.from).ok_or(Refusal::UnknownReplica(hello.from))?;
    check_certificate(connection, replica_name(&hub.cluster, hello.from))?;
    if hello.origin != hub.origin {
        let (ours, theirs) = (hub.origin, hello.origin);
        return Err(Refusal::OtherOrigin { id: hello.from, ours, theirs });
    }
    if hello.protocol != hub.protocol {
        let (ours, theirs) = (hub.protocol.clone(), hello.protocol.clone());
        return Err(Refusal::OtherProtocol { id: hello.from, ours, theirs });
    }
    Ok(Arc::clone(link))
}

/// Asks the node, which may have to write down who this is: on another thread, so that the event
/// loop does not wait for a disk.
async fn admit(hub: &Hub, hello: &PeerHello) -> Result<(), Refusal> {
    let inbound = Arc::clone(&hub.inbound);
    let PeerHello { from, directory, incarnation, .. } = *hello;
    let asked = tokio::task::spawn_blocking(move || inbound.admit(from, directory, incarnation));
    asked.await.unwrap_or(Err(Refusal::Internal))
}

/// Whether a hello was meant for this replica of this cluster.
pub(super) fn check_addressee(hub: &Hub, cluster: &str, to: ReplicaId) -> Result<(), Refusal> {
    if cluster != hub.cluster {
        let (ours, theirs) = (hub.cluster.clone(), cluster.to_owned());
        return Err(Refusal::WrongCluster { ours, theirs });
    }
    if to != hub.id {
        return Err(Refusal::WrongReplica { ours: hub.id, wanted: to });
    }
    Ok(())
}

/// Whether the other end's certificate, which TLS has traced to a trusted authority, is for the
/// name it claims.
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
) -> Result<(u64, u64), Refusal> {
    link.install(connection, &*hub.inbound, |arbiter| arbiter.commit(hub.session, hello))
}

fn obey(
    hub: &Hub,
    link: &Link,
    connection: &Connection,
    hello: &PeerHello,
    generation: u64,
) -> Result<u64, Refusal> {
    link.install(connection, &*hub.inbound, |arbiter| arbiter.obey(hello, generation))
        .map(|(serial, ())| serial)
}

/// Runs an established connection to its end.
pub(super) async fn run(hub: Arc<Hub>, established: Established) {
    let Established { link, connection, serial, commit, hello } = established;
    info!(us = %hub.id, peer = %link.peer, remote = %connection.remote_address(), "connected");
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    writers.spawn(say_commit(hello, commit));
    for lane in Lane::ALL {
        writers.spawn(write_lane(Arc::clone(&link), connection.clone(), serial, lane));
        let hub = Arc::clone(&hub);
        readers.spawn(read_lane(hub, Arc::clone(&link), connection.clone(), serial));
    }
    let flushed = async { while writers.join_next().await.is_some() {} };
    let why = tokio::select! {
        closed = connection.closed() => Closed::from(closed),
        () = panicked(&mut readers) => {
            // The node's callback did. Better no connection than one that nobody reads.
            error!(us = %hub.id, peer = %link.peer, "handling frames panicked");
            Refusal::Internal.close(&connection);
            Refusal::Internal.into()
        }
        () = flushed => {
            // Only at shutdown do all writers end before the connection does.
            Refusal::ShuttingDown.close(&connection);
            Refusal::ShuttingDown.into()
        }
    };
    readers.shutdown().await;
    link.uninstall(serial, &*hub.inbound, why.to_string());
    info!(us = %hub.id, peer = %link.peer, %why, "disconnected");
}

/// Waits until a task panics, which may be for ever.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err() {
            return;
        }
    }
    std::future::pending().await
}

async fn say_commit(mut stream: SendStream, commit: Option<BytesMut>) {
    // If this fails the connection is lost, which `run` sees.
    if let Some(commit) = commit {
        let _ = hello::send(&mut stream, &commit).await;
    }
    let _ = stream.finish();
}

async fn write_lane(link: Arc<Link>, connection: Connection, serial: u64, lane: Lane) {
    let writing = async {
        let mut stream = connection.open_uni().await?;
        // An error says that the connection is gone, and so does the write.
        let _ = stream.set_priority(lane.priority());
        stream.write_all(&[lane.tag()]).await.map_err(|_| Refusal::Done)?;
        write_frames(link.outbox(lane), serial, &mut stream, &link.counters, None).await
    };
    if let Err(why) = writing.await {
        // Without its lane the connection is of no use, even if QUIC thinks it is fine.
        debug!(peer = %link.peer, ?lane, %why, "writing ended");
        Refusal::Protocol("end of a lane").close(&connection);
    }
}

async fn read_lane(hub: Arc<Hub>, link: Arc<Link>, connection: Connection, serial: u64) {
    match read_frames(&hub, &link, &connection, serial).await {
        Ok(()) => debug!(peer = %link.peer, "a lane was finished"),
        Err(Closed::Here(refusal)) => {
            warn!(us = %hub.id, peer = %link.peer, %refusal, "closing the connection");
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
            // The node has no room: the unread stream holds the peer back meanwhile.
            tokio::time::sleep(RETRY_DELIVERY).await;
            link.deliver(serial, &*hub.inbound, &mut frames);
        }
    }
    Ok(())
}
