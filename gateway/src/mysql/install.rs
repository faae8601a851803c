//! `gateway install`: the fence's SQL for one configuration, and running it.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, ServerError, UrlError};

use super::admin::{self, AdminError};
use crate::config::MysqlConfig;
use crate::rules::{LockPattern, TableRule};

const FENCE: &str = include_str!("sql/fence.sql");
const GATEWAY_USER: &str = include_str!("sql/gateway_user.sql");
const GUARD_TABLE: &str = include_str!("sql/guard_table.sql");
const GUARD_BODY: &str = include_str!("sql/guard_body.sql");

/// Somebody uses what is to be changed: a table in a transaction, a procedure in a call.
const IN_USE: u16 = 1205;

/// How often a statement is tried when it meets that: about a minute in all.
const TRIES_MAX: u32 = 10;

/// Between two tries, those who had to wait behind the first have their turn.
const TRY_PAUSE: Duration = Duration::from_millis(500);

/// What a row trigger can be fired by.
pub(super) const EVENTS: [&str; 3] = ["insert", "update", "delete"];

/// An installation that was not done, or not to its end. It may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The server cannot be reached, or refused.
    #[error(transparent)]
    Server(#[from] AdminError),
    /// The administrator's URL cannot be used.
    #[error("--admin: {0}; write mysql://user:password@host:port")]
    Url(UrlError),
}

/// Everything that has to be run in the server, for its command-line client. May be run again,
/// and has to be when guard rules are added.
#[must_use]
pub fn sql(config: &MysqlConfig) -> String {
    let identified = config
        .password
        .as_deref()
        .map(|password| format!(" identified by {}", literal(password)))
        .unwrap_or_default();
    let mut sql = FENCE.to_owned();
    sql.push_str(
        &GATEWAY_USER
            .replace("{user}", &identifier(&config.user))
            .replace("{identified}", &identified),
    );
    for rule in &config.guards {
        sql.push_str(&guard_sql(rule));
    }
    sql
}

/// What puts one table under guard.
#[must_use]
pub fn guard_sql(rule: &TableRule) -> String {
    let mut sql = String::new();
    for event in EVENTS {
        let done = if event.ends_with('e') { "d" } else { "ed" };
        sql.push_str(
            &GUARD_TABLE
                .replace("{pattern}", &rule.lock.to_string())
                .replace("{event_done}", &format!("{event}{done}"))
                .replace("{trigger}", &trigger_name(rule, event))
                .replace("{event}", event)
                .replace(
                    "{quoted}",
                    &format!("{}.{}", identifier(&rule.schema), identifier(&rule.table)),
                )
                .replace("{table}", &rule.to_string())
                .replace("{body}", &guard_body(rule)),
        );
    }
    sql
}

/// What the triggers of a table do.
pub(super) fn guard_body(rule: &TableRule) -> String {
    let pattern = match &rule.lock {
        LockPattern::Exact(name) => format!("\n{}\n", name.as_str()),
        LockPattern::Prefix(prefix) => format!("\n{prefix}"),
    };
    let hex: String = pattern.bytes().map(|byte| format!("{byte:02x}")).collect();
    let told = format!(
        "a write to {rule} needs a ticket of {}, and none was shown",
        rule.lock
    );
    // The server takes 128 characters.
    let told: String = told.chars().take(128).collect();
    GUARD_BODY
        .replace("{pattern_hex}", &format!("x'{hex}'"))
        .replace("{schema_literal}", &literal(&rule.schema))
        .replace("{table_literal}", &literal(&rule.table))
        .replace("{no_ticket}", &literal(&told))
        .trim_end()
        .to_owned()
}

fn trigger_name(rule: &TableRule, event: &str) -> String {
    let initial = event.get(..1).unwrap_or_default();
    let name = format!("fence_{initial}_{}", rule.table);
    format!("{}.{}", identifier(&rule.schema), identifier(&name))
}

/// Runs it: as the administrator of `admin_url`, or as the gateway's own account if that may.
///
/// # Errors
/// [`InstallError`]; what was done up to then stays, and does no harm.
pub async fn install(config: &MysqlConfig, admin_url: Option<&str>) -> Result<(), InstallError> {
    let mut login = admin::login(config);
    if let Some(url) = admin_url {
        let account = Opts::from_url(&url.replacen("mariadb://", "mysql://", 1));
        let account = account.map_err(InstallError::Url)?;
        login = login
            .user(account.user().map(str::to_owned))
            .pass(account.pass().map(str::to_owned));
    }
    let mut server = admin::connect(OptsBuilder::db_name(login, None::<String>)).await?;
    admin::known_server(&mut server).await?;
    for statement in statements(&sql(config)) {
        run(&mut server, statement).await?;
    }
    admin::disconnect(server).await;
    Ok(())
}

/// Runs one statement, and again if what it changes is in use: each try waits only for a short
/// while, because whoever comes after one that waits has to wait as well.
async fn run(server: &mut Conn, statement: &str) -> Result<(), InstallError> {
    for _ in 1..TRIES_MAX {
        match server.query_drop(statement).await {
            Err(Error::Server(ServerError { code: IN_USE, .. })) => {
                tokio::time::sleep(TRY_PAUSE).await;
            }
            done => return Ok(done.map_err(|error| admin::server_error(&error))?),
        }
    }
    let done = server.query_drop(statement).await;
    Ok(done.map_err(|error| admin::server_error(&error))?)
}

/// The statements of a script for the command-line client.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    let body = sql
        .split_once("delimiter //\n")
        .map_or(sql, |(_, body)| body);
    body.split("\n//\n")
        .filter(|statement| !statement.trim().is_empty())
}

pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(table: &str, lock: &str) -> TableRule {
        TableRule {
            schema: "shop".into(),
            table: table.into(),
            lock: LockPattern::parse(lock).unwrap(),
        }
    }

    #[test]
    fn names_and_patterns_are_quoted_and_every_place_is_filled_in() {
        let sql = guard_sql(&rule("Or`ders", "it's\\%"));
        assert!(sql.contains("`shop`.`Or``ders`"), "{sql}");
        assert!(sql.contains("x'0a697427735c'"), "{sql}");
        assert!(sql.contains("it''s\\\\%"), "{sql}");
        for place in [
            "{table}",
            "{pattern",
            "{event",
            "{quoted}",
            "{body}",
            "{trigger}",
        ] {
            assert!(!sql.contains(place), "{place}: {sql}");
        }
        assert_eq!(statements(&sql).count(), 2 * EVENTS.len());
    }

    #[test]
    fn an_exact_lock_ends_where_its_name_ends() {
        assert!(guard_body(&rule("t", "ab")).contains("x'0a61620a'"));
        assert!(guard_body(&rule("t", "ab%")).contains("x'0a6162'"));
        assert!(guard_body(&rule("t", "%")).contains("x'0a'"));
    }
}
