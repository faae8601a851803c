//! What passes through the gateway besides the fence: COPY, notifications, cancel requests, prepared
//! statements, and bytes that are none of the protocol's.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::raw::{bind, execute, msg, parse, pbe, query, sync};
use common::{Bed, connect, refused, show, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn copy_rows(rows: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend(msg(b'd', format!("{row}\tcopied\n").as_bytes()));
    }
    bytes.extend(msg(b'c', b""));
    bytes
}

const COPY_IN: &str = "copy orders (id, v) from stdin";

#[tokio::test]
async fn a_session_is_idle_again_after_every_kind_of_exchange_and_survives_a_handover() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let early_sync = [pbe(COPY_IN), sync(), copy_rows(&[121]), sync()].concat();
    let late_sync = [pbe(COPY_IN), copy_rows(&[122]), sync()].concat();
    let fails_first = [query("copy nosuch from stdin"), copy_rows(&[1])].concat();
    let exchanges: Vec<(&str, Vec<u8>, usize)> = vec![
        ("query", query("select 1"), 1),
        ("empty query", query(""), 1),
        (
            "error in several statements",
            query("select 1; select 1/0; select 2"),
            1,
        ),
        (
            "error, skip to the sync",
            [pbe("select 1/0"), pbe("select 1"), sync()].concat(),
            1,
        ),
        (
            "two units",
            [pbe("select 1/0"), sync(), pbe("select 1"), sync()].concat(),
            2,
        ),
        (
            "flush",
            [pbe("select 1"), msg(b'H', b""), pbe("select 2"), sync()].concat(),
            1,
        ),
        ("function call", msg(b'F', b"\0\0\x05\x13\0\0\0\0\0\0"), 1),
        (
            "simple copy",
            [query(COPY_IN), copy_rows(&[120])].concat(),
            1,
        ),
        ("copy with an early sync", early_sync, 1),
        ("copy with a late sync", late_sync, 1),
        (
            "copy given up",
            [query(COPY_IN), msg(b'f', b"no\0")].concat(),
            1,
        ),
        ("copy that fails first", fails_first, 1),
        ("copy out", query("copy orders to stdout"), 1),
        (
            "many units",
            [pbe("select 1"), sync()].concat().repeat(200),
            200,
        ),
        ("discard", query("discard all"), 1),
    ];
    let mut holder = bed.raw(gateway.address).await;
    let mut successor = bed.raw(gateway.address).await;
    let mut token = 10;
    for (name, bytes, ready) in exchanges {
        token += 10;
        let said = holder
            .outcome(&query(&show(&[("orders/1", token)])), 1)
            .await;
        assert_eq!(said, ["done SET"], "before: {name}");
        holder.outcome(&bytes, ready).await;
        // Idle means that the next ticket is taken, and that nobody ends this session.
        let said = holder
            .outcome(&query(&show(&[("orders/1", token + 1)])), 1)
            .await;
        assert_eq!(said, ["done SET"], "after: {name}");
        let said = successor
            .outcome(&query(&show(&[("orders/1", token + 2)])), 1)
            .await;
        assert_eq!(said, ["done SET"], "{name}");
        let said = holder
            .outcome(&query("update orders set v = 'late'"), 1)
            .await;
        assert!(said[0].starts_with("FN001"), "{name}: {said:?}");
    }
}

#[tokio::test]
async fn copy_in_is_fenced_and_large_copies_pass_both_ways() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let mut raw = bed.raw(gateway.address).await;
    let said = raw
        .outcome(&[query(COPY_IN), copy_rows(&[5])].concat(), 1)
        .await;
    assert!(said[0].starts_with("FN002"), "{said:?}");
    raw.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
    let rows: Vec<u32> = (100..30_100).collect();
    let said = raw
        .outcome(&[query(COPY_IN), copy_rows(&rows)].concat(), 1)
        .await;
    assert_eq!(said, ["done COPY 30000"]);
    let app = bed.app(&gateway).await;
    let sql = "select repeat('x', 5000000) || string_agg(v, '') from orders";
    let text: String = app.query_one(sql, &[]).await.unwrap().get(0);
    assert!(text.len() > 5_100_000);
    let long = "y".repeat(3_000_000);
    let back: i32 = app
        .query_one("select length($1::text)", &[&long])
        .await
        .unwrap()
        .get(0);
    assert_eq!(back, 3_000_000);
    app.batch_execute(&format!("select '{long}'"))
        .await
        .unwrap();
}

