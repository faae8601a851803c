//! Frames on a stream: a little-endian `u32` length, then that many bytes of postcard.
//!
//! The length is checked against [`FRAME_BYTES_MAX`] before anything is buffered for it, and no
//! frame type is recursive, so a hostile peer can make this code neither allocate without bound
//! nor overflow the stack.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{FRAME_BYTES_MAX, FRAME_PREFIX_BYTES};

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length says more than a frame may hold.
    #[error("a frame of {0} bytes is announced: at most {FRAME_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The payload is not what it should be: truncated, of another version, or damaged.
    #[error("a frame cannot be read: {0}")]
    Malformed(String),
    /// The payload holds a message and something after it.
    #[error("a frame has {0} bytes behind its message")]
    Trailing(usize),
}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] if it does not fit; `out` is left as it was.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    encode_with(out, |out| {
        let written = postcard::to_extend(message, Appender(out));
        written
            .map(drop)
            .map_err(|error| FrameError::Malformed(error.to_string()))
    })
}

/// Appends one frame whose payload `write` appends.
///
/// # Errors
/// What `write` returns, or [`FrameError::TooLarge`]; `out` is then left as it was.
pub fn encode_with(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    let written = write(out);
    let length = out.len() - start - FRAME_PREFIX_BYTES;
    if written.is_err() || length > FRAME_BYTES_MAX {
        out.truncate(start);
        return written.and(Err(FrameError::TooLarge(length)));
    }
    out[start..start + FRAME_PREFIX_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Lets postcard write behind what a buffer already holds.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

/// Cuts a byte stream into frames. Buffers at most one frame beyond what it was fed.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
}

impl Decoder {
    /// Takes bytes as they came off the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
        } else if self.consumed > FRAME_BYTES_MAX {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is out of step and has to be closed.
    #[allow(
        clippy::should_implement_trait,
        reason = "fallible, and fed between calls"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(payload) = self.next_payload()? else {
            return Ok(None);
        };
        decode(payload).map(Some)
    }

    /// The next whole frame's payload, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]: the stream is out of step and has to be closed.
    pub fn next_payload(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = &self.buffer[self.consumed..];
        let Some((prefix, rest)) = rest.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.consumed + FRAME_PREFIX_BYTES;
        self.consumed = start + length;
        Ok(Some(&self.buffer[start..start + length]))
    }
}

/// Reads one message that fills `payload` exactly.
///
/// # Errors
/// [`FrameError::Malformed`] or [`FrameError::Trailing`].
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(payload)
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(FrameError::Trailing(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let mut bytes = Vec::new();
        for n in 0u32..50 {
            encode(&(n, "x".repeat(n as usize)), &mut bytes).unwrap();
        }
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = 0u32;
            for chunk in bytes.chunks(step) {
                decoder.feed(chunk);
                while let Some((n, text)) = decoder.next::<(u32, String)>().unwrap() {
                    assert_eq!((n, text.len()), (seen, seen as usize));
                    seen += 1;
                }
            }
            assert_eq!(seen, 50);
        }
    }

    #[test]
    fn an_announced_length_above_the_cap_is_refused_before_it_is_buffered() {
        let mut decoder = Decoder::default();
        decoder.feed(&u32::MAX.to_le_bytes());
        assert_eq!(
            decoder.next::<u8>(),
            Err(FrameError::TooLarge(u32::MAX as usize))
        );
    }

    #[test]
    fn a_message_that_does_not_fit_leaves_the_buffer_as_it_was() {
        let mut out = vec![1, 2, 3];
        let error = encode(&"x".repeat(FRAME_BYTES_MAX + 1), &mut out);
        assert!(matches!(error, Err(FrameError::TooLarge(_))));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn truncated_and_overlong_payloads_are_malformed() {
        let mut bytes = Vec::new();
        encode(&(7u32, "seven"), &mut bytes).unwrap();
        let payload = &bytes[FRAME_PREFIX_BYTES..];
        for cut in 0..payload.len() {
            assert!(decode::<(u32, String)>(&payload[..cut]).is_err());
        }
        let long = [payload, &[0]].concat();
        assert_eq!(decode::<(u32, String)>(&long), Err(FrameError::Trailing(1)));
    }
}
