//! Guard rules for paths: which lock has to cover a write to which path. Matching only.
//!
//! A rule's path covers itself and everything below it. One of its segments may have `{id}` in it,
//! which stands for the same text in path and lock: with `path = "/orders/{id}"` and
//! `lock = "orders/{id}"`, a write to `/orders/7` or `/orders/7/lines` needs the lock `orders/7`.

use std::fmt;

use lockd_protocol::types::LockName;

use super::path;
use crate::rules::LockPattern;

const ID: &str = "{id}";

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGuard {
    /// As it was written.
    text: String,
    segments: Vec<Segment>,
    lock: Lock,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Is(String),
    /// Something between these two, which is the id.
    Id {
        before: String,
        after: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Lock {
    Any(LockPattern),
    /// The id between these two.
    Of {
        before: String,
        after: String,
    },
}

/// A method and a path that may be written without a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    method: String,
    segments: Vec<String>,
}

/// All rules of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRules {
    guards: Vec<PathGuard>,
    free: Vec<Free>,
}

/// What the rules say of a path that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// Under guard, with what stands for `{id}`.
    Guarded(&'a PathGuard, String),
    /// Not under guard itself, but what is below it: what happens to it may happen to them.
    Above(&'a PathGuard),
    /// No rule names it.
    Free,
}

impl PathGuard {
    /// Reads a rule.
    ///
    /// # Errors
    /// A sentence for the configuration's error.
    pub fn parse(path: &str, lock: &str) -> Result<PathGuard, String> {
        let wrong = |what: &str| Err(format!("{path:?}: {what}"));
        if path.contains('%') {
            return wrong("write it as it is, without percent-encoding");
        }
        let plain = path.replace(ID, "x");
        if plain.contains(['{', '}', '*']) {
            return wrong(
                "a rule covers what is below its path, so it needs no '*'; {id} is the only \
                 placeholder",
            );
        }
        // What could not come in a request could not be matched either.
        let encoded: String = plain
            .chars()
            .map(|c| if c.is_ascii() { c } else { 'x' })
            .map(|c| if c == ' ' { 'x' } else { c })
            .collect();
        if let Err(ambiguous) = path::segments(&encoded) {
            return wrong(&ambiguous.to_string());
        }
        let inner = path.trim_matches('/');
        let names = inner.split('/').filter(|name| !name.is_empty());
        let segments = names.map(segment).collect::<Result<Vec<_>, _>>()?;
        let ids = segments
            .iter()
            .filter(|segment| matches!(segment, Segment::Id { .. }))
            .count();
        if segments.is_empty() {
            return wrong("name at least one segment, as in \"/orders\"");
        }
        let lock = match lock.split_once(ID) {
            None => Lock::Any(LockPattern::parse(lock).map_err(|error| error.to_string())?),
            Some((_, after)) if after.contains(ID) || lock.contains('%') => {
                return Err(format!(
                    "{lock:?}: {{id}} may stand only once, and without '%'"
                ));
            }
            Some((before, after)) => Lock::Of {
                before: before.to_owned(),
                after: after.to_owned(),
            },
        };
        if ids > 1 || (ids == 1) != matches!(lock, Lock::Of { .. }) {
            return wrong("{id} has to stand once in the path and in the lock, or in neither");
        }
        Ok(PathGuard {
            text: path.to_owned(),
            segments,
            lock,
        })
    }

    /// Whether a path may be covered by both.
    #[must_use]
    pub fn meets(&self, other: &PathGuard) -> bool {
        let mut both = self.segments.iter().zip(&other.segments);
        both.all(|(a, b)| a.meets(b))
    }

    /// Whether the lock covers what `{id}` stands for.
    pub(crate) fn is_covered_by(&self, lock: &LockName, id: &str) -> bool {
        match &self.lock {
            Lock::Any(pattern) => pattern.covers(lock),
            Lock::Of { before, after } => {
                let rest = lock.as_str().strip_prefix(before.as_str());
                rest.and_then(|rest| rest.strip_suffix(after.as_str())) == Some(id)
            }
        }
    }

    /// The lock that is wanted, in words for a person.
    pub(crate) fn wanted(&self, id: &str) -> String {
        match &self.lock {
            Lock::Any(pattern) => format!("a lock that matches {:?}", pattern.to_string()),
            Lock::Of { before, after } => format!("the lock {:?}", format!("{before}{id}{after}")),
        }
    }

    /// What stands for `{id}`, empty where the rule has none; none if the rule does not cover it.
    fn id(&self, names: &[String]) -> Option<String> {
        if names.len() < self.segments.len() {
            return None;
        }
        let mut id = String::new();
        for (segment, name) in self.segments.iter().zip(names) {
            if let Some(found) = segment.matches(name)? {
                id = found.to_owned();
            }
        }
        Some(id)
    }

    fn is_below(&self, names: &[String]) -> bool {
        let mut both = self.segments.iter().zip(names);
        names.len() < self.segments.len() && both.all(|(a, name)| a.matches(name).is_some())
    }
}

impl fmt::Display for PathGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by ", self.text)?;
        match &self.lock {
            Lock::Any(pattern) => write!(f, "{pattern}"),
            Lock::Of { before, after } => write!(f, "{before}{ID}{after}"),
        }
    }
}