#[tokio::test]
async fn notifications_arrive_while_the_session_is_silent() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let mut listener = bed.raw(gateway.address).await;
    assert_eq!(
        listener.outcome(&query("listen news"), 1).await,
        ["done LISTEN"]
    );
    let app = bed.app(&gateway).await;
    app.batch_execute("notify news, 'hello'").await.unwrap();
    let (kind, body) = listener.receive().await.unwrap();
    assert_eq!(kind, b'A');
    assert!(body.ends_with(b"news\0hello\0"));
}

#[tokio::test]
async fn prepared_statements_keep_their_names_and_their_state() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    let statement = app.prepare("select $1::int + 1").await.unwrap();
    for number in 0..5_i32 {
        let sum: i32 = app.query_one(&statement, &[&number]).await.unwrap().get(0);
        assert_eq!(sum, number + 1);
    }
    let mut raw = bed.raw(gateway.address).await;
    let unnamed = [parse("", "select 7"), sync()].concat();
    raw.outcome(&unnamed, 1).await;
    raw.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
    // Showing a ticket has not touched the unnamed statement... but a simple query would have.
    let said = raw
        .outcome(&[bind(""), execute(), sync()].concat(), 1)
        .await;
    assert_eq!(said, ["done SELECT 1"]);
}

#[tokio::test]
async fn a_cancel_request_reaches_its_statement_through_any_gateway() {
    let bed = Bed::new().await;
    let (gateway, other) = (bed.gateway().await, bed.gateway().await);
    let mut raw = bed.raw(gateway.address).await;
    raw.send(&query("select pg_sleep(60)")).await;
    let admin = bed.admin().await;
    let running = format!(
        "select state = 'active' from pg_stat_activity where pid = {}",
        raw.pid
    );
    while !admin
        .query_one(&running, &[])
        .await
        .unwrap()
        .get::<_, bool>(0)
    {}
    let mut request = (8 + raw.key.len() as u32).to_be_bytes().to_vec();
    request.extend_from_slice(&80_877_102_u32.to_be_bytes());
    request.extend_from_slice(&raw.key);
    assert!(answer_to(other.address, &request).await.is_empty());
    let said = raw.until(1).await;
    assert!(
        said.iter().any(|word| word.starts_with("error 57014")),
        "{said:?}"
    );
    assert_eq!(raw.outcome(&query("select 1"), 1).await, ["done SELECT 1"]);
}

/// Everything that the other side says to these bytes, until it hangs up.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset is as good as a close.
    let _ = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("no end");
    answer
}

#[tokio::test]
async fn hostile_bytes_end_their_own_session_only() {
    let bed = Bed::new().await;
    let gateway = bed
        .gateway_with(|config| config.handshake_timeout = Duration::from_millis(300))
        .await;
    let mut witness = bed.raw(gateway.address).await;
    for (bytes, said) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "08P01"),
        (b"\xff\xff\xff\xff\0\x03\0\0", "08P01"),
        (b"\0\0\0\x04", "08P01"),
        (b"\0\0\0\x09\0\x02\0\0\0", "08P01"),
        (b"\0\0\0\x0c\0\x03\0\0user", "08P01"),
        (b"\0\0\0\x09\0\x03\0\0\0", "3D000"),
        // Nothing, half a packet, a cancel request for nobody, TLS where there is none.
        (b"", ""),
        (b"\0\0\0\x20\0\x03", ""),
        (b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02", ""),
        (b"\x16\x03\x01\x02\0\x01", ""),
    ] {
        let answer = answer_to(gateway.address, bytes).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.contains(said) && (!said.is_empty() || answer.is_empty()),
            "{text:?}"
        );
    }
    for hostile in [&b"Q\0\0\0\x03"[..], b"Q\xff\xff\xff\xff", b"\0\0\0\0\0"] {
        let mut raw = bed.raw(gateway.address).await;
        let said = raw.outcome(hostile, 1).await;
        assert!(
            said[0].starts_with("error 08P01") && said[1] == "closed",
            "{said:?}"
        );
    }
    // As long as a length can say: relayed as it comes, never kept.
    let mut raw = bed.raw(gateway.address).await;
    raw.send(b"Q\x7f\xff\xff\xff").await;
    for _ in 0..200 {
        if !raw.try_send(&[b'x'; 65536]).await {
            break;
        }
    }
    drop(raw);
    assert_eq!(
        witness.outcome(&query("select 1"), 1).await,
        ["done SELECT 1"]
    );
}

