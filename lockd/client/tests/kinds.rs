//! Locks of every kind on a real cell.

use std::path::PathBuf;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{AcquireError, Client, DowngradeProblem, LockGuard, LostReason, Mode, Wait};

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
        .expect("a configuration")
        .connect()
        .await
        .expect("the cell runs")
}

fn taken(result: &Result<LockGuard, AcquireError>) -> bool {
    matches!(result, Err(AcquireError::NotAvailable { .. }))
}

#[tokio::test]
async fn readers_share_what_a_writer_has_for_itself() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let (one, two) = (a.rw_lock("report"), b.rw_lock("report"));
    let first = one.read().acquire().await.expect("free");
    let second = two.read().wait(Wait::Try).acquire().await.expect("shared");
    assert!(first.token() < second.token());
    assert!(taken(&two.write().wait(Wait::Try).acquire().await));
    let writer = tokio::spawn(async move { two.write().acquire().await });
    first.release().await.expect("held");
    second.release().await.expect("held");
    let writer = writer.await.expect("ends").expect("granted");
    assert!(taken(&one.read().wait(Wait::Try).acquire().await));
    drop(writer);
}

#[tokio::test]
async fn whoever_has_to_wait_is_told_how_many_are_ahead() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let held = client.lock("desk").acquire().await.expect("free");
    let mut waiting = Vec::new();
    for expected in 0..3 {
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::sync::Mutex::new(Some(tell));
        let lock = client.lock("desk").on_queued(move |ahead| {
            let tell = tell.lock().ok().and_then(|mut tell| tell.take());
            let _ = tell.map(|tell| tell.send(ahead));
        });
        waiting.push(tokio::spawn(lock.acquire()));
        assert_eq!(told.await, Ok(expected));
    }
    let free = client.lock("another").on_queued(|_| panic!("it is free"));
    drop(free.acquire().await.expect("free"));
    drop(held);
    for waiter in waiting {
        drop(waiter.await.expect("ends").expect("granted"));
    }
}

#[tokio::test]
async fn a_writer_becomes_a_reader_without_letting_go() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let config = lockd_client::ClientConfig::load(cell.client_config()).expect("readable");
    let writer = a.rw_lock("report").write().acquire().await.expect("free");
    let token = writer.token();
    let reader = writer.downgrade().await.expect("held");
    assert_eq!(reader.token(), token);
    let ticket = reader.ticket().expect("asked for by default");
    let ticket = config.verifier().expect("keys").verify(ticket.as_str());
    assert_eq!(ticket.expect("genuine").mode, Mode::Shared);
    let lock = b.rw_lock("report");
    let beside = lock.read().wait(Wait::Try).acquire().await.expect("shared");
    assert!(taken(&lock.write().wait(Wait::Try).acquire().await));
    drop(beside);
    let refused = reader.downgrade().await.expect_err("it is shared already");
    assert!(matches!(refused.problem, DowngradeProblem::Refused(_)));
    assert_eq!(refused.guard.token(), token, "the guard is handed back");
}

#[tokio::test]
async fn a_semaphore_hands_out_as_many_permits_as_it_has() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let config = lockd_client::ClientConfig::load(cell.client_config()).expect("readable");
    let semaphore = client.semaphore("workers", 2);
    let one = semaphore.acquire().acquire().await.expect("free");
    let two = semaphore.acquire().acquire().await.expect("free");
    assert_eq!((one.slot(), two.slot()), (0, 1));
    let ticket = two.ticket().expect("asked for by default");
    let ticket = config.verifier().expect("keys").verify(ticket.as_str());
    assert_eq!(ticket.expect("genuine").lock.as_str(), "workers#1");
    assert!(taken(&semaphore.acquire().wait(Wait::Try).acquire().await));
    one.release().await.expect("held");
    let again = semaphore.acquire().wait(Wait::Try).acquire().await;
    assert_eq!(again.expect("given back").slot(), 0);
    let other = client.semaphore("workers", 3).acquire().acquire().await;
    assert!(matches!(other, Err(AcquireError::Refused(_))), "{other:?}");
}

#[tokio::test]
async fn all_of_several_locks_come_together_with_a_ticket_each() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let both = a.all_of(["account/1", "account/2"]).acquire().await;
    let both = both.expect("free");
    let names: Vec<&str> = both.locks().iter().map(|lock| lock.name.as_str()).collect();
    assert_eq!(names, ["account/1", "account/2"]);
    assert_eq!(both.tickets().split(' ').count(), 2);
    let wants = [("account/2", Mode::Shared), ("account/3", Mode::Exclusive)];
    let refused = b.all_of(wants).wait(Wait::Try).acquire().await;
    assert!(taken(&refused));
    assert_eq!(
        b.who("account/3").await,
        Ok(None),
        "nothing of it was taken"
    );
    both.release().await.expect("held");
    assert!(b.all_of(wants).wait(Wait::Try).acquire().await.is_ok());
}

#[tokio::test]
async fn segments_spread_those_who_do_not_care_which_one_they_get() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let segments = client.segments("import", 3);
    let mut guards = Vec::new();
    for _ in 0..3 {
        let guard = segments.any().wait(Wait::Try).acquire().await;
        guards.push(guard.expect("one is free"));
    }
    let mut names: Vec<&str> = guards.iter().map(|guard| guard.name().as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["import/0", "import/1", "import/2"]);
    assert!(taken(&segments.any().wait(Wait::Try).acquire().await));
    guards.clear();
    let (one, same) = (segments.of(b"key"), segments.of(b"key"));
    let _held = one.acquire().await.expect("free");
    assert!(taken(&same.wait(Wait::Try).acquire().await));
}

#[tokio::test]
async fn an_owner_enters_again_what_it_holds_and_the_last_guard_frees_it() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let enter = || a.lock("job").reentrant("worker-1", 2).acquire();
    let (outer, inner) = (
        enter().await.expect("free"),
        enter().await.expect("its own"),
    );
    assert_eq!(outer.token(), inner.token());
    assert!(matches!(enter().await, Err(AcquireError::Refused(_))));
    drop(outer);
    assert!(taken(&b.lock("job").wait(Wait::Try).acquire().await));
    inner.release().await.expect("held");
    assert!(b.lock("job").wait(Wait::Try).acquire().await.is_ok());
}

#[tokio::test]
async fn a_wait_that_would_never_end_is_refused_with_its_circle() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let left = a.lock("left").owner("a").acquire().await.expect("free");
    let right = b.lock("right").owner("b").acquire().await.expect("free");
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.lock("right").owner("a").acquire().await }
    });
    while b
        .who("right")
        .await
        .expect("answered")
        .expect("held")
        .waiters
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused = b.lock("left").owner("b").acquire().await;
    let Err(AcquireError::Deadlock(circle)) = refused else {
        panic!("{refused:?}");
    };
    let steps: Vec<(Option<_>, &str)> = circle
        .iter()
        .map(|step| (Some(step.session), step.waits_for.as_str()))
        .collect();
    assert_eq!(steps, [(b.session_id(), "left"), (a.session_id(), "right")]);
    drop(right);
    drop(waiting.await.expect("ends").expect("granted"));
    drop(left);
}

#[tokio::test]
async fn work_under_a_guard_is_dropped_when_the_lock_is_lost() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, operator(&cell).await);
    let guard = a.lock("job").acquire().await.expect("free");
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    let (run, broken) = tokio::join!(
        guard.run(std::future::pending::<()>()),
        b.break_lock("job", "maintenance", false),
    );
    broken.expect("held");
    let reason = "maintenance".to_owned();
    assert_eq!(run, Err(LostReason::Broken { reason }));
}
