//! What a client says before it logs in: TLS or not, a cancel request, or the start-up packet,
//! from which tickets are taken out. Nothing here talks to the server.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::messages::{Severity, error};
use super::statement::SETTING;
use super::upstream::SSL_REQUEST;
use crate::limits::{CANCEL_REQUEST_BYTES_MAX, STARTUP_PACKET_BYTES_MAX};
use crate::net::stream::Stream;

const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The application protocol of PostgreSQL, for clients that begin with TLS at once.
pub(super) const ALPN: &[u8] = b"postgresql";

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How a client begins.
pub(super) enum Opening {
    /// It wants another session's statement cancelled: forward these bytes.
    Cancel(Vec<u8>),
    /// It wants to log in.
    Login(Stream, Startup),
}

/// A client that cannot be served, with what it was told, if it could be told anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    #[error("the client's connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Refused(String),
}

/// A start-up packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Startup {
    version: [u8; 4],
    /// Names and values, without the tickets.
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Tickets shown in it.
    pub(super) tickets: Option<String>,
}

/// Negotiates until the client's start-up packet is there.
pub(super) async fn open(
    stream: TcpStream,
    tls: Option<&TlsAcceptor>,
) -> Result<Opening, OpeningError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE] {
        let Some(tls) = tls else {
            return Err(OpeningError::Refused(
                "TLS, but no certificate is configured".into(),
            ));
        };
        let stream = tls.accept(stream).await?;
        // Anybody can be made to send TLS here; only a client of PostgreSQL says this.
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(OpeningError::Refused("TLS for another protocol".into()));
        }
        return negotiate(Stream::Client(Box::new(stream)), None).await;
    }
    negotiate(Stream::Plain(stream), tls).await
}

async fn negotiate(
    mut stream: Stream,
    mut tls: Option<&TlsAcceptor>,
) -> Result<Opening, OpeningError> {
    // At most: no GSS encryption, then TLS, then no GSS encryption again, then the packet.
    for _ in 0..4 {
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if !(8..=STARTUP_PACKET_BYTES_MAX).contains(&length) {
            return refuse(
                stream,
                "08P01",
                "the start-up packet has an impossible length",
            )
            .await;
        }
        let mut packet = vec![0; length - 4];
        stream.read_exact(&mut packet).await?;
        let (code, rest) = packet
            .split_first_chunk::<4>()
            .map_or(([0; 4], &[][..]), |(c, r)| (*c, r));
        match u32::from_be_bytes(code) {
            SSL_REQUEST => match (tls.take(), stream) {
                (Some(acceptor), Stream::Plain(mut plain)) => {
                    plain.write_all(b"S").await?;
                    stream = Stream::Client(Box::new(acceptor.accept(plain).await?));
                }
                (_, mut other) => {
                    other.write_all(b"N").await?;
                    other.flush().await?;
                    stream = other;
                }
            },
            GSSENC_REQUEST => {
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            CANCEL_REQUEST if length <= CANCEL_REQUEST_BYTES_MAX => {
                let mut bytes = u32::try_from(length).unwrap_or(0).to_be_bytes().to_vec();
                bytes.extend_from_slice(&packet);
                return Ok(Opening::Cancel(bytes));
            }
            _ if code[..2] != [0, 3] => {
                return refuse(stream, "08P01", "only protocol version 3 is supported").await;
            }
            _ => {
                return match Startup::parse(code, rest) {
                    Ok(startup) => Ok(Opening::Login(stream, startup)),
                    Err((code, text)) => refuse(stream, code, text).await,
                };
            }
        }
    }
    refuse(
        stream,
        "08P01",
        "too many requests before the start-up packet",
    )
    .await
}

async fn refuse<T>(
    mut stream: Stream,
    code: &'static str,
    text: &'static str,
) -> Result<T, OpeningError> {
    stream
        .write_all(&error(Severity::Fatal, code, text, None, None))
        .await?;
    stream.flush().await?;
    Err(OpeningError::Refused(text.into()))
}

impl Startup {
    /// Takes a packet apart. An error is a code and a text for the client.
    pub(super) fn parse(
        version: [u8; 4],
        mut rest: &[u8],
    ) -> Result<Startup, (&'static str, &'static str)> {
        let malformed = ("08P01", "the start-up packet is malformed");
        let mut startup = Startup {
            version,
            ..Startup::default()
        };
        loop {
            let (name, after) = super::messages::c_string(rest).ok_or(malformed)?;
            if name.is_empty() {
                break;
            }
            let (value, after) = super::messages::c_string(after).ok_or(malformed)?;
            rest = after;
            startup.take(name, value)?;
        }
        Ok(startup)
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), (&'static str, &'static str)> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let mut value = value.to_vec();
        if name == SETTING.as_bytes() {
            self.show(&text(&value));
            return Ok(());
        }
        if name == b"options" {
            let (options, tickets) = without_tickets(&text(&value));
            for shown in tickets {
                self.show(&shown);
            }
            // A pooler takes no options at all, and there is nothing left to say.
            if options.is_empty() {
                return Ok(());
            }
            value = options.into_bytes();
        }
        let off = [&b"false"[..], b"off", b"no", b"0", b"f", b"n"];
        if name == b"replication" && !off.contains(&value.to_ascii_lowercase().as_slice()) {
            return Err((
                "0A000",
                "replication is refused: it would go past the fence",
            ));
        }
        self.parameters.push((name.to_vec(), value));
        Ok(())
    }

    fn show(&mut self, tickets: &str) {
        let shown = self.tickets.get_or_insert_default();
        shown.push(' ');
        shown.push_str(tickets);
    }

    /// The database that the client wants: by default the one named like its user.
    pub(super) fn database(&self) -> &[u8] {
        self.parameter(b"database")
            .or_else(|| self.parameter(b"user"))
            .unwrap_or_default()
    }

    fn parameter(&self, wanted: &[u8]) -> Option<&[u8]> {
        // The server takes the last of several.
        let found = self
            .parameters
            .iter()
            .rev()
            .find(|(name, _)| name == wanted);
        found
            .map(|(_, value)| value.as_slice())
            .filter(|value| !value.is_empty())
    }

    /// The packet for the server.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut packet = vec![0; 4];
        packet.extend_from_slice(&self.version);
        for (name, value) in &self.parameters {
            for part in [name, value] {
                packet.extend_from_slice(part);
                packet.push(0);
            }
        }
        packet.push(0);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        packet[..4].copy_from_slice(&length.to_be_bytes());
        packet
    }
}

