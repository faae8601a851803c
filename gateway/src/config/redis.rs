//! `[redis]`: a Redis server, its application users, and the guard rules for its keys.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::server::{Section, UpstreamTls};
use super::{RawGuard, Wrong, wrong};
use crate::redis::acl;
use crate::redis::keys::{KeyGuard, KeyPattern};

/// What applications may run where the configuration says nothing: everything but what
/// administers the server, and what is dangerous for reasons that do not touch anybody's data.
const COMMANDS_DEFAULT: &str =
    "+@all -@admin -@dangerous +info +keys +sort +sort_ro +role +restore";

/// A Redis server, and what is under guard there.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User of the gateway's own connection.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Whether connections to the server are encrypted, clients' and the gateway's own.
    pub tls: UpstreamTls,
    /// Certificate authorities of the server, a PEM file; for [`UpstreamTls::VerifyFull`].
    pub ca: Option<PathBuf>,
    /// Users that applications log in as.
    pub users: Vec<RedisUser>,
    /// Keys that may be written without a ticket.
    pub free: Vec<KeyPattern>,
    /// Keys under guard. Keys that are neither here nor there can only be read.
    pub guards: Vec<KeyGuard>,
}

/// A user that applications log in as.
#[derive(Clone, Debug)]
pub struct RedisUser {
    /// The name. `default` is the user of those who do not log in.
    pub name: String,
    /// A password for `gateway install` to give it; otherwise it keeps those it has.
    pub password: Option<String>,
    /// What it may run, in the words of an access list. What would get around the fence is taken
    /// away from it.
    pub commands: Vec<String>,
    /// Patterns of the channels that it may use.
    pub channels: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    host: String,
    port: Option<u16>,
    user: String,
    password: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<UpstreamTls>,
    ca: Option<PathBuf>,
    #[serde(rename = "app")]
    apps: Vec<RawUser>,
    #[serde(default)]
    free: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    name: String,
    password: Option<String>,
    password_file: Option<PathBuf>,
    commands: Option<String>,
    channels: Option<Vec<String>>,
}

const SECTION: Section = Section("redis");

impl Raw {
    pub(super) fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<RedisConfig, Wrong> {
        let password = SECTION.password(dir, self.password, self.password_file.as_deref())?;
        let Some(password) = password.filter(|password| !password.is_empty()) else {
            return SECTION.wrong("password", "the gateway's own user needs one");
        };
        let tls = self.tls.unwrap_or_default();
        let users = self
            .apps
            .into_iter()
            .map(|user| user.check(dir))
            .collect::<Result<Vec<_>, _>>()?;
        for (at, user) in users.iter().enumerate() {
            let again = users.iter().skip(at + 1).any(|u| u.name == user.name);
            if again || user.name == self.user {
                return SECTION.wrong("app.name", format!("{:?} stands twice", user.name));
            }
        }
        if users.is_empty() {
            return SECTION.wrong("app", "name at least one user that applications log in as");
        }
        let free = self
            .free
            .iter()
            .map(|text| free_pattern(text))
            .collect::<Result<Vec<_>, _>>()?;
        let guards = key_guards(guards)?;
        keep_apart(&free, &guards)?;
        Ok(RedisConfig {
            ca: SECTION.authorities(dir, tls, self.ca)?,
            host: self.host,
            port: self.port.unwrap_or(6379),
            user: user_name("user", self.user)?,
            password,
            tls,
            users,
            free,
            guards,
        })
    }
}

impl RawUser {
    fn check(self, dir: &Path) -> Result<RedisUser, Wrong> {
        let words = self.commands.as_deref().unwrap_or(COMMANDS_DEFAULT);
        let commands: Vec<_> = words.split_ascii_whitespace().map(str::to_owned).collect();
        let is_command = |word: &String| {
            let name = word.strip_prefix(['+', '-']).unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "@|-_.".contains(c);
            !name.is_empty() && name.chars().all(plain)
        };
        if let Some(bad) = commands.iter().find(|word| !is_command(word)) {
            let reason = format!("{bad:?}: write +command, -command, +@category or -@category");
            return SECTION.wrong("app.commands", reason);
        }
        let channels = self.channels.unwrap_or_else(|| vec!["*".to_owned()]);
        let is_channel = |c: &String| !c.is_empty() && !c.contains(char::is_whitespace);
        if !channels.iter().all(is_channel) {
            return SECTION.wrong("app.channels", "a pattern is empty or has a space in it");
        }
        Ok(RedisUser {
            name: user_name("app.name", self.name)?,
            password: SECTION.password(dir, self.password, self.password_file.as_deref())?,
            commands,
            channels,
        })
    }
}

