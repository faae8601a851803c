//! The first packets of a connection: the server's greeting and the client's answer to it, read
//! as far as the gateway has a say in them, and changed only in their capability bits. No I/O.

use super::packet::Fields;
use super::response::Dialect;
use super::statement::VARIABLE;

const CONNECT_WITH_DB: u32 = 1 << 3;
const COMPRESS: u32 = 1 << 5;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const CONNECT_ATTRIBUTES: u32 = 1 << 20;
const PLUGIN_AUTH_LENGTH: u32 = 1 << 21;
const DEPRECATE_EOF: u32 = 1 << 24;
const OPTIONAL_METADATA: u32 = 1 << 25;
const ZSTD: u32 = 1 << 26;
const QUERY_ATTRIBUTES: u32 = 1 << 27;
/// Cleared by MariaDB, which then uses further capabilities.
const MYSQL: u32 = 1;
/// MariaDB's further capabilities that are known here; another one could change the framing.
const EXTENDED_KNOWN: u32 = 0x3f;
const EXTENDED_CACHE_METADATA: u32 = 1 << 4;

/// What the gateway takes away because it does not relay it: clients go on without.
const NOT_RELAYED: u32 = COMPRESS | ZSTD | OPTIONAL_METADATA;

/// Bytes of the client's answer that are also its request for TLS.
pub(super) const SSL_REQUEST_BYTES: usize = 32;

/// A login that is not this protocol's, or one that is not relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the server's greeting cannot be understood")]
    Greeting,
    #[error("the client's answer to the greeting cannot be understood")]
    Answer,
    #[error("the client speaks a protocol older than that of MySQL 4.1")]
    Old,
    #[error("the client wants to compress, which was not offered")]
    Compressed,
}

/// The server's greeting.
#[derive(Debug)]
pub(super) struct Greeting {
    payload: Vec<u8>,
    /// Where the capability bits are, low and high half; where MariaDB's further ones are.
    low: usize,
    high: usize,
    extended: Option<usize>,
    /// The server's number for this connection.
    pub(super) connection: u32,
    capabilities: u32,
}

impl Greeting {
    pub(super) fn parse(payload: &[u8]) -> Result<Greeting, Malformed> {
        let at = |rest: &Fields<'_>| payload.len() - rest.0.len();
        let read = || {
            let mut rest = Fields(payload);
            if rest.u8()? != 10 {
                return None;
            }
            rest.text()?;
            let connection = rest.u32()?;
            // The first part of the nonce, and a filler.
            rest.bytes(9)?;
            let low = at(&rest);
            let mut capabilities = u32::from(rest.u16()?);
            // Collation and status.
            rest.bytes(3)?;
            let high = at(&rest);
            capabilities |= u32::from(rest.u16()?) << 16;
            // Length of the nonce, and a reserve.
            rest.bytes(7)?;
            let extended = at(&rest);
            rest.u32()?;
            Some(Greeting {
                payload: payload.to_vec(),
                low,
                high,
                extended: (capabilities & MYSQL == 0).then_some(extended),
                connection,
                capabilities,
            })
        };
        read().ok_or(Malformed::Greeting)
    }

    /// Whether the server takes TLS.
    pub(super) fn offers_tls(&self) -> bool {
        self.capabilities & SSL != 0
    }

    /// The greeting as the client gets it.
    pub(super) fn for_client(&self, offer_tls: bool) -> Vec<u8> {
        let mut capabilities = self.capabilities & !NOT_RELAYED & !SSL;
        if offer_tls {
            capabilities |= SSL;
        }
        let [a, b, c, d] = capabilities.to_le_bytes();
        let mut payload = self.payload.clone();
        put(&mut payload, self.low, &[a, b]);
        put(&mut payload, self.high, &[c, d]);
        if let Some(at) = self.extended {
            let known = Fields(payload.get(at..).unwrap_or_default()).u32();
            let known = known.unwrap_or(0) & EXTENDED_KNOWN;
            put(&mut payload, at, &known.to_le_bytes());
        }
        payload
    }
}

/// The client's answer.
#[derive(Debug)]
pub(super) struct Answer {
    payload: Vec<u8>,
    /// The tickets of its connection attribute, as they were written.
    pub(super) tickets: Option<String>,
    /// How the server's answers will be framed.
    pub(super) dialect: Dialect,
}

/// Whether this is no answer yet, but the request to go on encrypted.
pub(super) fn is_ssl_request(payload: &[u8]) -> bool {
    let capabilities = Fields(payload).u32().unwrap_or(0);
    payload.len() == SSL_REQUEST_BYTES && capabilities & SSL != 0
}