fn segment(text: &str) -> Result<Segment, String> {
    match text.split_once(ID) {
        None => Ok(Segment::Is(text.to_owned())),
        Some((_, after)) if after.contains(ID) => Err(format!("{text:?}: {{id}} stands twice")),
        Some((before, after)) => Ok(Segment::Id {
            before: before.to_owned(),
            after: after.to_owned(),
        }),
    }
}

impl Segment {
    /// Whether it is this name; if so, what stands for `{id}` in it.
    fn matches<'a>(&self, name: &'a str) -> Option<Option<&'a str>> {
        match self {
            Segment::Is(text) => (text == name).then_some(None),
            Segment::Id { before, after } => {
                let id = name
                    .strip_prefix(before.as_str())?
                    .strip_suffix(after.as_str())?;
                (!id.is_empty()).then_some(Some(id))
            }
        }
    }

    /// Whether one name may be both. Two with an id are said to meet if their beginnings or their
    /// ends allow it.
    fn meets(&self, other: &Segment) -> bool {
        match (self, other) {
            (Segment::Is(a), Segment::Is(b)) => a == b,
            (Segment::Is(name), id @ Segment::Id { .. })
            | (id @ Segment::Id { .. }, Segment::Is(name)) => id.matches(name).is_some(),
            (
                Segment::Id { before, after },
                Segment::Id {
                    before: other_before,
                    after: other_after,
                },
            ) => {
                (before.starts_with(other_before.as_str())
                    || other_before.starts_with(before.as_str()))
                    && (after.ends_with(other_after.as_str())
                        || other_after.ends_with(after.as_str()))
            }
        }
    }
}

impl Free {
    /// Reads `METHOD /path`.
    ///
    /// # Errors
    /// A sentence for the configuration's error.
    pub fn parse(text: &str) -> Result<Free, String> {
        let example = "write a method and a path, as in \"POST /orders\"";
        let (method, path) = text
            .split_once(' ')
            .ok_or_else(|| format!("{text:?}: {example}"))?;
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("{text:?}: {example}"));
        }
        Ok(Free {
            method: method.to_owned(),
            segments: path::segments(path).map_err(|error| format!("{text:?}: {error}"))?,
        })
    }
}

impl PathRules {
    /// Rules that do not get in each other's way.
    ///
    /// # Errors
    /// A sentence for the configuration's error: two rules name one path.
    pub fn new(guards: Vec<PathGuard>, free: Vec<Free>) -> Result<PathRules, String> {
        for (at, one) in guards.iter().enumerate() {
            if let Some(other) = guards.iter().skip(at + 1).find(|other| one.meets(other)) {
                return Err(format!(
                    "{:?} and {:?} may name one path, which would have no single holder",
                    one.text, other.text
                ));
            }
        }
        let rules = PathRules { guards, free };
        for free in &rules.free {
            if let Standing::Guarded(guard, _) = rules.standing("", &free.segments) {
                return Err(format!("{:?} covers a path that is to be free", guard.text));
            }
        }
        Ok(rules)
    }

