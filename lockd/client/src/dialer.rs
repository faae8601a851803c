//! Making connections to nodes: QUIC and TLS settings, Hello and Welcome.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{ClientFrame, NodeFrame};
use lockd_protocol::limits::{CLIENT_ALPN, CLIENT_PROTOCOL_VERSION};
use lockd_protocol::{CellId, frame, roles};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{IdleTimeout, TransportConfig, VarInt};
use tokio::task::JoinSet;

#[cfg(feature = "test-kit")]
use crate::clock::Clock;
use crate::config::{ClientConfig, ConfigError};
use crate::dial_error::{DialError, DialErrors, classify, classify_gone, classify_write};
use crate::error::ConnectError;
use crate::link::{Link, Received};

/// How long one node gets to answer with its Welcome.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// After this long without an answer the next node is tried beside the one before.
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Bytes that may be under way from the node, on the one stream there is.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// Bytes that may be under way to the node.
const SEND_WINDOW: u64 = 1024 * 1024;

/// First congestion window, bytes: a burst of answers should not wait for round trips.
const FIRST_CONGESTION_WINDOW: u64 = 128 * 1024;

/// Shortest and longest silence after which a connection counts as dead.
const SILENCE_MIN: Duration = Duration::from_millis(300);
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Makes connections to the nodes of one cell. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    network: Network,
    cell: CellId,
    #[cfg(feature = "test-kit")]
    clock: Clock,
}

#[derive(Clone)]
enum Network {
    Quic(quinn::Endpoint),
    #[cfg(feature = "test-kit")]
    Memory(crate::test_kit::Dial),
}

