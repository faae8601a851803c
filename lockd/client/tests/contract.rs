//! The session contract as a program sees it, on a real cell: any TTL in the range, and a holder
//! that knows of its loss before anybody else has the lock.

use std::sync::mpsc;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{Client, GuardState, LostReason, Wait};

async fn connect(cell: &DevCell, ttl: Duration) -> Client {
    let client = Client::builder().config_file(cell.client_config());
    let client = client.expect("the cell's own configuration").ttl(ttl);
    let client = client.connect_timeout(Duration::from_secs(30));
    client.connect().await.expect("the cell runs")
}

#[tokio::test]
async fn ttls_from_half_a_second_to_a_day_are_accepted_and_renewed() {
    let cell = DevCell::start(None).expect("a cell");
    for ttl in [500, 501, 10_000, 3_600_000, 86_400_000] {
        let client = connect(&cell, Duration::from_millis(ttl)).await;
        let name = format!("lock/{ttl}");
        let guard = client.lock(name.as_str()).acquire().await.expect("free");
        assert_eq!(guard.state(), GuardState::Held);
        let lease = guard.remaining();
        assert!(lease <= Duration::from_millis(ttl));
        assert!(lease.as_millis() as u64 > ttl / 2, "{lease:?} of {ttl} ms");
        guard.release().await.expect("held");
        client.close().await;
    }
}

// hashicorp/consul#1843 and #9788: the holder was told half a minute to five minutes after others
// had the lock. Here its program does nothing at all for longer than its TTL, so that nothing can
// tell it; it looks, and knows.
#[test]
fn a_program_that_does_nothing_for_a_ttl_knows_its_lock_lost_before_anyone_else_had_it() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().expect("a runtime")
    };
    let ttl = Duration::from_millis(1000);
    let cells = runtime();
    let cell = cells.block_on(async { DevCell::start(None).expect("a cell") });
    let (granted, other_has_it) = mpsc::channel();
    let held = runtime();
    let client = held.block_on(connect(&cell, ttl));
    let guard = held.block_on(client.lock("a").acquire()).expect("free");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let others = runtime();
            others.block_on(async {
                let client = connect(&cell, Duration::from_secs(30)).await;
                let guard = client.lock("a").wait(Wait::Forever).acquire().await;
                let since = lockd_client::now();
                let guard = guard.expect("granted when the holder's session is over");
                granted
                    .send((since, guard.token()))
                    .expect("somebody waits");
                guard.release().await.expect("held");
            });
        });
        // The runtime of the holder stands still: its renewals, too.
        let (since, token) = other_has_it.recv().expect("granted");
        let reason = LostReason::LeaseRanOut;
        assert_eq!(guard.state(), GuardState::Lost { reason });
        assert!(
            guard.deadline() <= since,
            "{:?} {since:?}",
            guard.deadline()
        );
        assert!(token > guard.token());
    });
}