    /// How many guard rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.guards.len()
    }

    /// What the rules say of a write by this method to this path.
    pub(crate) fn standing(&self, method: &str, names: &[String]) -> Standing<'_> {
        for guard in &self.guards {
            if let Some(id) = guard.id(names) {
                return Standing::Guarded(guard, id);
            }
        }
        let is_free = |free: &Free| free.method == method && free.segments == names;
        if self.free.iter().any(is_free) {
            return Standing::Free;
        }
        match self.guards.iter().find(|guard| guard.is_below(names)) {
            Some(guard) => Standing::Above(guard),
            None => Standing::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(guards: &[(&str, &str)], free: &[&str]) -> Result<PathRules, String> {
        let guards = guards
            .iter()
            .map(|(path, lock)| PathGuard::parse(path, lock))
            .collect::<Result<_, _>>()?;
        let free = free
            .iter()
            .map(|text| Free::parse(text))
            .collect::<Result<_, _>>()?;
        PathRules::new(guards, free)
    }

    /// The id under which a path is guarded.
    fn id(rules: &PathRules, path: &str) -> Option<String> {
        match rules.standing("PUT", &path::segments(path).unwrap()) {
            Standing::Guarded(_, id) => Some(id),
            _ => None,
        }
    }

    #[test]
    fn a_rule_covers_its_path_and_everything_below() {
        let rules = rules(&[("/files/orders", "orders/%")], &[]).unwrap();
        for path in ["/files/orders", "/files/orders/", "/files/orders/1/2"] {
            assert_eq!(id(&rules, path).as_deref(), Some(""), "{path}");
        }
        assert_eq!(id(&rules, "/files/orders2"), None);
        let Standing::Guarded(guard, id) =
            rules.standing("PUT", &["files".into(), "orders".into()])
        else {
            panic!()
        };
        assert!(guard.is_covered_by(&LockName::new("orders/9").unwrap(), &id));
        assert!(!guard.is_covered_by(&LockName::new("stock/9").unwrap(), &id));
    }

    #[test]
    fn an_id_is_the_same_in_path_and_lock() {
        let rules = rules(&[("/o/order-{id}.json", "orders/{id}")], &[]).unwrap();
        assert_eq!(id(&rules, "/o/order-7.json").as_deref(), Some("7"));
        assert_eq!(id(&rules, "/o/order-a%20b.json/x").as_deref(), Some("a b"));
        assert_eq!(id(&rules, "/o/order-.json"), None);
        let guard = PathGuard::parse("/orders/{id}", "orders/{id}/state").unwrap();
        assert!(guard.is_covered_by(&LockName::new("orders/7/state").unwrap(), "7"));
        assert!(!guard.is_covered_by(&LockName::new("orders/7").unwrap(), "7"));
        assert_eq!(guard.wanted("7"), "the lock \"orders/7/state\"");
        assert_eq!(guard.to_string(), "/orders/{id} by orders/{id}/state");
    }

    #[test]
    fn what_is_above_a_rule_is_not_free_unless_the_configuration_says_so() {
        let rules = rules(
            &[("/files/orders/{id}", "orders/{id}")],
            &["POST /files/orders"],
        )
        .unwrap();
        let standing = |method: &str, path: &str| {
            let names = path::segments(path).unwrap();
            matches!(rules.standing(method, &names), Standing::Free)
        };
        for path in ["/", "/files", "/files/orders"] {
            assert!(!standing("DELETE", path), "{path}");
        }
        assert!(standing("POST", "/files/orders") && standing("DELETE", "/files/stock"));
        assert!(!standing("POST", "/files/orders/1"));
    }

    #[test]
    fn rules_that_are_none_or_could_meet_are_refused() {
        for (path, lock) in [
            ("orders", "a"),
            ("/", "a"),
            ("/a//b", "a"),
            ("/a/../b", "a"),
            ("/a/*", "a"),
            ("/a/{name}", "a"),
            ("/a%20b", "a"),
            ("/a/{id}", "a/%"),
            ("/a/{id}", "a/{id}/%"),
            ("/a/{id}/{id}", "a/{id}"),
            ("/a", "a/{id}"),
            ("/a", "a%b"),
        ] {
            assert!(PathGuard::parse(path, lock).is_err(), "{path} {lock}");
        }
        for (a, b) in [
            ("/a", "/a/b"),
            ("/a", "/a"),
            ("/a/{id}", "/a/b/c"),
            ("/{id}/b", "/a/{id}"),
            ("/a/x{id}", "/a/{id}y"),
        ] {
            let lock = |path: &str| if path.contains(ID) { "l/{id}" } else { "l" };
            assert!(
                rules(&[(a, lock(a)), (b, lock(b))], &[]).is_err(),
                "{a} {b}"
            );
        }
        assert!(rules(&[("/a/x{id}", "l/{id}"), ("/a/y{id}", "m/{id}")], &[]).is_ok());
        for free in ["/a", "post /a", "POST a", "POST /a/b"] {
            assert!(rules(&[("/a/b", "l")], &[free]).is_err(), "{free}");
        }
    }
}
