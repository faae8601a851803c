//! `gateway install`, `check`, `serve` and `fences` against MariaDB, as processes, and what the
//! check finds.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::mysql::{MysqlBed, connect, refused, run, start_server};
use gateway::findings::{Finding, Severity};
use gateway::mysql::check::check;

fn gateway(bed: &MysqlBed, arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .arg("--config")
        .arg(bed.dir.path().join("gateway.toml"))
        .env("RUST_LOG", "error")
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn write_config(bed: &MysqlBed, text: &str) {
    std::fs::write(bed.dir.path().join("gateway.toml"), text).unwrap();
}

/// The problem that says this.
fn problem<'a>(findings: &'a [Finding], says: &str) -> &'a Finding {
    findings
        .iter()
        .find(|f| f.severity == Severity::Problem && f.what.contains(says))
        .unwrap_or_else(|| panic!("no problem says {says:?}: {findings:#?}"))
}

#[tokio::test]
async fn the_check_finds_what_a_write_could_go_around() {
    let mut bed = MysqlBed::on(Arc::new(start_server(&[]))).await;
    let mut admin = bed.admin().await;
    for sql in [
        "create table parent (id int primary key) engine = InnoDB",
        "create table child (id int primary key, p int, constraint to_parent foreign key (p) \
         references parent (id) on delete cascade) engine = InnoDB",
        "create table old (id int primary key) engine = Aria",
        "create user nosy",
        "grant select, update on fence.* to nosy",
    ] {
        run(&mut admin, sql).await.unwrap();
    }
    let database = bed.database.clone();
    let rule =
        |table: &str| format!("[[guard]]\ntable = \"{table}\"\nlock = \"{database}/orders/%\"\n");
    bed.rules = rule("child") + &rule("old");
    bed.install().await;
    let findings = check(&bed.mysql()).await.unwrap();
    problem(&findings, "to_parent");
    let remedy = problem(&findings, "Aria").remedy.clone().unwrap();
    run(&mut admin, remedy.trim_end_matches(';')).await.unwrap();
    let remedy = problem(&findings, "'nosy'@'%' can switch the fence off")
        .remedy
        .clone()
        .unwrap();
    run(&mut admin, remedy.trim_end_matches(';')).await.unwrap();
    // A cascade changes rows of the guarded table, and no trigger fires.
    for sql in [
        "insert into parent values (1)",
        "set foreign_key_checks = 1",
    ] {
        run(&mut admin, sql).await.unwrap();
    }
    // With the parent under the same guard, its own trigger is in the way.
    bed.rules += &rule("parent");
    bed.install().await;
    let findings = check(&bed.mysql()).await.unwrap();
    assert!(
        findings.iter().all(|f| f.severity == Severity::Note),
        "{findings:#?}"
    );
    let mut stray = bed.bypass().await;
    assert_eq!(
        refused(run(&mut stray, "delete from parent").await).0,
        "FN002"
    );
    // A trigger that was changed is found.
    run(
        &mut admin,
        "create or replace trigger fence_u_old before update on old for each row do 1",
    )
    .await
    .unwrap();
    let findings = check(&bed.mysql()).await.unwrap();
    problem(&findings, &format!("{database}.old is not under guard"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_install_check_serve_and_list_and_say_what_is_wrong() {
    let bed = MysqlBed::on(Arc::new(start_server(&[]))).await;
    write_config(&bed, &bed.config_text());
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(0) && text.contains("holds for 2 guard rules"),
        "{text}"
    );
    let mut admin = bed.admin().await;
    run(&mut admin, "drop trigger fence_d_orders")
        .await
        .unwrap();
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(1) && text.contains("create or replace"),
        "{text}"
    );
    let (code, text) = gateway(&bed, &["serve"]);
    assert!(code == Some(1) && text.contains("gateway check"), "{text}");
    // What is printed is for the command-line client, and installs the same.
    let (code, printed) = gateway(&bed, &["install", "--print"]);
    assert_eq!(code, Some(0));
    let mut client = Command::new("mariadb")
        .args(["--no-defaults", "-h", "127.0.0.1", "-u", "root"])
        .args(["-P", &bed.server.port().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the client is needed: run `apt-get install mariadb-client`");
    client
        .stdin
        .take()
        .unwrap()
        .write_all(printed.as_bytes())
        .unwrap();
    assert!(client.wait().unwrap().success());
    assert_eq!(gateway(&bed, &["check"]).0, Some(0));
    run(&mut admin, "drop database fence").await.unwrap();
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(1) && text.contains("gateway install"),
        "{text}"
    );
    assert_ne!(gateway(&bed, &["install"]).0, Some(0));
    let url = bed.server.url("root", "");
    let (code, text) = gateway(&bed, &["install", "--admin", &url]);
    assert!(code == Some(0) && text.contains("2 tables"), "{text}");
    let process = bed.gateway_process();
    let mut app = connect(&bed.url("app", process.address)).await;
    run(&mut app, &bed.show(&[("orders/1", 9)])).await.unwrap();
    let (code, text) = gateway(&bed, &["fences"]);
    assert!(
        code == Some(0) && text.contains("9") && text.contains("orders/1"),
        "{text}"
    );
    let (code, text) = gateway(&bed, &["fences", "--json"]);
    assert!(
        code == Some(0) && text.contains("\"token\":\"9\""),
        "{text}"
    );
    let elsewhere = bed
        .config_text()
        .replace(&format!(":{}/", bed.server.port()), ":1/");
    write_config(&bed, &elsewhere);
    let (code, text) = gateway(&bed, &["serve"]);
    assert!(code == Some(3) && text.contains("cannot talk"), "{text}");
}

#[tokio::test]
async fn the_configuration_of_the_guide_can_be_used_and_its_tests_are_there() {
    let guide = include_str!("../../docs/gateway-mysql.md");
    let config = guide
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let file = std::path::Path::new("gateway.toml");
    let parsed = gateway::config::Config::parse(file, config).unwrap();
    assert!(matches!(
        parsed.upstream,
        gateway::config::Upstream::Mysql(_)
    ));
    // Every test program that the guide names is there.
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for program in ["mysql_fence", "mysql_flood", "mysql_relay", "mysql_check"] {
        assert!(guide.contains(program));
        assert!(tests.join(program).with_extension("rs").exists());
    }
}