/// Names of the fence's own users are made of these.
fn user_name(field: &str, name: String) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(plain) {
        let reason = format!("{name:?}: use 1 to 64 letters, digits, '-', '_', '.' and '@'");
        return SECTION.wrong(field, reason);
    }
    Ok(name)
}

fn free_pattern(text: &str) -> Result<KeyPattern, Wrong> {
    match KeyPattern::parse(text) {
        Ok(pattern) if !pattern.has_id() => Ok(pattern),
        Ok(_) => SECTION.wrong(
            "free",
            format!("{text:?}: {{id}} has a meaning in rules only"),
        ),
        Err(reason) => SECTION.wrong("free", reason),
    }
}

fn key_guards(guards: &[RawGuard]) -> Result<Vec<KeyGuard>, Wrong> {
    if guards.is_empty() {
        let reason = "no key is under guard: add [[guard]] with `keys` and `lock`";
        return wrong("guard", reason);
    }
    let guard = |guard: &RawGuard| match (&guard.keys, &guard.key, &guard.table) {
        (Some(keys), None, None) => {
            KeyGuard::parse(keys.as_slice(), &guard.lock).map_err(|reason| Wrong {
                field: "guard.keys".into(),
                reason,
            })
        }
        _ => wrong("guard", "with [redis], each rule has `keys` and `lock`"),
    };
    guards.iter().map(guard).collect()
}

/// A key with two rules has no single holder, and a free key none at all.
fn keep_apart(free: &[KeyPattern], guards: &[KeyGuard]) -> Result<(), Wrong> {
    let own = KeyPattern::parse(acl::FENCE_KEY).map_err(|reason| Wrong {
        field: "redis".into(),
        reason,
    })?;
    let groups = std::iter::once(("the fence's own key", std::slice::from_ref(&own)))
        .chain(
            free.iter()
                .map(|key| ("redis.free", std::slice::from_ref(key))),
        )
        .chain(guards.iter().map(|guard| ("a guard rule", guard.keys())));
    let groups: Vec<_> = groups.collect();
    for (at, (kind, keys)) in groups.iter().enumerate() {
        for (other_kind, others) in groups.iter().skip(at + 1) {
            if *kind == "redis.free" && *other_kind == "redis.free" {
                continue;
            }
            for (a, b) in keys.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                if a.meets(b) {
                    let reason = format!("{a} ({kind}) and {b} ({other_kind}) may name one key");
                    return wrong("guard.keys", reason);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Upstream;
    use super::super::tests::parse;

    const REDIS: &str = r#"
        listen = "127.0.0.1:0"
        [redis]
        host = "127.0.0.1"
        user = "gw"
        password = "secret"
        free = ["cache:*"]
        [[redis.app]]
        name = "app"
        [[guard]]
        keys = "orders:*"
        lock = "orders/%"
        [[guard]]
        keys = ["item:{id}", "item:{id}:*"]
        lock = "items/{id}"
        [cell]
        client_config = "client.toml"
    "#;

    #[test]
    fn a_server_has_users_free_keys_and_rules() {
        let Upstream::Redis(redis) = parse(REDIS).unwrap().upstream else {
            panic!("not Redis")
        };
        assert_eq!(
            (redis.port, redis.users.len(), redis.free.len()),
            (6379, 1, 1)
        );
        assert_eq!(
            redis.guards[1].to_string(),
            "item:{id}, item:{id}:* by items/{id}"
        );
        assert!(redis.users[0].commands.contains(&"-@dangerous".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (from, to, named) in [
            ("password = \"secret\"", "", "redis.password"),
            ("name = \"app\"", "name = \"a b\"", "redis.app.name"),
            ("name = \"app\"", "name = \"gw\"", "stands twice"),
            (
                "name = \"app\"",
                "name = \"app\"\ncommands = \"~x\"",
                "app.commands",
            ),
            ("cache:*", "cache:{id}", "redis.free"),
            ("cache:*", "orders:*", "may name one key"),
            ("cache:*", "lockd:*", "the fence's own key"),
            (
                "keys = \"orders:*\"",
                "keys = \"item:1\"",
                "may name one key",
            ),
            ("keys = \"orders:*\"", "key = \"orders:\"", "guard"),
            ("keys = \"orders:*\"", "keys = \"o:{id}\"", "guard.keys"),
            (
                "user = \"gw\"",
                "user = \"gw\"\ntls = \"verify-full\"",
                "redis.ca",
            ),
        ] {
            assert!(REDIS.contains(from), "{from}");
            let error = parse(&REDIS.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
