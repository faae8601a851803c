//! Tickets: the signed, printable form of a grant.
//!
//! ```text
//! "lk1." base64url( version u8 = 1 | key id u32 | cell [u8; 16] | token u64 | session u64
//!                   | mode u8 | [permits u32, for mode 2 only] | name length u16 | name
//!                   | Ed25519 signature [u8; 64] )
//! ```
//!
//! Modes are 0 exclusive, 1 shared, 2 permit of a semaphore. A permit's ticket has the name of
//! its own fence, `name#slot`, so that each permit fences off its own earlier holders only.
//!
//! Integers are big-endian; base64url is without padding and must be canonical. The signature
//! (RFC 8032) covers [`SIGNING_CONTEXT`] and everything before it. Ed25519 is deterministic, so a
//! grant has exactly one ticket per key, and a retry after a failover gets the same text.
//!
//! A ticket proves *who was granted a token*. Whether that token is still current is not the
//! ticket's business but the fence's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::limits::TICKET_TEXT_BYTES_MAX;
use crate::types::{CellId, InvalidName, LockName, Mode, SessionId, Token};

/// What every printed ticket begins with.
pub const PREFIX: &str = "lk1.";

/// Signed in front of the ticket's bytes, so that no other signature can pass for a ticket's.
pub const SIGNING_CONTEXT: &[u8] = b"lockd ticket v1\0";

const VERSION: u8 = 1;
const EXCLUSIVE: u8 = 0;
const SHARED: u8 = 1;
const PERMIT: u8 = 2;
const SIGNATURE_BYTES: usize = 64;
const HEADER_BYTES: usize = 1 + 4 + 16 + 8 + 8 + 1 + 4 + 2;

/// A printed ticket as it travels: opaque to whoever carries it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TicketText(String);

impl TicketText {
    /// The printed form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which key signed a ticket: the first four bytes of the SHA-256 of the public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KeyId(pub u32);

impl KeyId {
    fn of(public_key: &[u8]) -> KeyId {
        let hash = digest::digest(&digest::SHA256, public_key);
        let first = hash
            .as_ref()
            .first_chunk::<4>()
            .copied()
            .unwrap_or_default();
        KeyId(u32::from_be_bytes(first))
    }
}

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The cell that granted.
    pub cell: CellId,
    /// The lock granted; of a permit its fence, as [`LockName::of_permit`] says.
    pub lock: LockName,
    /// The grant's token.
    pub token: Token,
    /// How the lock is held.
    pub mode: Mode,
    /// To whom it was granted.
    pub session: SessionId,
}

/// Why a text is not a ticket of the cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not `lk1.` and base64url, or too long.
    #[error("this is not a ticket: it must be {PREFIX:?} and canonical base64url, unaltered")]
    NotATicket,
    /// A version that this program does not know.
    #[error("the ticket has version {0}, this program knows version {VERSION}")]
    Version(u8),
    /// Shorter or longer than it says.
    #[error("the ticket is truncated or has bytes too many")]
    Length,
    /// Signed by a key that is not trusted here.
    #[error("the ticket was signed by key {0:08x}, which is not one of this cell's keys")]
    UnknownKey(u32),
    /// Altered, or forged.
    #[error("the ticket's signature is wrong: it was altered or not issued by this cell")]
    Signature,
    /// Issued by another cell under the same key.
    #[error("the ticket was issued by cell {0}, not by this one")]
    OtherCell(CellId),
    /// A mode that this program does not know.
    #[error("the ticket's mode {0} is unknown to this program")]
    Mode(u8),
    /// A token outside the range of tokens.
    #[error("the ticket's token {0} is out of range")]
    Token(u64),
    /// A name that is not a lock's.
    #[error("the ticket's lock name is not allowed: {0}")]
    Name(InvalidName),
}

/// A key that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes.
    #[error("a ticket key has 32 bytes")]
    Length,
    /// Rejected by the signature library.
    #[error("the ticket key is not a valid Ed25519 key")]
    Invalid,
}

/// Signs tickets. Held by the nodes of a cell, never by a gateway.
pub struct Signer {
    cell: CellId,
    key_id: KeyId,
    key: Ed25519KeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("cell", &self.cell)
            .field("key_id", &self.key_id)
            .finish()
    }
}

