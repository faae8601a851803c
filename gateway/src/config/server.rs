//! What the sections of all kinds of servers have in common: passwords, encryption, the number of
//! the gateway's own connections.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Wrong, wrong};
use crate::limits::ADMIN_CONNECTIONS_DEFAULT;

/// Encryption of the connections to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamTls {
    /// None.
    #[default]
    Disable,
    /// Encrypted, whoever the server is.
    Require,
    /// Encrypted, and the server proves its name with a certificate of the configured authority.
    VerifyFull,
}

/// The name of a section, for errors about its fields.
#[derive(Clone, Copy)]
pub(super) struct Section(pub(super) &'static str);

impl Section {
    /// A field of this section is wrong.
    pub(super) fn wrong<T>(self, field: &str, reason: impl Into<String>) -> Result<T, Wrong> {
        wrong(format!("{}.{field}", self.0), reason)
    }

    /// A password, written here or in a file whose last line end does not count.
    pub(super) fn password(
        self,
        dir: &Path,
        here: Option<String>,
        file: Option<&Path>,
    ) -> Result<Option<String>, Wrong> {
        match (here, file) {
            (Some(_), Some(_)) => {
                self.wrong("password", "give password or password_file, not both")
            }
            (None, Some(file)) => match std::fs::read_to_string(dir.join(file)) {
                Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(error) => self.wrong("password_file", format!("{}: {error}", file.display())),
            },
            (password, None) => Ok(password),
        }
    }

    /// The authorities that have to vouch for the server, where it has to prove its name.
    pub(super) fn authorities(
        self,
        dir: &Path,
        tls: UpstreamTls,
        ca: Option<PathBuf>,
    ) -> Result<Option<PathBuf>, Wrong> {
        if tls == UpstreamTls::VerifyFull && ca.is_none() {
            let reason = "verify-full needs the server's authorities (a PEM file)";
            return self.wrong("ca", reason);
        }
        Ok(ca.map(|ca| dir.join(ca)))
    }

    /// How many connections of its own the gateway keeps.
    pub(super) fn admin_connections(self, wanted: Option<usize>) -> Result<usize, Wrong> {
        match wanted.unwrap_or(ADMIN_CONNECTIONS_DEFAULT) {
            count if (1..=64).contains(&count) => Ok(count),
            _ => self.wrong("admin_connections", "is not between 1 and 64"),
        }
    }
}
