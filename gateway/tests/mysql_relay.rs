//! What passes through the gateway to MariaDB besides the fence: answers byte for byte, logins,
//! TLS, files, drivers and the command-line client, and bytes that are none of the protocol's.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use common::certificate;
use common::mysql::{MysqlBed, connect, refused, run, start_server_with, try_connect};
use common::mysql_raw::{DEPRECATE_EOF, RawMysql, command, packet, query, read_packet};
use gateway::config::{Upstream, UpstreamTls};
use mysql_async::prelude::Queryable;
use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, SslOpts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Commands of every kind with an answer that does not depend on where it was asked.
fn exchanges() -> Vec<Vec<u8>> {
    let prepare = |sql: &str| command(0x16, sql.as_bytes());
    let statement =
        |code: u8, id: u32, rest: &[u8]| command(code, &[&id.to_le_bytes(), rest].concat());
    let execute = |id: u32, flags: u8, rest: &[u8]| {
        statement(0x17, id, &[&[flags, 1, 0, 0, 0], rest].concat())
    };
    let long = format!("select '{}'", "x".repeat(17 << 20));
    vec![
        query("create temporary table t (id int primary key, v text, b blob)"),
        query("insert into t values (1, 'one', x'00ff'), (2, null, x'fefe')"),
        query("select * from t order by id"),
        query("select 1; select 2; do 0; update t set v = 'two' where id = 2; select * from t"),
        query("select nosuch from nowhere"),
        query("select 1; syntax error; select 2"),
        query("begin; update t set v = 'x'; rollback"),
        query("select seq, repeat('r', 50) from seq_1_to_3000"),
        query("select repeat('y', 17 * 1024 * 1024)"),
        query(&long),
        query("insert into t values (3, 'dup', null), (1, 'dup', null)"),
        query("show warnings"),
        query("select * from t where 1 = 0"),
        query("/* a comment */ select 'set @fence_ticket = 1'; # and another\nselect 3"),
        query("select @fence_ticket"),
        query(""),
        query("create temporary table big (v longblob)"),
        command(0x0e, b""),
        command(0x02, b"information_schema"),
        command(0x02, b"nosuch"),
        command(0x1b, &[1, 0]),
        command(0x1b, &[0, 0]),
        command(0x0d, b""),
        command(0x04, b"t\0"),
        command(0x7f, b"unknown"),
        prepare("select ?, 1 union all select 2, 3 union all select 4, 5"),
        execute(1, 0, &[0, 1, 3, 0, 7, 0, 0, 0]),
        execute(1, 1, &[0, 1, 3, 0, 7, 0, 0, 0]),
        statement(0x1c, 1, &[2, 0, 0, 0]),
        statement(0x1c, 1, &[9, 0, 0, 0]),
        prepare("select length(?)"),
        statement(0x18, 2, &[&[0, 0][..], &[b'l'; 100_000]].concat()),
        execute(2, 0, &[0, 1, 0xfc, 0]),
        statement(0x1a, 2, b""),
        statement(0x19, 2, b""),
        statement(0x19, 77, b""),
        execute(2, 0, b""),
        prepare("insert into t values (?, ?, ?)"),
        prepare("this is no statement"),
        prepare("do 1"),
        execute(4, 0, b""),
        query("set autocommit = 0; select 1; set autocommit = 1"),
        query("call sys.nosuch()"),
        // Several commands at once: they are answered one after the other.
        [
            query("select 11"),
            command(0x0e, b""),
            query("select 12; select 13"),
        ]
        .concat(),
        command(0x1f, b""),
        query("select @@autocommit"),
        query("select * from t"),
    ]
}

/// Where two answers differ first, and what is there.
fn difference(said: &[u8], expected: &[u8]) -> Option<(usize, Vec<u8>, Vec<u8>)> {
    let at = said.iter().zip(expected).position(|(a, b)| a != b)?;
    let around = |bytes: &[u8]| bytes[at.saturating_sub(8)..bytes.len().min(at + 8)].to_vec();
    Some((at, around(said), around(expected)))
}

