//! Guard rules for keys: which lock covers which keys, and how that is said in a server's access
//! list. Pure.
//!
//! A key pattern is literal text, with at most one `{id}` in it and at most one `*` at its end.
//! Nothing else is special, so that whether two rules can meet is decided by their beginnings
//! alone. `{id}` stands for the same text in the rule's keys and in its lock: with
//! `keys = "order:{id}"` and `lock = "orders/{id}"` the lock `orders/7` covers `order:7` only.

use std::fmt;

use lockd_protocol::types::LockName;

use crate::rules::LockPattern;

/// Where the lock's own part stands in a rule.
const ID: &str = "{id}";

/// Keys by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    prefix: String,
    /// What follows the id, if the pattern has one.
    after_id: Option<String>,
    /// Whether anything may follow.
    open: bool,
}

/// Which locks a rule takes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Locks {
    /// Each of them covers all keys of the rule.
    Any(LockPattern),
    /// Each covers its own keys: what is between these two is the id.
    Each { prefix: String, suffix: String },
}

/// One guard rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGuard {
    keys: Vec<KeyPattern>,
    locks: Locks,
}

impl KeyPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence for the configuration's error.
    pub fn parse(text: &str) -> Result<KeyPattern, String> {
        let wrong = |what: &str| Err(format!("{text:?}: {what}"));
        let (body, open) = match text.strip_suffix('*') {
            Some(body) => (body, true),
            None => (text, false),
        };
        if body.contains('*') {
            return wrong("'*' may only stand at the end, as in \"orders:*\"");
        }
        let (prefix, after_id) = match body.split_once(ID) {
            Some((prefix, rest)) => (prefix, Some(rest)),
            None => (body, None),
        };
        if after_id.is_some_and(|rest| rest.contains(ID)) {
            return wrong("{id} may stand only once");
        }
        if after_id == Some("") && open {
            return wrong("something has to stand between {id} and '*', as in \"order:{id}:*\"");
        }
        if text.is_empty() || !body.chars().all(is_usable) {
            return wrong("spaces, control characters, quotes and backslashes cannot be used");
        }
        Ok(KeyPattern {
            prefix: prefix.to_owned(),
            after_id: after_id.map(str::to_owned),
            open,
        })
    }

    /// Whether some key may be named by both.
    #[must_use]
    pub fn meets(&self, other: &KeyPattern) -> bool {
        match (self.is_one_key(), other.is_one_key()) {
            (true, true) => self.prefix == other.prefix,
            (true, false) => self.prefix.starts_with(&other.prefix),
            (false, true) => other.prefix.starts_with(&self.prefix),
            (false, false) => {
                self.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&self.prefix)
            }
        }
    }

    /// Whether the pattern names keys by an id.
    #[must_use]
    pub fn has_id(&self) -> bool {
        self.after_id.is_some()
    }

    /// The pattern as the server's access list has it.
    #[must_use]
    pub(super) fn glob(&self, id: &str) -> String {
        let mut glob = escaped(&self.prefix);
        if let Some(after) = &self.after_id {
            glob += &escaped(id);
            glob += &escaped(after);
        }
        if self.open {
            glob.push('*');
        }
        glob
    }

    /// A key that the pattern names.
    #[must_use]
    pub(super) fn example(&self) -> String {
        let mut key = self.prefix.clone();
        if let Some(after) = &self.after_id {
            key += "1";
            key += after;
        }
        if self.open {
            key += "1";
        }
        key
    }

    fn is_one_key(&self) -> bool {
        self.after_id.is_none() && !self.open
    }

    /// What an id may not have in it: it would not be known where it ends.
    fn ends_id(&self) -> Option<char> {
        self.after_id
            .as_ref()
            .and_then(|after| after.chars().next())
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)?;
        if let Some(after) = &self.after_id {
            write!(f, "{ID}{after}")?;
        }
        f.write_str(if self.open { "*" } else { "" })
    }
}

