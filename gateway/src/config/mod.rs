//! The gateway's configuration file: reading, checking, and saying what is wrong with it.
//! Nothing here connects to anything. Paths are relative to the file that names them.
//!
//! Here is what every gateway has; each kind of upstream has a file for its own section and its
//! guard rules, and `server` has what the sections of servers have in common.

mod http;
mod mysql;
mod postgres;
mod redis;
mod server;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use self::http::HttpConfig;
pub use self::mysql::MysqlConfig;
pub use self::postgres::{FenceMode, PoolerConfig, PostgresConfig};
pub use self::redis::{RedisConfig, RedisUser};
pub use self::server::UpstreamTls;
pub use self::store::StoreConfig;
use crate::limits::{CONNECTIONS_DEFAULT, GUARD_RULES_MAX, HANDSHAKE_TIMEOUT_DEFAULT};
use crate::rules::LockPattern;

/// A configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What happens to writes without a ticket.
    pub policy: Policy,
    /// Threads that serve connections.
    pub threads: usize,
    /// Most client connections served at once.
    pub connections: usize,
    /// How long a client may take to log in.
    pub handshake_timeout: Duration,
    /// Certificate for clients, if they are to be served over TLS.
    pub tls: Option<TlsFiles>,
    /// What is behind the gateway.
    pub upstream: Upstream,
    /// The lock service's client configuration (`client.toml`).
    pub cell: PathBuf,
}

/// What happens to writes without a ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// They are refused.
    #[default]
    Require,
    /// They are passed on and logged, to see beforehand who would be refused. Only with
    /// [`Upstream::Http`]: what a database enforces cannot be tried out.
    Observe,
}

