//! What has nothing to do with the fence passes a gateway in front of Redis byte for byte: the
//! same commands, sent to the server and by way of the gateway, give the same bytes. And bytes
//! that are nobody's commands harm nobody else.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::redis::{Client, RedisBed, command};
use common::{certificate, ticket};
use gateway::config::UpstreamTls;
use tokio::io::AsyncWriteExt;

const MARKER: &str = "the end of this part";

/// What is sent in one go; its answers are compared.
fn parts(protocol: &str) -> Vec<Vec<u8>> {
    let all = |commands: &[&[&str]]| {
        commands
            .iter()
            .flat_map(|c| command(c))
            .collect::<Vec<u8>>()
    };
    let big = "x".repeat(1_000_000);
    let nest = "local t = {1} for i = 1, 500 do t = {t} end return t";
    let library = "#!lua name=lib\nredis.register_function('f', function(k, a) \
        return redis.call('set', k[1], a[1]) end)";
    vec![
        all(&[
            &["HELLO", protocol, "AUTH", "app", "app"],
            &["CLIENT", "SETNAME", "me"],
        ]),
        b"PING\r\n\r\nset free:a \"a b\"\r\nGET free:a\r\n*0\r\n*-1\r\nNOSUCH a b\r\nGET\r\n"
            .to_vec(),
        all(&[
            &["SET", "free:big", &big],
            &["GET", "free:big"],
            &["HSET", "free:h", "f", "v", "g", "w"],
            &["HGETALL", "free:h"],
            &["ZADD", "free:z", "1.5", "m", "inf", "n"],
            &["ZRANGE", "free:z", "0", "-1", "WITHSCORES"],
            &["ZSCORE", "free:z", "m"],
            &["SADD", "free:s", "x"],
            &["SMEMBERS", "free:s"],
            &["GET", "free:none"],
            &["LPOP", "free:none", "2"],
            &["LPUSH", "free:h", "x"],
            &["XADD", "free:x", "1-1", "a", "b"],
            &["XGROUP", "CREATE", "free:x", "g", "0"],
            &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "free:x", ">"],
            &["XRANGE", "free:x", "-", "+"],
            &["GEOADD", "free:geo", "13.361389", "38.115556", "P"],
            &["GEOPOS", "free:geo", "P", "Q"],
            &["SORT", "free:s", "ALPHA"],
            &["PFADD", "free:pf", "a"],
            &["PFCOUNT", "orders:pf", "free:pf"],
            &["OBJECT", "HELP"],
            &["DEBUG", "SLEEP", "0"],
            &["COMMAND", "INFO", "get", "set"],
        ]),
        all(&[
            &["MULTI"],
            &["INCR", "free:n"],
            &["HGETALL", "free:h"],
            &["LPUSH", "free:h", "x"],
            &["EXEC"],
            &["MULTI"],
            &["NOSUCH"],
            &["EXEC"],
            &["MULTI"],
            &["INCR", "free:n"],
            &["DISCARD"],
            &["WATCH", "free:n"],
            &["INCR", "free:n"],
            &["MULTI"],
            &["INCR", "free:n"],
            &["EXEC"],
            &["EXEC"],
        ]),
        all(&[
            &["EVAL", nest, "0"],
            &[
                "EVAL",
                "return {1, 'a', false, {2}, {err = 'E x'}, {ok = 'y'}}",
                "0",
            ],
            &["EVAL", "return redis.call('get', KEYS[1])", "1", "orders:1"],
            &["EVAL", "return nosuch()", "0"],
            &[
                "EVAL",
                "redis.setresp(3) return redis.call('hgetall', KEYS[1])",
                "1",
                "free:h",
            ],
            &["FUNCTION", "LOAD", "REPLACE", library],
            &["FCALL", "f", "1", "free:f", "v"],
        ]),
        all(&[
            &["FLUSHALL"],
            &["CONFIG", "GET", "port"],
            &["CONFIG", "SET", "maxmemory", "1"],
            &["ACL", "SETUSER", "app", "+@all"],
            &["MONITOR"],
            &["SYNC"],
            &["AUTH", "app", "wrong"],
            &["AUTH", "lockd-gateway", "wrong"],
            &["SELECT", "1"],
            &["SET", "free:other", "v"],
            &["SELECT", "0"],
            &["EXISTS", "free:other"],
        ]),
        all(&[
            &["BLPOP", "free:none", "0.02"],
            &["RPUSH", "free:q", "a", "b"],
            &["BLPOP", "free:q", "0"],
            &["BLMOVE", "free:q", "free:r", "LEFT", "LEFT", "0"],
            &["XREAD", "BLOCK", "10", "STREAMS", "free:x", "$"],
        ]),
        all(&[
            &["CLIENT", "REPLY", "SKIP"],
            &["INCR", "free:n"],
            &["INCR", "free:n"],
            &["CLIENT", "REPLY", "OFF"],
            &["INCR", "free:n"],
            &["CLIENT", "REPLY", "ON"],
            &["INCR", "free:n"],
        ]),
        if protocol == "3" {
            all(&[
                &["CLIENT", "TRACKING", "ON"],
                &["GET", "free:n"],
                &["INCR", "free:n"],
                &["SUBSCRIBE", "c1", "c2"],
                &["PUBLISH", "c1", "-NOPERM key"],
                &["UNSUBSCRIBE"],
                &["CLIENT", "TRACKING", "OFF"],
            ])
        } else {
            all(&[
                &["SUBSCRIBE", "c1", "c2"],
                &["PSUBSCRIBE", "p*"],
                &["PING"],
                &["GET", "free:n"],
                &["UNSUBSCRIBE"],
                &["PUNSUBSCRIBE"],
                &["UNSUBSCRIBE"],
                &["PUBLISH", "c1", "x"],
            ])
        },
        all(&[
            &["MULTI"],
            &["RESET"],
            &["GET", "free:n"],
            &["AUTH", "app", "app"],
            &["HELLO", "2", "SETNAME", "again"],
            &["CLIENT", "GETNAME"],
            &["GET", "free:n"],
        ]),
    ]
}