#[tokio::test]
async fn every_answer_is_byte_for_byte_what_it_is_without_the_gateway() {
    // A thread that served another connection before goes on counting its statements.
    let flags = ["--max-allowed-packet=64M", "--thread-cache-size=0"];
    let bed = MysqlBed::on(Arc::new(start_server_with(&flags, Vec::new()))).await;
    let gateway = bed.gateway().await;
    let straight: SocketAddr = ([127, 0, 0, 1], bed.server.port()).into();
    for further in [0, DEPRECATE_EOF] {
        let mut direct = RawMysql::connect(straight, &bed.database, further).await;
        let mut through = RawMysql::connect(gateway.address, &bed.database, further).await;
        // The greeting differs in number and nonce, and in what is not offered.
        assert_eq!(direct.greeting.len(), through.greeting.len());
        for (at, bytes) in exchanges().into_iter().enumerate() {
            let (said, expected) = (through.ask(&bytes).await, direct.ask(&bytes).await);
            let beginning = String::from_utf8_lossy(&bytes[4..bytes.len().min(60)]).into_owned();
            assert!(
                said == expected,
                "exchange {at} ({beginning}): {} bytes through the gateway, {} without; {:?}",
                said.len(),
                expected.len(),
                difference(&said, &expected)
            );
        }
    }
}

#[tokio::test]
async fn a_file_goes_through_and_so_does_its_refusal() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let straight: SocketAddr = ([127, 0, 0, 1], bed.server.port()).into();
    let mut answers = Vec::new();
    for address in [straight, gateway.address] {
        let mut raw = RawMysql::connect(address, &bed.database, 0).await;
        let mut said = Vec::new();
        for content in [&b"10\tten\t0\t0\t0\n"[..], b""] {
            let load = query("load data local infile 'anything' replace into table free");
            said.push(raw.one(&load).await);
            let mut file = Vec::new();
            if !content.is_empty() {
                file.extend(packet(2, content));
            }
            file.extend(packet(if content.is_empty() { 2 } else { 3 }, b""));
            said.push(raw.one(&file).await);
        }
        said.push(raw.ask(&query("select * from free where id = 10")).await);
        answers.push(said);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0][0].starts_with(b"\xfbanything"));
    // Into a guarded table it is a write like any other.
    let mut raw = RawMysql::connect(gateway.address, &bed.database, 0).await;
    let load = query("load data local infile 'x' ignore into table orders");
    assert_eq!(raw.one(&load).await, b"\xfbx");
    let file = [packet(2, b"90\tx\t0\t0\t0\n"), packet(3, b"")].concat();
    assert!(raw.one(&file).await.starts_with(b"\xff\x6c\x06#FN002"));
    assert_eq!(raw.ask(&command(0x0e, b"")).await.len(), 11);
}

#[tokio::test]
async fn a_ticket_is_taken_alone_and_between_transactions_only() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let mut app = bed.app(&gateway).await;
    let show = bed.show(&[("orders/1", 3)]);
    for begin in ["begin", "set autocommit = 0"] {
        run(&mut app, begin).await.unwrap();
        run(&mut app, "select * from free").await.unwrap();
        let (code, message) = refused(run(&mut app, &show).await);
        assert!(
            code == "FN005" && message.contains("transaction"),
            "{message}"
        );
        run(&mut app, "commit").await.unwrap();
        run(&mut app, &show).await.unwrap();
        run(&mut app, "update orders set v = 'x'").await.unwrap();
        run(&mut app, "set autocommit = 1").await.unwrap();
        run(&mut app, "set @fence_ticket = ''").await.unwrap();
        assert_eq!(
            refused(run(&mut app, "update orders set v = 'y'").await).0,
            "FN002"
        );
    }
    for misplaced in [
        format!("{show}; update orders set v = 'x'"),
        format!("select 1; {show}"),
        "set @fence_ticket = concat('a', 'b')".to_owned(),
        format!("set @a = 1, {}", show.trim_start_matches("set ")),
    ] {
        assert_eq!(
            refused(run(&mut app, &misplaced).await).0,
            "FN005",
            "{misplaced}"
        );
    }
    let prepared = app.exec_drop("set @fence_ticket = ?", ("lk1.a",)).await;
    assert_eq!(refused(prepared).0, "FN005");
    let (code, message) = refused(run(&mut app, "set @fence_ticket = 'lk1.nonsense'").await);
    assert!(code == "FN003" && message.contains("lk1"), "{message}");
    // The variable is the client's, and the server has it.
    run(&mut app, &show).await.unwrap();
    let kept: Option<String> = app.query_first("select @fence_ticket").await.unwrap();
    assert!(kept.is_some_and(|ticket| show.contains(&ticket)));
    for refused_text in ["xa start 'x'", "XA RECOVER", "select 1; xa commit 'x'"] {
        let (code, message) = refused(run(&mut app, refused_text).await);
        assert!(code == "0A000" && message.contains("XA"), "{message}");
    }
}

