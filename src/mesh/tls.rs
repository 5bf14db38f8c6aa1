//! TLS and transport settings: only TLS 1.3, certificates at both ends, no resumption and no 0-RTT
//! (so each connection proves its identity again), one application protocol for each role.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::MeshError;
use super::config::{Congestion, ConnectionLimits};
use super::credentials::Credentials;
use super::crypto::{Clock, provider};

/// The application protocol between replicas.
pub(super) const PEER_ALPN: &[u8] = b"isonomy-peer/1";
/// The application protocol between a client and a replica.
pub(super) const CLIENT_ALPN: &[u8] = b"isonomy-client/1";

/// How many bytes a stranger can make this end buffer before its handshake is processed.
const INCOMING_BUFFER_BYTES: u64 = 16 << 10;

/// Settings for the accepting half of a mesh.
pub(super) fn server_config(
    credentials: &Credentials,
    limits: &ConnectionLimits,
    congestion: Congestion,
) -> Result<quinn::ServerConfig, MeshError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&credentials.roots), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut tls = rustls::ServerConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    tls.alpn_protocols = vec![PEER_ALPN.to_vec(), CLIENT_ALPN.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(no_cipher)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(limits, congestion)));
    config.migration(false);
    config.max_incoming(limits.max_handshakes);
    config.incoming_buffer_size(INCOMING_BUFFER_BYTES);
    config.incoming_buffer_size_total(INCOMING_BUFFER_BYTES * limits.max_handshakes as u64);
    Ok(config)
}

/// Settings for dialling as a replica or as a client, depending on `alpn`.
pub(super) fn client_config(
    credentials: &Credentials,
    limits: &ConnectionLimits,
    congestion: Congestion,
    alpn: &[u8],
) -> Result<quinn::ClientConfig, MeshError> {
    let mut tls = rustls::ClientConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(&credentials.roots))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(no_cipher)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(limits, congestion)));
    Ok(config)
}

/// Bytes of datagrams that may wait to be sent or dropped.
const PROBES: usize = 64;

/// The settings of every connection. [`widen`] enlarges a peer's after its hello.
fn transport(limits: &ConnectionLimits, congestion: Congestion) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        // One bidirectional stream for a peer's hello or for all of a client's frames; one
        // unidirectional stream for each lane of a peer.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        // Datagrams are never read. A peer is sent one to check whether it is still alive.
        .datagram_receive_buffer_size(Some(PROBES))
        .datagram_send_buffer_size(PROBES)
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        // The other end is not identified yet, so it gets a client's share.
        .receive_window(VarInt::from_u32(limits.client_window_bytes))
        .send_window(u64::from(limits.client_window_bytes))
        .initial_rtt(Duration::from_millis(100))
        .keep_alive_interval(Some(limits.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok());
    match congestion {
        Congestion::Cubic => {
            transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
        }
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    transport
}

/// Gives a connection to a known peer the room for its lanes. Each lane has its own window, and the
/// connection's window covers both, so a full bulk lane cannot block the consensus lane.
pub(super) fn widen(connection: &quinn::Connection, limits: &ConnectionLimits) {
    let lane = limits.stream_window_bytes;
    connection.set_receive_window(VarInt::from_u32(lane.saturating_mul(2)));
    connection.set_send_window(u64::from(lane) * 3);
}

fn no_cipher(error: quinn::crypto::rustls::NoInitialCipherSuite) -> MeshError {
    MeshError::Tls(rustls::Error::General(error.to_string()))
}