#[tokio::test]
async fn a_client_that_pipelines_without_end_is_slowed_down_and_not_kept_in_memory() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let mut raw = bed.raw(gateway.address).await;
    let many = 100_000;
    let bytes = sync().repeat(many);
    let stream = raw.into_stream();
    let (mut read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move { write.write_all(&bytes).await.map(|()| write) });
    let mut answers = vec![0; many * 6];
    read.read_exact(&mut answers).await.unwrap();
    assert!(answers.chunks(6).all(|answer| answer == b"Z\0\0\0\x05I"));
    raw = bed.raw(gateway.address).await;
    assert_eq!(raw.outcome(&query("select 1"), 1).await, ["done SELECT 1"]);
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn a_client_that_says_its_last_and_listens_gets_all_its_answers() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let raw = bed.raw(gateway.address).await;
    let mut stream = raw.into_stream();
    let last = [
        query("select pg_sleep(0.2)"),
        query("insert into free values (77)"),
    ]
    .concat();
    stream.write_all(&last).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await.unwrap();
    assert!(String::from_utf8_lossy(&answers).contains("INSERT 0 1"));
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_for_a_place() {
    let bed = Bed::new().await;
    let gateway = bed.gateway_with(|config| config.connections = 1).await;
    let first = bed.raw(gateway.address).await;
    let mut second = Box::pin(bed.raw(gateway.address));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "served beyond the limit");
    drop(first);
    assert_eq!(
        second.await.outcome(&query("select 1"), 1).await,
        ["done SELECT 1"]
    );
}

#[tokio::test]
async fn a_server_that_refuses_or_is_not_there_is_told_in_the_clients_own_protocol() {
    let bed = Bed::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = bed
        .gateway_with(|config| {
            if let gateway::config::Upstream::Postgres(postgres) = &mut config.upstream {
                postgres.port = nobody.port();
            }
        })
        .await;
    let (code, message) = refused(try_connect(&bed.url("app", gateway.address)).await);
    assert!(
        code == "08001" && message.contains(&nobody.to_string()),
        "{code} {message}"
    );
    let gateway = bed.gateway().await;
    let (code, _) = refused(try_connect(&bed.url("nosuch", gateway.address)).await);
    assert_eq!(code, "28000");
}

#[tokio::test]
async fn a_server_that_goes_in_mid_statement_leaves_a_clear_error_and_a_working_gateway() {
    let server = Arc::new(common::start_server());
    let bed = Bed::on(server).await;
    let gateway = bed.gateway().await;
    let mut raw = bed.raw(gateway.address).await;
    raw.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
    let admin = bed.admin().await;
    // One backend ended: the server's own words pass.
    raw.send(&query("select pg_sleep(60)")).await;
    let end = format!("select pg_terminate_backend({})", raw.pid);
    admin.batch_execute(&end).await.unwrap();
    let said = raw.until(1).await;
    assert!(
        said.iter().any(|word| word.starts_with("error 57P01")),
        "{said:?}"
    );
    // All of it gone at once, and back again.
    let mut raw = bed.raw(gateway.address).await;
    raw.send(&query("select pg_sleep(60)")).await;
    let (mut server, bed) = take_server(bed);
    server.crash().unwrap();
    let said = raw.until(1).await;
    assert!(
        said.iter()
            .any(|word| word.starts_with("error 57P0") || word.starts_with("error 08006")),
        "{said:?}"
    );
    let (code, _) = refused(try_connect(&bed.url(&gateway)).await);
    assert_eq!(code, "08001");
    server.run().unwrap();
    let app = connect(&bed.url(&gateway)).await;
    app.batch_execute("select 1").await.unwrap();
}

/// What is left of a bed when its server is handled on its own.
struct Rest {
    database: String,
}

impl Rest {
    fn url(&self, gateway: &common::Running) -> String {
        format!("postgres://app@{}/{}", gateway.address, self.database)
    }
}

fn take_server(bed: Bed) -> (gateway::postgres::private_server::PrivateServer, Rest) {
    let Bed {
        server, database, ..
    } = bed;
    (
        Arc::into_inner(server).expect("the server is shared"),
        Rest { database },
    )
}
