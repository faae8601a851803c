//! What passes through the gateway besides the fence: logins, TLS, COPY, notifications, cancel
//! requests, whole client programs, and bytes that are none of the protocol's.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::raw::{bind, execute, msg, parse, pbe, query, sync};
use common::{Bed, certificate, connect, refused, show, try_connect};
use gateway::config::{TlsFiles, UpstreamTls};
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

#[tokio::test]
async fn passwords_are_between_the_client_and_the_server() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    for user in ["scram_user", "md5_user"] {
        let url = |password: &str| {
            format!(
                "postgres://{user}:{password}@{}/{}",
                gateway.address, bed.database
            )
        };
        let app = connect(&url("pencil")).await;
        app.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
        app.batch_execute("update orders set v = 'x'")
            .await
            .unwrap();
        assert_eq!(refused(try_connect(&url("eraser")).await).0, "28P01");
    }
}

fn psql(bed: &Bed, address: SocketAddr, extra: &str, sql: &[&str]) -> (bool, String) {
    let mut command = Command::new(bed.server.binaries().join("psql"));
    command.arg(format!(
        "host=127.0.0.1 port={} dbname={} {extra}",
        address.port(),
        bed.database
    ));
    command.args([
        "-X",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
    ]);
    for sql in sql {
        command.args(["-c", sql]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_logs_in_over_tls_with_a_password_and_shows_a_ticket() {
    let bed = Bed::new().await;
    let files = certificate(bed.dir.path());
    let root = files.certificate.clone();
    let gateway = bed.gateway_with(|config| config.tls = Some(files)).await;
    let extra = format!(
        "user=scram_user password=pencil sslmode=verify-full sslrootcert={}",
        root.display()
    );
    let shown = show(&[("orders/1", 5)]);
    let update = "update orders set v = 'by psql' where id = 1 returning v";
    let (fine, text) = psql(&bed, gateway.address, &extra, &[&shown, update]);
    assert!(fine && text.contains("by psql"), "{text}");
    let (fine, text) = psql(&bed, gateway.address, &extra, &[update]);
    assert!(
        !fine && text.contains("ERROR:  FN002") && text.contains("HINT"),
        "{text}"
    );
    // The channel that the client binds to ends at the gateway.
    let (fine, text) = psql(
        &bed,
        gateway.address,
        &format!("{extra} channel_binding=require"),
        &["select 1"],
    );
    assert!(!fine && text.contains("channel binding"), "{text}");
    let (fine, text) = psql(
        &bed,
        gateway.address,
        "user=app sslmode=disable",
        &["select 'plain as well'"],
    );
    assert!(fine && text.contains("plain as well"), "{text}");
}

/// Logs in by password through a gateway, and shows a ticket. `Err` is what psql said.
fn log_in(bed: &Bed, address: SocketAddr, extra: &str) -> Result<(), String> {
    let extra = format!("user=scram_user password=pencil {extra}");
    let shown = show(&[("orders/1", 5)]);
    let (fine, text) = psql(bed, address, &extra, &[&shown, "update orders set v = 'x'"]);
    if fine { Ok(()) } else { Err(text) }
}

/// The table of the guide, row by row.
#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_works_where_client_and_server_see_the_same_certificate() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (same, own) = (certificate(dir.path()), certificate(other.path()));
    let server = common::start_server_with(|options| {
        options
            .settings
            .push("ssl = on\nssl_cert_file = 'cert.pem'\nssl_key_file = 'key.pem'".into());
        for (name, file) in [("cert.pem", &same.certificate), ("key.pem", &same.key)] {
            options
                .files
                .push((name.into(), std::fs::read(file).unwrap()));
        }
    });
    let bed = Bed::on(Arc::new(server)).await;
    let root = same.certificate.clone();
    let gateway = async |tls: Option<&TlsFiles>, upstream: UpstreamTls| {
        bed.gateway_with(|config| {
            config.tls = tls.cloned();
            if let gateway::config::Upstream::Postgres(postgres) = &mut config.upstream {
                postgres.tls = upstream;
                postgres.ca = Some(root.clone());
            }
        })
        .await
    };
    for (tls, upstream, disable, prefer, require) in [
        (Some(&own), UpstreamTls::Disable, true, true, false),
        (Some(&own), UpstreamTls::Require, true, false, false),
        (Some(&same), UpstreamTls::VerifyFull, true, true, true),
        (None, UpstreamTls::Disable, true, true, false),
        (None, UpstreamTls::Require, false, false, false),
    ] {
        let gateway = gateway(tls, upstream).await;
        let mode = if tls.is_some() { "require" } else { "disable" };
        for (binding, works) in [
            ("disable", disable),
            ("prefer", prefer),
            ("require", require),
        ] {
            let extra = format!("sslmode={mode} channel_binding={binding}");
            let outcome = log_in(&bed, gateway.address, &extra);
            assert_eq!(
                outcome.is_ok(),
                works,
                "{tls:?} {upstream:?} {binding}: {outcome:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_may_begin_with_tls_at_once() {
    let bed = Bed::new().await;
    let files = certificate(bed.dir.path());
    let connector = gateway::tls::connector(Some(&files.certificate)).unwrap();
    let gateway = bed.gateway_with(|config| config.tls = Some(files)).await;
    for (protocol, served) in [(&b"postgresql"[..], true), (b"", false)] {
        let mut config = (*connector).clone();
        if !protocol.is_empty() {
            config.alpn_protocols.push(protocol.to_vec());
        }
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector
            .connect("localhost".try_into().unwrap(), stream)
            .await
            .unwrap();
        let body = format!("\0\x03\0\0user\0app\0database\0{}\0\0", bed.database);
        let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
        packet.extend_from_slice(body.as_bytes());
        tls.write_all(&packet).await.unwrap();
        let first = tls.read_u8().await;
        assert_eq!(first.ok(), served.then_some(b'R'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_options_and_meta_commands_work_without_tls() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let ticket = common::ticket("orders/1", 5);
    let extra = format!("user=app options='-c fence.ticket={ticket} -c work_mem=4321kB'");
    let show_setting = "show work_mem";
    let (fine, text) = psql(
        &bed,
        gateway.address,
        &extra,
        &["update orders set v = 'o'", show_setting, "\\dt"],
    );
    assert!(
        fine && text.contains("UPDATE 2") && text.contains("4321kB"),
        "{text}"
    );
    assert!(text.contains("public|orders|table"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_through_the_gateway_in_each_protocol() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let script = bed.dir.path().join("script.sql");
    let ticket = common::ticket("orders/1", 5);
    let text = "update orders set n = n + 1 where id = 1;\nselect * from orders where id = 2;\n";
    std::fs::write(&script, text).unwrap();
    for protocol in ["simple", "extended", "prepared"] {
        let output = Command::new(bed.server.binaries().join("pgbench"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &gateway.address.port().to_string(),
                "-U",
                "app",
            ])
            .args(["-n", "-c", "4", "-j", "2", "-t", "50", "-M", protocol, "-f"])
            .arg(&script)
            .arg(&bed.database)
            .env("PGOPTIONS", format!("-c fence.ticket={ticket}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{protocol}: {text}");
        assert!(
            text.contains("200/200") && text.contains("failed transactions: 0"),
            "{text}"
        );
    }
    let admin = bed.admin().await;
    let n: i32 = admin
        .query_one("select n from orders where id = 1", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 600);
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
