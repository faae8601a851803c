//! Metadata, watches and elections on a real cell.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{
    AcquireError, Change, Client, EventNumber, Holders, MetadataError, Update, Watch, WatchError,
};
use tokio::task::JoinSet;

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
        .ttl(Duration::from_secs(20))
        .connect()
        .await
        .expect("the cell runs")
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

/// The next update is an event: what happened, to which lock, with which metadata.
async fn event(watch: &mut Watch) -> (Change, String, Option<String>) {
    match watch.next().await.expect("the watch goes on") {
        Update::Event(event) => {
            let metadata = event.holder.metadata.map(|it| it.value.to_text());
            (event.change, event.holder.lock.to_string(), metadata)
        }
        other => panic!("no event: {other:?}"),
    }
}

fn is(change: Change, lock: &str, metadata: Option<&str>) -> (Change, String, Option<String>) {
    (change, lock.to_owned(), metadata.map(str::to_owned))
}

#[tokio::test]
async fn metadata_comes_with_the_lock_is_changed_by_its_holder_and_goes_with_the_lock() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, operator(&cell).await);
    let guard = a
        .lock("job")
        .metadata("step 1")
        .acquire()
        .await
        .expect("free");
    let first = guard.metadata().await.expect("answered").expect("given");
    assert_eq!(first.value.as_bytes(), b"step 1");
    let second = guard.set_metadata("step 2").await.expect("held");
    assert!(second > first.version);
    let stale = guard.set_metadata_if(first.version, "x").await;
    assert_eq!(stale, Err(MetadataError::OtherVersion { version: second }));
    let third = guard.set_metadata_if(second, "step 3").await.expect("held");
    let seen = b.who("job").await.expect("answered").expect("held");
    let on_it = seen.holders[0].metadata.clone().expect("given");
    assert_eq!(
        (on_it.version, on_it.value.as_bytes()),
        (third, &b"step 3"[..])
    );

    b.break_lock("job", "maintenance", true)
        .await
        .expect("held");
    let next = b.lock("job").acquire().await.expect("free");
    assert_eq!(next.metadata().await, Ok(None), "no predecessor's claim");
    let lost = guard.set_metadata("late").await;
    assert!(matches!(lost, Err(MetadataError::Lost(_))), "{lost:?}");
    assert_eq!(next.metadata().await, Ok(None));
    assert_eq!(guard.metadata().await, Ok(None));
}

#[tokio::test]
async fn metadata_that_is_too_long_is_refused_before_it_is_sent() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let long = vec![0; 4097];
    let refused = client.lock("a").metadata(&long).acquire().await;
    assert!(
        matches!(refused, Err(AcquireError::Metadata(_))),
        "{refused:?}"
    );
    let guard = client
        .lock("a")
        .metadata(&long[1..])
        .acquire()
        .await
        .expect("free");
    let refused = guard.set_metadata(&long).await;
    let text = refused.expect_err("too long").to_string();
    assert!(text.contains("4097") && text.contains("4096"), "{text}");
}

#[tokio::test]
async fn a_watch_tells_the_state_and_then_every_change() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, operator(&cell).await);
    let held = a.lock("s/1").metadata("one").acquire().await.expect("free");
    let mut watch = b.watch_prefix("s/");
    let Update::Snapshot(state) = watch.next().await.expect("begins") else {
        panic!("the first one is the state");
    };
    assert_eq!(state.holders.len(), 1);
    assert_eq!(state.holders[0].token, held.token());

    let other = a.lock("s/2").acquire().await.expect("free");
    drop(a.lock("t").acquire().await.expect("free"));
    held.set_metadata("two").await.expect("held");
    let other = other.downgrade().await.expect("exclusive");
    held.release().await.expect("held");
    b.break_lock("s/2", "why", true).await.expect("held");
    drop(other);
    for expected in [
        is(Change::Granted, "s/2", None),
        is(Change::MetadataSet, "s/1", Some("two")),
        is(Change::Downgraded, "s/2", None),
        is(Change::Released, "s/1", Some("two")),
        is(Change::Broken, "s/2", None),
    ] {
        assert_eq!(event(&mut watch).await, expected);
    }
    assert_eq!(watch.try_next(), Ok(None));

    let short = Client::builder()
        .config_file(cell.client_config())
        .expect("a configuration");
    let short = short
        .ttl(Duration::from_millis(500))
        .connect()
        .await
        .expect("runs");
    let lock = short.lock("s/3").acquire().await.expect("free");
    assert_eq!(event(&mut watch).await, is(Change::Granted, "s/3", None));
    short.close().await;
    assert_eq!(event(&mut watch).await, is(Change::Released, "s/3", None));
    drop(lock);
}

