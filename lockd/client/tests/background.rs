//! Programs that block the runtime that they run on.

use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{
    AcquireError, Background, Client, ClientConfig, ConnectError, GuardState, LockGuard,
    LostReason, Wait,
};

/// Short for a test, long for a busy machine.
const TTL: Duration = Duration::from_secs(3);

fn config(cell: &DevCell) -> ClientConfig {
    ClientConfig::load(cell.client_config()).expect("the cell's own configuration")
}

/// Holds a lock, and does nothing for the runtime for three TTLs.
async fn block(cell: &DevCell, background: Background) -> (Client, LockGuard) {
    let client = Client::builder()
        .config(config(cell))
        .ttl(TTL)
        .background(background)
        .connect()
        .await
        .expect("the cell runs");
    let guard = client.lock("job").acquire().await.expect("free");
    std::thread::sleep(3 * TTL);
    (client, guard)
}

#[tokio::test]
async fn a_program_that_blocks_its_runtime_keeps_its_lock() {
    let cell = DevCell::start(None).expect("a cell");
    let (client, guard) = block(&cell, Background::default()).await;
    assert!(
        !matches!(guard.state(), GuardState::Lost { .. }),
        "{guard:?}"
    );
    let other = client.session().open().await.expect("open");
    let taken = other.lock("job").wait(Wait::Try).acquire().await;
    assert!(
        matches!(taken, Err(AcquireError::NotAvailable { .. })),
        "{taken:?}"
    );
    guard.release().await.expect("held all the time");
}

#[tokio::test]
async fn with_the_callers_runtime_it_is_told_of_the_loss_before_it_can_use_the_lock() {
    let cell = DevCell::start(None).expect("a cell");
    let (_client, guard) = block(&cell, Background::CallersRuntime).await;
    // Nothing was awaited yet, so that the background task knows of nothing.
    let reason = LostReason::LeaseRanOut;
    assert_eq!(guard.check(), Err(reason.clone()));
    assert!(guard.remaining().is_zero());
    let mut used = false;
    let run = guard.run(async { used = true }).await;
    assert_eq!(run, Err(reason.clone()));
    assert!(!used);
    assert_eq!(guard.state(), GuardState::Lost { reason }, "for good");
}

#[test]
fn the_callers_runtime_has_to_be_there() {
    let cell = DevCell::start(None).expect("a cell");
    let builder = Client::builder().config(config(&cell));
    let builder = builder.background(Background::CallersRuntime);
    // A waker that does nothing is enough: it does not get as far as to wait.
    let connect = std::pin::pin!(builder.connect());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = connect.poll(&mut context) else {
        panic!("there is no runtime");
    };
    let field = "background";
    assert!(
        matches!(error, ConnectError::Invalid { field: f, .. } if f == field),
        "{error}"
    );
}
