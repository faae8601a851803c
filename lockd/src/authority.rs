//! The cell's certificate authority, and the files of those whom it certifies.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lockd_protocol::CellId;
use lockd_protocol::roles::Role;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose};

use crate::init::InitError;

/// Where the authority's private key is, in the directory that `lockd init` made.
const KEY_FILE: &str = "ca-key.pem";

const CERTIFICATE_FILE: &str = "ca.pem";

/// The cell's certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new(cell: CellId) -> Result<Authority, rcgen::Error> {
        let (params, key) = (params(cell)?, KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// The one whose files are in `dir`.
    pub(crate) fn load(dir: &Path, cell: CellId) -> Result<Authority, InitError> {
        let key = KeyPair::from_pem(&read(&dir.join(KEY_FILE))?)?;
        let pem = read(&dir.join(CERTIFICATE_FILE))?;
        Ok(Authority {
            issuer: Issuer::new(params(cell)?, key),
            pem,
        })
    }

    /// Writes its files.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), InitError> {
        write(&dir.join(CERTIFICATE_FILE), &self.pem)?;
        write_secret(&dir.join(KEY_FILE), &self.issuer.key().serialize_pem())
    }

    fn certify(&self, role: &Role) -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(role.dns_names())?;
        let (name, usages) = match role {
            Role::Node(id) => (
                format!("node {id}"),
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ],
            ),
            Role::Client(name) | Role::Operator(name) => {
                (name.clone(), vec![ExtendedKeyUsagePurpose::ClientAuth])
            }
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// What the authority's certificate says of it; with the key, all that its signatures depend on.
fn params(cell: CellId) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("lockd cell {cell}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Makes the directory `home` with the certificate and the key of `role`.
pub(crate) fn make_identity(
    home: &Path,
    authority: &Authority,
    role: &Role,
) -> Result<(), InitError> {
    fs::create_dir(home).map_err(|source| InitError::Write {
        path: home.into(),
        source,
    })?;
    let (certificate, key) = authority.certify(role)?;
    write(&home.join(CERTIFICATE_FILE), &authority.pem)?;
    write(&home.join("cert.pem"), &certificate)?;
    write_secret(&home.join("key.pem"), &key)
}

/// Reads a small text file.
pub(crate) fn read(path: &Path) -> Result<String, InitError> {
    fs::read_to_string(path).map_err(|source| InitError::Read {
        path: path.into(),
        source,
    })
}

/// Writes a new file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), InitError> {
    write_with_mode(path, text, 0o644)
}

/// Writes a new file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), InitError> {
    write_with_mode(path, text, 0o600)
}

fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.map_err(|source| InitError::Write {
        path: path.into(),
        source,
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
