//! A node's configuration file, `node.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockd_protocol::{CellId, NodeId};
use serde::{Deserialize, Serialize};

use super::core::compaction::CompactionBounds;
use super::core::quota::Quotas;
use super::core::scrubbing::ScrubRate;
use crate::limits::{
    CONFIGURED_MEMBERS_MAX, SCRUB_BYTES_PER_SECOND_MIN, SCRUB_EVERY, SCRUB_EVERY_MAX,
    SCRUB_EVERY_MIN,
};

/// What `node.toml` says. Paths are relative to the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The cell's id: 32 hexadecimal digits.
    cell: String,
    /// Which of the members this node is.
    pub node: u64,
    /// Where the log is kept.
    pub data: PathBuf,
    /// Certificate of the cell's authority, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Seed of the key that signs tickets: 64 hexadecimal digits.
    pub ticket_key: PathBuf,
    /// This node, and those that it asks for the cell as long as it knows no members.
    pub member: Vec<MemberConfig>,
    /// When the node makes a snapshot of its state, and cuts its log behind it.
    #[serde(default, skip_serializing_if = "SnapshotConfig::is_default")]
    pub snapshot: SnapshotConfig,
    /// How often, and how fast, the node reads its store again to find damage.
    #[serde(default, skip_serializing_if = "ScrubConfig::is_default")]
    pub scrub: ScrubConfig,
    /// What one client may take at most.
    #[serde(default, skip_serializing_if = "Quotas::is_default")]
    pub quota: Quotas,
}

/// After how much log a node makes a snapshot, if that is also longer than the snapshot before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// Entries since the last one.
    pub entries: u64,
    /// Bytes since the last one.
    pub bytes: u64,
}

impl Default for SnapshotConfig {
    fn default() -> SnapshotConfig {
        let CompactionBounds { entries, bytes } = CompactionBounds::default();
        SnapshotConfig { entries, bytes }
    }
}

impl SnapshotConfig {
    fn is_default(&self) -> bool {
        *self == SnapshotConfig::default()
    }

    pub(super) fn bounds(&self) -> CompactionBounds {
        CompactionBounds {
            entries: self.entries,
            bytes: self.bytes,
        }
    }
}

/// How often a node reads its store again, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Pause between two passes, like `24h`.
    pub every: String,
    /// Most bytes that are read in a second.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        let ScrubRate {
            every,
            bytes_per_second,
        } = ScrubRate::default();
        ScrubConfig {
            every: humantime::format_duration(every).to_string(),
            bytes_per_second,
        }
    }
}

impl ScrubConfig {
    fn is_default(&self) -> bool {
        *self == ScrubConfig::default()
    }

    fn check(&self) -> Result<Duration, String> {
        let text = |time| humantime::format_duration(time).to_string();
        let every = humantime::parse_duration(&self.every)
            .map_err(|error| format!("`every`: {error}; write a time like `24h`"))?;
        if !(SCRUB_EVERY_MIN..=SCRUB_EVERY_MAX).contains(&every) {
            let (min, max) = (text(SCRUB_EVERY_MIN), text(SCRUB_EVERY_MAX));
            return Err(format!("`every` must be from {min} to {max}"));
        }
        if self.bytes_per_second < SCRUB_BYTES_PER_SECOND_MIN {
            return Err(format!(
                "`bytes_per_second` must be at least {SCRUB_BYTES_PER_SECOND_MIN}"
            ));
        }
        Ok(every)
    }

    pub(super) fn rate(&self) -> ScrubRate {
        ScrubRate {
            // Checked when the configuration was loaded.
            every: self.check().unwrap_or(SCRUB_EVERY),
            bytes_per_second: self.bytes_per_second,
        }
    }
}

/// One node of the cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its number.
    pub id: u64,
    /// Its UDP address, for peers and clients alike.
    pub address: SocketAddr,
}

