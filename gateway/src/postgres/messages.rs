//! The few messages of PostgreSQL's protocol that the gateway itself makes or takes apart.
//! Everything else is relayed by length and never looked at.

use crate::fence::refusal::Refusal;

/// Bytes of a message's type and length.
pub(super) const HEADER_BYTES: usize = 5;

/// A message's type and its whole length in bytes, header included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) total: usize,
}

/// A length that no message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {0} has an impossible length")]
pub(super) struct BadLength(u8);

/// Reads the header at the beginning of `bytes`, if it is all there.
pub(super) fn header(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if length >= 4 => Ok(Some(Header {
            kind,
            total: length + 1,
        })),
        _ => Err(BadLength(kind)),
    }
}

/// One message.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.push(kind);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// ReadyForQuery, outside a transaction.
pub(super) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// The answer to a `SET` that the gateway has executed itself.
pub(super) fn set_done() -> Vec<u8> {
    let mut bytes = message(b'C', b"SET\0");
    bytes.extend_from_slice(&ready());
    bytes
}

/// How bad an error is for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Fatal,
}

/// ErrorResponse.
pub(super) fn error(
    severity: Severity,
    code: &str,
    text: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Vec<u8> {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    let fields = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(code)),
        (b'M', Some(text)),
        (b'D', detail),
        (b'H', hint),
        (b'R', Some("gateway")),
    ];
    let mut body = Vec::with_capacity(256);
    for (field, value) in fields {
        let Some(value) = value else { continue };
        body.push(field);
        body.extend(value.bytes().filter(|&b| b != 0));
        body.push(0);
    }
    body.push(0);
    message(b'E', &body)
}

/// A refusal of the fence as ErrorResponse.
pub(super) fn refusal(severity: Severity, refusal: &Refusal) -> Vec<u8> {
    error(
        severity,
        refusal.code(),
        &refusal.to_string(),
        refusal.detail().as_deref(),
        Some(refusal.hint()),
    )
}

/// What to send in place of a statement that is refused: the server raises the refusal itself,
/// so that its transaction state, and the number of its answers, are what the client expects.
pub(super) fn raising(code: &str, text: &str, detail: Option<&str>, hint: &str) -> String {
    let mut body = format!("BEGIN RAISE EXCEPTION USING ERRCODE = {}", literal(code));
    for (option, value) in [
        ("MESSAGE", Some(text)),
        ("DETAIL", detail),
        ("HINT", Some(hint)),
    ] {
        if let Some(value) = value {
            body.push_str(&format!(", {option} = {}", literal(value)));
        }
    }
    body.push_str("; END");
    let mut tag = "$gateway$".to_owned();
    while body.contains(&tag) {
        tag.insert(1, 'x');
    }
    format!("DO {tag}{body}{tag}")
}

/// A string constant that means the same whatever the session's settings are.
fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    quoted.push_str("E'");
    for character in text.chars().filter(|&c| c != '\0') {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// A simple query.
pub(super) fn query(text: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + 1);
    body.extend_from_slice(text.as_bytes());
    body.push(0);
    message(b'Q', &body)
}

/// Parse of a statement without parameters.
pub(super) fn parse(name: &[u8], text: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(name.len() + text.len() + 4);
    body.extend_from_slice(name);
    body.push(0);
    body.extend_from_slice(text.as_bytes());
    body.extend_from_slice(&[0, 0, 0]);
    message(b'P', &body)
}

/// Splits off the text before the next zero byte.
pub(super) fn c_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_it_is_there_and_refused_when_it_is_impossible() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(
            header(b"Q\0\0\0\x04rest"),
            Ok(Some(Header {
                kind: b'Q',
                total: 5
            }))
        );
        assert!(header(b"Q\0\0\0\x03").is_err());
        assert!(header(b"Q\xff\xff\xff\xff").is_err());
        assert!(header(b"Q\x7f\xff\xff\xff").is_ok());
    }

    #[test]
    fn nothing_in_a_refusal_can_end_the_statement_that_raises_it() {
        let text = raising("FN001", "lock \"$gateway$'\\\"", None, "it's");
        assert!(text.starts_with("DO $xgateway$BEGIN RAISE"));
        assert!(text.ends_with("$xgateway$") && text.contains("E'lock \"$gateway$''\\\\\"'"));
    }
}
