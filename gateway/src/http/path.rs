//! From the path of a request to the names that rules are matched with. A path that some server
//! might read in another way than this is refused: whoever could spell a protected path so that no
//! rule names it would get around the fence.

use crate::limits::PATH_BYTES_MAX;

/// A path that could mean two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguous {
    #[error("it has to begin with '/'")]
    NotAbsolute,
    #[error("it has more than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("it has an empty segment ('//')")]
    EmptySegment,
    #[error("it has a segment '.' or '..', plain or encoded")]
    Dots,
    #[error("a '%' is not followed by two hexadecimal digits")]
    Escape,
    #[error("it has an encoded '/', '\\' or '%', which some servers decode again")]
    Encoded,
    #[error("it has a '\\', which some servers take for '/'")]
    Backslash,
    #[error("it has a ';', behind which some servers cut the segment off")]
    Parameters,
    #[error("it has a control character, or one that has to be percent-encoded")]
    Character,
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// The names of a path, decoded. One `/` at the end does not count; the root has none.
///
/// # Errors
/// [`Ambiguous`] says what could be read in another way.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, Ambiguous> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Ambiguous::TooLong);
    }
    let inner = path.strip_prefix('/').ok_or(Ambiguous::NotAbsolute)?;
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    inner.split('/').map(segment).collect()
}

fn segment(encoded: &str) -> Result<String, Ambiguous> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            plain(first)?;
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or(Ambiguous::Escape)?;
        let [Some(high), Some(low)] = digits.map(|digit| char::from(digit).to_digit(16)) else {
            return Err(Ambiguous::Escape);
        };
        let byte = (high * 16 + low) as u8;
        match byte {
            b'/' | b'\\' | b'%' => return Err(Ambiguous::Encoded),
            b';' => return Err(Ambiguous::Parameters),
            0..=31 | 127 => return Err(Ambiguous::Character),
            _ => bytes.push(byte),
        }
        rest = tail;
    }
    let name = String::from_utf8(bytes).map_err(|_| Ambiguous::NotUtf8)?;
    match name.as_str() {
        "" => Err(Ambiguous::EmptySegment),
        "." | ".." => Err(Ambiguous::Dots),
        _ if name.chars().any(char::is_control) => Err(Ambiguous::Character),
        _ => Ok(name),
    }
}

/// What may stand in a path as it is.
fn plain(byte: u8) -> Result<(), Ambiguous> {
    match byte {
        b'\\' => Err(Ambiguous::Backslash),
        b';' => Err(Ambiguous::Parameters),
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' | b'?' => {
            Err(Ambiguous::Character)
        }
        0..=32 | 127.. => Err(Ambiguous::Character),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_decoded_names() {
        assert_eq!(segments("/orders/42").unwrap(), ["orders", "42"]);
        assert_eq!(segments("/orders/42/").unwrap(), ["orders", "42"]);
        assert_eq!(
            segments("/%6frders/a%20b%C3%A9").unwrap(),
            ["orders", "a bé"]
        );
        assert_eq!(
            segments("/.well-known/...").unwrap(),
            [".well-known", "..."]
        );
        assert!(segments("/").unwrap().is_empty());
    }

    #[test]
    fn what_a_server_could_read_in_another_way_is_refused() {
        for (path, why) in [
            ("orders", Ambiguous::NotAbsolute),
            ("//orders", Ambiguous::EmptySegment),
            ("/orders//42", Ambiguous::EmptySegment),
            ("/orders/42//", Ambiguous::EmptySegment),
            ("//", Ambiguous::EmptySegment),
            ("/x/../orders/42", Ambiguous::Dots),
            ("/./orders", Ambiguous::Dots),
            ("/x/%2e%2E/orders", Ambiguous::Dots),
            ("/x/.%2e/orders", Ambiguous::Dots),
            ("/orders%2f42", Ambiguous::Encoded),
            ("/orders%5C42", Ambiguous::Encoded),
            ("/orders/%2564", Ambiguous::Encoded),
            ("/orders\\42", Ambiguous::Backslash),
            ("/orders;v=1/42", Ambiguous::Parameters),
            ("/orders%3bv=1/42", Ambiguous::Parameters),
            ("/orders/4%2", Ambiguous::Escape),
            ("/orders/%zz", Ambiguous::Escape),
            ("/orders/%+1", Ambiguous::Escape),
            ("/orders/%00", Ambiguous::Character),
            ("/orders/%0d%0a", Ambiguous::Character),
            ("/orders/%C2%85", Ambiguous::Character),
            ("/orders/é", Ambiguous::Character),
            ("/orders/#42", Ambiguous::Character),
            ("/orders/%ff", Ambiguous::NotUtf8),
            // An overlong '/'.
            ("/orders%c0%af42", Ambiguous::NotUtf8),
        ] {
            assert_eq!(segments(path), Err(why), "{path}");
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        assert_eq!(segments(&long), Err(Ambiguous::TooLong));
    }
}
