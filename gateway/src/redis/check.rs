//! `gateway check`: what is missing in a server for its guard rules to hold, and the commands that
//! mend it. Asks as the gateway's own user; changes nothing.
//!
//! It does not compare texts of access lists, which the server rewrites: it asks the server what
//! each user may do (ACL DRYRUN), with the commands that this very server has.

use super::acl::{FENCE_KEY, REGISTRATION};
use super::install::serves_everybody;
use super::keys::KeyPattern;
use super::link::{Batch, Link, LinkError, field, refused};
use super::resp::Value;
use super::upstream::Target;
use crate::config::RedisConfig;
use crate::findings::{Finding, Severity};
use crate::tls::TlsError;

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The certificates of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached, or refused.
    #[error(transparent)]
    Server(#[from] LinkError),
}

type Outcome<T> = Result<T, LinkError>;

/// Looks for everything that is missing, problems first.
///
/// # Errors
/// [`CheckError`] if the server cannot be asked.
pub async fn check(config: &RedisConfig) -> Result<Vec<Finding>, CheckError> {
    let target = Target::new(config)?;
    let mut findings = Vec::new();
    let link = match Link::connect(&target, &config.user, Some(&config.password)).await {
        Ok(link) => link,
        Err(LinkError::NotInstalled(reason)) => {
            let what = format!("the user {:?} may not log in: {reason}", config.user);
            findings.push(Finding::problem(what, "run `gateway install`"));
            return Ok(findings);
        }
        Err(error) => return Err(error.into()),
    };
    let mut checked = Checked {
        link,
        config,
        findings,
    };
    if checked.server().await? && checked.own_rights().await? {
        checked.applications().await?;
        checked.others().await?;
        checked.settings().await?;
    }
    checked
        .findings
        .sort_by_key(|finding| finding.severity == Severity::Note);
    Ok(checked.findings)
}

struct Checked<'a> {
    link: Link,
    config: &'a RedisConfig,
    findings: Vec<Finding>,
}

/// A write command of this server, with as many arguments as it wants.
struct WriteCommand {
    name: String,
    arguments: usize,
}

