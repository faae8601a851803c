//! Nodes that do not behave: the client says what is wrong, and neither hangs nor falls over.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockd::init::{InitOptions, init};
use lockd_client::protocol::client::NodeFrame;
use lockd_client::protocol::limits::{CLIENT_ALPN, CLIENT_PROTOCOL_VERSION};
use lockd_client::protocol::{CellId, NodeId, SessionId, frame};
use lockd_client::{Client, ClientConfig, ConnectError};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// What the node says to everybody, before it falls silent.
async fn connect_to_a_node_that_says(bytes: impl Fn(CellId) -> Vec<u8>) -> ConnectError {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("cell");
    let layout = init(&root, &InitOptions::default()).expect("a cell");
    let (endpoint, address) = listen(&root);
    let says = bytes(layout.cell);
    let node = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.expect("our client");
            let (mut send, _receive) = connection.accept_bi().await.expect("a stream");
            send.write_all(&says).await.expect("the client reads");
            tokio::spawn(async move {
                connection.closed().await;
                drop((send, _receive));
            });
        }
    });
    let mut config = ClientConfig::load(&layout.clients[0]).expect("readable");
    config.nodes = vec![address.to_string()];
    let builder = Client::builder().config(config);
    let connect = builder.connect_timeout(Duration::from_secs(1)).connect();
    let error = connect.await.expect_err("nobody could serve this client");
    node.abort();
    error
}

/// Listens with the certificate of the cell's first node.
fn listen(root: &std::path::Path) -> (quinn::Endpoint, SocketAddr) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(root.join("ca.pem")).expect("the CA");
    roots.add(authority).expect("a CA");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("a verifier");
    let home = root.join("node-1");
    let chain = CertificateDer::from_pem_file(home.join("cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(home.join("key.pem")).expect("a key");
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![chain], key)
        .expect("they belong together");
    tls.alpn_protocols = vec![CLIENT_ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).expect("TLS for QUIC");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quinn::Endpoint::server(config, any).expect("a free port");
    let address = endpoint.local_addr().expect("bound");
    (endpoint, address)
}

fn frames(frames: &[NodeFrame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for each in frames {
        frame::encode(each, &mut bytes).expect("small");
    }
    bytes
}

fn welcome(version: u16, cell: CellId) -> NodeFrame {
    let node = NodeId(1);
    NodeFrame::Welcome {
        version,
        cell,
        node,
    }
}

#[tokio::test]
async fn a_node_of_another_version_is_named() {
    let says = |cell| frames(&[welcome(CLIENT_PROTOCOL_VERSION + 1, cell)]);
    let error = connect_to_a_node_that_says(says).await;
    assert!(matches!(error, ConnectError::Version { .. }), "{error}");
}

#[tokio::test]
async fn a_node_of_another_cell_is_named() {
    let says = |_| frames(&[welcome(CLIENT_PROTOCOL_VERSION, CellId([9; 16]))]);
    let error = connect_to_a_node_that_says(says).await;
    let theirs = CellId([9; 16]);
    assert!(
        matches!(error, ConnectError::OtherCell { theirs: cell, .. } if cell == theirs),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_turns_clients_away_is_quoted() {
    let reason = "closed for maintenance";
    let bye = NodeFrame::Bye {
        reason: reason.to_owned(),
    };
    let error = connect_to_a_node_that_says(|_| frames(std::slice::from_ref(&bye))).await;
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains(reason));
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_attempt() {
    let garbage = |_| vec![3, 0, 0, 0, 0xff, 0xff, 0xff];
    let error = connect_to_a_node_that_says(garbage).await;
    assert!(matches!(error, ConnectError::Version { .. }), "{error}");
    let enormous = |_| u32::MAX.to_le_bytes().to_vec();
    let error = connect_to_a_node_that_says(enormous).await;
    assert!(error.to_string().contains("at most"), "{error}");
}

#[tokio::test]
async fn a_node_that_never_says_a_word_is_unreachable() {
    let error = connect_to_a_node_that_says(|_| Vec::new()).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn answers_to_what_was_never_asked_open_no_session() {
    let says = |cell| {
        frames(&[
            welcome(CLIENT_PROTOCOL_VERSION, cell),
            NodeFrame::Opened {
                nonce: lockd_client::protocol::Nonce(1),
                result: Ok(SessionId(1)),
            },
            NodeFrame::KeptAlive {
                session: SessionId(1),
                number: 1,
            },
        ])
    };
    let error = connect_to_a_node_that_says(says).await;
    assert!(matches!(error, ConnectError::NoLeader { .. }), "{error}");
}

#[tokio::test]
async fn a_node_that_welcomes_and_then_talks_nonsense_does_not_hold_the_client_up() {
    let says = |cell| {
        let mut bytes = frames(&[welcome(CLIENT_PROTOCOL_VERSION, cell)]);
        bytes.extend_from_slice(&[1, 0, 0, 0, 0xff]);
        bytes
    };
    let error = connect_to_a_node_that_says(says).await;
    assert!(matches!(error, ConnectError::NoLeader { .. }), "{error}");
}
