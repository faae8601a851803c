//! `[postgres]`: a PostgreSQL server, and the guard rules for its tables.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::server::{Section, UpstreamTls};
use super::{RawGuard, Wrong, wrong};
use crate::rules::TableRule;

/// By what the database knows who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceMode {
    /// By the backend: each session has one of its own, which is registered.
    #[default]
    Row,
    /// By the transaction: each is told what its session carries.
    Transaction,
}

/// A pooler between the gateway and the server, for clients' sessions.
#[derive(Clone, Debug)]
pub struct PoolerConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether connections to it are encrypted.
    pub tls: UpstreamTls,
    /// Its certificate authorities, a PEM file; for [`UpstreamTls::VerifyFull`].
    pub ca: Option<PathBuf>,
}

/// A PostgreSQL server, and what is under guard there.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The one database that this gateway serves.
    pub database: String,
    /// Role of the gateway's own connections.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<String>,
    /// Whether connections to the server are encrypted, clients' and the gateway's own.
    pub tls: UpstreamTls,
    /// Certificate authorities of the server, a PEM file; for [`UpstreamTls::VerifyFull`].
    pub ca: Option<PathBuf>,
    /// Whether superusers may log in through the gateway. They can switch the fence off.
    pub allow_superusers: bool,
    /// How many connections of its own the gateway keeps.
    pub admin_connections: usize,
    /// By what the database knows who writes.
    pub mode: FenceMode,
    /// Whether an epoch is closed as soon as its lock is granted anew.
    pub eager: bool,
    /// Where clients' sessions go, if not straight to the server.
    pub pooler: Option<PoolerConfig>,
    /// Tables under guard.
    pub guards: Vec<TableRule>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    url: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<UpstreamTls>,
    ca: Option<PathBuf>,
    #[serde(default)]
    allow_superusers: bool,
    admin_connections: Option<usize>,
    #[serde(default)]
    mode: FenceMode,
    #[serde(default)]
    eager: bool,
    pooler: Option<RawPooler>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPooler {
    host: String,
    port: u16,
    #[serde(default)]
    tls: UpstreamTls,
    ca: Option<PathBuf>,
}

impl RawPooler {
    fn check(self, dir: &Path) -> Result<PoolerConfig, Wrong> {
        let ca = Section("postgres.pooler").authorities(dir, self.tls, self.ca)?;
        Ok(PoolerConfig {
            host: self.host,
            port: self.port,
            tls: self.tls,
            ca,
        })
    }
}

impl Raw {
    pub(super) fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<PostgresConfig, Wrong> {
        let from_url = self
            .url
            .as_deref()
            .map(UrlParts::parse)
            .transpose()?
            .unwrap_or_default();
        let section = Section("postgres");
        let password = section.password(dir, self.password, self.password_file.as_deref())?;
        let needed = |field: &str, value: Option<String>| match value {
            Some(value) if !value.is_empty() && !value.contains('\0') => Ok(value),
            _ => section.wrong(field, "is missing: write it here or in postgres.url"),
        };
        let tls = self.tls.unwrap_or(from_url.tls);
        if self.pooler.is_some() && self.mode == FenceMode::Row {
            let reason = "behind a pooler no session has a backend of its own; \
                          set postgres.mode = \"transaction\"";
            return section.wrong("pooler", reason);
        }
        Ok(PostgresConfig {
            host: needed("host", self.host.or(from_url.host))?,
            port: self.port.or(from_url.port).unwrap_or(5432),
            database: needed("database", self.database.or(from_url.database))?,
            user: needed("user", self.user.or(from_url.user))?,
            password: password.or(from_url.password),
            tls,
            ca: section.authorities(dir, tls, self.ca)?,
            allow_superusers: self.allow_superusers,
            admin_connections: section.admin_connections(self.admin_connections)?,
            mode: self.mode,
            eager: self.eager,
            pooler: self.pooler.map(|pooler| pooler.check(dir)).transpose()?,
            guards: table_rules(guards)?,
        })
    }
}

