//! The UDP socket and the QUIC endpoint on it, over the real network or an emulated one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::{UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::MeshError;
use super::addresses::Reach;
use super::resolve::Resolver;
use super::wan::{Wan, WanSocket};
use crate::types::{Address, MemberId};

/// Binds a socket to this address. `[::]` also accepts IPv4, whatever the system's setting.
pub(super) fn socket(addr: SocketAddr) -> Result<UdpSocket, MeshError> {
    let bound = match addr {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => both_families(addr),
        _ => UdpSocket::bind(addr),
    };
    bound.map_err(|source| MeshError::Bind { addr, source })
}

/// Binds a socket to the address to listen at. For a host name, that is its first address on this
/// machine.
pub(super) async fn listen(address: &Address, resolver: &Resolver) -> Result<UdpSocket, MeshError> {
    if let Some(addr) = address.socket() {
        return socket(addr);
    }
    let failed = |why: String| MeshError::Listen { address: address.clone(), why };
    let found = resolver.resolve(address, Reach::Both).await;
    let mut found = found.map_err(|error| failed(error.to_string()))?;
    // Many systems resolve their own name to a loopback address before the public one.
    found.sort_by_key(|addr| addr.ip().is_loopback());
    let mut failures = Vec::new();
    for addr in found {
        match socket(addr) {
            Ok(socket) => return Ok(socket),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(failed(failures.join("; ")))
}

/// Warns if the socket is reachable only from this machine but peers are elsewhere.
pub(super) fn warn_of_loopback(id: MemberId, own: &Address, local: SocketAddr, peers: &[Address]) {
    let is_elsewhere = |peer: &Address| match (peer.socket(), peer.name()) {
        (Some(addr), _) => !addr.ip().is_loopback(),
        (None, name) => name != Some("localhost"),
    };
    if local.ip().is_loopback() && peers.iter().any(is_elsewhere) {
        warn!(
            us = %id, listen = %own, %local,
            "only this machine reaches a loopback address: for replicas on others set `listen`"
        );
    }
}

fn both_families(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// An endpoint on `socket` that accepts if `server` is given, with kernel buffers of `buffers`
/// bytes if the kernel grants them.
pub(super) fn endpoint(
    socket: UdpSocket,
    server: Option<quinn::ServerConfig>,
    wan: Option<&Wan>,
    buffers: usize,
) -> io::Result<Endpoint> {
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    // The kernel silently limits the size; if the call fails, smaller buffers are good enough.
    let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), buffers);
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), buffers);
    let runtime = Arc::new(TokioRuntime);
    let abstract_socket: Arc<dyn AsyncUdpSocket> = match wan {
        None => runtime.wrap_udp_socket(socket)?,
        Some(wan) => {
            let sender = socket.try_clone()?;
            Arc::new(WanSocket::new(runtime.wrap_udp_socket(socket)?, sender, wan)?)
        }
    };
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, abstract_socket, runtime)
}