/// Takes `-c fence.ticket=..` out of command-line options. Backslashes quote, as for the server.
fn without_tickets(options: &str) -> (String, Vec<String>) {
    let mut words: Vec<(String, String)> = Vec::new();
    let mut characters = options.chars().peekable();
    while characters.peek().is_some() {
        // The word as written, and what it means.
        let (mut written, mut meant) = (String::new(), String::new());
        while let Some(character) = characters.next() {
            if character.is_ascii_whitespace() {
                break;
            }
            written.push(character);
            if character == '\\' {
                if let Some(quoted) = characters.next() {
                    written.push(quoted);
                    meant.push(quoted);
                }
            } else {
                meant.push(character);
            }
        }
        if !written.is_empty() {
            words.push((written, meant));
        }
    }
    let ticket = |setting: &str| {
        let (name, value) = setting.split_once('=')?;
        (name == SETTING).then(|| value.to_owned())
    };
    let (mut kept, mut tickets): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut words = words.into_iter();
    while let Some((written, meant)) = words.next() {
        // It takes the next word, whatever that is.
        if meant == "-c"
            && let Some((argument, setting)) = words.next()
        {
            match ticket(&setting) {
                Some(shown) => tickets.push(shown),
                None => kept.extend([written, argument]),
            }
            continue;
        }
        let attached = meant
            .strip_prefix("-c")
            .or_else(|| meant.strip_prefix("--"));
        match attached.and_then(ticket) {
            Some(shown) => tickets.push(shown),
            None => kept.push(written),
        }
    }
    (kept.join(" "), tickets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in parameters {
            bytes.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn parse(parameters: &[(&str, &str)]) -> Startup {
        Startup::parse([0, 3, 0, 0], &packet(parameters)).unwrap()
    }

    #[test]
    fn tickets_are_taken_out_of_options_and_the_rest_stays_as_written() {
        for (options, left, tickets) in [
            ("-c fence.ticket=lk1.a", "", Some(" lk1.a")),
            ("-cfence.ticket=lk1.a -c x=1", "-c x=1", Some(" lk1.a")),
            (
                "-c x=a\\ b --fence.ticket=lk1.a\\ lk1.b",
                "-c x=a\\ b",
                Some(" lk1.a lk1.b"),
            ),
            ("-c x=fence.ticket=1", "-c x=fence.ticket=1", None),
            ("-c", "-c", None),
            // The second -c is the first one's argument, and must not become an option.
            (
                "-c -c fence.ticket=a fence.ticket=b",
                "-c -c fence.ticket=a fence.ticket=b",
                None,
            ),
            ("", "", None),
        ] {
            let startup = parse(&[("user", "u"), ("options", options)]);
            assert_eq!(startup.tickets.as_deref(), tickets, "{options}");
            assert_eq!(
                startup,
                Startup {
                    tickets: startup.tickets.clone(),
                    ..parse(&[("user", "u"), ("options", left)])
                }
            );
        }
        let startup = parse(&[("user", "u"), ("fence.ticket", "lk1.a")]);
        assert_eq!(startup.tickets.as_deref(), Some(" lk1.a"));
        assert!(!startup.encode().windows(5).any(|w| w == b"fence"));
    }

    #[test]
    fn a_packet_without_tickets_goes_on_as_it_came() {
        let bytes = packet(&[("user", "u"), ("database", "d"), ("_pq_.x", "1")]);
        let startup = Startup::parse([0, 3, 0, 2], &bytes).unwrap();
        let encoded = startup.encode();
        assert_eq!(encoded[8..], bytes);
        assert_eq!(encoded[..8], [0, 0, 0, encoded.len() as u8, 0, 3, 0, 2]);
        assert_eq!(startup.database(), b"d");
        assert_eq!(parse(&[("user", "u")]).database(), b"u");
    }

    #[test]
    fn replication_and_torn_packets_are_refused() {
        for value in ["true", "database", "1", "on"] {
            let bytes = packet(&[("user", "u"), ("replication", value)]);
            assert_eq!(Startup::parse([0, 3, 0, 0], &bytes).unwrap_err().0, "0A000");
        }
        assert!(Startup::parse([0, 3, 0, 0], &packet(&[("replication", "off")])).is_ok());
        let whole = packet(&[("user", "u")]);
        for end in 0..whole.len() {
            assert!(Startup::parse([0, 3, 0, 0], &whole[..end]).is_err());
        }
    }
}
