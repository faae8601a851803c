//! `gateway install`: the fence's users for one configuration, and making them.

use super::acl;
use super::link::{Batch, Link, LinkError, refused};
use super::upstream::Target;
use crate::config::{RedisConfig, RedisUser};
use crate::tls::TlsError;

/// An installation that was not done, or not to its end; it may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The certificates of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached, or refused.
    #[error(transparent)]
    Server(#[from] LinkError),
    /// The administrator's login cannot be used.
    #[error("--admin: write redis://user:password@host (user and password may be left out)")]
    Admin,
}

/// What the gateway's own user may run: on the fence's key, on users and on other connections.
const GATEWAY_RIGHTS: &[&str] = &[
    "reset",
    "on",
    "-@all",
    "+multi",
    "+exec",
    "+discard",
    "+watch",
    "+unwatch",
    "+hmget",
    "+hset",
    "+hscan",
    "+acl|setuser",
    "+acl|deluser",
    "+acl|users",
    "+acl|getuser",
    "+acl|dryrun",
    "+acl|whoami",
    "+client|list",
    "+client|unblock",
    "+client|setname",
    "+client|id",
    "+info",
    "+ping",
    "+config|get",
    "+command",
    "+module|list",
];

/// The commands, each as its arguments. They may be run again.
#[must_use]
pub fn commands(config: &RedisConfig) -> Vec<Vec<String>> {
    let set_user = |name: &str| ["ACL", "SETUSER", name].map(str::to_owned).to_vec();
    let mut gateway = set_user(&config.user);
    gateway.extend(GATEWAY_RIGHTS.iter().map(|&word| word.to_owned()));
    gateway.push(format!("~{}", acl::FENCE_KEY));
    gateway.push(format!(">{}", config.password));
    let mut commands = vec![gateway];
    for user in &config.users {
        let mut command = set_user(&user.name);
        command.push("on".to_owned());
        if let Some(password) = &user.password {
            command.extend(["resetpass".to_owned(), format!(">{password}")]);
        }
        command.extend(acl::reader(config, user));
        commands.push(command);
    }
    if !serves_everybody(&config.users) {
        commands.push(
            ["ACL", "SETUSER", "default", "off"]
                .map(str::to_owned)
                .to_vec(),
        );
    }
    commands
}

/// The commands as lines for `redis-cli`.
#[must_use]
pub fn text(config: &RedisConfig) -> String {
    let mut text = String::new();
    for command in commands(config) {
        let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
        text += &words.join(" ");
        text.push('\n');
    }
    text
}

/// Runs them as the administrator of `admin`, or as the gateway's own user if that may.
///
/// # Errors
/// [`InstallError`].
pub async fn install(config: &RedisConfig, admin: Option<&str>) -> Result<(), InstallError> {
    let (user, password) = match admin {
        Some(url) => login(url).ok_or(InstallError::Admin)?,
        None => (config.user.clone(), Some(config.password.clone())),
    };
    let target = Target::new(config)?;
    let mut link = Link::connect(&target, &user, password.as_deref()).await?;
    let mut batch = Batch::default();
    for command in commands(config) {
        batch.add(&command);
    }
    for reply in link.send(&batch).await? {
        refused(&reply)?;
    }
    Ok(())
}

/// Whether clients that do not log in are an application of the configuration.
pub(super) fn serves_everybody(users: &[RedisUser]) -> bool {
    users.iter().any(|user| user.name == "default")
}

/// User and password of a URL. What stands behind them is not looked at.
fn login(url: &str) -> Option<(String, Option<String>)> {
    let rest = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"))?;
    let Some((login, _)) = rest.rsplit_once('@') else {
        return Some(("default".to_owned(), None));
    };
    let (user, password) = login.split_once(':')?;
    let user = if user.is_empty() { "default" } else { user };
    Some((user.to_owned(), Some(password.to_owned())))
}

/// A word as `redis-cli` takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+@|_.:%~&*/=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text += "\\n",
            '\r' => text += "\\r",
            c => text.push(c),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_is_a_user_and_a_password_or_nobody_in_particular() {
        let some = |user: &str, password: &str| Some((user.into(), Some(password.into())));
        assert_eq!(
            login("redis://root:a@b@127.0.0.1:6379"),
            some("root", "a@b")
        );
        assert_eq!(login("rediss://:secret@h"), some("default", "secret"));
        assert_eq!(login("redis://127.0.0.1"), Some(("default".into(), None)));
        assert_eq!(login("http://x"), None);
        assert_eq!(login("redis://root@h"), None);
    }

    #[test]
    fn words_are_quoted_as_redis_cli_wants_them() {
        assert_eq!(quoted("+client|id"), "+client|id");
        assert_eq!(quoted("(+@all ~a)"), "\"(+@all ~a)\"");
        assert_eq!(quoted(">a\"b\\c\n"), "\">a\\\"b\\\\c\\n\"");
        assert_eq!(quoted(""), "\"\"");
    }
}
