//! The client of programs that are not async.

use std::path::PathBuf;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{
    AcquireError, Background, CannotBlock, Client, ConnectError, ErrorKind, GuardState, LostReason,
    Mode, ReleaseError, ReleaseOutcome, Wait, blocking,
};

fn connect(cell: &DevCell) -> blocking::Client {
    connect_with(cell.client_config())
}

fn connect_with(config: PathBuf) -> blocking::Client {
    Client::builder()
        .config_file(config)
        .expect("the cell's own configuration")
        .connect_blocking()
        .expect("the cell runs")
}

#[test]
fn locks_of_every_kind_are_acquired_waited_for_and_released_without_a_runtime() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell), connect(&cell));
    let first = a.lock("orders/42").acquire().expect("free");
    assert_eq!(first.state(), GuardState::Held);
    let wait = Wait::For(Duration::from_millis(50));
    let late = b.lock("orders/42").wait(wait).acquire().unwrap_err();
    assert_eq!(late, AcquireError::TimedOut);
    let waiting = std::thread::spawn({
        let b = b.clone();
        move || b.lock("orders/42").acquire()
    });
    while a
        .who("orders/42")
        .expect("answered")
        .expect("held")
        .waiters
        .is_empty()
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(first.release(), Ok(ReleaseOutcome::Released));
    let second = waiting.join().expect("no panic").expect("granted");
    assert_eq!(a.locks("orders/").expect("answered").len(), 1);
    drop(second);

    let writer = a.rw_lock("report").write().acquire().expect("free");
    let reader = writer.downgrade().expect("held");
    assert_eq!(reader.locks()[0].mode, Mode::Shared);
    let beside = b.rw_lock("report").read().wait(Wait::Try).acquire();
    drop(beside.expect("shared"));
    let permit = a.semaphore("workers", 2).acquire().acquire().expect("free");
    assert_eq!(permit.slot(), 0);
    let both = a.all_of(["x", "y"]).with(|lock| lock.owner("me").barging());
    assert_eq!(both.acquire().expect("free").locks().len(), 2);
    assert_eq!(
        a.any_of(["u", "v"])
            .acquire()
            .expect("free")
            .name()
            .as_str(),
        "u"
    );
    drop(a.segments("import", 4).any().acquire().expect("free"));
    drop(a.segments("import", 4).of(b"key").acquire().expect("free"));
    a.close().expect("outside of runtimes");
}

#[test]
fn a_loss_is_waited_for_and_can_be_looked_for() {
    let cell = DevCell::start(None).expect("a cell");
    let (a, b) = (connect(&cell), connect_with(cell.operator_config()));
    let guard = a.lock("job").acquire().expect("free");
    assert_eq!(guard.wait_lost_timeout(Duration::from_millis(20)), Ok(None));
    assert_eq!(guard.check(), Ok(()));
    b.break_lock("job", "maintenance", false).expect("held");
    let reason = "maintenance".to_owned();
    let reason = LostReason::Broken { reason };
    assert_eq!(guard.wait_lost(), Ok(reason.clone()));
    let known = guard.wait_lost_timeout(Duration::ZERO);
    assert_eq!(known, Ok(Some(reason.clone())));
    assert_eq!(guard.check(), Err(reason));
}

#[test]
fn inside_a_runtime_it_refuses_instead_of_stopping_or_panicking() {
    let cell = DevCell::start(None).expect("a cell");
    let client = connect(&cell);
    let guard = client.lock("job").acquire().expect("free");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let builder = Client::builder()
            .config_file(cell.client_config())
            .expect("readable");
        let refused = builder.connect_blocking().unwrap_err();
        let inside = CannotBlock::InsideRuntime;
        assert!(
            matches!(refused, ConnectError::CannotBlock(why) if why == inside),
            "{refused}"
        );
        assert_eq!(refused.kind(), ErrorKind::Definite);
        assert!(refused.to_string().contains("async client"), "{refused}");
        let refused = client.lock("other").acquire().unwrap_err();
        assert_eq!(refused, AcquireError::CannotBlock(inside));
        assert_eq!(guard.wait_lost(), Err(inside));
        assert_eq!(client.wait(async {}), Err(inside));
        let refused = guard.release().unwrap_err();
        assert_eq!(refused, ReleaseError::CannotBlock(inside));
        assert_eq!(refused.kind(), ErrorKind::Unknown);
        // What was not waited for is done all the same; and the async client is at hand.
        let again = client.client().lock("job").acquire().await;
        drop(again.expect("given back"));
    });
}

#[test]
fn settings_that_contradict_it_are_named() {
    let cell = DevCell::start(None).expect("a cell");
    let builder = Client::builder()
        .config_file(cell.client_config())
        .expect("readable");
    let refused = builder
        .background(Background::CallersRuntime)
        .connect_blocking();
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("`background and connect_blocking`"), "{text}");
}