impl Checked<'_> {
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::problem(what, remedy));
    }

    fn note(&mut self, what: impl Into<String>, remedy: Option<&str>) {
        self.findings
            .push(Finding::note(what, remedy.map(str::to_owned)));
    }

    /// Whether the rest can be looked at.
    async fn server(&mut self) -> Outcome<bool> {
        let version = self.link.version.clone();
        let major = version
            .split('.')
            .next()
            .and_then(|part| part.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            let what = format!("the server is Redis {version}; the fence needs 7.0 or newer");
            self.problem(what, "upgrade the server");
            return Ok(false);
        }
        let info = self.link.ask(&["INFO", "replication"]).await?;
        if field(info.text().unwrap_or_default(), "role") != Some("master") {
            self.problem(
                "this server is a replica",
                "let the gateway connect to the primary",
            );
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether the gateway's user may do what the fence needs, and not more.
    async fn own_rights(&mut self) -> Outcome<bool> {
        let mut missing = Vec::new();
        for words in [
            &["HSET", FENCE_KEY, "f", "v"][..],
            &["HMGET", FENCE_KEY, "f"],
            &["HSCAN", FENCE_KEY, "0"],
            &["WATCH", FENCE_KEY],
            &["MULTI"],
            &["EXEC"],
            &["ACL", "SETUSER", "x"],
            &["ACL", "DELUSER", "x"],
            &["ACL", "USERS"],
            &["CLIENT", "LIST"],
            &["CLIENT", "UNBLOCK", "1"],
        ] {
            if !self.may(&self.config.user.clone(), words).await? {
                missing.push(words.iter().take(2).copied().collect::<Vec<_>>().join(" "));
            }
        }
        if !missing.is_empty() {
            let user = &self.config.user;
            let what = format!("the user {user:?} may not run {}", missing.join(", "));
            self.problem(what, "run `gateway install`");
        }
        Ok(missing.is_empty())
    }

    /// Each user of an application reads everything, writes free keys, and nothing that is under
    /// guard, with any command.
    async fn applications(&mut self) -> Outcome<()> {
        let writes = self.write_commands().await?;
        for user in &self.config.users {
            let name = user.name.as_str();
            if !self.exists(name).await? {
                self.problem(
                    format!("there is no user {name:?}"),
                    "run `gateway install`",
                );
                continue;
            }
            let mut around = Vec::new();
            for key in self.guarded() {
                let ways: Vec<_> = writes
                    .iter()
                    .filter_map(|command| command.on(&key))
                    .collect();
                let open = self.may_each(name, &ways).await?;
                let named = ways.iter().zip(open).filter(|(_, open)| *open);
                around.extend(named.map(|(words, _)| words.join(" ")));
            }
            for closed in CLOSED_FORMS {
                if self.may(name, closed).await? {
                    around.push(closed.join(" ").to_lowercase());
                }
            }
            around.sort();
            around.dedup();
            if !around.is_empty() {
                let first: Vec<_> = around.iter().take(5).cloned().collect();
                let what = format!(
                    "the user {name:?} gets around the fence, {} ways: {}",
                    around.len(),
                    first.join(", ")
                );
                self.problem(what, "run `gateway install`");
            }
            for needed in [&["ECHO", "x"][..], &["CLIENT", "ID"], &["ACL", "WHOAMI"]] {
                if !self.may(name, needed).await? {
                    let what = format!("the user {name:?} may not run {}", needed.join(" "));
                    self.problem(what, "run `gateway install`");
                }
            }
        }
        Ok(())
    }

    /// Everybody else who may write what is under guard.
    async fn others(&mut self) -> Outcome<()> {
        let Value::Array(users) = self.link.ask(&["ACL", "USERS"]).await? else {
            return Ok(());
        };
        let ours = |name: &str| {
            name == self.config.user
                || name.starts_with(REGISTRATION)
                || self.config.users.iter().any(|user| user.name == name)
        };
        let names: Vec<String> = users
            .iter()
            .filter_map(Value::text)
            .filter(|n| !ours(n))
            .map(str::to_owned)
            .collect();
        let Some(key) = self.guarded().into_iter().next() else {
            return Ok(());
        };
        for name in names {
            let on = self.is_on(&name).await?;
            let writes = self.may(&name, &["SET", &key, "v"]).await?
                || self.may(&name, &["FLUSHALL"]).await?
                || self.may(&name, &["ACL", "SETUSER", "x"]).await?;
            if !on || !writes {
                continue;
            }
            if name == "default" && !serves_everybody(&self.config.users) {
                let what = "the user \"default\" is on: who does not log in gets around the fence";
                self.problem(what, "ACL SETUSER default off");
            } else {
                let what = format!("the user {name:?} can get around the fence");
                let remedy = "use it for administration only, or `ACL SETUSER .. off`";
                self.note(what, Some(remedy));
            }
        }
        Ok(())
    }

    async fn settings(&mut self) -> Outcome<()> {
        let setting = |reply: Value| match reply {
            Value::Array(pair) => pair.get(1).and_then(Value::text).map(str::to_owned),
            _ => None,
        };
        let policy = setting(
            self.link
                .ask(&["CONFIG", "GET", "maxmemory-policy"])
                .await?,
        );
        if let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys")) {
            self.note(
                format!(
                    "the server may evict the fence's key ({policy}): every connection that \
                     carries a ticket is closed then, and the lock service is asked again"
                ),
                Some("CONFIG SET maxmemory-policy noeviction (or a volatile one)"),
            );
        }
        let file = setting(self.link.ask(&["CONFIG", "GET", "aclfile"]).await?);
        let what = match file.as_deref() {
            Some("") | None => {
                "the server has no aclfile: its users are those of redis.conf after a restart"
            }
            Some(_) => "users are kept in the aclfile only once they are saved",
        };
        self.note(
            what,
            Some("ACL SAVE, or CONFIG REWRITE, or run `gateway install` again"),
        );
        let Value::Array(modules) = self.link.ask(&["MODULE", "LIST"]).await? else {
            return Ok(());
        };
        if !modules.is_empty() {
            let what = format!(
                "{} modules are loaded; what they write by themselves is not looked \
                at by the access list",
                modules.len()
            );
            self.note(what, None);
        }
        Ok(())
    }

    /// A key of each guard rule.
    fn guarded(&self) -> Vec<String> {
        let patterns = self.config.guards.iter().flat_map(|guard| guard.keys());
        patterns.map(KeyPattern::example).collect()
    }

    /// Every command of this server that says of itself that it writes.
    async fn write_commands(&mut self) -> Outcome<Vec<WriteCommand>> {
        let Value::Array(all) = self.link.ask(&["COMMAND"]).await? else {
            return Err(LinkError::Server(
                "COMMAND does not answer with a list".into(),
            ));
        };
        let mut writes = Vec::new();
        for command in &all {
            collect(command, &mut writes);
        }
        Ok(writes)
    }

    /// Whether the server would let a user run this.
    async fn may(&mut self, user: &str, words: &[&str]) -> Outcome<bool> {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Ok(self.may_each(user, &[words]).await? == [true])
    }

    /// The same for many.
    async fn may_each(&mut self, user: &str, commands: &[Vec<String>]) -> Outcome<Vec<bool>> {
        let mut batch = Batch::default();
        for words in commands {
            let start = ["ACL", "DRYRUN", user].map(str::to_owned);
            batch.add(&start.iter().chain(words).collect::<Vec<_>>());
        }
        let replies = self.link.send(&batch).await?;
        let open = |reply: &Value| match reply {
            // It has no such command, or wants it otherwise: then nobody can run it so.
            Value::Error(text) if !text.starts_with("NOPERM") => Ok(false),
            Value::Text(text) => Ok(text == b"OK"),
            other => refused(other).map(|()| false),
        };
        replies.iter().map(open).collect()
    }

    async fn exists(&mut self, user: &str) -> Outcome<bool> {
        Ok(self.link.ask(&["ACL", "GETUSER", user]).await? != Value::Nil)
    }

    async fn is_on(&mut self, user: &str) -> Outcome<bool> {
        let Value::Array(fields) = self.link.ask(&["ACL", "GETUSER", user]).await? else {
            return Ok(false);
        };
        Ok(matches!(fields.get(1), Some(Value::Array(flags))
            if flags.iter().any(|flag| flag.text() == Some("on"))))
    }
}