/// Why a node's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML, or a field is missing, unknown or of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        message: String,
    },
    /// A field's value makes no sense.
    #[error("{path}: `{field}`: {message}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl NodeConfig {
    /// A configuration with the file names that `lockd init` uses.
    pub(crate) fn standard(cell: CellId, node: NodeId, member: Vec<MemberConfig>) -> NodeConfig {
        NodeConfig {
            cell: cell.to_string(),
            node: node.0,
            data: "data".into(),
            ca: "ca.pem".into(),
            certificate: "cert.pem".into(),
            key: "key.pem".into(),
            ticket_key: "ticket.key".into(),
            member,
            snapshot: SnapshotConfig::default(),
            scrub: ScrubConfig::default(),
            quota: Quotas::default(),
        }
    }

    /// Reads and checks a configuration; its paths are made absolute.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the field and the remedy.
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let mut config: NodeConfig =
            toml::from_str(&text).map_err(|error| ConfigError::Syntax {
                path: path.into(),
                message: error.to_string(),
            })?;
        config
            .check()
            .map_err(|(field, message)| ConfigError::Field {
                path: path.into(),
                field,
                message,
            })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for file in [
            &mut config.data,
            &mut config.ca,
            &mut config.certificate,
            &mut config.key,
            &mut config.ticket_key,
        ] {
            *file = base.join(&*file);
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        self.cell
            .parse::<CellId>()
            .map_err(|error| ("cell", error.to_string()))?;
        let mut ids: Vec<u64> = self.member.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.member.len() {
            return Err(("member", "two members have the same id".to_owned()));
        }
        if ids.len() > CONFIGURED_MEMBERS_MAX {
            let message = format!(
                "{} are named, at most {CONFIGURED_MEMBERS_MAX} may be",
                ids.len()
            );
            return Err(("member", message));
        }
        if self.snapshot.entries == 0 || self.snapshot.bytes == 0 {
            return Err((
                "snapshot",
                "`entries` and `bytes` must be above 0".to_owned(),
            ));
        }
        self.scrub.check().map_err(|message| ("scrub", message))?;
        self.quota.check().map_err(|message| ("quota", message))?;
        if !ids.contains(&self.node) {
            return Err(("node", format!("there is no member with id {}", self.node)));
        }
        Ok(())
    }

    /// The cell's id.
    #[must_use]
    pub fn cell(&self) -> CellId {
        // Checked when the configuration was loaded or made.
        self.cell.parse().unwrap_or(CellId([0; 16]))
    }

    /// This node's address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.member
            .iter()
            .find(|member| member.id == self.node)
            .map(|member| member.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<NodeConfig, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        NodeConfig::load(&path)
    }

    fn text(node: u64, members: &[u64]) -> String {
        let members: String = members
            .iter()
            .map(|id| {
                format!(
                    "[[member]]\nid = {id}\naddress = \"127.0.0.1:{}\"\n",
                    7000 + id
                )
            })
            .collect();
        format!(
            "cell = \"{}\"\nnode = {node}\ndata = \"data\"\nca = \"ca.pem\"\n\
             certificate = \"cert.pem\"\nkey = \"key.pem\"\nticket_key = \"ticket.key\"\n{members}",
            "ab".repeat(16)
        )
    }

    #[test]
    fn a_good_configuration_is_read_and_its_paths_are_relative_to_the_file() {
        let config = load(&text(2, &[1, 2, 3])).expect("good");
        assert_eq!(
            config.address(),
            Some("127.0.0.1:7002".parse().expect("an address"))
        );
        assert!(config.data.is_absolute());
    }

    #[test]
    fn errors_name_the_field_and_the_remedy() {
        for (text, wanted) in [
            (text(4, &[1, 2, 3]), "`node`: there is no member with id 4"),
            (
                text(1, &(1..=17).collect::<Vec<_>>()),
                "17 are named, at most 16",
            ),
            (
                text(1, &[1]) + "[snapshot]\nbytes = 0\n",
                "`snapshot`: `entries`",
            ),
            (
                text(1, &[1]) + "[scrub]\nevery = \"soon\"\n",
                "`scrub`: `every`: expected number",
            ),
            (
                text(1, &[1]) + "[scrub]\nevery = \"10ms\"\n",
                "`scrub`: `every` must be from 1s",
            ),
            (
                text(1, &[1]) + "[scrub]\nbytes_per_second = 0\n",
                "`bytes_per_second` must be at least 65536",
            ),
            (
                text(1, &[1]) + "[quota]\nwaiters_per_lock = 0\n",
                "`quota`: `waiters_per_lock` must be from 1 to",
            ),
            (text(1, &[1, 1, 3]), "two members have the same id"),
            (
                text(1, &[1]).replace("ab", "zz"),
                "`cell`: a cell id is 32 hexadecimal digits",
            ),
            (text(1, &[1]) + "colour = 3\n", "colour"),
            (
                text(1, &[1]).replace("data = \"data\"\n", ""),
                "missing field `data`",
            ),
        ] {
            let error = load(&text).expect_err("not good").to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
