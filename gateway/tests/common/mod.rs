//! What the gateway's tests share: tickets signed by a key of their own.
#![allow(dead_code)]

use std::path::Path;

use lockd_protocol::ticket::{Signer, Verifier};
use lockd_protocol::types::{CellId, LockName, Mode, SessionId, Token};

const CELL: CellId = CellId(*b"the test's cell!");

fn signer() -> Signer {
    Signer::from_seed(CELL, &[9; 32]).unwrap()
}

/// A genuine ticket.
pub fn ticket(lock: &str, token: u64) -> String {
    let lock = LockName::new(lock).unwrap();
    signer()
        .sign(&lock, Token(token), Mode::Exclusive, SessionId(1))
        .to_string()
}

/// Verifies the tickets made here.
pub fn verifier() -> Verifier {
    Verifier::new(CELL, [signer().public_key()]).unwrap()
}

/// A client configuration with the key that verifies the tickets made here, and no node.
pub fn write_client_config(file: &Path) {
    let key: String = signer()
        .public_key()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let text = format!("cell = \"{CELL}\"\nnodes = []\nticket_keys = [\"{key}\"]\n");
    std::fs::write(file, text).unwrap();
}