/// What a URL says about a server.
#[derive(Default)]
struct UrlParts {
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password: Option<String>,
    tls: UpstreamTls,
}

impl UrlParts {
    fn parse(url: &str) -> Result<UrlParts, Wrong> {
        let config: tokio_postgres::Config = match url.parse() {
            Ok(config) => config,
            Err(error) => {
                return wrong(
                    "postgres.url",
                    format!("{error}; write postgres://user:password@host:port/database"),
                );
            }
        };
        let host = match config.get_hosts() {
            [] => None,
            [tokio_postgres::config::Host::Tcp(host)] => Some(host.clone()),
            [_] => {
                return wrong(
                    "postgres.url",
                    "only TCP is supported, not a socket directory",
                );
            }
            _ => return wrong("postgres.url", "names several hosts; name the primary only"),
        };
        let password = match config.get_password().map(|p| String::from_utf8(p.to_vec())) {
            Some(Err(_)) => return wrong("postgres.url", "the password is not UTF-8"),
            Some(Ok(password)) => Some(password),
            None => None,
        };
        Ok(UrlParts {
            host,
            port: config.get_ports().first().copied(),
            database: config.get_dbname().map(str::to_owned),
            user: config.get_user().map(str::to_owned),
            password,
            tls: match config.get_ssl_mode() {
                tokio_postgres::config::SslMode::Require => UpstreamTls::Require,
                _ => UpstreamTls::Disable,
            },
        })
    }
}

fn table_rules(guards: &[RawGuard]) -> Result<Vec<TableRule>, Wrong> {
    let mut rules: Vec<TableRule> = Vec::with_capacity(guards.len());
    for guard in guards {
        let (Some(table), None) = (&guard.table, &guard.key) else {
            return wrong("guard", "with [postgres], each rule has `table` and `lock`");
        };
        let rule = TableRule::parse(table, guard.lock_pattern()?).map_err(|reason| Wrong {
            field: "guard.table".into(),
            reason,
        })?;
        if rules
            .iter()
            .any(|r| r.schema == rule.schema && r.table == rule.table)
        {
            return wrong("guard.table", format!("{rule} has two rules; keep one"));
        }
        rules.push(rule);
    }
    if rules.is_empty() {
        return wrong(
            "guard",
            "no table is under guard: add [[guard]] with `table` and `lock`",
        );
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::super::Upstream;
    use super::super::tests::{POSTGRES, parse};
    use super::*;

    #[test]
    fn a_url_and_its_parts_are_two_ways_to_say_the_same() {
        let config = parse(POSTGRES).unwrap();
        let Upstream::Postgres(postgres) = config.upstream else {
            panic!("not PostgreSQL")
        };
        assert_eq!(
            (postgres.host.as_str(), postgres.port),
            ("db.example", 5433)
        );
        assert_eq!(
            (postgres.user.as_str(), postgres.database.as_str()),
            ("gw", "shop")
        );
        assert_eq!(postgres.password.as_deref(), Some("secret"));
        assert_eq!(config.cell, Path::new("/etc/gateway/client.toml"));
    }

    #[test]
    fn a_pooler_needs_transaction_mode() {
        let pooler = "[postgres.pooler]\nhost = \"127.0.0.1\"\nport = 6432\n[[guard]]";
        let row = POSTGRES.replacen("[[guard]]", pooler, 1);
        let error = parse(&row).unwrap_err().to_string();
        assert!(error.contains("postgres.pooler") && error.contains("transaction"));
        let moded = row.replacen("[postgres]", "[postgres]\nmode = \"transaction\"", 1);
        let Upstream::Postgres(postgres) = parse(&moded).unwrap().upstream else {
            panic!("not PostgreSQL")
        };
        assert_eq!(postgres.mode, FenceMode::Transaction);
        assert_eq!(postgres.pooler.unwrap().port, 6432);
    }
}
