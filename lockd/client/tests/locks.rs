//! Acquiring, waiting and releasing against a real cell.

use std::path::PathBuf;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{AcquireError, Client, GuardState, LostReason, ReleaseOutcome, Wait};

async fn connect(cell: &DevCell) -> Client {
    connect_with(cell.client_config()).await
}

/// Who may break locks.
async fn operator(cell: &DevCell) -> Client {
    connect_with(cell.operator_config()).await
}

async fn connect_with(config: PathBuf) -> Client {
    Client::builder()
        .config_file(config)
        .expect("the cell's own configuration")
        .connect()
        .await
        .expect("the cell runs")
}

#[tokio::test]
async fn a_lock_is_held_by_one_client_at_a_time_and_tokens_rise() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let first = a.lock("orders/42").acquire().await.expect("free");
    assert_eq!(first.state(), GuardState::Held);
    assert_eq!(Some(first.session()), a.session_id());

    let taken = b.lock("orders/42").wait(Wait::Try).acquire().await;
    let not_available = AcquireError::NotAvailable {
        lock: first.name().clone(),
        holder: Some(first.session()),
    };
    assert_eq!(taken.unwrap_err(), not_available);
    let wait = Wait::For(Duration::from_millis(100));
    let late = b.lock("orders/42").wait(wait).acquire().await;
    assert_eq!(late.unwrap_err(), AcquireError::TimedOut);

    let token = first.token();
    assert_eq!(first.release().await, Ok(ReleaseOutcome::Released));
    let second = b.lock("orders/42").wait(Wait::Try).acquire().await;
    assert!(second.expect("free again").token() > token);
}

#[tokio::test]
async fn a_ticket_says_what_was_granted_and_verifies_with_the_clients_configuration() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let config = lockd_client::ClientConfig::load(cell.client_config()).expect("readable");
    let guard = client.lock("orders/42").acquire().await.expect("free");
    let text = guard.ticket().expect("asked for by default");
    let ticket = config.verifier().expect("keys").verify(text.as_str());
    let ticket = ticket.expect("genuine");
    assert_eq!(&ticket.lock, guard.name());
    assert_eq!(ticket.token, guard.token());
    assert_eq!(ticket.session, guard.session());

    let plain = client.lock("plain").without_ticket().acquire().await;
    assert_eq!(plain.expect("free").ticket(), None);
}

#[tokio::test]
async fn a_guard_that_is_dropped_gives_its_lock_to_the_first_waiter() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let waiting = tokio::spawn(async move { b.lock("orders/42").acquire().await });
    wait_for_waiters(&a, 1).await;
    std::thread::spawn(move || drop(guard))
        .join()
        .expect("no panic outside a runtime");
    drop(waiting.await.expect("no panic").expect("granted"));
}

#[tokio::test]
async fn an_acquisition_that_is_dropped_leaves_the_queue() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b, c) = (
        connect(&cell).await,
        connect(&cell).await,
        connect(&cell).await,
    );
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let gives_up = tokio::spawn(async move { b.lock("orders/42").acquire().await });
    wait_for_waiters(&a, 1).await;
    gives_up.abort();
    wait_for_waiters(&a, 0).await;
    guard.release().await.expect("held");
    let next = c.lock("orders/42").wait(Wait::Try).acquire().await;
    drop(next.expect("nobody is in the way"));
}

#[tokio::test]
async fn acquisitions_dropped_at_any_moment_leave_nothing_behind() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    for micros in (0..4_000).step_by(100) {
        let limit = Duration::from_micros(micros);
        let acquire = client.lock("orders/42").acquire();
        drop(tokio::time::timeout(limit, acquire).await);
    }
    let wait = Wait::For(Duration::from_secs(5));
    let guard = client.lock("orders/42").wait(wait).acquire().await;
    drop(guard.expect("whatever was granted was given back"));
}

#[tokio::test]
async fn a_lock_that_is_broken_is_lost_to_its_holder_and_moves_on() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, operator(&cell).await);
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let broken = b.break_lock("orders/42", "maintenance", false).await;
    let broken = broken.expect("held");
    assert_eq!(broken.holders, [(guard.session(), guard.token())]);
    let reason = "maintenance".to_owned();
    assert_eq!(guard.lost().await, LostReason::Broken { reason });
    let busy = b.lock("orders/42").wait(Wait::Try).acquire().await;
    assert!(busy.is_err(), "its holder has not let go yet");
    let token = guard.token();
    guard.release().await.expect("the session lives");
    let next = b.lock("orders/42").acquire().await.expect("moved");
    assert!(next.token() > token && next.token() >= broken.fence);
}

#[tokio::test]
async fn closing_a_client_ends_its_session_and_its_guards() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let clone = a.clone();
    let guard = a.lock("orders/42").acquire().await.expect("free");
    a.close().await;
    let reason = LostReason::Closed;
    assert_eq!(guard.state(), GuardState::Lost { reason });
    let after = clone.lock("orders/42").acquire().await;
    assert_eq!(after.unwrap_err(), AcquireError::Closed);
    let next = b.lock("orders/42").wait(Wait::Try).acquire().await;
    drop(next.expect("free"));
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_session() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let session = guard.session();
    drop((a, guard));
    let wait = Wait::For(Duration::from_secs(5));
    let next = b.lock("orders/42").wait(wait).acquire().await;
    drop(next.expect("free"));
    while b
        .sessions()
        .await
        .expect("answered")
        .iter()
        .any(|s| s.session == session)
    {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn sessions_over_one_connection_are_strangers_to_each_other() {
    let cell = DevCell::start(None).expect("a cell");
    let a = connect(&cell).await;
    let b = a
        .session()
        .description("second")
        .open()
        .await
        .expect("open");
    assert_ne!(a.session_id(), b.session_id());
    let guard = a.lock("orders/42").acquire().await.expect("free");
    let taken = b.lock("orders/42").wait(Wait::Try).acquire().await;
    assert!(matches!(taken, Err(AcquireError::NotAvailable { .. })));
    let detail = b.who("orders/42").await.expect("answered").expect("held");
    assert_eq!(detail.summary.holder, Some(guard.session()));
}

#[tokio::test]
async fn listings_show_locks_sessions_and_the_queue() {
    let cell = DevCell::start(None).expect("a cell");
    let a = connect(&cell).await;
    let mut guards = Vec::new();
    for n in 0..5 {
        guards.push(a.lock(format!("jobs/{n}")).acquire().await.expect("free"));
    }
    guards.push(a.lock("other").acquire().await.expect("free"));
    let jobs = a.locks("jobs/").await.expect("answered");
    assert_eq!(jobs.len(), 5);
    let page = a.locks_page("jobs/", None, 2).await.expect("answered");
    assert!(page.more && page.items.len() == 2);
    assert_eq!(a.who("nothing").await, Ok(None));
    let sessions = a.sessions().await.expect("answered");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].holds, 6);
    assert!(a.status().await.expect("answered").leading);
}

/// Until the cell says that so many wait for the lock.
async fn wait_for_waiters(client: &Client, waiters: u32) {
    loop {
        let detail = client.who("orders/42").await.expect("answered");
        if detail.map_or(0, |detail| detail.summary.waiters) == waiters {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