impl WriteCommand {
    /// The command on a key. All its arguments are the key's name, so that the key is wherever the
    /// command looks for it. None for those that have no key to look at.
    fn on(&self, key: &str) -> Option<Vec<String>> {
        let mut words: Vec<&str> = self.name.split('|').collect();
        match self.name.as_str() {
            // These find their keys behind words and numbers, or write them only with a word.
            "xreadgroup" => words.extend(["GROUP", "g", "c", "STREAMS", key, ">"]),
            "eval" | "evalsha" | "fcall" => words.extend(["x", "1", key]),
            "migrate" => words.extend(["h", "1", key, "0", "1"]),
            "lmpop" | "zmpop" => words.extend(["1", key, "MIN"]),
            "blmpop" | "bzmpop" => words.extend(["0", "1", key, "MIN"]),
            "zunionstore" | "zinterstore" | "zdiffstore" => words.extend([key, "1", key]),
            "bitfield" => words.extend([key, "SET", "u8", "0", "1"]),
            "sort" => words.extend([key, "STORE", key]),
            "georadius" => words.extend([key, "0", "0", "1", "m", "STORE", key]),
            "georadiusbymember" => words.extend([key, "m", "1", "m", "STORE", key]),
            // Functions are code; what they write is looked at when they are called.
            name if name.starts_with("function|") => return None,
            _ => words.extend(std::iter::repeat_n(key, self.arguments)),
        }
        Some(words.into_iter().map(str::to_owned).collect())
    }
}

/// What no application may run.
const CLOSED_FORMS: &[&[&str]] = &[
    &["FLUSHALL"],
    &["FLUSHDB"],
    &["SWAPDB", "0", "1"],
    &["ACL", "SETUSER", "x"],
    &["CONFIG", "SET", "a", "b"],
    &["DEBUG", "RELOAD"],
    &["MODULE", "LOAD", "x"],
    &["REPLICAOF", "NO", "ONE"],
    &["SHUTDOWN"],
    &["CLIENT", "KILL", "ID", "1"],
    &["RESTORE-ASKING", "k", "0", "v"],
    &["PFMERGE", "k"],
];

/// Adds a command's entry, and those of its subcommands, if they write.
fn collect(entry: &Value, writes: &mut Vec<WriteCommand>) {
    let Value::Array(parts) = entry else { return };
    let (Some(name), Some(Value::Number(arity)), Some(Value::Array(flags))) = (
        parts.first().and_then(Value::text),
        parts.get(1),
        parts.get(2),
    ) else {
        return;
    };
    let words = name.split('|').count();
    if flags.iter().any(|flag| flag.text() == Some("write")) {
        let least = usize::try_from(arity.unsigned_abs()).unwrap_or(1);
        writes.push(WriteCommand {
            name: name.to_owned(),
            arguments: least.saturating_sub(words),
        });
    }
    if let Some(Value::Array(subcommands)) = parts.get(9) {
        for subcommand in subcommands {
            collect(subcommand, writes);
        }
    }
}
