//! `[store]`: the embedded store, and the guard rules for its keys.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{RawGuard, Wrong, wrong};
use crate::rules::KeyRules;

/// The embedded store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of its data.
    pub data: PathBuf,
    /// Which locks cover which keys.
    pub rules: KeyRules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    data: PathBuf,
}

impl Raw {
    pub(super) fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<StoreConfig, Wrong> {
        Ok(StoreConfig {
            data: dir.join(self.data),
            rules: key_rules(guards)?,
        })
    }
}

fn key_rules(guards: &[RawGuard]) -> Result<KeyRules, Wrong> {
    if guards.is_empty() {
        return Ok(KeyRules::Path);
    }
    let rules = guards
        .iter()
        .map(|guard| match (&guard.key, &guard.table) {
            (Some(key), None) => Ok((key.clone(), guard.lock_pattern()?)),
            _ => wrong(
                "guard",
                "with [store], each rule has `key` (a prefix) and `lock`",
            ),
        })
        .collect::<Result<_, Wrong>>()?;
    Ok(KeyRules::Prefixes(rules))
}

#[cfg(test)]
mod tests {
    use super::super::Upstream;
    use super::super::tests::parse;
    use super::*;

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
