//! One connection to one node: QUIC, TLS, Hello and Welcome. Knows nothing of sessions.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{ClientFrame, NodeFrame};
use lockd_protocol::frame::{self, Decoder};
use lockd_protocol::limits::{CLIENT_ALPN, CLIENT_PROTOCOL_VERSION};
use lockd_protocol::{CellId, roles};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, IdleTimeout, ReadError, TransportConfig, VarInt, WriteError};
use tokio::task::JoinSet;

use crate::config::{ClientConfig, ConfigError};
use crate::error::ConnectError;

/// How long one node gets to answer with its Welcome.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// After this long without an answer the next node is tried beside the one before.
const STAGGER: Duration = Duration::from_millis(250);

/// Bytes that may be under way from the node, on the one stream there is.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// Bytes that may be under way to the node.
const SEND_WINDOW: u64 = 1024 * 1024;

/// First congestion window, bytes: a burst of answers should not wait for round trips.
const FIRST_CONGESTION_WINDOW: u64 = 128 * 1024;

/// Most bytes taken off the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// Shortest and longest silence after which a connection counts as dead.
const SILENCE_MIN: Duration = Duration::from_millis(300);
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Why one node could not be used.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No answer, or the network said no.
    Unreachable(String),
    /// The node refused our certificate.
    CertificateRefused(String),
    /// We refused the node's certificate.
    NodeNotTrusted(String),
    /// The node belongs to another cell.
    OtherCell(CellId),
    /// The node speaks another version.
    Version(String),
    /// The node said why.
    Rejected(String),
}

impl DialError {
    fn describe(&self) -> String {
        match self {
            DialError::Unreachable(detail) => detail.clone(),
            DialError::CertificateRefused(_) => "refused our certificate".to_owned(),
            DialError::NodeNotTrusted(_) => "is not trusted".to_owned(),
            DialError::OtherCell(_) => "belongs to another cell".to_owned(),
            DialError::Version(_) => "speaks another version".to_owned(),
            DialError::Rejected(reason) => reason.clone(),
        }
    }
}

impl DialError {
    /// The same as an error of the interface.
    pub(crate) fn at(self, address: &str, ours: CellId, within: Duration) -> ConnectError {
        let address = address.to_owned();
        match self {
            DialError::CertificateRefused(detail) => {
                ConnectError::CertificateRefused { address, detail }
            }
            DialError::NodeNotTrusted(detail) => ConnectError::NodeNotTrusted { address, detail },
            DialError::OtherCell(theirs) => ConnectError::OtherCell {
                address,
                ours,
                theirs,
            },
            DialError::Version(detail) => ConnectError::Version { address, detail },
            DialError::Rejected(reason) => ConnectError::Rejected { address, reason },
            DialError::Unreachable(detail) => ConnectError::Unreachable {
                within,
                tried: format!("{address}: {detail}"),
            },
        }
    }
}

/// Every address that was tried, with what happened there.
#[derive(Debug, Default)]
pub(crate) struct DialErrors(Vec<(String, DialError)>);

impl DialErrors {
    /// One line for a person.
    pub(crate) fn describe(&self) -> String {
        let each = |(address, error): &(String, DialError)| {
            let what = error.describe();
            format!("{address}: {what}")
        };
        self.0.iter().map(each).collect::<Vec<_>>().join("; ")
    }

    /// The first error that no retry can mend.
    pub(crate) fn lasting(&mut self, ours: CellId) -> Option<ConnectError> {
        let lasting = |(_, error): &(String, DialError)| {
            !matches!(error, DialError::Unreachable(_) | DialError::Rejected(_))
        };
        let first = self.0.iter().position(lasting);
        let rejected = |(_, error): &(String, DialError)| matches!(error, DialError::Rejected(_));
        let at = first.or_else(|| self.0.iter().position(rejected))?;
        let (address, error) = self.0.swap_remove(at);
        Some(error.at(&address, ours, Duration::ZERO))
    }
}

/// A connection that was welcomed.
pub(crate) struct Link {
    /// The address that was dialled.
    pub(crate) address: String,
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: Decoder,
}

/// What came off a connection.
pub(crate) enum Received {
    /// Bytes; there may be whole frames now.
    Some,
    /// The connection is gone, for this reason.
    Gone(String),
}

impl Link {
    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<NodeFrame>, frame::FrameError> {
        self.decoder.next()
    }

    /// Both directions, for one `select!`.
    pub(crate) fn split(&mut self) -> (&mut quinn::SendStream, Receiver<'_>) {
        let receiver = Receiver {
            recv: &mut self.recv,
            decoder: &mut self.decoder,
        };
        (&mut self.send, receiver)
    }

    /// Drops what has arrived already, but for the last word on who leads: a node that does not
    /// lead answers every frame with the same redirect. `Err` if the connection is gone.
    pub(crate) async fn skim(&mut self) -> Result<Option<String>, String> {
        let mut leader = None;
        loop {
            while let Some(frame) = self.next_frame().map_err(|error| error.to_string())? {
                if let NodeFrame::Redirect { leader: named } = frame {
                    leader = named.map(|(_, address)| address).or(leader);
                }
            }
            let (_, receiver) = self.split();
            match tokio::time::timeout(Duration::ZERO, receiver.receive()).await {
                Ok(Received::Some) => {}
                Ok(Received::Gone(reason)) => return Err(reason),
                Err(_) => return Ok(leader),
            }
        }
    }

