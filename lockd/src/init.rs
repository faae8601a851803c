//! Makes a cell: its id, its authority, its certificates, its keys, its empty logs.
//!
//! The authority's private key stays in the directory's root and belongs nowhere near a node.
//! Each node's and each client's directory is complete and can be copied to its machine.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lockd_protocol::roles::Role;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

use crate::server::config::{MemberConfig, NodeConfig};
use crate::server::store;

/// What to make.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Address of each node, in order of their numbers: 1, 3 or 5 of them. Port 0 takes a free
    /// port of this machine.
    pub addresses: Vec<SocketAddr>,
    /// Names of client identities to make, each in a directory of its name.
    pub clients: Vec<String>,
}

impl Default for InitOptions {
    /// Three nodes on free ports of the loopback interface, and the clients `client` and
    /// `gateway`.
    fn default() -> InitOptions {
        InitOptions {
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3],
            clients: vec!["client".to_owned(), "gateway".to_owned()],
        }
    }
}

/// Where everything of a new cell is.
#[derive(Clone, Debug)]
pub struct CellLayout {
    /// The cell's id.
    pub cell: CellId,
    /// `node.toml` of each node.
    pub nodes: Vec<PathBuf>,
    /// `client.toml` of each client identity, in the order asked for.
    pub clients: Vec<PathBuf>,
}

/// Why a cell could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something there already.
    #[error("{0} is not empty: give `lockd init` a new directory, it never overwrites a cell")]
    NotEmpty(PathBuf),
    /// Not a size that a cell may have.
    #[error("a cell has 1, 3 or 5 nodes, not {0}: give that many --address")]
    Size(usize),
    /// A client's name that cannot stand in a certificate.
    #[error("client name {0:?}: use 1 to 63 lower-case letters, digits and hyphens")]
    ClientName(String),
    /// Two nodes share an address.
    #[error("address {0} is given twice")]
    Address(SocketAddr),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No free port, or no randomness.
    #[error("this machine gives no {what}: {reason}")]
    Machine {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A node's log could not be made.
    #[error("cannot make a node's log: {0}")]
    Store(String),
}

/// Makes a cell in `dir`, which must not exist or be empty.
///
/// # Errors
/// [`InitError`] says what is in the way.
pub fn init(dir: &Path, options: &InitOptions) -> Result<CellLayout, InitError> {
    check(options)?;
    prepare_directory(dir)?;
    let random = SystemRandom::new();
    let cell = CellId(draw(&random)?);
    let members = members(&options.addresses)?;
    let seed: [u8; 32] = draw(&random)?;
    let public_key = Signer::from_seed(cell, &seed)
        .map_err(|e| InitError::Machine {
            what: "ticket key",
            reason: e.to_string(),
        })?
        .public_key();
    let authority = Authority::new(cell)?;
    write(&dir.join("ca.pem"), &authority.pem)?;
    write_secret(
        &dir.join("ca-key.pem"),
        &authority.issuer.key().serialize_pem(),
    )?;

    let mut layout = CellLayout {
        cell,
        nodes: Vec::new(),
        clients: Vec::new(),
    };
    for member in &members {
        let id = NodeId(member.id);
        let home = dir.join(format!("node-{id}"));
        make_identity(&home, &authority, &Role::Node(id))?;
        write_secret(&home.join("ticket.key"), &format!("{}\n", hex(&seed)))?;
        let config = NodeConfig::standard(cell, id, members.clone());
        write(&home.join("node.toml"), &to_toml(&config)?)?;
        let incarnation = u64::from_le_bytes(draw(&random)?);
        let ids = members.iter().map(|member| NodeId(member.id));
        store::create(&home.join("data"), cell, id, incarnation, ids).map_err(InitError::Store)?;
        layout.nodes.push(home.join("node.toml"));
    }
    for name in &options.clients {
        let home = dir.join(name);
        make_identity(&home, &authority, &Role::Client(name.clone()))?;
        write(
            &home.join("client.toml"),
            &to_toml(&ClientFile::new(cell, &members, &public_key))?,
        )?;
        layout.clients.push(home.join("client.toml"));
    }
    Ok(layout)
}

