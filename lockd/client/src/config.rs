//! What a client has to know about its cell: `client.toml` and the PEM files it names. Connects
//! to nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use lockd_protocol::CellId;
use lockd_protocol::ticket::{KeyError, Verifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use crate::error::ErrorKind;

/// A cell, and a client's identity in it.
#[derive(Clone)]
pub struct ClientConfig {
    /// The cell.
    pub cell: CellId,
    /// Addresses of its nodes for clients, `host:port`.
    pub nodes: Vec<String>,
    /// Certificate of the cell's CA, PEM.
    pub ca: Vec<u8>,
    /// This client's certificate chain, PEM.
    pub certificate: Vec<u8>,
    /// This client's private key, PEM.
    pub key: Vec<u8>,
    /// Ed25519 public keys that verify the cell's tickets, 32 bytes each.
    pub ticket_keys: Vec<Vec<u8>>,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("cell", &self.cell)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("cannot read {path}{field}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Where it was named, in words that follow the path.
        field: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file that is not TOML, or lacks something.
    #[error("{path} is not a client configuration: {message}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field with a value that is not allowed.
    #[error("`{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what it should be.
        problem: String,
    },
}

impl ConfigError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    cell: String,
    nodes: Vec<String>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default)]
    ticket_keys: Vec<String>,
}

impl ClientConfig {
    /// Reads `client.toml` and the files it names, whose paths are relative to it.
    ///
    /// # Errors
    /// [`ConfigError`] names the file or the field.
    pub fn load(path: impl AsRef<Path>) -> Result<ClientConfig, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.display().to_string(),
            field: String::new(),
            source,
        })?;
        let file: ConfigFile = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.display().to_string(),
            message: error.message().to_owned(),
        })?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let config = ClientConfig {
            cell: parse_cell(&file.cell)?,
            nodes: file.nodes,
            ca: read(directory, &file.ca, "ca")?,
            certificate: read(directory, &file.certificate, "certificate")?,
            key: read(directory, &file.key, "key")?,
            ticket_keys: parse_keys(&file.ticket_keys)?,
        };
        config.check()?;
        Ok(config)
    }

    /// Looks for what would make a connection impossible from the start.
    ///
    /// # Errors
    /// [`ConfigError::Field`] names the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.nodes.is_empty() {
            return Err(field("nodes", "is empty: give the address of every node"));
        }
        for node in &self.nodes {
            let port = node.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                let problem = format!("has {node:?}: write an address as host:port");
                return Err(field("nodes", problem));
            }
        }
        self.authorities()?;
        self.identity()?;
        self.verifier().map(drop)
    }

    /// What verifies the tickets of this cell.
    ///
    /// # Errors
    /// [`ConfigError::Field`] if a key has the wrong length.
    pub fn verifier(&self) -> Result<Verifier, ConfigError> {
        Verifier::new(self.cell, &self.ticket_keys)
            .map_err(|error: KeyError| field("ticket_keys", format!("has a bad key: {error}")))
    }

    pub(crate) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        certificates(&self.ca, "ca")
    }

    pub(crate) fn identity(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ConfigError> {
        let chain = certificates(&self.certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| field("key", format!("has no private key in PEM: {error}")))?;
        Ok((chain, key))
    }
}

fn certificates(
    pem: &[u8],
    name: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| field(name, format!("is not PEM: {error}")))?;
    if all.is_empty() {
        return Err(field(name, "has no certificate in it"));
    }
    Ok(all)
}

fn read(directory: &Path, path: &Path, name: &str) -> Result<Vec<u8>, ConfigError> {
    let path = directory.join(path);
    std::fs::read(&path).map_err(|source| ConfigError::Read {
        path: path.display().to_string(),
        field: format!(" (named by `{name}`)"),
        source,
    })
}

fn parse_cell(text: &str) -> Result<CellId, ConfigError> {
    text.parse()
        .map_err(|error| field("cell", format!("is wrong: {error}")))
}

fn parse_keys(keys: &[String]) -> Result<Vec<Vec<u8>>, ConfigError> {
    let wrong = || field("ticket_keys", "has a key that is not 64 hexadecimal digits");
    keys.iter()
        .map(|key| {
            if key.len() != 64 || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            key.as_bytes()
                .chunks(2)
                .map(|pair| {
                    let digits = std::str::from_utf8(pair).ok()?;
                    u8::from_str_radix(digits, 16).ok()
                })
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(wrong)
        })
        .collect()
}

fn field(field: &'static str, problem: impl Into<String>) -> ConfigError {
    let problem = problem.into();
    ConfigError::Field { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let error = ClientConfig::load("/nonexistent/client.toml").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/client.toml"));
    }

    #[test]
    fn fields_that_are_wrong_are_named() {
        assert!(parse_cell("xyz").unwrap_err().to_string().contains("cell"));
        let keys = parse_keys(&["+1".repeat(32)]);
        assert!(keys.unwrap_err().to_string().contains("ticket_keys"));
        assert_eq!(parse_keys(&["0f".repeat(32)]).unwrap(), [vec![0x0f; 32]]);
    }
}
