//! The gateway with a real lock service: tickets of real grants, and the questions that a server
//! which has forgotten makes necessary.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bed, connect, refused};
use gateway::config::{Config, Upstream};
use gateway::server;
use lockd::dev::DevCell;
use lockd_client::{Client, LockGuard, Wait};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn client(config: &Path) -> Client {
    Client::builder()
        .config_file(config)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn acquire(client: &Client, lock: &str) -> LockGuard {
    client.lock(lock).wait(Wait::Try).acquire().await.unwrap()
}

fn show(guard: &LockGuard) -> String {
    format!("set fence.ticket = '{}'", guard.ticket().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_of_real_grants_are_taken_and_the_cell_is_asked_when_marks_may_be_lost() {
    let cell = DevCell::start(None).unwrap();
    let bed = Bed::new().await;
    let mut config: Config = bed.config();
    config.cell = cell.gateway_config();
    assert!(matches!(config.upstream, Upstream::Postgres(_)));
    let (address, serving) = server::bind(&config).await.unwrap();
    let serving = tokio::spawn(serving);
    let client = client(&cell.client_config()).await;
    let app = connect(&bed.url("app", address)).await;

    let first = acquire(&client, "orders/1").await;
    let old = show(&first);
    app.batch_execute(&old).await.unwrap();
    app.batch_execute("update orders set v = 'first'")
        .await
        .unwrap();
    first.release().await.unwrap();
    let second = acquire(&client, "orders/1").await;
    app.batch_execute(&show(&second)).await.unwrap();
    assert_eq!(refused(app.batch_execute(&old).await).0, "FN001");

    // Everything that a crash could take, and more: even the marks.
    let forget = "truncate fence.boot, fence.session; delete from fence.hw";
    bed.admin().await.batch_execute(forget).await.unwrap();
    assert_eq!(
        refused(app.batch_execute("update orders set v = 'x'").await).0,
        "FN002"
    );
    assert_eq!(refused(app.batch_execute(&old).await).0, "FN001");
    app.batch_execute(&show(&second)).await.unwrap();
    app.batch_execute("update orders set v = 'second'")
        .await
        .unwrap();
    let third = acquire(&client, "orders/2").await;
    app.batch_execute(&show(&third)).await.unwrap();

    // Without a cell there is no answer, and nobody is admitted who would need one.
    bed.admin().await.batch_execute(forget).await.unwrap();
    drop(cell);
    assert_eq!(refused(app.batch_execute(&show(&second)).await).0, "FN004");
    assert_eq!(
        refused(app.batch_execute("update orders set v = 'y'").await).0,
        "FN002"
    );
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_needs_nothing_but_itself() {
    let mut dev = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["dev", "--listen", "127.0.0.1:0"])
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let first = lines.next().unwrap();
    let config = first
        .split_whitespace()
        .find(|word| word.ends_with("client.toml"))
        .unwrap();
    let address = lines.next().unwrap();
    let address = address.strip_prefix("listening on ").unwrap().to_owned();
    let client = client(Path::new(config)).await;
    let guard = acquire(&client, "notes").await;
    let request = format!(
        "PUT /kv/notes/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\
         Fencing-Token: {}\r\n\r\nhi",
        guard.ticket().unwrap()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let pid = rustix::process::Pid::from_child(&dev);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
}