/// A line with the number of the connection in it is another one each time.
fn without_numbers(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let Some(at) = text.find("$2\r\nid\r\n:") else {
        return bytes.to_vec();
    };
    let end = text[at + 9..].find("\r\n").unwrap() + at + 9;
    [&bytes[..at + 9], &bytes[end..]].concat()
}

async fn play(address: SocketAddr, protocol: &str, in_pieces: bool) -> Vec<Vec<u8>> {
    let mut client = Client::connect(address).await;
    let mut answers = Vec::new();
    for part in parts(protocol) {
        let bytes = [part, command(&["ECHO", MARKER])].concat();
        if in_pieces {
            for piece in bytes.chunks(if bytes.len() > 100_000 { 10_000 } else { 7 }) {
                client.send(piece).await;
                client.stream.flush().await.unwrap();
            }
        } else {
            client.send(&bytes).await;
        }
        answers.push(without_numbers(&client.until(MARKER).await));
    }
    client.send(&command(&["QUIT"])).await;
    while client.receive().await {}
    answers.push(client.received);
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_passes_byte_for_byte() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let mut root = bed.root().await;
    for protocol in ["2", "3"] {
        let mut all = Vec::new();
        for (address, in_pieces) in [
            (bed.direct(), false),
            (gateway.address, false),
            (gateway.address, true),
        ] {
            root.ask(&["FLUSHALL"]).await;
            all.push(play(address, protocol, in_pieces).await);
        }
        let total: usize = all[0].iter().map(Vec::len).sum();
        assert!(total > 1_000_000);
        for played in &all[1..] {
            for (at, (direct, through)) in all[0].iter().zip(played).enumerate() {
                assert!(
                    direct == through,
                    "RESP{protocol}, part {at}:\n{}\nbut through the gateway\n{}",
                    String::from_utf8_lossy(&direct[..direct.len().min(3000)]),
                    String::from_utf8_lossy(&through[..through.len().min(3000)])
                );
            }
        }
    }
}

