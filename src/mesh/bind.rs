//! The UDP socket and the QUIC endpoint on it, over the real network or an emulated one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::{UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime};

use super::MeshError;
use super::wan::{Wan, WanSocket};

pub(super) fn socket(addr: SocketAddr) -> Result<UdpSocket, MeshError> {
    UdpSocket::bind(addr).map_err(|source| MeshError::Bind { addr, source })
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
    // The kernel caps what it grants without an error; where it does fail, less is good enough.
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