/// A certificate chain and its key, PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What is behind the gateway.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// A PostgreSQL server.
    Postgres(PostgresConfig),
    /// A MariaDB server.
    Mysql(MysqlConfig),
    /// A Redis server.
    Redis(RedisConfig),
    /// The embedded key-value store.
    Store(StoreConfig),
    /// An HTTP server that cannot compare tokens.
    Http(HttpConfig),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown field, or a value of the wrong type.
    #[error("{}: {source}", .file.display())]
    Syntax {
        /// Which file.
        file: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A field whose value cannot be used.
    #[error("{}: {field}: {reason}", .file.display())]
    Field {
        /// Which file.
        file: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] names file and field.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_path_buf(),
            source,
        })?;
        Config::parse(file, &text)
    }

    /// Checks the text of a configuration; `file` is where it comes from.
    ///
    /// # Errors
    /// [`ConfigError`] names file and field.
    pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|source| ConfigError::Syntax {
            file: file.to_path_buf(),
            source: Box::new(source),
        })?;
        raw.check(file.parent().unwrap_or(Path::new("")))
            .map_err(|Wrong { field, reason }| ConfigError::Field {
                file: file.to_path_buf(),
                field,
                reason,
            })
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: SocketAddr,
    #[serde(default)]
    policy: Policy,
    threads: Option<usize>,
    connections: Option<usize>,
    handshake_timeout: Option<String>,
    tls: Option<RawTls>,
    postgres: Option<postgres::Raw>,
    mysql: Option<mysql::Raw>,
    redis: Option<redis::Raw>,
    store: Option<store::Raw>,
    http: Option<http::Raw>,
    #[serde(default)]
    guard: Vec<RawGuard>,
    cell: RawCell,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGuard {
    table: Option<String>,
    key: Option<String>,
    keys: Option<OneOrMore>,
    path: Option<String>,
    lock: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn as_slice(&self) -> &[String] {
        match self {
            OneOrMore::One(text) => std::slice::from_ref(text),
            OneOrMore::More(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCell {
    client_config: PathBuf,
}

/// Which field is wrong, and why.
struct Wrong {
    field: String,
    reason: String,
}

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        field: field.into(),
        reason: reason.into(),
    })
}

impl Raw {
    fn check(self, dir: &Path) -> Result<Config, Wrong> {
        let between = |field: &str, value: usize, most: usize| match value {
            n if (1..=most).contains(&n) => Ok(n),
            n => wrong(field, format!("{n} is not between 1 and {most}")),
        };
        if self.guard.len() > GUARD_RULES_MAX {
            return wrong("guard", format!("more than {GUARD_RULES_MAX} rules"));
        }
        let guards = &self.guard;
        let upstreams = [
            self.postgres
                .map(|raw| raw.check(dir, guards).map(Upstream::Postgres)),
            self.mysql
                .map(|raw| raw.check(dir, guards).map(Upstream::Mysql)),
            self.redis
                .map(|raw| raw.check(dir, guards).map(Upstream::Redis)),
            self.store
                .map(|raw| raw.check(dir, guards).map(Upstream::Store)),
            self.http
                .map(|raw| raw.check(dir, guards).map(Upstream::Http)),
        ];
        let mut given = upstreams.into_iter().flatten();
        let (Some(upstream), None) = (given.next(), given.next()) else {
            let reason = "give exactly one of [postgres], [mysql], [redis], [store] and [http]";
            return wrong("postgres", reason);
        };
        let upstream = upstream?;
        if !matches!(upstream, Upstream::Http(_)) {
            if self.policy == Policy::Observe {
                return wrong("policy", "\"observe\" is there with [http] only");
            }
            if guards.iter().any(|guard| guard.path.is_some()) {
                return wrong("guard", "`path` is there with [http] only");
            }
        }
        let handshake_timeout = match self.handshake_timeout.as_deref().map(str::parse) {
            None => HANDSHAKE_TIMEOUT_DEFAULT,
            Some(Ok(time)) => humantime::Duration::into(time),
            Some(Err(error)) => {
                let error: humantime::DurationError = error;
                return wrong(
                    "handshake_timeout",
                    format!("{error}; write for example \"30s\""),
                );
            }
        };
        Ok(Config {
            listen: self.listen,
            policy: self.policy,
            threads: between("threads", self.threads.unwrap_or(1), 256)?,
            connections: between(
                "connections",
                self.connections.unwrap_or(CONNECTIONS_DEFAULT),
                1_000_000,
            )?,
            handshake_timeout,
            tls: self.tls.map(|tls| TlsFiles {
                certificate: dir.join(tls.certificate),
                key: dir.join(tls.key),
            }),
            upstream,
            cell: dir.join(self.cell.client_config),
        })
    }
}

impl RawGuard {
    fn lock_pattern(&self) -> Result<LockPattern, Wrong> {
        LockPattern::parse(&self.lock).map_err(|error| Wrong {
            field: "guard.lock".into(),
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const POSTGRES: &str = r#"
        listen = "127.0.0.1:0"
        [postgres]
        url = "postgres://gw:secret@db.example:5433/shop"
        [[guard]]
        table = "public.orders"
        lock = "orders/%"
        [cell]
        client_config = "client.toml"
    "#;

    pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/gateway/gateway.toml"), text)
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (from, to, named) in [
            ("listen =", "lisen =", "lisen"),
            ("lock = \"orders/%\"", "lock = \"a%b\"", "guard.lock"),
            (
                "table = \"public.orders\"",
                "table = \"a.b.c\"",
                "guard.table",
            ),
            ("table = ", "key = ", "guard"),
            (
                "url = \"postgres://gw:secret@db.example:5433/shop\"",
                "host = \"h\"",
                "database",
            ),
            ("url = \"postgres:", "url = \"http:", "postgres.url"),
            (
                "[postgres]",
                "[postgres]\ntls = \"verify-full\"",
                "postgres.ca",
            ),
            (
                "[postgres]",
                "[postgres]\npassword_file = \"none\"",
                "postgres.password_file",
            ),
            (
                "[postgres]",
                "[store]\ndata = \"d\"\n[postgres]",
                "exactly one",
            ),
            (
                "listen",
                "handshake_timeout = \"soon\"\nlisten",
                "handshake_timeout",
            ),
            ("listen", "threads = 0\nlisten", "threads"),
            ("client_config = \"client.toml\"", "", "client_config"),
            ("listen", "policy = \"observe\"\nlisten", "policy"),
        ] {
            assert!(POSTGRES.contains(from), "{from}");
            let error = parse(&POSTGRES.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{named}: {error}");
            assert!(error.contains("gateway.toml"), "{error}");
        }
    }

    #[test]
    fn rules_are_limited_in_number_and_one_to_a_table() {
        let rule = "[[guard]]\ntable = \"public.orders\"\nlock = \"a\"\n";
        let twice = format!("{POSTGRES}\n{rule}");
        assert!(parse(&twice).unwrap_err().to_string().contains("two rules"));
        let many = format!("{POSTGRES}\n{}", rule.repeat(GUARD_RULES_MAX));
        assert!(
            parse(&many)
                .unwrap_err()
                .to_string()
                .contains("more than 1000")
        );
    }
}
