//! What somebody who watches locks is told: who holds them, and then each change, numbered.
//!
//! **Numbers.** Every change of who holds what gets the next number of one counter of the whole
//! cell, in the replicated state; so any node gives the same event the same number, and whoever
//! has seen one can go on behind it at any node.
//!
//! **A watch.** [`ClientFrame::Watch`](super::ClientFrame::Watch) starts one, from the present
//! state or after an event that the client has seen. A node tells it in [`News`], in this order:
//! [`News::Listing`], pages of [`News::Holders`], [`News::Listed`], and from there on
//! [`News::Event`]. After a resumption there is no listing. When a node cannot tell what lies
//! between (it does not remember it any more), it says [`News::Missed`] and lists again; what
//! follows is complete again. While it lists, events come that concern what has been listed.

use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::outcome::Refusal;
use crate::limits::METADATA_BYTES_MAX;
use crate::types::{EventNumber, LockName, Mode, SessionId, Token};

/// Bytes that a holder puts on what it holds: at most
/// [`METADATA_BYTES_MAX`](crate::limits::METADATA_BYTES_MAX). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Value(Arc<[u8]>);

/// Metadata that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "metadata has {0} bytes, at most {METADATA_BYTES_MAX} are allowed: keep the rest elsewhere"
)]
pub struct MetadataTooLong(pub usize);

impl Value {
    /// Checks and takes bytes.
    ///
    /// # Errors
    /// [`MetadataTooLong`].
    pub fn new(bytes: &[u8]) -> Result<Value, MetadataTooLong> {
        match bytes.len() <= METADATA_BYTES_MAX {
            true => Ok(Value(bytes.into())),
            false => Err(MetadataTooLong(bytes.len())),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, each that is not printable ASCII written as `\xNN` and a backslash as
    /// `\\`; printable UTF-8 stays as it is.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    c if c.is_control() => {
                        let mut buffer = [0; 4];
                        escape(&mut text, c.encode_utf8(&mut buffer).as_bytes());
                    }
                    c => text.push(c),
                }
            }
            escape(&mut text, chunk.invalid());
        }
        text
    }
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.to_text())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Value::new(bytes).map_err(D::Error::custom)
    }
}

/// What its holder has put on a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Number of the event that put it there.
    pub version: EventNumber,
    /// What it is.
    pub value: Value,
}

/// What somebody watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// One lock.
    Lock(LockName),
    /// Every lock whose name begins with this; at most as long as a name.
    Prefix(String),
}

impl Scope {
    /// Whether a lock is in it.
    #[must_use]
    pub fn covers(&self, lock: &LockName) -> bool {
        match self {
            Scope::Lock(name) => name == lock,
            Scope::Prefix(prefix) => lock.as_str().starts_with(prefix.as_str()),
        }
    }
}

/// A grant, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The lock.
    pub lock: LockName,
    /// Token of the grant.
    pub token: Token,
    /// Who holds it.
    pub session: SessionId,
    /// How.
    pub mode: Mode,
    /// Which permit of a semaphore, counted from 0; 0 in other modes.
    pub slot: u32,
    /// What its holder has put on it.
    pub metadata: Option<Metadata>,
}

/// What happened to a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Change {
    /// It began.
    Granted,
    /// Its holder gave it back, or closed its session.
    Released,
    /// The session of its holder expired.
    Expired,
    /// An operator took it.
    Broken,
    /// It is held as shared from here on.
    Downgraded,
    /// Its holder has put other metadata on it.
    MetadataSet,
}

impl Change {
    /// Whether the grant is over with it.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Change::Released | Change::Expired | Change::Broken)
    }

    /// One word for it, for people and for JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Change::Granted => "granted",
            Change::Released => "released",
            Change::Expired => "expired",
            Change::Broken => "broken",
            Change::Downgraded => "downgraded",
            Change::MetadataSet => "metadata",
        }
    }
}

/// A change of who holds what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which change of the cell this is.
    pub number: EventNumber,
    /// What happened.
    pub change: Change,
    /// The grant that it happened to, as it is afterwards; as it was last if it is over.
    pub holder: Holder,
}

/// What a node tells a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum News {
    /// Who holds what follows: nothing that was told before counts.
    Listing,
    /// Some of the holders, in order of lock and token.
    Holders(Vec<Holder>),
    /// These were all, as of this event.
    Listed {
        /// The last event that it takes into account; 0 if there was none yet.
        at: EventNumber,
    },
    /// The next event that concerns the watch.
    Event(Event),
    /// Nothing else has happened up to this event.
    Nothing {
        /// The last event looked at.
        until: EventNumber,
    },
    /// What came after this event cannot be told any more. A listing follows.
    Missed {
        /// The last event that was told.
        after: EventNumber,
    },
    /// There is no such watch, and why.
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_is_too_long_is_not_made_and_does_not_survive_decoding() {
        let most = vec![7; METADATA_BYTES_MAX];
        let value = Value::new(&most).unwrap();
        let bytes = postcard::to_stdvec(&value).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(value));
        let more = [&most[..], &[7]].concat();
        assert_eq!(Value::new(&more), Err(MetadataTooLong(more.len())));
        let bytes = postcard::to_stdvec(&more).unwrap();
        assert!(postcard::from_bytes::<Value>(&bytes).is_err());
    }

    #[test]
    fn metadata_is_shown_as_one_line_from_which_the_bytes_can_be_had() {
        let text = |bytes: &[u8]| Value::new(bytes).unwrap().to_text();
        assert_eq!(text("10.0.0.1:80, été".as_bytes()), "10.0.0.1:80, été");
        assert_eq!(text(b"a\n\\\xff\0"), r"a\x0a\\\xff\x00");
        assert_eq!(text("\u{85}".as_bytes()), r"\xc2\x85");
    }

    #[test]
    fn a_scope_is_one_lock_or_all_that_begin_alike() {
        let name = |name| LockName::new(name).unwrap();
        let prefix = Scope::Prefix("a/".to_owned());
        assert!(prefix.covers(&name("a/b")) && !prefix.covers(&name("a")));
        let lock = Scope::Lock(name("a"));
        assert!(lock.covers(&name("a")) && !lock.covers(&name("a/b")));
        assert!(Scope::Prefix(String::new()).covers(&name("x")));
    }
}
