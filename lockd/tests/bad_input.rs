//! What a node does about certificates, bytes and data directories that are not what they should
//! be: a clear error, nothing lost, and the node goes on.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod support;

use std::net::SocketAddr;
use std::path::Path;

use lockd::dev::DevCell;
use lockd::init::{CellLayout, InitOptions, init};
use lockd::server::config::NodeConfig;
use lockd::server::{self, ServeError};
use lockd_protocol::client::{ClientFrame, NodeFrame, Query};
use lockd_protocol::limits::{CLIENT_ALPN, CLIENT_PROTOCOL_VERSION, FRAME_BYTES_MAX, PEER_ALPN};
use quinn::ConnectionError;
use support::{PATIENCE, Raw, dial};

fn home(config: &Path) -> &Path {
    config.parent().unwrap()
}

/// A cell, its client's directory, and the addresses of its nodes.
fn cell() -> (DevCell, std::path::PathBuf, Vec<SocketAddr>) {
    let cell = DevCell::start(None).unwrap();
    let client = home(&cell.client_config()).to_owned();
    let node = NodeConfig::load(&client.join("../node-1/node.toml")).unwrap();
    let addresses = node.member.iter().map(|member| member.address).collect();
    (cell, client, addresses)
}

fn cell_id(client: &Path) -> lockd_protocol::CellId {
    NodeConfig::load(&client.join("../node-1/node.toml"))
        .unwrap()
        .cell()
}

async fn closing_reason(connection: quinn::Connection) -> String {
    let closed = tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .unwrap();
    match closed {
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    }
}

/// The node still answers a well-behaved client.
async fn assert_alive(client: &Path, address: SocketAddr) {
    let mut raw = Raw::open(dial(client, CLIENT_ALPN, address).await.unwrap()).await;
    raw.hello(cell_id(client)).await;
    raw.say(&ClientFrame::Query {
        id: 7,
        query: Query::Status,
        stale: false,
    })
    .await;
    while let Some(frame) = raw.hear().await {
        if matches!(frame, NodeFrame::Answer { id: 7, .. }) {
            return;
        }
    }
    panic!("the node does not answer");
}

#[tokio::test]
async fn certificates_of_the_wrong_role_are_closed_with_the_reason() {
    let (_cell, client, addresses) = cell();
    let connection = dial(&client, PEER_ALPN, addresses[0]).await.unwrap();
    let reason = closing_reason(connection).await;
    assert!(
        reason.contains("a client's certificate cannot be used by a node"),
        "{reason}"
    );

    let node = client.join("../node-2");
    let connection = dial(&node, CLIENT_ALPN, addresses[0]).await.unwrap();
    let reason = closing_reason(connection).await;
    assert!(
        reason.contains("a node's certificate cannot be used by a client"),
        "{reason}"
    );
    assert_alive(&client, addresses[0]).await;
}

#[tokio::test]
async fn the_certificates_of_another_cell_are_refused() {
    let (_cell, client, addresses) = cell();
    let (_other, stranger, _) = cell();
    let refused = dial(&stranger, CLIENT_ALPN, addresses[0])
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("certificate"), "{refused}");
    // A client that trusts this cell's authority but was certified by another's.
    std::fs::copy(client.join("ca.pem"), stranger.join("ca.pem")).unwrap();
    let reason = match dial(&stranger, CLIENT_ALPN, addresses[0]).await {
        Ok(connection) => closing_reason(connection).await,
        Err(error) => error.to_string(),
    };
    assert!(
        reason.contains("certificate") || reason.contains("crypto"),
        "{reason}"
    );
    assert_alive(&client, addresses[0]).await;
}

