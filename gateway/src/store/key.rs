//! From the path of a request to a key: percent-decoding (RFC 3986), UTF-8, length.

use crate::limits::KEY_BYTES_MAX;

/// A path that names no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidKey {
    #[error("the key is empty: write /kv/<key>")]
    Empty,
    #[error("the key has more than {KEY_BYTES_MAX} bytes")]
    TooLong,
    #[error("the key has a '%' that is not followed by two hexadecimal digits")]
    Escape,
    #[error("the key is not UTF-8")]
    NotUtf8,
    #[error("the key has a control character")]
    Control,
}

/// Decodes what follows `/kv/`.
pub(super) fn decode(encoded: &str) -> Result<String, InvalidKey> {
    if encoded.len() > 3 * KEY_BYTES_MAX {
        return Err(InvalidKey::TooLong);
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or(InvalidKey::Escape)?;
        let [Some(high), Some(low)] = digits.map(|d| char::from(d).to_digit(16)) else {
            return Err(InvalidKey::Escape);
        };
        bytes.push((high * 16 + low) as u8);
        rest = tail;
    }
    let key = String::from_utf8(bytes).map_err(|_| InvalidKey::NotUtf8)?;
    match key.len() {
        0 => Err(InvalidKey::Empty),
        n if n > KEY_BYTES_MAX => Err(InvalidKey::TooLong),
        _ if key.chars().any(char::is_control) => Err(InvalidKey::Control),
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_and_checked() {
        assert_eq!(decode("orders/42").as_deref(), Ok("orders/42"));
        assert_eq!(decode("a%20b%C3%A9").as_deref(), Ok("a bé"));
        assert_eq!(decode(""), Err(InvalidKey::Empty));
        assert_eq!(decode("a%2"), Err(InvalidKey::Escape));
        assert_eq!(decode("a%+1"), Err(InvalidKey::Escape));
        assert_eq!(decode("%ff"), Err(InvalidKey::NotUtf8));
        assert_eq!(decode("a%00"), Err(InvalidKey::Control));
        assert_eq!(decode(&"x".repeat(513)), Err(InvalidKey::TooLong));
        assert!(decode(&"x".repeat(512)).is_ok());
    }
}
