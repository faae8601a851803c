//! Makes a cell: its id, its authority, its certificates, its keys, its empty logs; and later the
//! directories of further nodes.
//!
//! The authority's private key stays in the directory's root and belongs nowhere near a node.
//! Each node's and each client's directory is complete and can be copied to its machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use lockd_protocol::roles::Role;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{Membership, MembershipError, Quorums};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

use crate::authority::{Authority, hex, make_identity, read, write, write_secret};
use crate::server::config::{MemberConfig, NodeConfig};
use crate::server::core::members::{Member, Members, encode_members};
use crate::server::store;

/// The identity of whoever may change the members.
const OPERATOR: &str = "operator";

const TICKET_KEY_FILE: &str = "ticket.key";

/// What to make.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Address of each node, in order of their numbers: 1, 3 or 5 of them. Port 0 takes a free
    /// port of this machine.
    pub addresses: Vec<SocketAddr>,
    /// Names of client identities to make, each in a directory of its name.
    pub clients: Vec<String>,
    /// How many nodes it takes; majorities if not given.
    pub quorums: Option<Quorums>,
}

impl Default for InitOptions {
    /// Three nodes on free ports of the loopback interface, and the clients `client` and
    /// `gateway`.
    fn default() -> InitOptions {
        InitOptions {
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3],
            clients: vec!["client".to_owned(), "gateway".to_owned()],
            quorums: None,
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
    /// `client.toml` of the operator.
    pub operator: PathBuf,
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
    #[error(
        "client name {0:?}: use 1 to 63 lower-case letters, digits and hyphens, not `operator`"
    )]
    ClientName(String),
    /// Two nodes share an address.
    #[error("address {0} is given twice")]
    Address(SocketAddr),
    /// The quorums do not fit the nodes.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A file that `lockd init` made cannot be read.
    #[error("cannot read {path}: {source}; give the directory that `lockd init` made")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
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
    authority.save(dir)?;
    let ticket_key = format!("{}\n", hex(&seed));
    write_secret(&dir.join(TICKET_KEY_FILE), &ticket_key)?;

    let disks = draw_disks(&members, &random)?;
    let membership = first_membership(&disks, options.quorums)?;
    let mut nodes = Vec::new();
    for (id, disk) in &disks {
        let node = NewNode {
            cell,
            id: *id,
            incarnation: disk.incarnation,
            members: members.clone(),
            membership: membership.clone(),
        };
        nodes.push(node.make(dir, &authority, &ticket_key)?);
    }
    let client_file = to_toml(&ClientFile::new(cell, &members, &public_key))?;
    let make_client = |role: &Role, name: &str| {
        let home = dir.join(name);
        make_identity(&home, &authority, role)?;
        let path = home.join("client.toml");
        write(&path, &client_file).map(|()| path)
    };
    let clients = options.clients.iter();
    let clients = clients.map(|name| make_client(&Role::Client(name.clone()), name));
    Ok(CellLayout {
        cell,
        nodes,
        clients: clients.collect::<Result<_, _>>()?,
        operator: make_client(&Role::Operator(OPERATOR.to_owned()), OPERATOR)?,
    })
}

/// A node that is to join a cell.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The cell.
    pub cell: CellId,
    /// A number that no member ever had.
    pub node: NodeId,
    /// Where it will be. Port 0 takes a free port of this machine.
    pub address: SocketAddr,
    /// Where it finds the cell.
    pub members: Vec<MemberConfig>,
}

/// Makes the directory of a node that is to join, in `dir` where `lockd init` put the cell's
/// authority; its `node.toml` and its address.
///
/// # Errors
/// [`InitError`] says what is in the way.
pub fn prepare(dir: &Path, options: &PrepareOptions) -> Result<(PathBuf, SocketAddr), InitError> {
    let authority = Authority::load(dir, options.cell)?;
    let ticket_key = read(&dir.join(TICKET_KEY_FILE))?;
    let own = members(&[options.address])?;
    let address = own.first().map_or(options.address, |own| own.address);
    let id = options.node.0;
    let mut known = options.members.clone();
    known.push(MemberConfig { id, address });
    let node = NewNode {
        cell: options.cell,
        id: options.node,
        incarnation: u64::from_le_bytes(draw(&SystemRandom::new())?),
        members: known,
        membership: Membership::none(),
    };
    Ok((node.make(dir, &authority, &ticket_key)?, address))
}

/// What the directory of a node is made of.
struct NewNode {
    cell: CellId,
    id: NodeId,
    incarnation: u64,
    members: Vec<MemberConfig>,
    membership: Membership,
}

impl NewNode {
    fn make(
        self,
        dir: &Path,
        authority: &Authority,
        ticket_key: &str,
    ) -> Result<PathBuf, InitError> {
        let home = dir.join(format!("node-{}", self.id));
        make_identity(&home, authority, &Role::Node(self.id))?;
        write_secret(&home.join(TICKET_KEY_FILE), ticket_key)?;
        let config = NodeConfig::standard(self.cell, self.id, self.members);
        let path = home.join("node.toml");
        write(&path, &to_toml(&config)?)?;
        let data = home.join("data");
        store::create(
            &data,
            self.cell,
            self.id,
            self.incarnation,
            &self.membership,
        )
        .map_err(InitError::Store)?;
        Ok(path)
    }
}

/// Gives each member a disk.
fn draw_disks(members: &[MemberConfig], random: &SystemRandom) -> Result<Members, InitError> {
    let draw = |member: &MemberConfig| {
        let disk = Member {
            address: member.address.to_string(),
            incarnation: u64::from_le_bytes(draw(random)?),
        };
        Ok((NodeId(member.id), disk))
    };
    members.iter().map(draw).collect()
}

fn first_membership(
    members: &Members,
    quorums: Option<Quorums>,
) -> Result<Membership, MembershipError> {
    let mut first = Membership::first(members.keys().map(|id| paxos::NodeId(id.0)))?;
    first.quorums = quorums.unwrap_or(first.quorums);
    first.context = encode_members(members);
    first.validate()?;
    Ok(first)
}

fn check(options: &InitOptions) -> Result<(), InitError> {
    if ![1, 3, 5].contains(&options.addresses.len()) {
        return Err(InitError::Size(options.addresses.len()));
    }
    let taken = |name: &&String| !lockd_protocol::roles::is_client_name(name) || *name == OPERATOR;
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

fn to_toml<T: Serialize>(value: &T) -> Result<String, InitError> {
    toml::to_string(value).map_err(|e| InitError::Machine {
        what: "configuration",
        reason: e.to_string(),
    })
}
