//! Nodes that stop, certificates that are wrong, cells that are not there.

use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{
    AcquireError, Client, ClientConfig, ConnectError, ErrorKind, GuardState, LostReason, Wait,
};

fn config(cell: &DevCell) -> ClientConfig {
    ClientConfig::load(cell.client_config()).expect("the cell's own configuration")
}

async fn connect(cell: &DevCell, ttl: Duration) -> Client {
    let client = Client::builder().config(config(cell)).ttl(ttl);
    client.connect().await.expect("the cell runs")
}

/// Which node leads: 0, 1, 2.
async fn leader(client: &Client) -> usize {
    loop {
        if let Ok(status) = client.status().await
            && let Some(leader) = status.leader
        {
            return leader.0 as usize - 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn grants_waits_and_requests_survive_a_change_of_leader() {
    let mut cell = DevCell::start(None).expect("a cell");
    let ttl = Duration::from_secs(20);
    let (a, b) = (connect(&cell, ttl).await, connect(&cell, ttl).await);
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let (session, token) = (guard.session(), guard.token());
    let waiting = tokio::spawn(async move { b.lock("orders/42").acquire().await });
    while a
        .who("orders/42")
        .await
        .expect("answered")
        .expect("held")
        .waiters
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let old = leader(&a).await;
    cell.stop_node(old);
    let other = a.lock("orders/43").acquire().await.expect("a new leader");
    assert!(other.token() > token);
    assert_eq!(guard.session(), session);
    assert!(!matches!(guard.state(), GuardState::Lost { .. }));

    guard.release().await.expect("held all the time");
    let next = waiting.await.expect("no panic").expect("granted");
    assert!(next.token() > other.token());
}

#[tokio::test]
async fn a_client_takes_back_an_acquisition_through_a_change_of_leader() {
    let mut cell = DevCell::start(None).expect("a cell");
    let ttl = Duration::from_secs(20);
    let (a, b) = (connect(&cell, ttl).await, connect(&cell, ttl).await);
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let old = leader(&a).await;
    cell.stop_node(old);
    let wait = tokio::time::timeout(Duration::from_millis(50), b.lock("orders/42").acquire());
    assert!(wait.await.is_err(), "the lock is held");
    guard.release().await.expect("held all the time");
    let again = a.lock("orders/42").wait(Wait::For(Duration::from_secs(10)));
    drop(again.acquire().await.expect("nobody else waits for it"));
}

#[tokio::test]
async fn a_guard_is_in_jeopardy_and_then_lost_when_the_cell_is_gone() {
    let mut cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell, Duration::from_secs(2)).await;
    let guard = client.lock("orders/42").acquire().await.expect("free");
    assert_eq!(guard.state(), GuardState::Held);
    (0..cell.len()).for_each(|node| cell.stop_node(node));

    let mut jeopardy = false;
    let lost = guard.lost();
    let mut lost = std::pin::pin!(lost);
    let reason = loop {
        tokio::select! {
            reason = &mut lost => break reason,
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                jeopardy |= matches!(guard.state(), GuardState::Jeopardy { .. });
            }
        }
    };
    assert!(jeopardy, "a loss is announced");
    assert_eq!(reason, LostReason::LeaseRanOut);
    assert!(lockd_client::now() >= guard.deadline());

    for node in 0..cell.len() {
        cell.start_node(node).expect("starts again");
    }
    let wait = Wait::For(Duration::from_secs(10));
    let again = loop {
        match client.lock("orders/42").wait(wait).acquire().await {
            Ok(guard) => break guard,
            Err(error) => assert_ne!(error.kind(), ErrorKind::Definite, "{error}"),
        }
    };
    assert!(again.token() > guard.token());
    assert_ne!(again.session(), guard.session());
    let reason = LostReason::LeaseRanOut;
    assert_eq!(guard.state(), GuardState::Lost { reason });
}

#[tokio::test]
async fn an_acquisition_without_a_cell_ends_and_says_so() {
    let mut cell = DevCell::start(None).expect("a cell");
    let builder = Client::builder()
        .config(config(&cell))
        .request_timeout(Duration::from_millis(300));
    let client = builder.connect().await.expect("the cell runs");
    (0..cell.len()).for_each(|node| cell.stop_node(node));
    let error = client.lock("orders/42").wait(Wait::Try).acquire().await;
    let error = error.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn a_cell_that_is_not_there_is_unreachable() {
    let cell = DevCell::start(None).expect("a cell");
    let config = config(&cell);
    drop(cell);
    let builder = Client::builder().config(config);
    let connect = builder
        .connect_timeout(Duration::from_millis(500))
        .connect();
    let error = connect.await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn without_a_majority_there_is_no_leader() {
    let mut cell = DevCell::start(None).expect("a cell");
    cell.stop_node(0);
    cell.stop_node(1);
    let builder = Client::builder().config(config(&cell));
    let connect = builder.connect_timeout(Duration::from_secs(2)).connect();
    let error = connect.await.unwrap_err();
    assert!(matches!(error, ConnectError::NoLeader { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_cell_is_refused_on_both_sides() {
    let (ours, theirs) = (
        DevCell::start(None).expect("a cell"),
        DevCell::start(None).expect("another cell"),
    );
    let mut wrong_ca = config(&ours);
    wrong_ca.ca = config(&theirs).ca;
    let error = Client::builder()
        .config(wrong_ca)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::NodeNotTrusted { .. }),
        "{error}"
    );

    let mut wrong_identity = config(&ours);
    wrong_identity.certificate = config(&theirs).certificate;
    wrong_identity.key = config(&theirs).key;
    let error = Client::builder()
        .config(wrong_identity)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::CertificateRefused { .. }),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Definite);
}

#[tokio::test]
async fn a_nodes_certificate_is_refused_as_a_clients() {
    let dir = tempfile::tempdir().expect("a directory");
    let cell = DevCell::start(Some(dir.path().to_owned())).expect("a cell");
    let node = dir.path().join("node-1");
    let mut config = config(&cell);
    config.certificate = std::fs::read(node.join("cert.pem")).expect("the node's certificate");
    config.key = std::fs::read(node.join("key.pem")).expect("the node's key");
    let error = Client::builder()
        .config(config)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::CertificateRefused { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_of_another_cell_is_told_so() {
    let cell = DevCell::start(None).expect("a cell");
    let mut config = config(&cell);
    config.cell.0[0] ^= 1;
    let error = Client::builder()
        .config(config)
        .connect()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("belongs to cell"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Definite);
}

#[tokio::test]
async fn settings_that_are_not_allowed_are_refused_before_anything_is_sent() {
    let cell = DevCell::start(None).expect("a cell");
    let short = Client::builder()
        .config(config(&cell))
        .ttl(Duration::from_millis(1));
    let error = short.connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Invalid { field: "ttl", .. }),
        "{error}"
    );
    let none = Client::builder().connect().await.unwrap_err();
    assert!(matches!(
        none,
        ConnectError::Invalid {
            field: "config",
            ..
        }
    ));
    let client = connect(&cell, Duration::from_secs(10)).await;
    let name = client.lock("bad\nname").acquire().await.unwrap_err();
    assert!(matches!(name, AcquireError::Name(_)));
}
