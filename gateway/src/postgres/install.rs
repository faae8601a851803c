//! `gateway install`: the fence's SQL for one configuration, and running it.

use super::admin::{self, AdminError, server_error};
use super::upstream::Target;
use crate::config::PostgresConfig;
use crate::rules::{LockPattern, TableRule};
use crate::tls::TlsError;

const FENCE: &str = include_str!("sql/fence.sql");
const GATEWAY_ROLE: &str = include_str!("sql/gateway_role.sql");
const GUARD_TABLE: &str = include_str!("sql/guard_table.sql");

/// An installation that was not done. Nothing of it is left: it is one transaction.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The certificates of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached, or refused.
    #[error(transparent)]
    Server(#[from] AdminError),
    /// The administrator's URL cannot be used.
    #[error("--admin: {0}; write postgres://user:password@host:port/database")]
    Url(tokio_postgres::Error),
}

/// Everything that has to be run in the database, in one transaction. May be run again, and has
/// to be when guard rules or partitions are added.
#[must_use]
pub fn sql(config: &PostgresConfig) -> String {
    let mut sql = format!("begin;\nset local client_min_messages = warning;\n{FENCE}");
    let password = config
        .password
        .as_deref()
        .map(|password| format!(" password {}", literal(password)))
        .unwrap_or_default();
    sql.push_str(
        &GATEWAY_ROLE
            .replace("{role_literal}", &literal(&config.user))
            .replace("{role}", &identifier(&config.user))
            .replace("{database}", &identifier(&config.database))
            .replace("{password}", &password),
    );
    for rule in &config.guards {
        sql.push_str(&guard_sql(rule));
    }
    sql.push_str("commit;\n");
    sql
}

/// What puts one table and everything below it under guard.
#[must_use]
pub fn guard_sql(rule: &TableRule) -> String {
    let (kind, argument) = trigger_arguments(&rule.lock);
    let table = format!("{}.{}", identifier(&rule.schema), identifier(&rule.table));
    // The comment first: a pattern may look like a place to be filled in.
    GUARD_TABLE
        .replace("{table_literal}", &literal(&table))
        .replace("{kind_literal}", &literal(kind))
        .replace("{table}", &rule.to_string())
        .replace("{pattern}", &rule.lock.to_string())
        .replace("{argument_literal}", &literal(argument))
}

/// How a pattern is told to the trigger.
pub(super) fn trigger_arguments(lock: &LockPattern) -> (&'static str, &str) {
    match lock {
        LockPattern::Exact(name) => ("exact", name.as_str()),
        LockPattern::Prefix(prefix) => ("prefix", prefix),
    }
}

/// Runs it: as the administrator of `admin_url`, or as the gateway's own role if that may.
///
/// # Errors
/// [`InstallError`]; nothing was changed then.
pub async fn install(config: &PostgresConfig, admin_url: Option<&str>) -> Result<(), InstallError> {
    let mut login = match admin_url {
        Some(url) => url.parse().map_err(InstallError::Url)?,
        None => admin::login(config),
    };
    login
        .dbname(&config.database)
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    let target = Target::new(config)?;
    let client = admin::log_in(&target, &login).await?;
    client
        .batch_execute(&sql(config))
        .await
        .map_err(|error| server_error(&error))?;
    Ok(())
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant; with backslashes in the form that means the same under any setting.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_are_quoted() {
        let lock = LockPattern::parse("it's\\%").unwrap();
        let rule = TableRule {
            schema: "public".into(),
            table: "Or ders".into(),
            lock,
        };
        let sql = guard_sql(&rule);
        assert!(sql.contains("'\"public\".\"Or ders\"'::regclass"), "{sql}");
        assert!(sql.contains("E'it''s\\\\'"), "{sql}");
        assert!(sql.contains("'prefix'"), "{sql}");
        assert!(!sql.contains('{'), "{sql}");
    }
}
