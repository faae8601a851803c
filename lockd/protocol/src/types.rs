//! The newtypes of the vocabulary. No two numbers of different meaning share a type.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{
    CLOCK_RATE_BOUND_PER_MILLE, LOCK_NAME_BYTES_MAX, TOKEN_COUNTER_BITS, TOKEN_END,
};
use crate::planted::{self, Planted};

/// Identity of a cell, drawn at random when the cell is initialised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CellId(pub [u8; 16]);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A cell id that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cell id is 32 hexadecimal digits, as printed by `lockd init`; got {0:?}")]
pub struct InvalidCellId(String);

impl FromStr for CellId {
    type Err = InvalidCellId;

    fn from_str(text: &str) -> Result<CellId, InvalidCellId> {
        let invalid = || InvalidCellId(text.chars().take(64).collect());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        Ok(CellId(number.to_be_bytes()))
    }
}

/// Identity of a node within its cell: 1, 2, 3 ...
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a session in its cell. Never used twice.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a request within its session: 1, 2, 3 ... A retry carries the number of the first try.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }
}

/// Number of a change of who holds what: 1, 2, 3 ... over all locks of the cell.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct EventNumber(pub u64);

impl EventNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> EventNumber {
        EventNumber(self.0.saturating_add(1))
    }
}

impl fmt::Display for EventNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that a client draws at random to open a session exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Nonce(pub u128);

/// A span of time in milliseconds.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// What a client may count on when a server counts this TTL.
    ///
    /// Both clocks may be off by [`CLOCK_RATE_BOUND_PER_MILLE`], the client's slow and the
    /// server's fast, so the lease is `TTL (1 - e) / (1 + e)`, less one tick of each clock.
    #[must_use]
    pub fn client_lease(self) -> Millis {
        let e = CLOCK_RATE_BOUND_PER_MILLE;
        if planted::has(Planted::MarginOfOneClock) {
            return Millis(self.0.saturating_mul(1000 - e) / 1000);
        }
        Millis((self.0.saturating_mul(1000 - e) / (1000 + e)).saturating_sub(2))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(millis: Millis) -> Self {
        std::time::Duration::from_millis(millis.0)
    }
}

/// A fencing token: unique in the cell and strictly increasing in grant order over all locks.
///
/// Below 2^63, so that it fits a database's signed integer. Zero is no token.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct Token(pub u64);

impl Token {
    /// The next token of the same restore epoch, or `None` when the epoch's counter is used up.
    #[must_use]
    pub fn next(self) -> Option<Token> {
        let next = self.0.checked_add(1)?;
        let same_epoch = next >> TOKEN_COUNTER_BITS == self.0 >> TOKEN_COUNTER_BITS;
        (same_epoch && next < TOKEN_END).then_some(Token(next))
    }

    /// Whether this could be the token of a grant.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.0 > 0 && self.0 < TOKEN_END
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mode {
    /// One holder, and nobody beside it.
    Exclusive,
    /// Any number of holders, all of them shared.
    Shared,
    /// One of the permits of a semaphore. Each has its number, and its own fence.
    Permit {
        /// How many permits there are: the same for all who hold or want one.
        of: u32,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Exclusive => f.write_str("exclusive"),
            Mode::Shared => f.write_str("shared"),
            Mode::Permit { of } => write!(f, "permit of {of}"),
        }
    }
}

/// A lock name that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No bytes at all.
    #[error("the lock name is empty: give it 1 to {LOCK_NAME_BYTES_MAX} bytes of UTF-8")]
    Empty,
    /// More than [`LOCK_NAME_BYTES_MAX`] bytes.
    #[error("the lock name has {0} bytes: at most {LOCK_NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A control character, which no log, header or database could show.
    #[error("the lock name has a control character at byte {0}: use printable UTF-8")]
    Control(usize),
    /// Bytes that are not UTF-8.
    #[error("the lock name is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
}

/// The name of a lock: 1 to 256 bytes of UTF-8 without control characters, `/` by convention
/// between its parts. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockName(Arc<str>);

impl LockName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidName`] says what is wrong with it.
    pub fn new(name: &str) -> Result<LockName, InvalidName> {
        check_name(name)?;
        Ok(LockName(name.into()))
    }

    /// Checks and takes a name from bytes of unknown encoding.
    ///
    /// # Errors
    /// [`InvalidName`] says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<LockName, InvalidName> {
        if bytes.len() > LOCK_NAME_BYTES_MAX {
            return Err(InvalidName::TooLong(bytes.len()));
        }
        let name = std::str::from_utf8(bytes).map_err(|e| InvalidName::NotUtf8(e.valid_up_to()))?;
        LockName::new(name)
    }

    /// The name of the fence of a semaphore's permit: `name#slot`.
    ///
    /// Should a lock of that name exist as well, the two only fence each other off.
    ///
    /// # Errors
    /// [`InvalidName::TooLong`] if this name leaves no room for the number.
    pub fn of_permit(&self, slot: u32) -> Result<LockName, InvalidName> {
        LockName::new(&format!("{self}#{slot}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > LOCK_NAME_BYTES_MAX {
        return Err(InvalidName::TooLong(name.len()));
    }
    match name.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(InvalidName::Control(at)),
        None => Ok(()),
    }
}

impl FromStr for LockName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<LockName, InvalidName> {
        LockName::new(name)
    }
}

impl std::borrow::Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for LockName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LockName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LockName, D::Error> {
        let name = <&str>::deserialize(deserializer)?;
        LockName::new(name).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_for_length_control_characters_and_encoding() {
        assert_eq!(LockName::new(""), Err(InvalidName::Empty));
        assert_eq!(
            LockName::new(&"x".repeat(257)),
            Err(InvalidName::TooLong(257))
        );
        assert_eq!(LockName::new("a\nb"), Err(InvalidName::Control(1)));
        assert_eq!(
            LockName::from_bytes(b"ab\xff"),
            Err(InvalidName::NotUtf8(2))
        );
        assert!(LockName::new(&"x".repeat(256)).is_ok());
        assert!(LockName::new("orders/42/été").is_ok());
    }

    #[test]
    fn a_name_that_is_not_allowed_does_not_survive_decoding() {
        let bytes = postcard::to_stdvec("").unwrap();
        assert!(postcard::from_bytes::<LockName>(&bytes).is_err());
    }

    #[test]
    fn tokens_end_with_their_restore_epoch() {
        assert_eq!(Token(0).next(), Some(Token(1)));
        assert_eq!(Token((1 << 48) - 1).next(), None);
        assert_eq!(Token(1 << 48).next(), Some(Token((1 << 48) + 1)));
        assert_eq!(Token(TOKEN_END - 1).next(), None);
        assert!(!Token(0).is_valid() && !Token(TOKEN_END).is_valid());
    }

    #[test]
    fn a_client_counts_its_lease_shorter_than_the_server_by_both_clocks_drift() {
        assert_eq!(Millis(10_000).client_lease(), Millis(9_799));
        assert!(Millis(500).client_lease() < Millis(500));
    }

    #[test]
    fn cell_ids_print_and_parse() {
        let id = CellId([0xab; 16]);
        assert_eq!(id.to_string().parse::<CellId>(), Ok(id));
        assert!("zz".parse::<CellId>().is_err());
        assert!(
            "+0000000000000000000000000000000"
                .parse::<CellId>()
                .is_err()
        );
    }
}
