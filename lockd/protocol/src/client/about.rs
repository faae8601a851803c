//! What a session says of itself, for operators: a description, and labels to tell by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::{
    LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, TEXT_BYTES_MAX,
};

/// Keys and values, in order of keys.
pub type Labels = BTreeMap<String, String>;

/// What a session says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Free text, at most [`TEXT_BYTES_MAX`] bytes.
    pub description: String,
    /// Labels, at most [`LABELS_MAX`] of them.
    pub labels: Labels,
}

/// What is wrong with what a session says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAbout {
    /// The description is too long or has control characters.
    #[error(
        "the session's description must be at most {TEXT_BYTES_MAX} bytes of UTF-8 without \
         control characters"
    )]
    Description,
    /// Too many labels.
    #[error("the session has {0} labels: at most {LABELS_MAX} are allowed")]
    TooMany(u64),
    /// A key that is not allowed; of a long one the beginning.
    #[error(
        "label {0:?}: a key has 1 to {LABEL_KEY_BYTES_MAX} ASCII letters, digits, `.`, `_`, `-` \
         and `/`"
    )]
    Key(String),
    /// The value of this key is not allowed.
    #[error(
        "label {0:?}: its value must be at most {LABEL_VALUE_BYTES_MAX} bytes of UTF-8 without \
         control characters"
    )]
    Value(String),
    /// The labels are too long together.
    #[error("the session's labels have {0} bytes: at most {LABELS_BYTES_MAX} are allowed in all")]
    TooLong(u64),
}

impl About {
    /// A description without labels.
    #[must_use]
    pub fn described(description: impl Into<String>) -> About {
        About {
            description: description.into(),
            labels: Labels::new(),
        }
    }

    /// Whether a session may say this.
    ///
    /// # Errors
    /// [`InvalidAbout`] names the field.
    pub fn check(&self) -> Result<(), InvalidAbout> {
        let is_text = |text: &str, max| text.len() <= max && !text.chars().any(char::is_control);
        if !is_text(&self.description, TEXT_BYTES_MAX) {
            return Err(InvalidAbout::Description);
        }
        if self.labels.len() > LABELS_MAX {
            return Err(InvalidAbout::TooMany(self.labels.len() as u64));
        }
        for (key, value) in &self.labels {
            if !is_label_key(key) {
                let beginning = key.chars().take(LABEL_KEY_BYTES_MAX).collect();
                return Err(InvalidAbout::Key(beginning));
            }
            if !is_text(value, LABEL_VALUE_BYTES_MAX) {
                return Err(InvalidAbout::Value(key.clone()));
            }
        }
        match labels_bytes(&self.labels) {
            bytes if bytes > LABELS_BYTES_MAX => Err(InvalidAbout::TooLong(bytes as u64)),
            _ => Ok(()),
        }
    }

    /// Bytes of its texts.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.description.len() + labels_bytes(&self.labels)
    }
}

/// Whether `key` may name a label.
#[must_use]
pub fn is_label_key(key: &str) -> bool {
    (1..=LABEL_KEY_BYTES_MAX).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

/// Whether `labels` has every one of `wanted`, with its value.
#[must_use]
pub fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn labels_bytes(labels: &Labels) -> usize {
    let each = labels.iter().map(|(key, value)| key.len() + value.len());
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> Labels {
        let each = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        each.collect()
    }

    fn problem(labels: Labels) -> String {
        let about = About {
            labels,
            ..About::default()
        };
        about.check().expect_err("not allowed").to_string()
    }

    #[test]
    fn labels_are_checked_and_the_refusal_names_the_label() {
        assert!(problem(labels(&[("team", "ok"), ("a b", "x")])).contains("label \"a b\""));
        assert!(problem(labels(&[("", "x")])).contains("label \"\": a key has 1 to 63"));
        assert!(problem(labels(&[(&"k".repeat(64), "x")])).contains("1 to 63"));
        let control = problem(labels(&[("host", "a\nb")]));
        assert!(control.contains("label \"host\": its value"), "{control}");
        assert!(problem(labels(&[("host", &"x".repeat(129))])).contains("128 bytes"));
        let many = (0..17).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(problem(many).contains("17 labels: at most 16"));
        let long = (0..9).map(|n| (format!("k{n}"), "x".repeat(120))).collect();
        assert!(problem(long).contains("1098 bytes: at most 1024"));
        let long = About::described("x".repeat(257)).check();
        assert_eq!(long, Err(InvalidAbout::Description));
    }

    #[test]
    fn a_session_has_the_labels_wanted_if_every_value_is_the_same() {
        let all = labels(&[("team", "billing"), ("host", "a")]);
        assert!(has_labels(&all, &labels(&[])));
        assert!(has_labels(&all, &labels(&[("host", "a")])));
        assert!(!has_labels(&all, &labels(&[("host", "b")])));
        assert!(!has_labels(&all, &labels(&[("zone", "a")])));
    }
}
