//! A node of the cell: its core without I/O, and the shell that gives it sockets and a disk.
//!
//! * [`core`]: replica, lock state, sessions, clients. Pure: no sockets, no clock.
//! * [`config`]: reading `node.toml`.
//! * `shell`: the one loop. `accept`, `peers`, `tls`, `transport`, `clock`: its edges;
//!   `acquaintance`: which nodes it speaks with.
//! * `disk`, `files`, `compactor`, `scrubber`: the threads for the log's writes, for all other file
//!   work, for making snapshots, and for reading everything again; each is a `worker`, and `report`
//!   is what they tell the loop.
//! * `store`: what a node starts from.

mod accept;
mod acquaintance;
mod clock;
mod compactor;
pub mod config;
pub mod core;
mod disk;
mod files;
mod peers;
mod report;
mod scrubber;
mod shell;
pub(crate) mod store;
mod tls;
mod transport;
mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use lockd_protocol::NodeId;
use lockd_protocol::limits::PEER_PROTOCOL_VERSION;
use lockd_protocol::peer::PeerHello;
use lockd_protocol::ticket::Signer;
use paxos::store::{FileStore, StoreError};
use paxos::{Config, Replica, Timing};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use compactor::Compactor;
use config::{ConfigError, NodeConfig};
use core::history::HistoryBounds;
use core::{Core, Fatal, Settings};
use peers::Links;
use report::Reports;
use shell::{Shell, Threads};
use tls::NodeTls;

pub use tls::TlsError;

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
    Store(StoreError),
    /// A snapshot was written by another version, or holds what no version would write.
    #[error("{0}")]
    Unreadable(String),
    /// The replica does not start with what the log says.
    #[error(transparent)]
    Replica(#[from] paxos::ConfigError),
    /// Another node knows this one with another disk, or a later start of it.
    #[error(
        "node {peer} refuses this one: {reason}. A node that does not remember what it promised \
         must not vote: delete this directory and take a new node from `lockd member prepare`"
    )]
    OtherDisk {
        /// Who refuses.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// All other nodes belong to another cell.
    #[error(
        "the nodes that this one knows are of another cell: node {peer} says: {reason}. Check the \
         addresses and the certificates in node.toml"
    )]
    OtherCell {
        /// Who refuses.
        peer: NodeId,
        /// Why.
        reason: String,
    },
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
    /// A write, sync or read of the node's files failed. Nothing was acknowledged after it.
    #[error("{}", disk_failure(.0))]
    Disk(StoreError),
    /// The log holds what this program cannot understand.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

fn disk_failure(error: &StoreError) -> String {
    match error {
        StoreError::Full { .. } => error.to_string(),
        error => format!(
            "the disk failed: {error}. What reached it is unknown, so this node must not go on \
             with it: replace the node"
        ),
    }
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
    let store = store::open(&config.data, config.cell(), NodeId(config.node))?;
    let core = make_core(config, &store, signer)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = LocalSet::new();
    tasks.block_on(
        &runtime,
        run_node(config, tls, core, store, ready, shutdown),
    )
}

/// Replays the log.
fn make_core(config: &NodeConfig, store: &FileStore, signer: Signer) -> Result<Core, ServeError> {
    let (recovered, replay) = store::recover(store)?;
    let others = config
        .member
        .iter()
        .filter(|member| member.id != config.node);
    let paxos_config = Config {
        node: paxos::NodeId(config.node),
        seeds: others.map(|member| paxos::NodeId(member.id)).collect(),
        timing: Timing::default(),
        seed: clock::now().0 ^ config.node.rotate_left(48),
    };
    let replica = Replica::new(paxos_config, recovered, clock::now())?;
    let status = replica.status();
    tracing::info!(
        node = config.node,
        epoch = status.membership.epoch.0,
        snapshot = status.snapshot.map_or(0, |meta| meta.slot.0),
        applied = replay.slot.0,
        "replayed the log"
    );
    let settings = Settings {
        cell: config.cell(),
        node: NodeId(config.node),
        signer,
        compaction: config.snapshot.bounds(),
        quotas: config.quota.clone(),
        history: HistoryBounds::default(),
    };
    let mut core = Core::new(settings, replica, replay, clock::now());
    let report = store.report();
    core.damage_found(report.untold + report.harmless);
    for damage in &report.damaged {
        match damage.slot {
            Some(slot) => core.damaged(clock::now(), slot),
            None => core.damage_found(1),
        }
    }
    Ok(core)
}

async fn run_node(
    config: &NodeConfig,
    tls: NodeTls,
    core: Core,
    store: Arc<FileStore>,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = config
        .address()
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let endpoint = transport::bind(address, tls.server)
        .map_err(|source| ServeError::Listen { address, source })?;
    let wake = Arc::new(Notify::new());
    let reports = Reports::new(wake.clone());
    let hello = introduce(config, &store)?;
    let links = Links::new(endpoint.clone(), peers::client_config(tls.peer), hello);
    let threads = Threads {
        disk: disk::start(store.clone(), reports.clone())?,
        files: files::start(store.clone(), reports.clone())?,
        compactor: Compactor::start(store.clone(), reports.clone())?,
        _scrubber: scrubber::start(store, reports.clone(), config.scrub.rate())?,
        reports,
    };
    let seeds = config.member.iter();
    let seeds: BTreeMap<_, _> = seeds.map(|seed| (NodeId(seed.id), seed.address)).collect();
    let shell = Rc::new(Shell::new(core, wake, threads, links, seeds));
    spawn_local(accept::accept_connections(shell.clone(), endpoint.clone()));
    tracing::info!(node = config.node, cell = %config.cell(), %address, "listening");
    ready(address);
    let ended = shell.run(shutdown).await;
    endpoint.close(transport::CLOSE_STOPPING, b"the node stops");
    // Lets the farewells leave; a peer that does not answer is not waited for.
    let _ = tokio::time::timeout(transport::FAREWELL, endpoint.wait_idle()).await;
    ended
}

/// What this node says of itself to others.
fn introduce(config: &NodeConfig, store: &FileStore) -> Result<PeerHello, ServeError> {
    let mut boot = [0; 8];
    let drawn = SystemRandom::new().fill(&mut boot);
    drawn.map_err(|_| std::io::Error::other("this machine gives no randomness"))?;
    Ok(PeerHello {
        version: PEER_PROTOCOL_VERSION,
        cell: config.cell(),
        node: NodeId(config.node),
        incarnation: store.identity().incarnation.0,
        starts: store.starts(),
        boot: u64::from_le_bytes(boot),
    })
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