#[tokio::test]
async fn a_reset_and_a_change_of_user_take_the_tickets_away() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let mut app = bed.app(&gateway).await;
    run(&mut app, &bed.show(&[("orders/1", 3)])).await.unwrap();
    run(&mut app, "update orders set v = 'x'").await.unwrap();
    assert!(app.reset().await.unwrap());
    let again = run(&mut app, &format!("use {}", bed.database)).await;
    again.unwrap();
    assert_eq!(
        refused(run(&mut app, "update orders set v = 'y'").await).0,
        "FN002"
    );
    run(&mut app, &bed.show(&[("orders/1", 3)])).await.unwrap();
    run(&mut app, "update orders set v = 'z'").await.unwrap();
    let native = ChangeUserOpts::default()
        .with_user(Some("native".into()))
        .with_pass(Some("pencil".into()))
        .with_db_name(Some(bed.database.clone()));
    app.change_user(native).await.unwrap();
    let user: String = app
        .query_first("select current_user()")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(user, "native@%");
    assert_eq!(
        refused(run(&mut app, "update orders set v = 'y'").await).0,
        "FN002"
    );
    run(&mut app, &bed.show(&[("orders/1", 3)])).await.unwrap();
    run(&mut app, "update orders set v = 'w'").await.unwrap();
    let root = ChangeUserOpts::default()
        .with_user(Some("root".into()))
        .with_pass(None);
    let (code, message) = refused(app.change_user(root).await);
    assert!(code == "28000" && message.contains("fence"), "{message}");
    assert!(run(&mut app, "update orders set v = 'v'").await.is_err());
}

#[tokio::test]
async fn logins_are_the_servers_business_and_may_bring_a_ticket() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    connect(&bed.url("native:pencil", gateway.address)).await;
    assert_eq!(
        refused(try_connect(&bed.url("native:eraser", gateway.address)).await).0,
        "28000"
    );
    let (code, message) = refused(try_connect(&bed.url("root", gateway.address)).await);
    assert!(code == "28000" && message.contains("fence"), "{message}");
    let allowed = bed
        .gateway_with(|config| {
            if let Upstream::Mysql(mysql) = &mut config.upstream {
                mysql.allow_superusers = true;
            }
        })
        .await;
    connect(&bed.url("root", allowed.address)).await;
    let login = |token: u64| {
        let opts = Opts::from_url(&bed.url("app", gateway.address)).unwrap();
        let tickets = bed.tickets(&[("orders/1", token)]);
        let opts = OptsBuilder::from_opts(opts).prefer_socket(false);
        Conn::new(opts.connect_attribute("fence_ticket", tickets))
    };
    let mut holder = login(7).await.unwrap();
    run(&mut holder, "update orders set v = 'attribute'")
        .await
        .unwrap();
    assert_eq!(refused(login(6).await).0, "FN001");
}

#[tokio::test]
async fn compression_is_not_offered_and_clients_go_on_without() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let opts = Opts::from_url(&bed.url("app", gateway.address)).unwrap();
    let opts = OptsBuilder::from_opts(opts)
        .prefer_socket(false)
        .compression(mysql_async::Compression::best());
    let mut app = Conn::new(opts).await.unwrap();
    run(&mut app, "select 1").await.unwrap();
}

#[tokio::test]
async fn either_leg_may_be_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path());
    let read = |file: &std::path::Path| std::fs::read(file).unwrap();
    let server_files = vec![
        ("cert.pem".to_owned(), read(&files.certificate)),
        ("key.pem".to_owned(), read(&files.key)),
    ];
    let flags = ["--ssl-cert={dir}/cert.pem", "--ssl-key={dir}/key.pem"];
    let bed = MysqlBed::on(Arc::new(start_server_with(&flags, server_files))).await;
    for to_clients in [false, true] {
        for to_server in [
            UpstreamTls::Disable,
            UpstreamTls::Require,
            UpstreamTls::VerifyFull,
        ] {
            let files = files.clone();
            let gateway = bed
                .gateway_with(|config| {
                    config.tls = to_clients.then(|| files.clone());
                    if let Upstream::Mysql(mysql) = &mut config.upstream {
                        mysql.tls = to_server;
                        mysql.ca = Some(files.certificate.clone());
                    }
                })
                .await;
            let url = bed.url("native:pencil", gateway.address);
            let tls = SslOpts::default()
                .with_root_certs(vec![files.certificate.clone().into()])
                .with_disable_built_in_roots(true);
            let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap())
                .prefer_socket(false)
                .ssl_opts(to_clients.then_some(tls));
            let mut app = Conn::new(opts).await.unwrap();
            run(&mut app, &bed.show(&[("orders/1", 3)])).await.unwrap();
            run(&mut app, "update orders set v = 'tls'").await.unwrap();
            let sql = "show session status like 'Ssl_cipher'";
            let (_, cipher): (String, String) = app.query_first(sql).await.unwrap().unwrap();
            assert_eq!(!cipher.is_empty(), to_server != UpstreamTls::Disable);
        }
    }
}