    /// How many packets have come from the node.
    pub(crate) fn packets(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Says good-bye.
    pub(crate) fn close(&mut self) {
        // Fails only if the stream is finished or reset already.
        let _ = self.send.finish();
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// The receiving direction of a [`Link`].
pub(crate) struct Receiver<'a> {
    recv: &'a mut quinn::RecvStream,
    decoder: &'a mut Decoder,
}

impl Receiver<'_> {
    /// Waits for bytes. Cancel-safe.
    pub(crate) async fn receive(self) -> Received {
        match self.recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => {
                self.decoder.feed(&chunk.bytes);
                Received::Some
            }
            Ok(None) => Received::Gone("the node ended the conversation".to_owned()),
            Err(error) => Received::Gone(error.to_string()),
        }
    }
}

/// Makes connections to the nodes of one cell. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    endpoint: quinn::Endpoint,
    cell: CellId,
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
        let any = [
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        ];
        let [dual, v4] = any.map(quinn::Endpoint::client);
        let mut endpoint = dual.or(v4).map_err(ConnectError::Socket)?;
        endpoint.set_default_client_config(client);
        let cell = config.cell;
        Ok(Dialer { endpoint, cell })
    }

    /// The first of these nodes that answers. They are tried in order, each a moment after the
    /// one before or as soon as that one has failed.
    pub(crate) async fn dial_any(self, addresses: Vec<String>) -> Result<Link, DialErrors> {
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
                    Some(Ok((address, Err(error)))) => errors.0.push((address, error)),
                    Some(Err(error)) => {
                        let error = DialError::Unreachable(error.to_string());
                        errors.0.push((String::new(), error));
                    }
                    None => return Err(errors),
                },
                () = stagger, if !last => {}
            }
        }
    }

    /// Connects to one node.
    pub(crate) async fn dial(&self, address: &str) -> Result<Link, DialError> {
        let attempt = self.attempt(address);
        tokio::time::timeout(ATTEMPT_TIMEOUT, attempt)
            .await
            .unwrap_or_else(|_| Err(DialError::Unreachable("no answer".to_owned())))
    }

    async fn attempt(&self, address: &str) -> Result<Link, DialError> {
        let unreachable = |error: std::io::Error| DialError::Unreachable(error.to_string());
        let mut resolved = tokio::net::lookup_host(address)
            .await
            .map_err(unreachable)?;
        let remote = resolved
            .next()
            .ok_or_else(|| DialError::Unreachable("the name has no address".to_owned()))?;
        let connection = self
            .endpoint
            .connect(remote, roles::NODE_SERVER_NAME)
            .map_err(|error| DialError::Unreachable(error.to_string()))?
            .await
            .map_err(classify)?;
        let (send, recv) = connection.open_bi().await.map_err(classify)?;
        let mut link = Link {
            address: address.to_owned(),
            connection,
            send,
            recv,
            decoder: Decoder::default(),
        };
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
        link.send.write_all(&hello).await.map_err(classify_write)?;
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
            match link.recv.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => link.decoder.feed(&chunk.bytes),
                Ok(None) => return Err(DialError::Unreachable("it hung up".to_owned())),
                Err(error) => return Err(classify_read(error)),
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
        // After that the peers find out by themselves.
        let _ = tokio::time::timeout(LAST_PACKETS, self.endpoint.wait_idle()).await;
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

/// First TLS alert as a QUIC error code, and the alerts that speak of a certificate
/// (RFC 8446, 6.2; RFC 9001, 4.8).
const CRYPTO_ERROR: u64 = 0x100;
const ALERTS_ABOUT_CERTIFICATES: std::ops::RangeInclusive<u64> = 42..=49;
const ALERT_CERTIFICATE_REQUIRED: u64 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 120;

fn classify(error: ConnectionError) -> DialError {
    match error {
        ConnectionError::TransportError(ours) => {
            let code = u64::from(ours.code).wrapping_sub(CRYPTO_ERROR);
            match code {
                ALERT_NO_APPLICATION_PROTOCOL => DialError::Version(ours.reason),
                0..=255 => DialError::NodeNotTrusted(ours.reason),
                _ => DialError::Unreachable(ours.to_string()),
            }
        }
        ConnectionError::ConnectionClosed(theirs) => {
            let code = u64::from(theirs.error_code).wrapping_sub(CRYPTO_ERROR);
            let detail = String::from_utf8_lossy(&theirs.reason).into_owned();
            match code {
                ALERT_NO_APPLICATION_PROTOCOL => DialError::Version(detail),
                ALERT_CERTIFICATE_REQUIRED => DialError::CertificateRefused(detail),
                code if ALERTS_ABOUT_CERTIFICATES.contains(&code) => {
                    DialError::CertificateRefused(detail)
                }
                _ => DialError::Unreachable(theirs.to_string()),
            }
        }
        ConnectionError::ApplicationClosed(theirs) => {
            let detail = String::from_utf8_lossy(&theirs.reason).into_owned();
            match theirs.error_code == VarInt::from_u32(roles::CLOSE_WRONG_ROLE) {
                true => DialError::CertificateRefused(detail),
                false => DialError::Rejected(detail),
            }
        }
        ConnectionError::VersionMismatch => DialError::Version("of QUIC".to_owned()),
        ConnectionError::TimedOut => DialError::Unreachable("no answer".to_owned()),
        error => DialError::Unreachable(error.to_string()),
    }
}

fn classify_read(error: ReadError) -> DialError {
    match error {
        ReadError::ConnectionLost(error) => classify(error),
        error => DialError::Unreachable(error.to_string()),
    }
}

fn classify_write(error: WriteError) -> DialError {
    match error {
        WriteError::ConnectionLost(error) => classify(error),
        error => DialError::Unreachable(error.to_string()),
    }
}
