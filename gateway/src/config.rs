//! The gateway's configuration file: reading, checking, and saying what is wrong with it.
//! Nothing here connects to anything. Paths are relative to the file that names them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::limits::{
    ADMIN_CONNECTIONS_DEFAULT, CONNECTIONS_DEFAULT, GUARD_RULES_MAX, HANDSHAKE_TIMEOUT_DEFAULT,
};
use crate::rules::{KeyRules, LockPattern, TableRule};

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
    /// The embedded key-value store.
    Store(StoreConfig),
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
    /// Tables under guard.
    pub guards: Vec<TableRule>,
}

/// Encryption of the connections to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamTls {
    /// None.
    #[default]
    Disable,
    /// Encrypted, whoever the server is.
    Require,
    /// Encrypted, and the server proves its name with a certificate of the configured authority.
    VerifyFull,
}

/// The embedded store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of its data.
    pub data: PathBuf,
    /// Which locks cover which keys.
    pub rules: KeyRules,
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
    postgres: Option<RawPostgres>,
    store: Option<RawStore>,
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

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPostgres {
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    data: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGuard {
    table: Option<String>,
    key: Option<String>,
    lock: String,
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
        let upstream = match (self.postgres, self.store) {
            (Some(postgres), None) => Upstream::Postgres(postgres.check(dir, &self.guard)?),
            (None, Some(store)) => Upstream::Store(StoreConfig {
                data: dir.join(store.data),
                rules: key_rules(&self.guard)?,
            }),
            _ => return wrong("postgres", "give exactly one of [postgres] and [store]"),
        };
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

impl RawPostgres {
    fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<PostgresConfig, Wrong> {
        let from_url = self
            .url
            .as_deref()
            .map(UrlParts::parse)
            .transpose()?
            .unwrap_or_default();
        let password = match (self.password, self.password_file) {
            (Some(_), Some(_)) => {
                return wrong(
                    "postgres.password",
                    "give password or password_file, not both",
                );
            }
            (None, Some(file)) => match std::fs::read_to_string(dir.join(&file)) {
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    return wrong(
                        "postgres.password_file",
                        format!("{}: {error}", file.display()),
                    );
                }
            },
            (password, None) => password.or(from_url.password),
        };
        let needed = |field: &str, value: Option<String>| match value {
            Some(value) if !value.is_empty() && !value.contains('\0') => Ok(value),
            _ => wrong(field, "is missing: write it here or in postgres.url"),
        };
        let tls = self.tls.unwrap_or(from_url.tls);
        if tls == UpstreamTls::VerifyFull && self.ca.is_none() {
            return wrong(
                "postgres.ca",
                "verify-full needs the server's authorities (a PEM file)",
            );
        }
        let admin_connections = self.admin_connections.unwrap_or(ADMIN_CONNECTIONS_DEFAULT);
        if !(1..=64).contains(&admin_connections) {
            return wrong("postgres.admin_connections", "is not between 1 and 64");
        }
        Ok(PostgresConfig {
            host: needed("postgres.host", self.host.or(from_url.host))?,
            port: self.port.or(from_url.port).unwrap_or(5432),
            database: needed("postgres.database", self.database.or(from_url.database))?,
            user: needed("postgres.user", self.user.or(from_url.user))?,
            password,
            tls,
            ca: self.ca.map(|ca| dir.join(ca)),
            allow_superusers: self.allow_superusers,
            admin_connections,
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
        let rule = TableRule::parse(table, lock_pattern(guard)?).map_err(|reason| Wrong {
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

fn key_rules(guards: &[RawGuard]) -> Result<KeyRules, Wrong> {
    if guards.is_empty() {
        return Ok(KeyRules::Path);
    }
    let rules = guards
        .iter()
        .map(|guard| match (&guard.key, &guard.table) {
            (Some(key), None) => Ok((key.clone(), lock_pattern(guard)?)),
            _ => wrong(
                "guard",
                "with [store], each rule has `key` (a prefix) and `lock`",
            ),
        })
        .collect::<Result<_, Wrong>>()?;
    Ok(KeyRules::Prefixes(rules))
}

fn lock_pattern(guard: &RawGuard) -> Result<LockPattern, Wrong> {
    LockPattern::parse(&guard.lock).map_err(|error| Wrong {
        field: "guard.lock".into(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTGRES: &str = r#"
        listen = "127.0.0.1:0"
        [postgres]
        url = "postgres://gw:secret@db.example:5433/shop"
        [[guard]]
        table = "public.orders"
        lock = "orders/%"
        [cell]
        client_config = "client.toml"
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/gateway/gateway.toml"), text)
    }

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

    #[test]
    fn a_store_without_rules_goes_by_path() {
        let text = "listen = \"127.0.0.1:0\"\n[store]\ndata = \"d\"\n\
                    [cell]\nclient_config = \"c\"\n";
        let Upstream::Store(store) = parse(text).unwrap().upstream else {
            panic!("not a store")
        };
        assert_eq!(store.rules, KeyRules::Path);
        let with_rule = format!("{text}[[guard]]\nkey = \"o/\"\nlock = \"o/%\"\n");
        let Upstream::Store(store) = parse(&with_rule).unwrap().upstream else {
            panic!()
        };
        assert!(matches!(store.rules, KeyRules::Prefixes(_)));
    }
}