impl Signer {
    /// A signer from the 32-byte seed of RFC 8032.
    ///
    /// # Errors
    /// [`KeyError`] if the seed is not one.
    pub fn from_seed(cell: CellId, seed: &[u8]) -> Result<Signer, KeyError> {
        if seed.len() != 32 {
            return Err(KeyError::Length);
        }
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Invalid)?;
        let key_id = KeyId::of(key.public_key().as_ref());
        Ok(Signer { cell, key_id, key })
    }

    /// The 32 bytes that verify this signer's tickets.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// The ticket of a grant.
    #[must_use]
    pub fn sign(
        &self,
        lock: &LockName,
        token: Token,
        mode: Mode,
        session: SessionId,
    ) -> TicketText {
        let name = lock.as_str().as_bytes();
        let mut signed =
            Vec::with_capacity(SIGNING_CONTEXT.len() + HEADER_BYTES + name.len() + SIGNATURE_BYTES);
        signed.extend_from_slice(SIGNING_CONTEXT);
        signed.push(VERSION);
        signed.extend_from_slice(&self.key_id.0.to_be_bytes());
        signed.extend_from_slice(&self.cell.0);
        signed.extend_from_slice(&token.0.to_be_bytes());
        signed.extend_from_slice(&session.0.to_be_bytes());
        match mode {
            Mode::Exclusive => signed.push(EXCLUSIVE),
            Mode::Shared => signed.push(SHARED),
            Mode::Permit { of } => {
                signed.push(PERMIT);
                signed.extend_from_slice(&of.to_be_bytes());
            }
        }
        signed.extend_from_slice(&(name.len() as u16).to_be_bytes());
        signed.extend_from_slice(name);
        let signature = self.key.sign(&signed);
        signed.extend_from_slice(signature.as_ref());
        let mut text = String::with_capacity(PREFIX.len() + signed.len().div_ceil(3) * 4);
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&signed[SIGNING_CONTEXT.len()..], &mut text);
        TicketText(text)
    }
}

/// Checks tickets of one cell. Needs public keys only; several while keys are rotated.
#[derive(Clone, Debug)]
pub struct Verifier {
    cell: CellId,
    keys: Vec<(KeyId, Vec<u8>)>,
}

impl Verifier {
    /// A verifier for the tickets of `cell` under any of the 32-byte public keys.
    ///
    /// # Errors
    /// [`KeyError::Length`] if one is not 32 bytes.
    pub fn new<K: AsRef<[u8]>>(
        cell: CellId,
        public_keys: impl IntoIterator<Item = K>,
    ) -> Result<Verifier, KeyError> {
        let keys = public_keys
            .into_iter()
            .map(|key| {
                let key = key.as_ref();
                if key.len() == 32 {
                    Ok((KeyId::of(key), key.to_vec()))
                } else {
                    Err(KeyError::Length)
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Verifier { cell, keys })
    }

    /// What `text` says, if it is a genuine ticket of this cell.
    ///
    /// # Errors
    /// [`TicketError`] says why it is not. Nothing of a ticket that fails is to be believed.
    pub fn verify(&self, text: &str) -> Result<Ticket, TicketError> {
        if text.len() > TICKET_TEXT_BYTES_MAX {
            return Err(TicketError::NotATicket);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TicketError::NotATicket)?;
        let mut fields = Fields(&bytes);
        let [version] = fields.take()?;
        if version != VERSION {
            return Err(TicketError::Version(version));
        }
        let key_id = KeyId(u32::from_be_bytes(fields.take()?));
        self.check_signature(key_id, &bytes)?;
        let cell = CellId(fields.take()?);
        let token = u64::from_be_bytes(fields.take()?);
        let session = SessionId(u64::from_be_bytes(fields.take()?));
        let mode = match fields.take()? {
            [EXCLUSIVE] => Mode::Exclusive,
            [SHARED] => Mode::Shared,
            [PERMIT] => Mode::Permit {
                of: u32::from_be_bytes(fields.take()?),
            },
            [other] => return Err(TicketError::Mode(other)),
        };
        let name_length = usize::from(u16::from_be_bytes(fields.take()?));
        let name = fields.0.get(..name_length).ok_or(TicketError::Length)?;
        if fields.0.len() != name_length + SIGNATURE_BYTES {
            return Err(TicketError::Length);
        }
        if cell != self.cell {
            return Err(TicketError::OtherCell(cell));
        }
        if !Token(token).is_valid() {
            return Err(TicketError::Token(token));
        }
        Ok(Ticket {
            cell,
            lock: LockName::from_bytes(name).map_err(TicketError::Name)?,
            token: Token(token),
            mode,
            session,
        })
    }

    fn check_signature(&self, key_id: KeyId, bytes: &[u8]) -> Result<(), TicketError> {
        let end = bytes
            .len()
            .checked_sub(SIGNATURE_BYTES)
            .ok_or(TicketError::Length)?;
        let (payload, signature) = bytes.split_at(end);
        let (_, key) = self
            .keys
            .iter()
            .find(|(id, _)| *id == key_id)
            .ok_or(TicketError::UnknownKey(key_id.0))?;
        let signed = [SIGNING_CONTEXT, payload].concat();
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&signed, signature)
            .map_err(|_| TicketError::Signature)
    }
}

/// The part of a ticket that is not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TicketError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(TicketError::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: CellId = CellId(*b"0123456789abcdef");

    fn signer() -> Signer {
        Signer::from_seed(CELL, &[7; 32]).unwrap()
    }

    fn verifier() -> Verifier {
        Verifier::new(CELL, [signer().public_key()]).unwrap()
    }

    fn name(text: &str) -> LockName {
        LockName::new(text).unwrap()
    }

