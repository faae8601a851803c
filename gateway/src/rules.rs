//! Guard rules: which lock must cover a write to which resource. Parsing and matching only; what
//! happens to a write without cover is the fence's business.
//!
//! A lock pattern is a lock name, or the beginning of lock names followed by one `%` at the end:
//! `orders/%` covers `orders/1` and `orders/eu/7`, but not `orders`. `%` alone covers every lock.
//! No other character is special; a `%` anywhere but at the end is refused.

use std::fmt;

use lockd_protocol::limits::LOCK_NAME_BYTES_MAX;
use lockd_protocol::types::{InvalidName, LockName};

/// Which locks cover a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockPattern {
    /// Exactly this lock.
    Exact(LockName),
    /// Every lock whose name begins with this.
    Prefix(String),
}

/// A lock pattern that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A `%` that is not the last character.
    #[error("{0:?}: '%' may only stand at the end, as in \"orders/%\"")]
    Percent(String),
    /// The part before `%`, or the whole, is not the beginning of a lock name.
    #[error("{pattern:?}: {reason}")]
    Name {
        /// The pattern.
        pattern: String,
        /// What is wrong with its name.
        reason: InvalidName,
    },
}

impl LockPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<LockPattern, InvalidPattern> {
        let name_error = |reason| InvalidPattern::Name {
            pattern: shortened(text),
            reason,
        };
        let prefix = match text.strip_suffix('%') {
            Some(prefix) if !prefix.contains('%') => prefix,
            None if !text.contains('%') => {
                return LockName::new(text)
                    .map(LockPattern::Exact)
                    .map_err(name_error);
            }
            _ => return Err(InvalidPattern::Percent(shortened(text))),
        };
        if !prefix.is_empty() {
            LockName::new(prefix).map_err(name_error)?;
        }
        Ok(LockPattern::Prefix(prefix.to_owned()))
    }

    /// Whether a lock of this name covers the resource.
    #[must_use]
    pub fn covers(&self, lock: &LockName) -> bool {
        match self {
            LockPattern::Exact(name) => name == lock,
            LockPattern::Prefix(prefix) => lock.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for LockPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockPattern::Exact(name) => fmt::Display::fmt(name, f),
            LockPattern::Prefix(prefix) => write!(f, "{prefix}%"),
        }
    }
}

/// A table under guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// Schema of the table, as the catalog spells it.
    pub schema: String,
    /// Name of the table, as the catalog spells it.
    pub table: String,
    /// Which locks cover writes to it.
    pub lock: LockPattern,
}

impl TableRule {
    /// Reads `schema.table`; without a schema, `public`. Case matters; no quotes.
    ///
    /// # Errors
    /// A sentence for the configuration's error.
    pub fn parse(table: &str, lock: LockPattern) -> Result<TableRule, String> {
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        let usable = |part: &str| {
            (1..=63).contains(&part.len()) && !part.contains(['.', '"', '\0', '\'', '\\'])
        };
        if !usable(schema) || !usable(name) {
            return Err(format!(
                "table {:?}: write it as schema.table, as the catalog spells it and without quotes",
                shortened(table)
            ));
        }
        Ok(TableRule {
            schema: schema.to_owned(),
            table: name.to_owned(),
            lock,
        })
    }
}

impl fmt::Display for TableRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Which locks cover which keys of the embedded store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRules {
    /// A key is covered by the lock of its own name, and by every lock whose name is the
    /// beginning of it up to a `/`: `orders/42/state` by `orders/42/state`, `orders/42`, `orders`.
    Path,
    /// The first rule whose prefix begins the key decides; a key that no rule names cannot be
    /// written.
    Prefixes(Vec<(String, LockPattern)>),
}

impl KeyRules {
    /// Whether a lock covers writes to a key.
    #[must_use]
    pub fn covers(&self, key: &str, lock: &LockName) -> bool {
        match self {
            KeyRules::Path => {
                let rest = key.strip_prefix(lock.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            KeyRules::Prefixes(_) => self.pattern(key).is_some_and(|rule| rule.covers(lock)),
        }
    }

    /// What a ticket has to be for, in words for a person.
    #[must_use]
    pub fn wanted(&self, key: &str) -> String {
        match (self, self.pattern(key)) {
            (_, Some(pattern)) => format!("a lock that matches {:?}", pattern.to_string()),
            (KeyRules::Path, None) => format!("the lock {key:?} or one above it"),
            (KeyRules::Prefixes(_), None) => "no lock: no guard rule names this key".to_owned(),
        }
    }

    fn pattern(&self, key: &str) -> Option<&LockPattern> {
        match self {
            KeyRules::Path => None,
            KeyRules::Prefixes(rules) => rules
                .iter()
                .find(|(prefix, _)| key.starts_with(prefix))
                .map(|(_, lock)| lock),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LOCK_NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str) -> LockName {
        LockName::new(name).unwrap()
    }

    #[test]
    fn a_pattern_is_a_name_or_a_beginning_and_nothing_else_is_special() {
        let orders = LockPattern::parse("orders/%").unwrap();
        assert!(orders.covers(&lock("orders/1")) && orders.covers(&lock("orders/eu/7")));
        assert!(!orders.covers(&lock("orders")) && !orders.covers(&lock("order_/1")));
        let exact = LockPattern::parse("a_b").unwrap();
        assert!(exact.covers(&lock("a_b")) && !exact.covers(&lock("axb")));
        assert!(LockPattern::parse("%").unwrap().covers(&lock("anything")));
        assert_eq!(orders.to_string(), "orders/%");
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        for text in ["", "a%b", "%%", "a%%", "a\nb", "%a"] {
            assert!(LockPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_table_without_a_schema_is_in_public() {
        let any = || LockPattern::parse("%").unwrap();
        assert_eq!(
            TableRule::parse("orders", any()).unwrap().to_string(),
            "public.orders"
        );
        assert_eq!(TableRule::parse("s.T", any()).unwrap().to_string(), "s.T");
        for text in ["", ".", "a.b.c", "a.", "\"a\"", "a'b"] {
            assert!(TableRule::parse(text, any()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn by_path_a_key_is_covered_by_its_own_name_and_by_the_names_above_it() {
        let rules = KeyRules::Path;
        assert!(rules.covers("orders/42", &lock("orders/42")));
        assert!(rules.covers("orders/42", &lock("orders")));
        assert!(!rules.covers("orders/42", &lock("orders/4")));
        assert!(!rules.covers("orders", &lock("orders/42")));
    }

    #[test]
    fn by_prefix_the_first_rule_decides_and_the_rest_is_closed() {
        let rules = KeyRules::Prefixes(vec![
            ("orders/eu/".into(), LockPattern::parse("eu").unwrap()),
            ("orders/".into(), LockPattern::parse("orders/%").unwrap()),
        ]);
        assert!(rules.covers("orders/eu/1", &lock("eu")));
        assert!(!rules.covers("orders/eu/1", &lock("orders/1")));
        assert!(rules.covers("orders/1", &lock("orders/1")));
        assert!(!rules.covers("stock/1", &lock("stock/1")));
    }
}