impl Answer {
    pub(super) fn parse(payload: &[u8], greeting: &Greeting) -> Result<Answer, Malformed> {
        let mut rest = Fields(payload);
        let capabilities = rest.u32().ok_or(Malformed::Answer)?;
        if capabilities & PROTOCOL_41 == 0 {
            return Err(Malformed::Old);
        }
        if capabilities & NOT_RELAYED != 0 {
            return Err(Malformed::Compressed);
        }
        let mut read = || {
            // Longest packet, collation and a reserve.
            rest.bytes(4 + 1 + 19)?;
            let extended = rest.u32()?;
            // The account.
            rest.text()?;
            if capabilities & PLUGIN_AUTH_LENGTH != 0 {
                rest.counted()?;
            } else if capabilities & SECURE_CONNECTION != 0 {
                let length = rest.u8()?;
                rest.bytes(usize::from(length))?;
            } else {
                rest.text()?;
            }
            Some(extended)
        };
        let extended = read().ok_or(Malformed::Answer)?;
        let extended = match greeting.extended {
            Some(_) if capabilities & MYSQL == 0 => extended & EXTENDED_KNOWN,
            _ => 0,
        };
        let both = capabilities & greeting.capabilities;
        Ok(Answer {
            payload: payload.to_vec(),
            tickets: shown(rest, capabilities),
            dialect: Dialect {
                no_eof: both & DEPRECATE_EOF != 0,
                may_omit_columns: extended & EXTENDED_CACHE_METADATA != 0,
                query_attributes: both & QUERY_ATTRIBUTES != 0,
            },
        })
    }

    /// The answer as the server gets it; its beginning is also the request for TLS.
    pub(super) fn for_server(&self, over_tls: bool) -> Vec<u8> {
        let mut payload = self.payload.clone();
        let mut capabilities = Fields(&payload).u32().unwrap_or(0) & !SSL;
        if over_tls {
            capabilities |= SSL;
        }
        put(&mut payload, 0, &capabilities.to_le_bytes());
        payload
    }
}

/// The tickets among the connection attributes, which come last. What cannot be read has none;
/// the server will say what is wrong with it.
fn shown(mut rest: Fields<'_>, capabilities: u32) -> Option<String> {
    if capabilities & CONNECT_WITH_DB != 0 {
        rest.text()?;
    }
    if capabilities & PLUGIN_AUTH != 0 {
        rest.text()?;
    }
    if capabilities & CONNECT_ATTRIBUTES == 0 {
        return None;
    }
    let mut attributes = Fields(rest.counted()?);
    loop {
        let (name, value) = (attributes.counted()?, attributes.counted()?);
        if name == VARIABLE.as_bytes() {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
}

fn put(payload: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = payload.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(capabilities: u32, extended: u32) -> Vec<u8> {
        let [a, b, c, d] = capabilities.to_le_bytes();
        let mut payload = b"\x0a11.4.2-MariaDB\0".to_vec();
        payload.extend_from_slice(&77_u32.to_le_bytes());
        payload.extend_from_slice(b"12345678\0");
        payload.extend_from_slice(&[a, b, 45, 2, 0, c, d, 21, 0, 0, 0, 0, 0, 0]);
        payload.extend_from_slice(&extended.to_le_bytes());
        payload.extend_from_slice(b"123456789012\0mysql_native_password\0");
        payload
    }

    fn answer(capabilities: u32, extended: u32, attributes: &[u8]) -> Vec<u8> {
        let mut payload = capabilities.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 19]);
        payload.extend_from_slice(&extended.to_le_bytes());
        payload.extend_from_slice(b"app\0\x04abcdshop\0plugin\0");
        payload.push(attributes.len() as u8);
        payload.extend_from_slice(attributes);
        payload
    }

    const ALL: u32 = !MYSQL;

    #[test]
    fn the_client_is_not_offered_what_is_not_relayed() {
        let payload = greeting(ALL, 0xffff_ffff);
        let read = Greeting::parse(&payload).unwrap();
        assert_eq!(read.connection, 77);
        assert!(read.offers_tls());
        for tls in [false, true] {
            let told = read.for_client(tls);
            let again = Greeting::parse(&told).unwrap();
            assert_eq!(again.capabilities & NOT_RELAYED, 0);
            assert_eq!(again.offers_tls(), tls);
            let changed = payload.iter().zip(&told).filter(|(a, b)| a != b).count();
            assert!(told.len() == payload.len() && changed <= 8, "{changed}");
        }
        assert!(Greeting::parse(&payload[..30]).is_err());
        assert!(Greeting::parse(b"\x09old").is_err());
    }

    #[test]
    fn the_answer_yields_tickets_and_dialect() {
        let with = Greeting::parse(&greeting(ALL, 0x3f)).unwrap();
        let plain = ALL & !NOT_RELAYED & !SSL;
        let attributes = b"\x04_pid\x011\x0cfence_ticket\x05lk1.a";
        let payload = answer(plain, 1 << 4, attributes);
        let read = Answer::parse(&payload, &with).unwrap();
        assert_eq!(read.tickets.as_deref(), Some("lk1.a"));
        assert!(read.dialect.no_eof && read.dialect.may_omit_columns);
        assert_eq!(read.for_server(false), payload);
        assert!(is_ssl_request(&read.for_server(true)[..SSL_REQUEST_BYTES]));
        let old = Answer::parse(&answer(plain & !DEPRECATE_EOF, 0, b"\x01a\x01b"), &with).unwrap();
        assert!(!old.dialect.no_eof && old.tickets.is_none());
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        let with = Greeting::parse(&greeting(ALL, 0)).unwrap();
        let refused = |payload: &[u8]| Answer::parse(payload, &with).unwrap_err();
        assert_eq!(
            refused(&answer(PROTOCOL_41 | COMPRESS, 0, b"")),
            Malformed::Compressed
        );
        assert_eq!(refused(&answer(0, 0, b"")), Malformed::Old);
        assert_eq!(
            refused(&answer(ALL & !NOT_RELAYED, 0, b"")[..40]),
            Malformed::Answer
        );
        assert_eq!(refused(b""), Malformed::Answer);
    }
}
