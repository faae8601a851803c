//! HTTP gateways as processes, with a real lock service and a real nginx: one of them is active,
//! another one takes over when it dies, and knows no less.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use common::http::{Reply, call, call_until_ready};
use common::{GatewayProcess, start_gateway};
use gateway::http::private_server::PrivateServer;
use lockd::dev::DevCell;
use lockd_client::{Client, LockGuard, Wait};
use rustix::process::Signal;

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

fn shown(guard: &LockGuard) -> String {
    guard.ticket().unwrap().to_string()
}

fn nginx() -> PrivateServer {
    PrivateServer::start().unwrap_or_else(|error| panic!("{error}"))
}

/// A configuration in a directory of its own.
fn config(
    dir: &Path,
    name: &str,
    server: &PrivateServer,
    client_config: &Path,
) -> std::path::PathBuf {
    let text = format!(
        "listen = \"127.0.0.1:0\"\n\
         [http]\nurl = \"http://127.0.0.1:{}\"\nlock = \"gateways/files\"\nsettle = \"1s\"\n\
         control = \"{name}.sock\"\n\
         [[guard]]\npath = \"/orders/{{id}}\"\nlock = \"orders/{{id}}\"\n\
         [cell]\nclient_config = {:?}\n",
        server.port(),
        client_config
    );
    let file = dir.join(format!("{name}.toml"));
    std::fs::write(&file, text).unwrap();
    file
}

async fn put(gateway: &GatewayProcess, ticket: &str, body: &str) -> Reply {
    call_until_ready(gateway.address, "PUT", "/orders/1", ticket, body).await
}

fn is_done(reply: &Reply) -> bool {
    (200..300).contains(&reply.status)
}