fn check(options: &InitOptions) -> Result<(), InitError> {
    if ![1, 3, 5].contains(&options.addresses.len()) {
        return Err(InitError::Size(options.addresses.len()));
    }
    let taken = |name: &&String| !lockd_protocol::roles::is_client_name(name);
    if let Some(name) = options.clients.iter().find(taken) {
        return Err(InitError::ClientName(name.clone()));
    }
    for (at, address) in options.addresses.iter().enumerate() {
        if address.port() != 0 && options.addresses[..at].contains(address) {
            return Err(InitError::Address(*address));
        }
    }
    Ok(())
}

fn prepare_directory(dir: &Path) -> Result<(), InitError> {
    let write_error = |source| InitError::Write {
        path: dir.into(),
        source,
    };
    fs::create_dir_all(dir).map_err(write_error)?;
    let mut entries = fs::read_dir(dir).map_err(write_error)?;
    if entries.next().is_some() {
        Err(InitError::NotEmpty(dir.into()))
    } else {
        Ok(())
    }
}

/// Gives each node its address; free ports are all reserved before any is let go again.
fn members(addresses: &[SocketAddr]) -> Result<Vec<MemberConfig>, InitError> {
    let no_port = |e: std::io::Error| InitError::Machine {
        what: "free port",
        reason: e.to_string(),
    };
    let mut reserved = Vec::new();
    let mut members = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let mut address = *address;
        if address.port() == 0 {
            let socket = UdpSocket::bind(address).map_err(no_port)?;
            address = socket.local_addr().map_err(no_port)?;
            reserved.push(socket);
        }
        members.push(MemberConfig {
            id: at as u64 + 1,
            address,
        });
    }
    Ok(members)
}

/// The cell's certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(cell: CellId) -> Result<Authority, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("lockd cell {cell}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority {
            issuer: Issuer::new(params, key),
            pem,
        })
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
            Role::Client(name) => (name.clone(), vec![ExtendedKeyUsagePurpose::ClientAuth]),
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn make_identity(home: &Path, authority: &Authority, role: &Role) -> Result<(), InitError> {
    fs::create_dir(home).map_err(|source| InitError::Write {
        path: home.into(),
        source,
    })?;
    let (certificate, key) = authority.certify(role)?;
    write(&home.join("ca.pem"), &authority.pem)?;
    write(&home.join("cert.pem"), &certificate)?;
    write_secret(&home.join("key.pem"), &key)
}

/// What `client.toml` says; the client SDK reads it.
#[derive(Serialize)]
struct ClientFile {
    cell: String,
    nodes: Vec<String>,
    ca: &'static str,
    certificate: &'static str,
    key: &'static str,
    ticket_keys: Vec<String>,
}

impl ClientFile {
    fn new(cell: CellId, members: &[MemberConfig], ticket_key: &[u8]) -> ClientFile {
        ClientFile {
            cell: cell.to_string(),
            nodes: members
                .iter()
                .map(|member| member.address.to_string())
                .collect(),
            ca: "ca.pem",
            certificate: "cert.pem",
            key: "key.pem",
            ticket_keys: vec![hex(ticket_key)],
        }
    }
}

fn draw<const N: usize>(random: &SystemRandom) -> Result<[u8; N], InitError> {
    let mut bytes = [0; N];
    random.fill(&mut bytes).map_err(|e| InitError::Machine {
        what: "randomness",
        reason: e.to_string(),
    })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_toml<T: Serialize>(value: &T) -> Result<String, InitError> {
    toml::to_string(value).map_err(|e| InitError::Machine {
        what: "configuration",
        reason: e.to_string(),
    })
}

fn write(path: &Path, text: &str) -> Result<(), InitError> {
    write_with_mode(path, text, 0o644)
}

fn write_secret(path: &Path, text: &str) -> Result<(), InitError> {
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