impl KeyGuard {
    /// Reads a rule.
    ///
    /// # Errors
    /// A sentence for the configuration's error.
    pub fn parse(keys: &[String], lock: &str) -> Result<KeyGuard, String> {
        let keys = keys
            .iter()
            .map(|text| KeyPattern::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        let each = lock.split_once(ID);
        if keys.is_empty() || keys.iter().any(|key| key.has_id() != each.is_some()) {
            return Err("{id} has to stand in the lock and in each of the keys, or in none".into());
        }
        let Some((prefix, suffix)) = each else {
            let locks = LockPattern::parse(lock).map_err(|error| error.to_string())?;
            return Ok(KeyGuard {
                keys,
                locks: Locks::Any(locks),
            });
        };
        if suffix.contains(ID) || lock.contains('%') {
            return Err(format!(
                "{lock:?}: {{id}} may stand only once, and without '%'"
            ));
        }
        // Two beginnings, one of which continues the other, could give one key two ids.
        for (at, one) in keys.iter().enumerate() {
            for other in keys.iter().skip(at + 1) {
                if one.prefix != other.prefix && one.meets(other) {
                    return Err(format!("{one} and {other} may name one key by two ids"));
                }
            }
        }
        Ok(KeyGuard {
            keys,
            locks: Locks::Each {
                prefix: prefix.to_owned(),
                suffix: suffix.to_owned(),
            },
        })
    }

    /// The keys of the rule.
    #[must_use]
    pub fn keys(&self) -> &[KeyPattern] {
        &self.keys
    }

    /// The keys that a lock covers by this rule, as the server's access list has them. None if it
    /// covers none.
    #[must_use]
    pub(super) fn covered(&self, lock: &LockName) -> Vec<String> {
        let id = match &self.locks {
            Locks::Any(pattern) if pattern.covers(lock) => "",
            Locks::Any(_) => return Vec::new(),
            Locks::Each { prefix, suffix } => match self.id(lock, prefix, suffix) {
                Some(id) => id,
                None => return Vec::new(),
            },
        };
        self.keys.iter().map(|key| key.glob(id)).collect()
    }

    fn id<'a>(&self, lock: &'a LockName, prefix: &str, suffix: &str) -> Option<&'a str> {
        let id = lock.as_str().strip_prefix(prefix)?.strip_suffix(suffix)?;
        let ends = |c: char| self.keys.iter().any(|key| key.ends_id() == Some(c));
        let is_one = !id.is_empty() && id.chars().all(|c| is_usable(c) && !ends(c));
        is_one.then_some(id)
    }
}

impl fmt::Display for KeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, key) in self.keys.iter().enumerate() {
            write!(f, "{}{key}", if at == 0 { "" } else { ", " })?;
        }
        match &self.locks {
            Locks::Any(lock) => write!(f, " by {lock}"),
            Locks::Each { prefix, suffix } => write!(f, " by {prefix}{ID}{suffix}"),
        }
    }
}

/// What can be said in an access list: the server splits it at spaces, and minds quotes.
fn is_usable(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\')
}

/// The server's patterns have more that is special than ours.
fn escaped(literal: &str) -> String {
    let mut text = String::with_capacity(literal.len());
    for c in literal.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(keys: &[&str], lock: &str) -> Result<KeyGuard, String> {
        let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
        KeyGuard::parse(&keys, lock)
    }

    fn covered(guard: &KeyGuard, lock: &str) -> Vec<String> {
        guard.covered(&LockName::new(lock).unwrap())
    }

    #[test]
    fn a_lock_covers_all_keys_of_its_rule_or_none() {
        let orders = guard(&["orders:*", "order-index"], "orders/%").unwrap();
        assert_eq!(covered(&orders, "orders/7"), ["orders:*", "order-index"]);
        assert!(covered(&orders, "stock/7").is_empty());
        let exact = guard(&["a:*"], "a").unwrap();
        assert!(covered(&exact, "a/b").is_empty() && !covered(&exact, "a").is_empty());
    }

    #[test]
    fn with_an_id_a_lock_covers_its_own_keys_only() {
        let each = guard(&["order:{id}", "order:{id}:*"], "orders/{id}").unwrap();
        assert_eq!(covered(&each, "orders/7"), ["order:7", "order:7:*"]);
        for other in ["orders/", "orders/7:8", "orders/a b", "orders", "order/7"] {
            assert!(covered(&each, other).is_empty(), "{other}");
        }
    }

    #[test]
    fn what_is_special_to_the_server_is_taken_literally() {
        let each = guard(&["o[{id}]"], "o/{id}").unwrap();
        assert_eq!(covered(&each, "o/a*?^["), ["o\\[a\\*\\?\\^\\[\\]"]);
        // Where the id ends must be known.
        assert!(covered(&each, "o/a]b").is_empty());
    }

    #[test]
    fn rules_that_could_give_a_key_two_locks_meet() {
        let meet = |a: &str, b: &str| {
            let (a, b) = (KeyPattern::parse(a).unwrap(), KeyPattern::parse(b).unwrap());
            assert_eq!(a.meets(&b), b.meets(&a));
            a.meets(&b)
        };
        assert!(meet("orders:*", "orders:eu:*") && meet("*", "a") && meet("a", "a"));
        assert!(meet("orders:*", "orders:7") && meet("o:{id}", "o:x:*"));
        assert!(!meet("orders", "orders:*") && !meet("a", "b") && !meet("a:*", "b:*"));
    }

    #[test]
    fn rules_that_are_none_are_refused() {
        for (keys, lock) in [
            (&["a*b"][..], "x"),
            (&[""], "x"),
            (&[], "x"),
            (&["a b"], "x"),
            (&["a\"b"], "x"),
            (&["a:{id}"], "x/%"),
            (&["a:*"], "x/{id}"),
            (&["a:{id}*"], "x/{id}"),
            (&["a:{id}:{id}"], "x/{id}"),
            (&["a:{id}", "a:b{id}"], "x/{id}"),
            (&["a:{id}"], "x/{id}/%"),
            (&["a"], "a%b"),
        ] {
            assert!(guard(keys, lock).is_err(), "{keys:?} {lock}");
        }
    }
}