#[tokio::test]
async fn bytes_that_make_no_sense_are_answered_with_the_reason_and_harm_nobody_else() {
    let (_cell, client, addresses) = cell();
    let too_long = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
    let garbage = [&9u32.to_le_bytes()[..], &[0xff; 9]].concat();
    let trailing = [&4u32.to_le_bytes()[..], &[0, 0, 0, 0]].concat();
    let mut name_not_utf8 = Vec::new();
    // A request whose lock name is two bytes that are not UTF-8.
    name_not_utf8.extend_from_slice(&[3, 1, 1, 0, 0, 2, 0xff, 0xfe, 0, 0, 0]);
    let name_not_utf8 = [
        &(name_not_utf8.len() as u32).to_le_bytes()[..],
        &name_not_utf8,
    ]
    .concat();
    for (bytes, wanted) in [
        (too_long, "are allowed"),
        (garbage, "cannot be read"),
        (trailing, "a frame"),
        (name_not_utf8, "cannot be read"),
    ] {
        let mut raw = Raw::open(dial(&client, CLIENT_ALPN, addresses[1]).await.unwrap()).await;
        raw.hello(cell_id(&client)).await;
        raw.send.write_all(&bytes).await.unwrap();
        let reason = raw.farewell().await;
        assert!(reason.contains(wanted), "{reason}");
    }
    // Half a frame and then nothing; the connection is simply dropped by its client.
    let mut raw = Raw::open(dial(&client, CLIENT_ALPN, addresses[1]).await.unwrap()).await;
    raw.hello(cell_id(&client)).await;
    raw.send.write_all(&[200, 0, 0, 0, 1, 2, 3]).await.unwrap();
    raw.connection.close(0u32.into(), b"");
    assert_alive(&client, addresses[1]).await;
}

#[tokio::test]
async fn another_version_or_cell_is_named_in_the_farewell() {
    let (_cell, client, addresses) = cell();
    let cell = cell_id(&client);
    for (hello, wanted) in [
        (ClientFrame::Hello { version: 99, cell }, "version 99"),
        (
            ClientFrame::Hello {
                version: CLIENT_PROTOCOL_VERSION,
                cell: lockd_protocol::CellId([0xee; 16]),
            },
            "looks for cell eeee",
        ),
    ] {
        let mut raw = Raw::open(dial(&client, CLIENT_ALPN, addresses[2]).await.unwrap()).await;
        raw.say(&hello).await;
        let reason = raw.farewell().await;
        assert!(reason.contains(wanted), "{reason}");
    }
}

fn made(dir: &Path) -> CellLayout {
    init(dir, &InitOptions::default()).unwrap()
}

/// Why a node with this configuration does not start.
fn refusal(config: &Path) -> String {
    let config = match NodeConfig::load(config) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    let started = server::run(&config, |_| (), std::future::ready(()));
    started.expect_err("the node must not start").to_string()
}

#[test]
fn a_data_directory_that_is_not_the_nodes_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (
        made(&dir.path().join("ours")),
        made(&dir.path().join("theirs")),
    );
    let data = |config: &Path| home(config).join("data");
    let put = |from: &Path, to: &Path| {
        std::fs::remove_dir_all(data(to)).unwrap();
        std::fs::rename(data(from), data(to)).unwrap();
    };

    put(&ours.nodes[1], &ours.nodes[0]);
    let reason = refusal(&ours.nodes[0]);
    assert!(reason.contains("node 2"), "{reason}");

    std::fs::create_dir(data(&ours.nodes[1])).unwrap();
    let reason = refusal(&ours.nodes[1]);
    assert!(reason.contains("replace"), "{reason}");

    put(&theirs.nodes[1], &ours.nodes[1]);
    let reason = refusal(&ours.nodes[1]);
    assert!(reason.contains(&theirs.cell.to_string()), "{reason}");

    for file in std::fs::read_dir(data(&theirs.nodes[2])).unwrap() {
        let path = file.unwrap().path();
        std::fs::write(path, b"not a log at all, but long enough").unwrap();
    }
    let reason = refusal(&theirs.nodes[2]);
    assert!(reason.contains("replace"), "{reason}");
}

#[test]
fn a_certificate_of_another_node_is_refused_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let cell = made(&dir.path().join("cell"));
    for file in ["cert.pem", "key.pem"] {
        let from = home(&cell.clients[0]).join(file);
        std::fs::copy(from, home(&cell.nodes[0]).join(file)).unwrap();
    }
    let config = NodeConfig::load(&cell.nodes[0]).unwrap();
    let refused = server::run(&config, |_| (), std::future::ready(()));
    assert!(matches!(refused, Err(ServeError::Tls(_))), "{refused:?}");
}

#[test]
fn a_cell_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    let again = init(dir.path(), &InitOptions::default())
        .unwrap_err()
        .to_string();
    assert!(again.contains("is not empty"), "{again}");
}
