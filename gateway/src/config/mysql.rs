//! `[mysql]`: a MariaDB server, and the guard rules for its tables.

use std::path::{Path, PathBuf};

use mysql_async::{Opts, UrlError};
use serde::Deserialize;

use super::server::{Section, UpstreamTls};
use super::{RawGuard, Wrong, wrong};
use crate::rules::TableRule;

/// A MariaDB server, and what is under guard there.
#[derive(Clone, Debug)]
pub struct MysqlConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The database that guard rules without a schema mean.
    pub database: Option<String>,
    /// Account of the gateway's own connections.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<String>,
    /// Whether connections to the server are encrypted, clients' and the gateway's own.
    pub tls: UpstreamTls,
    /// Certificate authorities of the server, a PEM file; for [`UpstreamTls::VerifyFull`].
    pub ca: Option<PathBuf>,
    /// Whether accounts that can switch the fence off may log in through the gateway.
    pub allow_superusers: bool,
    /// How many connections of its own the gateway keeps for each of its tasks.
    pub admin_connections: usize,
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
}

impl Raw {
    pub(super) fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<MysqlConfig, Wrong> {
        let url = self.url.as_deref().map(parse_url).transpose()?;
        let from_url = |part: fn(&Opts) -> Option<&str>| url.as_ref().and_then(part);
        let section = Section("mysql");
        let password = section.password(dir, self.password, self.password_file.as_deref())?;
        let needed = |field: &str, here: Option<String>, there: Option<&str>| match here
            .or(there.map(str::to_owned))
        {
            Some(value) if !value.is_empty() && !value.contains('\0') => Ok(value),
            _ => section.wrong(field, "is missing: write it here or in mysql.url"),
        };
        let tls = self.tls.unwrap_or_default();
        let database = self
            .database
            .or(from_url(Opts::db_name).map(str::to_owned))
            .filter(|name| !name.is_empty());
        Ok(MysqlConfig {
            host: needed("host", self.host, from_url(|o| Some(o.ip_or_hostname())))?,
            port: self
                .port
                .or(url.as_ref().map(Opts::tcp_port))
                .unwrap_or(3306),
            user: needed("user", self.user, from_url(Opts::user))?,
            password: password.or(from_url(Opts::pass).map(str::to_owned)),
            tls,
            ca: section.authorities(dir, tls, self.ca)?,
            allow_superusers: self.allow_superusers,
            admin_connections: section.admin_connections(self.admin_connections)?,
            guards: table_rules(guards, database.as_deref())?,
            database,
        })
    }
}

fn parse_url(url: &str) -> Result<Opts, Wrong> {
    let url = match url.strip_prefix("mariadb://") {
        Some(rest) => format!("mysql://{rest}"),
        None => url.to_owned(),
    };
    Opts::from_url(&url).or_else(|error: UrlError| {
        let reason = format!("{error}; write mysql://user:password@host:port/database");
        wrong("mysql.url", reason)
    })
}

/// Longest name of a guarded table, bytes: the names of its triggers begin with `fence_i_`, and
/// the server takes 64.
const TABLE_NAME_BYTES_MAX: usize = 56;

fn table_rules(guards: &[RawGuard], database: Option<&str>) -> Result<Vec<TableRule>, Wrong> {
    let mut rules: Vec<TableRule> = Vec::with_capacity(guards.len());
    let field = "guard.table";
    for guard in guards {
        let (Some(table), None) = (&guard.table, &guard.key) else {
            return wrong("guard", "with [mysql], each rule has `table` and `lock`");
        };
        let table = match (table.contains('.'), database) {
            (true, _) => table.clone(),
            (false, Some(database)) => format!("{database}.{table}"),
            (false, None) => {
                let reason = format!("{table:?}: write it as database.table, or name the database");
                return wrong(field, reason);
            }
        };
        let rule = match TableRule::parse(&table, guard.lock_pattern()?) {
            Ok(rule) => rule,
            Err(reason) => return wrong(field, reason),
        };
        if rule.table.len() > TABLE_NAME_BYTES_MAX {
            let reason = format!("{rule}: its name is longer than {TABLE_NAME_BYTES_MAX} bytes");
            return wrong(field, reason);
        }
        if rule.schema == "fence" {
            return wrong(field, format!("{rule}: the fence cannot guard itself"));
        }
        if rules
            .iter()
            .any(|r| r.schema == rule.schema && r.table == rule.table)
        {
            return wrong(field, format!("{rule} has two rules; keep one"));
        }
        rules.push(rule);
    }
    if rules.is_empty() {
        let reason = "no table is under guard: add [[guard]] with `table` and `lock`";
        return wrong("guard", reason);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::super::Upstream;
    use super::super::tests::parse;
    use super::*;

    const MYSQL: &str = r#"
        listen = "127.0.0.1:0"
        [mysql]
        url = "mysql://gw:secret@db.example:3307/shop"
        [[guard]]
        table = "orders"
        lock = "orders/%"
        [cell]
        client_config = "client.toml"
    "#;

    fn mysql(text: &str) -> MysqlConfig {
        match parse(text).unwrap().upstream {
            Upstream::Mysql(mysql) => mysql,
            _ => panic!("not MariaDB"),
        }
    }

    #[test]
    fn a_url_and_its_parts_are_two_ways_to_say_the_same() {
        let parts = "host = \"db.example\"\nport = 3307\ndatabase = \"shop\"\nuser = \"gw\"\n\
                     password = \"secret\"";
        let url = "url = \"mysql://gw:secret@db.example:3307/shop\"";
        for text in [
            MYSQL.to_owned(),
            MYSQL.replace(url, parts),
            MYSQL.replace("mysql://", "mariadb://"),
        ] {
            let config = mysql(&text);
            assert_eq!((config.host.as_str(), config.port), ("db.example", 3307));
            assert_eq!(config.user, "gw");
            assert_eq!(config.password.as_deref(), Some("secret"));
            assert_eq!(config.guards[0].to_string(), "shop.orders");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let long = format!("table = \"{}\"", "t".repeat(57));
        for (from, to, named) in [
            ("url = \"mysql:", "url = \"http:", "mysql.url"),
            (
                "url = \"mysql://gw:secret@",
                "url = \"mysql://",
                "mysql.user",
            ),
            ("table = \"orders\"", "table = \"fence.hw\"", "guard.table"),
            ("table = \"orders\"", &long, "guard.table"),
            ("3307/shop", "3307", "guard.table"),
            ("table = ", "key = ", "guard"),
            ("[mysql]", "[mysql]\ntls = \"verify-full\"", "mysql.ca"),
            (
                "[mysql]",
                "[mysql]\nadmin_connections = 0",
                "mysql.admin_connections",
            ),
            ("[mysql]", "[store]\ndata = \"d\"\n[mysql]", "exactly one"),
        ] {
            assert!(MYSQL.contains(from), "{from}");
            let error = parse(&MYSQL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
