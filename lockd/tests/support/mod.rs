//! A raw QUIC client, which can send what no well-behaved client would.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::CellId;
use lockd_protocol::client::{ClientFrame, NodeFrame};
use lockd_protocol::frame::{self, Decoder};
use lockd_protocol::roles::NODE_SERVER_NAME;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, version::TLS13};

/// More than any answer takes; only a hang is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Dials a node with the identity whose files are in `home`.
pub(crate) async fn dial(
    home: &Path,
    alpn: &[u8],
    address: SocketAddr,
) -> Result<Connection, ConnectionError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(home.join("ca.pem")).unwrap())
        .unwrap();
    let certificate = CertificateDer::from_pem_file(home.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(home.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint
        .connect_with(config, address, NODE_SERVER_NAME)
        .unwrap()
        .await
}

/// A stream to a node, for whole frames and for anything else.
pub(crate) struct Raw {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
}

impl Raw {
    pub(crate) async fn open(connection: Connection) -> Raw {
        let (send, receive) = connection.open_bi().await.unwrap();
        Raw {
            connection,
            send,
            receive,
            decoder: Decoder::default(),
        }
    }

    pub(crate) async fn say(&mut self, message: &ClientFrame) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).unwrap();
        self.send.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn hello(&mut self, cell: CellId) {
        let version = lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
        self.say(&ClientFrame::Hello { version, cell }).await;
    }

    /// The next frame; `None` once the stream is over.
    pub(crate) async fn hear(&mut self) -> Option<NodeFrame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.receive.read_chunk(65536, true));
            let chunk = chunk
                .await
                .expect("the node says something or closes")
                .ok()??;
            self.decoder.feed(&chunk.bytes);
        }
    }

    /// The reason with which the node says goodbye.
    #[allow(dead_code, reason = "not every test file has a use for it")]
    pub(crate) async fn farewell(&mut self) -> String {
        while let Some(frame) = self.hear().await {
            if let NodeFrame::Bye { reason } = frame {
                return reason;
            }
        }
        panic!("the node closed the stream without a word");
    }
}