/// The program's exit code and everything it prints.
fn run(arguments: &[&str], config: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env("RUST_LOG", "error")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_is_active_and_the_next_one_knows_no_less() {
    let cell = DevCell::start(None).unwrap();
    let server = nginx();
    let dir = tempfile::tempdir().unwrap();
    let client = client(&cell.client_config()).await;
    let holder = acquire(&client, "orders/1").await;
    let before = shown(&holder);
    let file = config(dir.path(), "first", &server, &cell.gateway_config());
    let first = start_gateway(&file);
    // Granted before the gateway was active: the cell is asked, and says that it still is.
    let reply = put(&first, &before, "before").await;
    assert!(is_done(&reply), "{reply:?}");
    holder.release().await.unwrap();
    let second = acquire(&client, "orders/1").await;
    assert!(is_done(&put(&first, &shown(&second), "second").await));
    assert_eq!(put(&first, &before, "late").await.status, 412);

    let other_file = config(dir.path(), "second", &server, &cell.gateway_config());
    let other = start_gateway(&other_file);
    let reply = call(
        other.address,
        "PUT",
        "/orders/1",
        Some(&shown(&second)),
        "x",
    )
    .await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("not the active one"), "{reply:?}");
    assert!(
        reply.head.to_lowercase().contains("retry-after"),
        "{reply:?}"
    );
    assert_eq!(
        call(other.address, "GET", "/orders/1", None, "").await.body,
        "second"
    );
    let (code, text) = run(&["fences"], &other_file);
    assert!(
        code == Some(3) && text.contains("not the active one"),
        "{text}"
    );
    let (code, text) = run(&["fences", "--json"], &file);
    assert!(
        code == Some(0) && text.contains(r#""lock":"orders/1""#),
        "{text}"
    );
    let (code, text) = run(&["settle", "--lock", "orders/1"], &file);
    assert!(code == Some(0) && text.contains("0 doubts ended"), "{text}");

    // A newer holder that the first gateway has admitted; the second has never heard of it.
    second.release().await.unwrap();
    let third = acquire(&client, "orders/1").await;
    assert!(is_done(&put(&first, &shown(&third), "third").await));
    first.signal(Signal::KILL);
    let reply = put(&other, &before, "late").await;
    assert!(
        reply.status == 412 && reply.body.contains("does not grant any more"),
        "{reply:?}"
    );
    let reply = put(&other, &shown(&third), "third again").await;
    assert!(is_done(&reply), "{reply:?}");
    assert_eq!(
        std::fs::read_to_string(server.files().join("orders/1")).unwrap(),
        "third again"
    );
    third.release().await.unwrap();
    let fourth = acquire(&client, "orders/1").await;
    assert!(is_done(&put(&other, &shown(&fourth), "fourth").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_gateway_is_not_the_active_one_when_it_goes_on() {
    let cell = DevCell::start(None).unwrap();
    let server = nginx();
    let dir = tempfile::tempdir().unwrap();
    let client = client(&cell.client_config()).await;
    let old = acquire(&client, "orders/1").await;
    let first = start_gateway(&config(
        dir.path(),
        "first",
        &server,
        &cell.gateway_config(),
    ));
    assert!(is_done(&put(&first, &shown(&old), "old").await));
    let second = start_gateway(&config(
        dir.path(),
        "second",
        &server,
        &cell.gateway_config(),
    ));
    first.signal(Signal::STOP);
    // It reaches the first gateway only when that goes on.
    let (address, ticket) = (first.address, shown(&old));
    let late =
        tokio::spawn(async move { call(address, "PUT", "/orders/1", Some(&ticket), "late").await });
    old.release().await.unwrap();
    let new = acquire(&client, "orders/1").await;
    assert!(is_done(&put(&second, &shown(&new), "new").await));
    first.signal(Signal::CONT);
    let reply = late.await.unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(
        std::fs::read_to_string(server.files().join("orders/1")).unwrap(),
        "new"
    );
    assert_eq!(put(&second, &shown(&new), "new again").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_what_the_guarantee_rests_on() {
    let server = nginx();
    let dir = tempfile::tempdir().unwrap();
    common::write_client_config(&dir.path().join("client.toml"));
    let file = config(dir.path(), "one", &server, Path::new("client.toml"));
    let (code, text) = run(&["check"], &file);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "compares no tokens",
        "you vouch that no write takes effect 1s",
        "1 guard rules",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (code, text) = run(&["fences"], &file);
    assert!(
        code == Some(3) && text.contains("does the gateway run?"),
        "{text}"
    );
    assert_eq!(run(&["install"], &file).0, Some(2));
    let of_nobody = std::fs::read_to_string(&file)
        .unwrap()
        .replace(&format!(":{}\"", server.port()), ":1\"");
    std::fs::write(&file, of_nobody).unwrap();
    for command in ["check", "serve"] {
        let (code, text) = run(&[command], &file);
        assert!(code == Some(3) && text.contains("cannot connect"), "{text}");
    }
    let without = std::fs::read_to_string(&file)
        .unwrap()
        .replace("control =", "#");
    std::fs::write(&file, without).unwrap();
    let (code, text) = run(&["settle"], &file);
    assert!(code == Some(2) && text.contains("http.control"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_stands_in_front_of_a_server_that_is_there() {
    let server = nginx();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["dev", "--listen", "127.0.0.1:0", "--guard", "/notes=notes"])
        .args(["--http", &format!("http://127.0.0.1:{}", server.port())])
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let first = lines.next().unwrap();
    let mut words = first.split_whitespace();
    let config = words.find(|word| word.ends_with("client.toml")).unwrap();
    let address: SocketAddr = {
        let line = lines.next().unwrap();
        line.strip_prefix("listening on ").unwrap().parse().unwrap()
    };
    let client = client(Path::new(config)).await;
    let guard = acquire(&client, "notes").await;
    assert_eq!(
        call(address, "PUT", "/notes/1", None, "hi").await.status,
        428
    );
    let reply = call_until_ready(address, "PUT", "/notes/1", &shown(&guard), "hi").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(call(address, "GET", "/notes/1", None, "").await.body, "hi");
    let pid = rustix::process::Pid::from_child(&dev);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
}