#[tokio::test]
async fn the_command_line_client_shows_its_ticket_first() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let port = gateway.address.port().to_string();
    let client = |statements: String| {
        let (port, database) = (port.clone(), bed.database.clone());
        tokio::task::spawn_blocking(move || {
            let out = Command::new("mariadb")
                .args([
                    "--no-defaults",
                    "-h",
                    "127.0.0.1",
                    "-P",
                    &port,
                    "-u",
                    "app",
                    &database,
                ])
                .args(["-N", "-e", &statements])
                .output()
                .expect("the client is needed: run `apt-get install mariadb-client`");
            let text = [out.stdout, out.stderr].concat();
            (
                out.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            )
        })
    };
    let write = "update orders set v = 'cli' where id = 1; select v from orders where id = 1";
    let (done, text) = client(format!("{}; {write}", bed.show(&[("orders/1", 3)])))
        .await
        .unwrap();
    assert!(done && text.contains("cli"), "{text}");
    let (done, text) = client(write.to_owned()).await.unwrap();
    assert!(!done && text.contains("ERROR 1644 (FN002)"), "{text}");
}

#[tokio::test]
async fn hostile_bytes_end_their_own_session_and_no_other() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let mut bystander = bed.app(&gateway).await;
    for bytes in [
        vec![0xff; 64],
        packet(1, &[0; 32]),
        packet(1, b""),
        [&[0xff, 0xff, 0xff, 1][..], &[0; 1000]].concat(),
        vec![1, 0],
    ] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        read_packet(&mut stream).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // However it ends: it ends.
        let _ = stream.read_to_end(&mut rest).await;
    }
    for bytes in [
        packet(0, b""),
        packet(9, b"\x03select 1"),
        command(0x17, b""),
        command(0x16, b""),
        command(0x1c, b"\xff"),
        command(0x11, b"app"),
        command(0x12, b"\0"),
        vec![0xfe, 0xff, 0xff, 0, 3],
    ] {
        let mut raw = RawMysql::connect(gateway.address, &bed.database, 0).await;
        raw.stream.write_all(&bytes).await.unwrap();
        raw.stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = raw.stream.read_to_end(&mut rest).await;
    }
    run(&mut bystander, "select * from orders").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_none_gets_its_client_an_error() {
    let bed = MysqlBed::new().await;
    for greeting in [
        &b""[..],
        b"HTTP/1.1 400\r\n\r\n",
        b"\x05\0\0\0\x0a5.5",
        &[0xff; 100],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(greeting).await;
                let _ = stream.shutdown().await;
            }
        });
        let gateway = bed
            .gateway_with(|config| {
                if let Upstream::Mysql(mysql) = &mut config.upstream {
                    mysql.port = port;
                }
            })
            .await;
        let (code, message) = refused(try_connect(&bed.url("app", gateway.address)).await);
        assert!(
            code.starts_with("08") || code == "HY000",
            "{code} {message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_paused_or_killed_does_no_harm() {
    use rustix::process::Signal;
    let bed = MysqlBed::new().await;
    let (first, second) = (bed.gateway_process(), bed.gateway().await);
    let mut old = connect(&bed.url("app", first.address)).await;
    run(&mut old, &bed.show(&[("orders/1", 3)])).await.unwrap();
    run(&mut old, "begin").await.unwrap();
    run(&mut old, "update orders set v = 'old'").await.unwrap();
    first.signal(Signal::STOP);
    // Its session has a transaction open, and nobody there to end it: the database does.
    let mut new = bed.app(&second).await;
    run(&mut new, &bed.show(&[("orders/1", 4)])).await.unwrap();
    run(&mut new, "update orders set v = 'new'").await.unwrap();
    first.signal(Signal::CONT);
    assert!(run(&mut old, "commit").await.is_err());
    assert_eq!(bed.value("orders").await, "new");
    let mut stale = connect(&bed.url("app", first.address)).await;
    assert_eq!(
        refused(run(&mut stale, &bed.show(&[("orders/1", 3)])).await).0,
        "FN001"
    );
    drop(first);
    assert!(run(&mut stale, "do 1").await.is_err());
    run(&mut new, "update orders set v = 'newer'")
        .await
        .unwrap();
}
