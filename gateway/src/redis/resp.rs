//! The Redis protocol, as far as the gateway speaks it itself: commands written, replies read
//! whole. The relay reads nothing whole; it has its own scanners. Pure.

use crate::limits::{ADMIN_REPLY_BYTES_MAX, ADMIN_REPLY_DEPTH_MAX};

/// Longest first line of an element: a type, a number, a line end.
pub(super) const HEADER_BYTES_MAX: usize = 32;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text of a line or of a bulk.
    Text(Vec<u8>),
    Number(i64),
    Nil,
    Array(Vec<Value>),
    /// The server's words.
    Error(String),
}

/// What is not a reply of the protocol's second version, or is too big to be one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's reply cannot be understood (is this a Redis server?)")]
pub(super) struct Malformed;

/// Appends a command.
pub(super) fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// A command by itself.
pub(super) fn command(arguments: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, arguments);
    out
}

/// An error, or another answer of one line.
pub(super) fn line(kind: char, text: &str) -> Vec<u8> {
    let text = text.replace(['\r', '\n'], " ");
    format!("{kind}{text}\r\n").into_bytes()
}

/// The line that begins here, without its end, if it is there.
pub(super) fn first_line(bytes: &[u8], most: usize) -> Option<&[u8]> {
    let window = bytes.get(..bytes.len().min(most)).unwrap_or_default();
    let end = window.windows(2).position(|pair| pair == b"\r\n")?;
    window.get(..end)
}

/// The number of a line such as `*3` or `$-1`, after its type.
pub(super) fn number(line: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(line.get(1..)?).ok()?;
    // The server takes no sign but a minus, and neither may we.
    (!digits.starts_with('+')).then(|| digits.parse().ok())?
}

/// Reads one reply. None: not all of it is there. Otherwise with its length.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Malformed> {
    if bytes.len() > ADMIN_REPLY_BYTES_MAX {
        return Err(Malformed);
    }
    parse_at(bytes, 0, 0)
}

fn parse_at(bytes: &[u8], at: usize, depth: u32) -> Result<Option<(Value, usize)>, Malformed> {
    if depth > ADMIN_REPLY_DEPTH_MAX {
        return Err(Malformed);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(line) = first_line(rest, ADMIN_REPLY_BYTES_MAX) else {
        return Ok(None);
    };
    let after = at + line.len() + 2;
    let text = line.get(1..).unwrap_or_default();
    match line.first() {
        Some(b'+') => Ok(Some((Value::Text(text.to_vec()), after))),
        Some(b'-') => {
            let text = String::from_utf8_lossy(text).into_owned();
            Ok(Some((Value::Error(text), after)))
        }
        Some(b':') => Ok(Some((Value::Number(number(line).ok_or(Malformed)?), after))),
        Some(b'$') => match usize::try_from(number(line).ok_or(Malformed)?) {
            Err(_) => Ok(Some((Value::Nil, after))),
            Ok(length) if length > ADMIN_REPLY_BYTES_MAX => Err(Malformed),
            Ok(length) => match bytes.get(after..after + length) {
                Some(text) if bytes.len() >= after + length + 2 => {
                    Ok(Some((Value::Text(text.to_vec()), after + length + 2)))
                }
                _ => Ok(None),
            },
        },
        Some(b'*') => {
            let Ok(count) = usize::try_from(number(line).ok_or(Malformed)?) else {
                return Ok(Some((Value::Nil, after)));
            };
            // Nothing is set aside for what is only announced.
            let (mut values, mut at) = (Vec::new(), after);
            for _ in 0..count {
                match parse_at(bytes, at, depth + 1)? {
                    Some((value, after)) => {
                        values.push(value);
                        at = after;
                    }
                    None => return Ok(None),
                }
            }
            Ok(Some((Value::Array(values), at)))
        }
        _ => Err(Malformed),
    }
}

impl Value {
    /// Text, if it is UTF-8 text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_once_they_are_whole() {
        let bytes = b"*4\r\n+OK\r\n:-7\r\n$5\r\na\r\nbc\r\n*2\r\n$-1\r\n-ERR x\r\n:1\r\n";
        for end in 0..bytes.len() - 4 {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end}");
        }
        let (value, used) = parse(bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len() - 4);
        let Value::Array(values) = value else {
            panic!()
        };
        assert_eq!(values[2], Value::Text(b"a\r\nbc".to_vec()));
        let last = Value::Array(vec![Value::Nil, Value::Error("ERR x".into())]);
        assert_eq!(values[3], last);
    }

    #[test]
    fn hostile_replies_take_no_memory_and_no_stack() {
        assert_eq!(parse(b"*2147483647\r\n"), Ok(None));
        assert_eq!(parse(b"$9223372036854775807\r\n"), Err(Malformed));
        assert_eq!(parse(&b"*1\r\n".repeat(1_000_000)), Err(Malformed));
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request\r\n"), Err(Malformed));
        assert_eq!(parse(b":1x\r\n"), Err(Malformed));
        assert_eq!(
            parse(&vec![b'+'; ADMIN_REPLY_BYTES_MAX + 1]),
            Err(Malformed)
        );
    }

    #[test]
    fn commands_are_written_as_the_protocol_wants_them() {
        assert_eq!(
            command(&["SET", "k", ""]),
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n"
        );
        assert_eq!(line('-', "ERR a\r\nb"), b"-ERR a  b\r\n");
    }
}
