//! Logging in through the gateway, and the programs that come with PostgreSQL: passwords, TLS,
//! channel binding, psql and pgbench.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use common::{Bed, certificate, connect, refused, show, try_connect};
use gateway::config::{TlsFiles, UpstreamTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
