//! QUIC settings. The library's defaults are for file transfer; ours are for small frames on a
//! few long streams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::roles;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};

use crate::limits::{IDLE_TIMEOUT, PEER_KEEP_ALIVE};

/// Bytes read from a stream at once.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Largest datagram that is tried, bytes: a jumbo frame's. Smaller paths are discovered.
const MTU_UPPER_BOUND: u16 = 8952;

/// Size asked for the socket's buffers, bytes. The kernel may give less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Connection closed because the certificate is of the wrong role for the protocol.
pub(super) const CLOSE_WRONG_ROLE: VarInt = VarInt::from_u32(roles::CLOSE_WRONG_ROLE);
/// Connection closed because its bytes made no sense.
pub(super) const CLOSE_BAD_BYTES: VarInt = VarInt::from_u32(2);
/// Connection closed because the node stops.
pub(super) const CLOSE_STOPPING: VarInt = VarInt::from_u32(3);
/// Connection closed because the node has too many.
pub(super) const CLOSE_TOO_MANY: VarInt = VarInt::from_u32(4);
/// Connection closed after its farewell was written.
pub(super) const CLOSE_DISMISSED: VarInt = VarInt::from_u32(5);

/// Assumed round trip before one is measured. A dial's first packet that finds nobody listening yet
/// is repeated after about three of these; the library's 333 ms would make every start of a cell
/// take a second.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Connection closed because the other node belongs to another cell.
pub(super) const CLOSE_OTHER_CELL: VarInt = VarInt::from_u32(roles::CLOSE_OTHER_CELL);
/// Connection closed because the other node's disk is not the one that its number stands for.
pub(super) const CLOSE_OTHER_DISK: VarInt = VarInt::from_u32(roles::CLOSE_OTHER_DISK);

/// Streams that a peer speaks on: see `peers`.
const PEER_STREAMS: VarInt = VarInt::from_u32(2);

/// What both kinds of connections have in common.
fn base_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    transport.initial_rtt(INITIAL_RTT);
    transport.send_fairness(false);
    transport.datagram_receive_buffer_size(None);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND);
    transport.mtu_discovery_config(Some(discovery));
    transport
}

/// Bytes that QUIC keeps of one connection until the other side has acknowledged them.
const SEND_WINDOW: u64 = 1 << 20;

/// Bytes that a client may have under way before they are read. All connections share a socket: if
/// a few that flood could fill its buffer, packets of the others and of peers would be lost.
const CLIENT_WINDOW: VarInt = VarInt::from_u32(128 * 1024);

/// The same for a peer, which does not flood.
pub(super) const PEER_WINDOW: VarInt = VarInt::from_u32(16 << 20);

/// Settings of connections that others dial; for peers the window is widened.
fn server_transport() -> TransportConfig {
    let mut transport = base_transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.send_window(SEND_WINDOW);
    transport.receive_window(CLIENT_WINDOW);
    transport.max_concurrent_uni_streams(PEER_STREAMS);
    transport
}

/// Settings of connections to peers.
pub(super) fn peer_transport() -> TransportConfig {
    let mut transport = base_transport();
    transport.keep_alive_interval(Some(PEER_KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(PEER_STREAMS);
    transport
}

/// The node's UDP socket with QUIC on it.
pub(super) fn bind(address: SocketAddr, tls: Arc<QuicServerConfig>) -> std::io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    // Best effort: with small buffers bursts are lost and sent again, nothing worse.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let mut config = ServerConfig::with_crypto(tls);
    config.transport_config(Arc::new(server_transport()));
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)
}

/// How long a node that stops waits for its farewells to be heard.
pub(super) const FAREWELL: Duration = Duration::from_millis(300);