async fn everything(address: SocketAddr, bytes: &[u8], logged_in: bool) -> Vec<u8> {
    let mut client = if logged_in {
        Client::log_in(address, "app", "app").await
    } else {
        Client::connect(address).await
    };
    // The server may close before it has read all of it.
    let _ = client.stream.write_all(bytes).await;
    let _ = client.stream.shutdown().await;
    while client.receive().await {}
    client.received
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_protocol_is_refused_by_the_server_in_its_own_words() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    for (bytes, logged_in) in [
        (b"*1\r\n:5\r\n".to_vec(), true),
        (b"*3\r\n$-5\r\n".to_vec(), true),
        (b"*1048577\r\n".to_vec(), true),
        (b"*11\r\n".to_vec(), false),
        (b"*1\r\n$999999999999\r\n".to_vec(), true),
        (b"*1\r\n$20000\r\n".to_vec(), false),
        (b"GET \"a\r\n".to_vec(), true),
        (b"GET free:a\r\n".to_vec(), false),
        (b"*2\r\n$3\r\nGET\r\n$3\r\nab".to_vec(), true),
    ] {
        let direct = everything(bed.direct(), &bytes, logged_in).await;
        let through = everything(gateway.address, &bytes, logged_in).await;
        assert_eq!(
            String::from_utf8_lossy(&direct),
            String::from_utf8_lossy(&through),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    // The server closes while these are still being sent, which may cost its last words on either
    // way; what matters is that nothing but them comes.
    for hostile in [
        vec![b'x'; 1_000_000],
        b"*1\r\n".repeat(300_000),
        vec![b'\n'; 300_000],
    ] {
        let through = everything(gateway.address, &hostile, true).await;
        let text = String::from_utf8_lossy(&through).into_owned();
        assert!(text.is_empty() || text.starts_with("-ERR"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_do_not_disturb_the_others() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let mut others = Vec::new();
    for number in 0..50 {
        let mut client = Client::connect(gateway.address).await;
        match number % 5 {
            0 => {}
            1 => {
                client
                    .send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n")
                    .await
            }
            2 => client.send(b"*1000000\r\n").await,
            3 => client.send(&b"FENCE TICKET ".repeat(10_000)).await,
            _ => {
                client
                    .send(&command(&["FENCE", "TICKET", &"x".repeat(100_000)]))
                    .await
            }
        }
        others.push(client);
    }
    let mut holder = bed.holder(gateway.address, &[("orders/1", 5)]).await;
    for _ in 0..100 {
        assert_eq!(holder.ask(&["SET", "orders:1", "v"]).await, "+OK");
    }
    drop(others);
    assert_eq!(holder.ask(&["GET", "orders:1"]).await, "$v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_its_own_connection_only() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let mut deaf = bed.app(gateway.address).await;
    deaf.ask(&["SET", "free:big", &"x".repeat(100_000)]).await;
    let many = command(&["GET", "free:big"]).repeat(2000);
    let stuck = async {
        loop {
            deaf.stream.write_all(&many).await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(300), stuck)
            .await
            .is_err()
    );
    let mut other = bed.app(gateway.address).await;
    assert_eq!(other.ask(&["GET", "free:none"]).await, "nil");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_needs_one_line_more() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let url = format!("redis://app:app@{}/", gateway.address);
    let connect = async || {
        let client = redis::Client::open(url.clone()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    };
    let mut old = connect().await;
    let set = |value: &str| redis::cmd("SET").arg("orders:1").arg(value).clone();
    let error = set("x").exec_async(&mut old).await.unwrap_err();
    assert_eq!(error.code(), Some("FENCED"), "{error:?}");
    let show = |token: u64| {
        redis::cmd("FENCE")
            .arg("TICKET")
            .arg(ticket("orders/1", token))
            .clone()
    };
    show(5).exec_async(&mut old).await.unwrap();
    set("five").exec_async(&mut old).await.unwrap();
    let mut pipe = redis::pipe();
    pipe.atomic()
        .cmd("SET")
        .arg("orders:1")
        .arg("a")
        .ignore()
        .cmd("GET")
        .arg("orders:1");
    let (value,): (String,) = pipe.query_async(&mut old).await.unwrap();
    assert_eq!(value, "a");

    let mut new = connect().await;
    show(6).exec_async(&mut new).await.unwrap();
    let script = redis::Script::new("return redis.call('set', KEYS[1], ARGV[1])");
    let () = script
        .key("orders:1")
        .arg("six")
        .invoke_async(&mut new)
        .await
        .unwrap();
    let error = set("late").exec_async(&mut old).await.unwrap_err();
    assert_eq!(error.code(), Some("FENCED"), "{error:?}");
    assert!(error.to_string().contains("FN001"), "{error}");
    let value: String = redis::cmd("GET")
        .arg("orders:1")
        .query_async(&mut old)
        .await
        .unwrap();
    assert_eq!(value, "six");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_legs_may_be_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path());
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let (certificate, key) = (
        files.certificate.to_str().unwrap(),
        files.key.to_str().unwrap(),
    );
    let tls_port = port.to_string();
    let settings = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
    ];
    let bed = RedisBed::with(&settings).await;
    for (mode, trusted) in [
        (UpstreamTls::Require, None),
        (UpstreamTls::VerifyFull, Some(&files.certificate)),
    ] {
        let gateway = bed
            .gateway_of(&bed.config_text(), |config| {
                config.tls = Some(files.clone());
                if let gateway::config::Upstream::Redis(redis) = &mut config.upstream {
                    redis.port = port;
                    redis.tls = mode;
                    redis.ca = trusted.cloned();
                }
            })
            .await;
        let args =
            ["-h", "127.0.0.1", "-p", &gateway.address.port().to_string()].map(str::to_owned);
        let shown = ticket("orders/1", 5);
        let output = tokio::process::Command::new("redis-cli")
            .args(args)
            .args([
                "--tls",
                "--cacert",
                certificate,
                "--user",
                "app",
                "--pass",
                "app",
            ])
            .arg("--no-auth-warning")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = output.expect("redis-cli is needed: run `apt-get install redis-tools`");
        let mut stdin = child.stdin.take().unwrap();
        let typed = format!("FENCE TICKET {shown}\nSET orders:1 v\nGET orders:1\n");
        stdin.write_all(typed.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["OK", "OK", "v"],
            "{text}"
        );
    }
}