    #[test]
    fn golden_tickets_stay_as_they_are() {
        for (lock, token, session, text) in GOLDEN {
            let ticket = signer().sign(
                &name(lock),
                Token(*token),
                Mode::Exclusive,
                SessionId(*session),
            );
            assert_eq!(ticket.as_str(), *text);
            let read = verifier().verify(text).unwrap();
            assert_eq!((read.lock, read.token), (name(lock), Token(*token)));
            assert_eq!(
                (read.session, read.mode),
                (SessionId(*session), Mode::Exclusive)
            );
        }
    }

    #[test]
    fn a_permit_has_the_ticket_of_its_own_fence() {
        let fence = name("workers").of_permit(3).unwrap();
        let mode = Mode::Permit { of: 10 };
        let text = signer().sign(&fence, Token(9), mode, SessionId(2));
        let read = verifier().verify(text.as_str()).unwrap();
        assert_eq!((read.lock.as_str(), read.mode), ("workers#3", mode));
        let shared = signer().sign(&name("a"), Token(9), Mode::Shared, SessionId(2));
        let read = verifier().verify(shared.as_str()).unwrap();
        assert_eq!(read.mode, Mode::Shared);
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
        let text = signer().sign(&name("orders/42"), Token(77), Mode::Exclusive, SessionId(5));
        let bytes = text.as_str().as_bytes();
        for at in 0..bytes.len() * 8 {
            let mut altered = bytes.to_vec();
            altered[at / 8] ^= 1 << (at % 8);
            if let Ok(altered) = std::str::from_utf8(&altered) {
                assert!(
                    verifier().verify(altered).is_err(),
                    "bit {at} flipped: {altered}"
                );
            }
        }
        let raw = URL_SAFE_NO_PAD
            .decode(&text.as_str()[PREFIX.len()..])
            .unwrap();
        for at in 0..raw.len() * 8 {
            let mut altered = raw.clone();
            altered[at / 8] ^= 1 << (at % 8);
            let altered = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&altered));
            assert!(verifier().verify(&altered).is_err(), "bit {at} flipped");
        }
    }

    #[test]
    fn truncated_extended_and_foreign_tickets_are_rejected() {
        let text = signer().sign(&name("a"), Token(1), Mode::Exclusive, SessionId(1));
        for end in 0..text.as_str().len() {
            assert!(verifier().verify(&text.as_str()[..end]).is_err());
        }
        assert!(verifier().verify(&format!("{text}A")).is_err());
        assert!(verifier().verify(&format!("{text}=")).is_err());
        assert!(
            verifier()
                .verify(&format!("{PREFIX}{}", "A".repeat(5000)))
                .is_err()
        );
        let other_key = Signer::from_seed(CELL, &[8; 32]).unwrap();
        let foreign = other_key.sign(&name("a"), Token(1), Mode::Exclusive, SessionId(1));
        let refused = verifier().verify(foreign.as_str());
        assert!(
            matches!(refused, Err(TicketError::UnknownKey(_))),
            "{refused:?}"
        );
        let other_cell = Signer::from_seed(CellId([1; 16]), &[7; 32]).unwrap();
        let foreign = other_cell.sign(&name("a"), Token(1), Mode::Exclusive, SessionId(1));
        let refused = verifier().verify(foreign.as_str());
        assert!(
            matches!(refused, Err(TicketError::OtherCell(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn the_longest_name_fits_the_longest_ticket() {
        let text = signer().sign(
            &name(&"x".repeat(256)),
            Token(1),
            Mode::Exclusive,
            SessionId(1),
        );
        assert!(text.as_str().len() <= TICKET_TEXT_BYTES_MAX);
        assert!(verifier().verify(text.as_str()).is_ok());
    }

    /// Lock, token, session, ticket: under the seed of 32 bytes 7 and the cell "0123456789abcdef".
    const GOLDEN: &[(&str, u64, u64, &str)] = &[
        (
            "a",
            1,
            1,
            "lk1.Af6BLBIwMTIzNDU2Nzg5YWJjZGVmAAAAAAAAAAEAAAAAAAAAAQAAAWGMOQQ7Ld-ionJMuGJ-uk2Odyx2cfh86ev4U2hj5a7DvBwrALfm6fst1sfS19bLZe2q_D9hEDPYC3RbcrKVFsMC",
        ),
        (
            "orders/42",
            4711,
            12,
            "lk1.Af6BLBIwMTIzNDU2Nzg5YWJjZGVmAAAAAAAAEmcAAAAAAAAADAAACW9yZGVycy80MlIrpHSpsWeIqngOojEDx3ClzkTnLvuNNkxc6VxvGrirzbLcPp6pjlx4VmwHk2LK_btTNsQUGOPtLJQnEFfSvws",
        ),
        (
            "été/→",
            9223372036854775807,
            18446744073709551615,
            "lk1.Af6BLBIwMTIzNDU2Nzg5YWJjZGVmf____________________wAACcOpdMOpL-KGkvz30BajH6U-oC3pnQKxy5AkhK4X5BzPi8KawRYIaiI93dlu9B5c8j7CjpFgalRoapEPV8V6yCgv5mbPhYLL7wM",
        ),
    ];
}