impl Dialer {
    /// Opens the socket. `ttl` is that of the sessions that will use it: a dead connection must
    /// be noticed early enough to try another node within it.
    pub(crate) fn new(config: &ClientConfig, ttl: Duration) -> Result<Dialer, ConnectError> {
        let crypto = QuicClientConfig::try_from(tls(config)?).map_err(|error| {
            ConnectError::Socket(std::io::Error::other(format!("TLS for QUIC: {error}")))
        })?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(transport(ttl)));
        // The first serves IPv4 too; a machine without IPv6 has only the second.
        let mut endpoint = quinn::Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()))
            .map_err(ConnectError::Socket)?;
        endpoint.set_default_client_config(client);
        Ok(Dialer {
            network: Network::Quic(endpoint),
            cell: config.cell,
            #[cfg(feature = "test-kit")]
            clock: Clock::Boot,
        })
    }

    /// A dialer in memory.
    #[cfg(feature = "test-kit")]
    pub(crate) fn in_memory(config: &ClientConfig, edges: &crate::test_kit::Edges) -> Dialer {
        Dialer {
            network: Network::Memory(edges.dial.clone()),
            cell: config.cell,
            clock: Clock::Manual(edges.clock.clone()),
        }
    }

    /// The first of these nodes that answers. They are tried in order, each a moment after the
    /// one before or as soon as that one has failed.
    pub(crate) async fn dial_any(self, addresses: Vec<String>) -> Result<Link, DialErrors> {
        #[cfg(feature = "test-kit")]
        if matches!(self.network, Network::Memory(_)) {
            return self.dial_each(addresses).await;
        }
        let mut attempts = JoinSet::new();
        let mut rest = addresses.into_iter();
        let mut errors = DialErrors::default();
        loop {
            let more = rest.next();
            let last = more.is_none();
            if let Some(address) = more {
                let dialer = self.clone();
                attempts.spawn(async move {
                    let result = dialer.dial(&address).await;
                    (address, result)
                });
            }
            let stagger = tokio::time::sleep(STAGGER);
            tokio::select! {
                joined = attempts.join_next() => match joined {
                    Some(Ok((_, Ok(link)))) => return Ok(link),
                    Some(Ok((address, Err(error)))) => errors.add(address, error),
                    Some(Err(error)) => {
                        let error = DialError::Unreachable(error.to_string());
                        errors.add(String::new(), error);
                    }
                    None => return Err(errors),
                },
                () = stagger, if !last => {}
            }
        }
    }

    /// The first of these nodes that answers, one after the other: without a runtime to try them
    /// side by side.
    #[cfg(feature = "test-kit")]
    async fn dial_each(&self, addresses: Vec<String>) -> Result<Link, DialErrors> {
        let mut errors = DialErrors::default();
        for address in addresses {
            let late = || DialError::Unreachable("no answer".to_owned());
            let dialling = self.clock.timeout(ATTEMPT_TIMEOUT, self.dial(&address));
            match dialling.await.unwrap_or_else(|| Err(late())) {
                Ok(link) => return Ok(link),
                Err(error) => errors.add(address, error),
            }
        }
        Err(errors)
    }

    /// Connects to one node. If its name has several addresses, they share the time.
    pub(crate) async fn dial(&self, address: &str) -> Result<Link, DialError> {
        let endpoint = match &self.network {
            Network::Quic(endpoint) => endpoint,
            #[cfg(feature = "test-kit")]
            Network::Memory(dial) => {
                let gone = || DialError::Unreachable("nothing comes back".to_owned());
                let mut link = Link::in_memory(address, dial(address).ok_or_else(gone)?);
                self.greet(&mut link).await?;
                return Ok(link);
            }
        };
        let unreachable = |error: std::io::Error| DialError::Unreachable(error.to_string());
        let resolved = tokio::net::lookup_host(address)
            .await
            .map_err(unreachable)?;
        let mut remotes: Vec<SocketAddr> = resolved.take(ADDRESSES_MAX).collect();
        // Names of this machine often have an IPv6 address where only IPv4 is listened on.
        remotes.sort_by_key(SocketAddr::is_ipv6);
        let mut error = DialError::Unreachable("the name has no address".to_owned());
        let share = ATTEMPT_TIMEOUT / u32::try_from(remotes.len().max(1)).unwrap_or(1);
        for remote in remotes {
            let attempt = self.attempt(endpoint, address, remote);
            error = match tokio::time::timeout(share, attempt).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => error,
                Err(_) => DialError::Unreachable("no answer".to_owned()),
            };
        }
        Err(error)
    }

    async fn attempt(
        &self,
        endpoint: &quinn::Endpoint,
        address: &str,
        remote: SocketAddr,
    ) -> Result<Link, DialError> {
        let connection = endpoint
            .connect(remote, roles::NODE_SERVER_NAME)
            .map_err(|error| DialError::Unreachable(error.to_string()))?
            .await
            .map_err(classify)?;
        let streams = connection.open_bi().await.map_err(classify)?;
        let mut link = Link::new(address, connection, streams);
        self.greet(&mut link).await?;
        Ok(link)
    }

    /// Sends Hello and waits for Welcome. Only here does a TLS 1.3 client learn that the node
    /// refused its certificate: its own handshake was over before the node looked.
    async fn greet(&self, link: &mut Link) -> Result<(), DialError> {
        let mut hello = Vec::new();
        let frame = ClientFrame::Hello {
            version: CLIENT_PROTOCOL_VERSION,
            cell: self.cell,
        };
        frame::encode(&frame, &mut hello).map_err(|e| DialError::Rejected(e.to_string()))?;
        let (send, _) = link.split();
        send.write_all(&hello).await.map_err(classify_write)?;
        loop {
            let frame = link
                .next_frame()
                .map_err(|error| DialError::Version(error.to_string()))?;
            match frame {
                Some(NodeFrame::Welcome { version, cell, .. }) => {
                    return self.check_welcome(version, cell);
                }
                Some(NodeFrame::Bye { reason }) => return Err(DialError::Rejected(reason)),
                Some(_) => return Err(DialError::Version("it did not greet".to_owned())),
                None => {}
            }
            let (_, receiver) = link.split();
            if let Received::Gone(gone) = receiver.receive().await {
                return Err(classify_gone(gone));
            }
        }
    }

    fn check_welcome(&self, version: u16, cell: CellId) -> Result<(), DialError> {
        if version != CLIENT_PROTOCOL_VERSION {
            let detail = format!("it speaks {version}, we speak {CLIENT_PROTOCOL_VERSION}");
            return Err(DialError::Version(detail));
        }
        if cell != self.cell {
            return Err(DialError::OtherCell(cell));
        }
        Ok(())
    }

    /// Lets the last packets leave.
    pub(crate) async fn drain(&self) {
        const LAST_PACKETS: Duration = Duration::from_millis(200);
        let endpoint = match &self.network {
            Network::Quic(endpoint) => endpoint,
            #[cfg(feature = "test-kit")]
            Network::Memory(_) => return,
        };
        // After that the peers find out by themselves.
        let _ = tokio::time::timeout(LAST_PACKETS, endpoint.wait_idle()).await;
    }
}

fn tls(config: &ClientConfig) -> Result<rustls::ClientConfig, ConnectError> {
    let wrong = |field: &'static str| {
        move |error: rustls::Error| {
            let problem = format!("cannot be used: {error}");
            ConnectError::Config(ConfigError::Field { field, problem })
        }
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in config.authorities()? {
        roots.add(authority).map_err(wrong("ca"))?;
    }
    let (chain, key) = config.identity()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong("certificate"))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(wrong("certificate"))?;
    tls.alpn_protocols = vec![CLIENT_ALPN.to_vec()];
    // A resumed connection would skip the certificate check.
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    Ok(tls)
}

/// quinn's defaults are made for file transfer; this is for small frames on one stream.
fn transport(ttl: Duration) -> TransportConfig {
    let silence = (ttl / 4).clamp(SILENCE_MIN, SILENCE_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_CONGESTION_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(silence).ok())
        .keep_alive_interval(Some(silence / 4))
        .congestion_controller_factory(Arc::new(congestion));
    transport
}