#[tokio::test]
async fn a_watch_goes_on_without_a_gap_when_the_leader_dies() {
    let mut cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let mut watch = b.watch_prefix("job/");
    assert!(matches!(watch.next().await, Ok(Update::Snapshot(_))));
    let mut tokens = Vec::new();
    for n in 0..60 {
        if n == 20 || n == 40 {
            let old = leader(&a).await;
            cell.stop_node(old);
        }
        if n == 30 {
            (0..cell.len()).for_each(|node| cell.start_node(node).expect("starts again"));
        }
        let guard = a
            .lock(format!("job/{n}"))
            .acquire()
            .await
            .expect("a leader");
        tokens.push(guard.token());
        guard.release().await.expect("held");
    }
    let mut last = EventNumber(0);
    let mut seen = Vec::new();
    while seen.len() < 60 {
        match watch.next().await.expect("the watch goes on") {
            Update::Event(event) => {
                assert!(event.number > last, "{event:?} after {last}");
                last = event.number;
                if event.change == Change::Granted {
                    seen.push(event.holder.token);
                }
            }
            other => panic!("nothing was missed: {other:?}"),
        }
    }
    assert_eq!(seen, tokens);
}

#[tokio::test]
async fn a_user_who_does_not_take_updates_gets_the_present_state_instead() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let mut watch = b.watch("busy");
    let mut holders = Holders::default();
    holders.apply(&watch.next().await.expect("begins"));
    // Far more than a watch keeps for its user.
    let guard = a.lock("busy").acquire().await.expect("free");
    let guard = Arc::new(guard);
    let mut changes = JoinSet::new();
    for n in 0..1500 {
        let guard = Arc::clone(&guard);
        changes.spawn(async move { guard.set_metadata(format!("{n}")).await.expect("held") });
    }
    assert_eq!(changes.join_all().await.len(), 1500);
    guard.set_metadata("last").await.expect("held");
    let mut resyncs = 0;
    loop {
        let update = watch.next().await.expect("the watch goes on");
        resyncs += usize::from(matches!(update, Update::Resync(_)));
        holders.apply(&update);
        let metadata = holders.iter().next().and_then(|it| it.metadata.as_ref());
        if metadata.is_some_and(|it| it.value.as_bytes() == b"last") {
            break;
        }
    }
    assert_eq!(resyncs, 1, "it was told that something is missing");
    drop(guard);
    assert_eq!(
        event(&mut watch).await,
        is(Change::Released, "busy", Some("last"))
    );
}

#[tokio::test]
async fn a_watch_of_what_cannot_be_watched_says_why() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell).await;
    let bad = client.watch("a\nb").next().await;
    assert!(matches!(bad, Err(WatchError::Name(_))), "{bad:?}");
    let bad = client.watch_prefix("x".repeat(300)).next().await;
    assert!(matches!(bad, Err(WatchError::Refused(_))), "{bad:?}");
    let mut watches = Vec::new();
    for _ in 0..1024 {
        watches.push(client.watch_prefix(""));
    }
    for watch in &mut watches {
        assert!(matches!(watch.next().await, Ok(Update::Snapshot(_))));
    }
    let refused = client.watch("a").next().await;
    let text = refused.expect_err("too many").to_string();
    assert!(text.contains("1024 watches"), "{text}");
    watches.truncate(1000);
    let again = client.watch("a").next().await;
    assert!(matches!(again, Ok(Update::Snapshot(_))), "{again:?}");
}

#[tokio::test]
async fn an_observer_sees_every_term_that_lasts_and_never_an_earlier_one_after_a_later_one() {
    let mut cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let election = b.election("leader");
    assert_eq!(election.leader().await, Ok(None));
    let mut observer = election.observe();
    assert_eq!(observer.next().await, Ok(None));
    let first = a
        .election("leader")
        .campaign("one")
        .await
        .expect("nobody else");
    let seen = observer
        .next()
        .await
        .expect("goes on")
        .expect("somebody leads");
    assert_eq!((seen.token, &seen.value[..]), (first.token(), &b"one"[..]));
    assert!(first.ticket().is_some());

    let second = tokio::spawn(async move { election.campaign("two").await });
    let old = leader(&a).await;
    cell.stop_node(old);
    let version = first.proclaim("one, again").await.expect("it leads still");
    let seen = observer
        .next()
        .await
        .expect("goes on")
        .expect("somebody leads");
    assert_eq!(
        (seen.version, &seen.value[..]),
        (version, &b"one, again"[..])
    );
    first.resign().await.expect("it led to the end");
    let second = second.await.expect("no panic").expect("its turn");
    loop {
        let seen = observer.next().await.expect("goes on");
        assert!(
            seen.as_ref()
                .is_none_or(|seen| seen.token >= second.token())
        );
        if seen.is_some_and(|seen| seen.token == second.token()) {
            break;
        }
    }
    let asked = a.election("leader").leader().await.expect("answered");
    assert_eq!(asked.map(|asked| asked.token), Some(second.token()));
}

#[tokio::test]
async fn a_watch_outlives_its_client_and_keeps_no_session_open() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell).await, connect(&cell).await);
    let mut watch = b.watch("job");
    assert!(matches!(watch.next().await, Ok(Update::Snapshot(_))));
    let session = b.session_id().expect("open");
    drop(b);
    while a
        .sessions()
        .await
        .expect("answered")
        .iter()
        .any(|it| it.session == session)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(a.lock("job").acquire().await.expect("free"));
    assert_eq!(event(&mut watch).await, is(Change::Granted, "job", None));
    assert_eq!(event(&mut watch).await, is(Change::Released, "job", None));
}
