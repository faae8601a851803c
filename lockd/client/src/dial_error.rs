//! Why a node could not be used, read from what QUIC and TLS report.

use std::time::Duration;

use lockd_protocol::{CellId, roles};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use crate::error::ConnectError;
use crate::link::Gone;

/// Why one node could not be used.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No answer, or the network said no.
    Unreachable(String),
    /// The node refused our certificate.
    CertificateRefused(String),
    /// We refused the node's certificate.
    NodeNotTrusted(String),
    /// The node belongs to another cell.
    OtherCell(CellId),
    /// The node speaks another version.
    Version(String),
    /// The node said why.
    Rejected(String),
}

impl DialError {
    fn describe(&self) -> String {
        match self {
            DialError::Unreachable(detail) => detail.clone(),
            DialError::CertificateRefused(_) => "refused our certificate".to_owned(),
            DialError::NodeNotTrusted(_) => "is not trusted".to_owned(),
            DialError::OtherCell(_) => "belongs to another cell".to_owned(),
            DialError::Version(_) => "speaks another version".to_owned(),
            DialError::Rejected(reason) => reason.clone(),
        }
    }

    /// The same as an error of the interface.
    pub(crate) fn at(self, address: &str, ours: CellId, within: Duration) -> ConnectError {
        let address = address.to_owned();
        match self {
            DialError::CertificateRefused(detail) => {
                ConnectError::CertificateRefused { address, detail }
            }
            DialError::NodeNotTrusted(detail) => ConnectError::NodeNotTrusted { address, detail },
            DialError::OtherCell(theirs) => ConnectError::OtherCell {
                address,
                ours,
                theirs,
            },
            DialError::Version(detail) => ConnectError::Version { address, detail },
            DialError::Rejected(reason) => ConnectError::Rejected { address, reason },
            DialError::Unreachable(detail) => ConnectError::Unreachable {
                within,
                tried: format!("{address}: {detail}"),
            },
        }
    }
}

/// Every address that was tried, with what happened there.
#[derive(Debug, Default)]
pub(crate) struct DialErrors(Vec<(String, DialError)>);

impl DialErrors {
    pub(crate) fn add(&mut self, address: String, error: DialError) {
        self.0.push((address, error));
    }

    /// One line for a person.
    pub(crate) fn describe(&self) -> String {
        let each = |(address, error): &(String, DialError)| {
            let what = error.describe();
            format!("{address}: {what}")
        };
        self.0.iter().map(each).collect::<Vec<_>>().join("; ")
    }

    /// The first error that no retry can mend.
    pub(crate) fn lasting(&mut self, ours: CellId) -> Option<ConnectError> {
        let lasting = |(_, error): &(String, DialError)| {
            !matches!(error, DialError::Unreachable(_) | DialError::Rejected(_))
        };
        let first = self.0.iter().position(lasting);
        let rejected = |(_, error): &(String, DialError)| matches!(error, DialError::Rejected(_));
        let at = first.or_else(|| self.0.iter().position(rejected))?;
        let (address, error) = self.0.swap_remove(at);
        Some(error.at(&address, ours, Duration::ZERO))
    }
}

/// First TLS alert as a QUIC error code, and the alerts that speak of a certificate
/// (RFC 8446, 6.2; RFC 9001, 4.8).
const CRYPTO_ERROR: u64 = 0x100;
const ALERTS_ABOUT_CERTIFICATES: std::ops::RangeInclusive<u64> = 42..=49;
const ALERT_CERTIFICATE_REQUIRED: u64 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 120;

/// What a failed connection says.
pub(crate) fn classify(error: ConnectionError) -> DialError {
    match error {
        ConnectionError::TransportError(ours) => {
            let code = u64::from(ours.code).wrapping_sub(CRYPTO_ERROR);
            match code {
                ALERT_NO_APPLICATION_PROTOCOL => DialError::Version(ours.reason),
                0..=255 => DialError::NodeNotTrusted(ours.reason),
                _ => DialError::Unreachable(ours.to_string()),
            }
        }
        ConnectionError::ConnectionClosed(theirs) => {
            let code = u64::from(theirs.error_code).wrapping_sub(CRYPTO_ERROR);
            let detail = String::from_utf8_lossy(&theirs.reason).into_owned();
            match code {
                ALERT_NO_APPLICATION_PROTOCOL => DialError::Version(detail),
                ALERT_CERTIFICATE_REQUIRED => DialError::CertificateRefused(detail),
                code if ALERTS_ABOUT_CERTIFICATES.contains(&code) => {
                    DialError::CertificateRefused(detail)
                }
                _ => DialError::Unreachable(theirs.to_string()),
            }
        }
        ConnectionError::ApplicationClosed(theirs) => {
            let detail = String::from_utf8_lossy(&theirs.reason).into_owned();
            match theirs.error_code == VarInt::from_u32(roles::CLOSE_WRONG_ROLE) {
                true => DialError::CertificateRefused(detail),
                false => DialError::Rejected(detail),
            }
        }
        ConnectionError::VersionMismatch => DialError::Version("of QUIC".to_owned()),
        ConnectionError::TimedOut => DialError::Unreachable("no answer".to_owned()),
        error => DialError::Unreachable(error.to_string()),
    }
}

/// What a stream says that came to its end.
pub(crate) fn classify_gone(gone: Gone) -> DialError {
    match gone {
        Gone::Failed(ReadError::ConnectionLost(error)) => classify(error),
        gone => DialError::Unreachable(gone.to_string()),
    }
}

/// What a failed write says.
pub(crate) fn classify_write(error: WriteError) -> DialError {
    match error {
        WriteError::ConnectionLost(error) => classify(error),
        error => DialError::Unreachable(error.to_string()),
    }
}
