//! From printed tickets to a verified set. Verification happens here and nowhere else, once per
//! showing; whether a genuine ticket is still current is the fence's business.

use std::path::Path;

use lockd_protocol::ticket::Verifier;
use lockd_protocol::types::{CellId, Mode};
use serde::Deserialize;

use crate::config::ConfigError;
use crate::fence::refusal::{BadTicket, Refusal};
use crate::fence::set::{Shown, TicketSet};
use crate::limits::TICKETS_PER_SESSION_MAX;

/// Verifies tickets separated by spaces. No ticket at all is the empty set.
///
/// # Errors
/// [`Refusal::BadTicket`] names the first that is not one; [`Refusal::Stale`] as in
/// [`TicketSet::new`].
pub fn read(verifier: &Verifier, text: &str) -> Result<TicketSet, Refusal> {
    let shown = text.split_ascii_whitespace().count();
    if shown > TICKETS_PER_SESSION_MAX {
        let most = TICKETS_PER_SESSION_MAX;
        return Err(Refusal::BadTicket(BadTicket::TooMany { shown, most }));
    }
    let verified = text
        .split_ascii_whitespace()
        .map(|text| {
            let ticket = verifier.verify(text).map_err(BadTicket::NotGenuine)?;
            match ticket.mode {
                // A permit's ticket names a fence of its own.
                Mode::Exclusive | Mode::Permit { .. } => Ok(Shown {
                    lock: ticket.lock,
                    token: ticket.token,
                }),
                _ => Err(BadTicket::NotExclusive(ticket.lock)),
            }
        })
        .collect::<Result<Vec<_>, BadTicket>>()
        .map_err(Refusal::BadTicket)?;
    TicketSet::new(verified)
}

/// What the gateway needs of a client configuration to verify tickets; the rest of the file is
/// the client library's.
#[derive(Deserialize)]
struct TicketKeys {
    cell: String,
    ticket_keys: Vec<String>,
}

/// The verifier for the cell that a client configuration (`client.toml`) describes.
///
/// # Errors
/// [`ConfigError`] if the file cannot be read or its `cell` or `ticket_keys` are not usable.
pub fn verifier(client_config: &Path) -> Result<Verifier, ConfigError> {
    let invalid = |field: &'static str, reason: String| ConfigError::Field {
        file: client_config.to_path_buf(),
        field: field.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(client_config).map_err(|source| ConfigError::Read {
        file: client_config.to_path_buf(),
        source,
    })?;
    let keys: TicketKeys = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
        file: client_config.to_path_buf(),
        source: Box::new(source),
    })?;
    let cell: CellId = keys
        .cell
        .parse()
        .map_err(|e| invalid("cell", format!("{e}")))?;
    let public_keys = keys
        .ticket_keys
        .iter()
        .map(|key| from_hex(key).ok_or(()))
        .collect::<Result<Vec<_>, ()>>()
        .map_err(|()| {
            invalid(
                "ticket_keys",
                "each key is 64 hexadecimal digits, as `lockd init` wrote".into(),
            )
        })?;
    if public_keys.is_empty() {
        return Err(invalid(
            "ticket_keys",
            "at least one key is needed to verify tickets".into(),
        ));
    }
    Verifier::new(cell, public_keys).map_err(|e| invalid("ticket_keys", e.to_string()))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use lockd_protocol::ticket::Signer;
    use lockd_protocol::types::{LockName, SessionId, Token};

    use super::*;

    const CELL: CellId = CellId([3; 16]);

    fn signer() -> Signer {
        Signer::from_seed(CELL, &[1; 32]).unwrap()
    }

    fn ticket(lock: &str, token: u64) -> String {
        let lock = LockName::new(lock).unwrap();
        signer()
            .sign(&lock, Token(token), Mode::Exclusive, SessionId(1))
            .to_string()
    }

    #[test]
    fn tickets_are_read_in_any_order_with_any_spaces_between() {
        let verifier = Verifier::new(CELL, [signer().public_key()]).unwrap();
        let text = format!("  {}   {} ", ticket("b", 2), ticket("a", 1));
        let set = read(&verifier, &text).unwrap();
        let locks: Vec<_> = set.tickets().iter().map(|t| t.lock.as_str()).collect();
        assert_eq!(locks, ["a", "b"]);
        assert!(read(&verifier, "").unwrap().is_empty());
    }

    #[test]
    fn a_permit_admits_writes_under_its_own_fence_and_a_shared_lock_admits_none() {
        let verifier = Verifier::new(CELL, [signer().public_key()]).unwrap();
        let sign = |name: &str, mode| {
            let name = LockName::new(name).unwrap();
            signer()
                .sign(&name, Token(1), mode, SessionId(1))
                .to_string()
        };
        let set = read(&verifier, &sign("workers#3", Mode::Permit { of: 4 })).unwrap();
        assert_eq!(set.tickets()[0].lock.as_str(), "workers#3");
        let refusal = read(&verifier, &sign("a", Mode::Shared)).unwrap_err();
        assert_eq!(refusal.code(), "FN003");
    }

    #[test]
    fn one_bad_ticket_spoils_the_set() {
        let verifier = Verifier::new(CELL, [signer().public_key()]).unwrap();
        let refusal = read(&verifier, &format!("{} lk1.x", ticket("a", 1))).unwrap_err();
        assert_eq!(refusal.code(), "FN003");
        let many = ticket("a", 1) + &" x".repeat(TICKETS_PER_SESSION_MAX);
        assert_eq!(read(&verifier, &many).unwrap_err().code(), "FN003");
    }

    #[test]
    fn a_client_configuration_yields_its_verifier_or_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        let key: String = signer()
            .public_key()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        std::fs::write(
            &file,
            format!("cell = \"{CELL}\"\nnodes = []\nticket_keys = [\"{key}\"]"),
        )
        .unwrap();
        assert!(read(&verifier(&file).unwrap(), &ticket("a", 1)).is_ok());
        for (text, field) in [
            (format!("cell = \"x\"\nticket_keys = [\"{key}\"]"), "cell"),
            (
                format!("cell = \"{CELL}\"\nticket_keys = [\"zz\"]"),
                "ticket_keys",
            ),
            (
                format!("cell = \"{CELL}\"\nticket_keys = []"),
                "ticket_keys",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = verifier(&file).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
