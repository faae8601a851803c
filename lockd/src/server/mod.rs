//! A node of the cell: its core without I/O, and the shell that gives it sockets and a disk.
//!
//! * [`core`]: replica, lock state, sessions, clients. Pure: no sockets, no clock.
//! * [`config`]: reading `node.toml`.
//! * `shell`: the one loop. `accept`, `peers`, `disk`, `tls`, `transport`, `clock`: its edges.

mod accept;
mod clock;
pub mod config;
pub mod core;
mod disk;
mod peers;
mod shell;
pub(crate) mod store;
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use lockd_protocol::NodeId;
use lockd_protocol::ticket::Signer;
use paxos::store::{LogStore as _, RedbStore};
use paxos::{Config, Replica, Slot, Timing};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use crate::state::State;
use config::{ConfigError, NodeConfig};
use core::{Core, Fatal, Settings};
use disk::Disk;
use peers::PeerLink;
use shell::Shell;
use tls::NodeTls;

pub use tls::TlsError;

/// Bytes of log entries read at once while a node replays its log.
const REPLAY_BYTES: usize = 4 << 20;

/// Why a node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates are wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key that signs tickets is wrong.
    #[error("{path}: {reason}")]
    TicketKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The log cannot be opened.
    #[error("the node's log cannot be used: {0}")]
    Store(String),
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The operating system refused something.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A write, sync or read of the log failed. Nothing was acknowledged after it.
    #[error(
        "the disk failed: {0}. What reached it is unknown, so this node must not go on with it: \
         replace the node"
    )]
    Disk(String),
    /// The log holds what this program cannot understand.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Runs a node until SIGTERM or SIGINT.
///
/// `ready` is called with the node's address once it listens.
///
/// # Errors
/// [`ServeError`] says what is in the way, or what ended the node.
pub fn serve(config: &Path, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let config = NodeConfig::load(config)?;
    run(&config, ready, async {
        let (Ok(mut term), Ok(mut int)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Runs a node until `shutdown` ends. Blocks its thread.
///
/// # Errors
/// [`ServeError`] says what is in the way, or what ended the node.
pub fn run(
    config: &NodeConfig,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let tls = NodeTls::load(config)?;
    let signer = load_signer(config)?;
    let store =
        store::open(&config.data, config.cell(), NodeId(config.node)).map_err(ServeError::Store)?;
    let (replica, state, applied) = recover(config, &store)?;
    let settings = Settings {
        cell: config.cell(),
        node: NodeId(config.node),
        addresses: config
            .member
            .iter()
            .map(|member| (NodeId(member.id), member.address.to_string()))
            .collect(),
        signer,
    };
    let core = Core::new(settings, replica, state, applied, clock::now());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = LocalSet::new();
    tasks.block_on(
        &runtime,
        run_node(config, tls, core, store, ready, shutdown),
    )
}

async fn run_node(
    config: &NodeConfig,
    tls: NodeTls,
    core: Core,
    store: RedbStore,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = config
        .address()
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let endpoint = transport::bind(address, tls.server)
        .map_err(|source| ServeError::Listen { address, source })?;
    let wake = Arc::new(Notify::new());
    let disk = Disk::start(store, wake.clone())?;
    let others = config
        .member
        .iter()
        .filter(|member| member.id != config.node);
    let mut links = BTreeMap::new();
    let dial = peers::client_config(tls.peer);
    for member in others {
        let (id, link) = (NodeId(member.id), Rc::new(PeerLink::default()));
        links.insert(id, link.clone());
        let (endpoint, dial) = (endpoint.clone(), dial.clone());
        spawn_local(peers::keep_dialling(
            link,
            endpoint,
            dial,
            id,
            member.address,
        ));
    }
    let shell = Rc::new(Shell::new(core, wake, disk, links));
    spawn_local(accept::accept_connections(shell.clone(), endpoint.clone()));
    tracing::info!(node = config.node, cell = %config.cell(), %address, "listening");
    ready(address);
    let ended = shell.run(shutdown).await;
    endpoint.close(transport::CLOSE_STOPPING, b"the node stops");
    // Lets the farewells leave; a peer that does not answer is not waited for.
    let _ = tokio::time::timeout(transport::FAREWELL, endpoint.wait_idle()).await;
    ended
}

fn load_signer(config: &NodeConfig) -> Result<Signer, ServeError> {
    let path = &config.ticket_key;
    let wrong = |reason: String| ServeError::TicketKey {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let seed = decode_hex(text.trim())
        .ok_or_else(|| wrong("a ticket key is 64 hexadecimal digits".to_owned()))?;
    Signer::from_seed(config.cell(), &seed).map_err(|error| wrong(error.to_string()))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// Reads the log and replays what is known to be decided.
fn recover(config: &NodeConfig, store: &RedbStore) -> Result<(Replica, State, Slot), ServeError> {
    let broken = |error: &dyn std::error::Error| ServeError::Store(error.to_string());
    let recovered = store.load().map_err(|error| broken(&error))?;
    let decided = recovered.decided;
    let mut state = State::default();
    let mut applied = Slot::NONE;
    let mut effects = Vec::new();
    while applied < decided {
        let entries = store
            .read(applied.next(), decided, REPLAY_BYTES)
            .map_err(|error| broken(&error))?;
        let Some(last) = entries.last().map(|entry| entry.slot) else {
            return Err(ServeError::Store(format!(
                "slot {} is missing",
                applied.next()
            )));
        };
        for entry in &entries {
            core::apply_entry(&mut state, entry, &mut effects)?;
            effects.clear();
        }
        applied = last;
    }
    let paxos_config = Config {
        node: paxos::NodeId(config.node),
        members: config
            .member
            .iter()
            .map(|member| paxos::NodeId(member.id))
            .collect(),
        timing: Timing::default(),
        seed: clock::now().0 ^ config.node.rotate_left(48),
    };
    let replica =
        Replica::new(paxos_config, recovered, clock::now()).map_err(|error| broken(&error))?;
    tracing::info!(node = config.node, applied = applied.0, "replayed the log");
    Ok((replica, state, applied))
}
