//! What a program sees when its lock is lost in each of the ways that can be scripted.

use std::time::Duration;

use lockd_client::protocol::client::EndReason;
use lockd_client::{AcquireError, GuardState, LostReason, Wait};
use lockd_testkit::{KitError, TestCell};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn time_alone_loses_nothing_while_the_client_is_connected() {
    let cell = TestCell::start().await.expect("a cell");
    let client = cell.client().await.expect("connected");
    let guard = client.lock("job").acquire().await.expect("free");
    let before = cell.now();
    cell.advance(100 * TTL).await;
    assert_eq!(cell.now().since(before), 100 * TTL);
    assert_eq!(guard.state(), GuardState::Held);
    guard.release().await.expect("held");
}

#[tokio::test]
async fn a_client_that_is_cut_off_is_in_jeopardy_and_then_lost_before_anyone_else_gets_the_lock() {
    let cell = TestCell::start().await.expect("a cell");
    let (a, b) = (
        cell.client().await.expect("connected"),
        cell.client().await.expect("connected"),
    );
    let guard = a.lock("job").acquire().await.expect("free");
    let rival = tokio::spawn({
        let b = b.client();
        async move { b.lock("job").acquire().await }
    });
    cell.advance(Duration::from_secs(1)).await;
    cell.cut(&a);
    cell.advance(Duration::from_secs(3)).await;
    assert!(matches!(guard.state(), GuardState::Jeopardy { .. }));
    while !matches!(guard.state(), GuardState::Lost { .. }) {
        assert!(!rival.is_finished(), "one holder at a time");
        cell.advance(Duration::from_millis(10)).await;
    }
    assert!(!rival.is_finished(), "its holder knows first");
    cell.advance(TTL).await;
    let next = rival.await.expect("no panic").expect("granted");
    assert!(next.token() > guard.token());
    assert_eq!(guard.lost().await, LostReason::LeaseRanOut);
    drop(b);
}

#[tokio::test]
async fn a_cut_that_is_healed_in_time_loses_nothing() {
    let cell = TestCell::start().await.expect("a cell");
    let client = cell.client().await.expect("connected");
    let guard = client.lock("job").acquire().await.expect("free");
    cell.cut(&client);
    cell.advance(TTL / 2).await;
    assert!(matches!(guard.state(), GuardState::Jeopardy { .. }));
    cell.heal(&client);
    cell.advance(TTL).await;
    assert_eq!(guard.state(), GuardState::Held);
    guard.release().await.expect("held");
}

#[tokio::test]
async fn work_under_a_guard_is_dropped_when_its_lock_is_broken() {
    struct Dropped(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            // Whoever asked may have gone.
            let _ = self.0.send("dropped");
        }
    }
    let cell = TestCell::start().await.expect("a cell");
    let client = cell.client().await.expect("connected");
    let guard = client.lock("job").acquire().await.expect("free");
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let working = tokio::spawn(async move {
        let dropped = Dropped(say);
        let work = async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
        };
        let result = guard.run(work).await;
        (guard, result)
    });
    tokio::task::yield_now().await;
    assert!(said.try_recv().is_err(), "it is at work");
    cell.break_lock("job").await.expect("held");
    assert_eq!(said.recv().await, Some("dropped"));
    let (guard, result) = working.await.expect("no panic");
    assert!(
        matches!(result, Err(LostReason::Broken { .. })),
        "{result:?}"
    );
    guard.release().await.expect("its session goes on");
    let nobody = cell.break_lock("job").await;
    assert!(matches!(nobody, Err(KitError::Break(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_session_that_expires_gives_its_locks_to_others_and_the_client_goes_on_with_another() {
    let cell = TestCell::start().await.expect("a cell");
    let (a, b) = (
        cell.client().await.expect("connected"),
        cell.client().await.expect("connected"),
    );
    let guard = a.lock("job").acquire().await.expect("free");
    let session = guard.session();
    cell.expire(&a).await.expect("it has a session");
    let GuardState::Lost { reason } = guard.state() else {
        panic!("{:?}", guard.state());
    };
    let expected = [
        LostReason::LeaseRanOut,
        LostReason::SessionEnded(EndReason::Expired),
    ];
    assert!(expected.contains(&reason), "{reason:?}");
    let next = b.lock("job").wait(Wait::Try).acquire().await.expect("free");
    assert!(next.token() > guard.token());
    let again = cell.until(a.lock("other").acquire()).await;
    let again = again.expect("in time").expect("a new session");
    assert_ne!(again.session(), session);
}

#[tokio::test]
async fn a_leader_that_is_paused_costs_time_and_no_lock() {
    let cell = TestCell::start().await.expect("a cell");
    let client = cell.client().await.expect("connected");
    let guard = client.lock("job").acquire().await.expect("free");
    let paused = cell.pause_leader().expect("led");
    let another = cell.until(client.lock("another").acquire()).await;
    let another = another.expect("in time").expect("another node leads");
    assert!(another.token() > guard.token());
    assert_ne!(cell.elect().await.expect("led"), paused);
    assert_eq!(guard.state(), GuardState::Held);
    cell.resume(paused);
    cell.advance(TTL).await;
    guard.release().await.expect("held all the time");
}

#[tokio::test]
async fn a_wait_with_a_limit_ends_when_the_clock_says_so() {
    let cell = TestCell::start().await.expect("a cell");
    let (a, b) = (
        cell.client().await.expect("connected"),
        cell.client().await.expect("connected"),
    );
    let _guard = a.lock("job").acquire().await.expect("free");
    let hour = Duration::from_secs(3600);
    let waiting = tokio::spawn({
        let b = b.client();
        async move { b.lock("job").wait(Wait::For(hour)).acquire().await }
    });
    cell.advance(hour - TTL).await;
    assert!(!waiting.is_finished());
    cell.advance(2 * TTL).await;
    let late = waiting.await.expect("no panic").unwrap_err();
    assert_eq!(late, AcquireError::TimedOut);
}

#[tokio::test]
async fn tickets_are_genuine() {
    let cell = TestCell::start().await.expect("a cell");
    let client = cell.client().await.expect("connected");
    let guard = client.lock("job").acquire().await.expect("free");
    let text = guard.ticket().expect("asked for by default");
    let verifier = cell.config().verifier().expect("keys");
    let ticket = verifier.verify(text.as_str()).expect("genuine");
    assert_eq!(ticket.token, guard.token());
}
