//! A lockd cell in memory, for tests of programs that use locks: above all of what they do when a
//! lock is lost.
//!
//! The cell is three real nodes and the clients are the real client, but for their edges: there is
//! no network, no disk, and time stands still until the test lets it pass. So a lease runs out when
//! the test says so, and not before, and nobody waits for it.
//!
//! A worker that must stop when its lock is lost in the middle:
//!
//! ```
//! use std::time::Duration;
//! use lockd_client::{Client, LostReason};
//! use lockd_testkit::TestCell;
//! use tokio::sync::mpsc;
//!
//! /// What is tested: writes a row after the other for as long as it holds the lock.
//! async fn worker(client: Client, rows: mpsc::Sender<u32>) -> Result<(), LostReason> {
//!     let guard = client.lock("import").acquire().await.expect("granted");
//!     guard
//!         .run(async {
//!             for row in 0.. {
//!                 let _ = rows.send(row).await; // waits until the test takes the row
//!             }
//!         })
//!         .await
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), lockd_testkit::KitError> {
//! let cell = TestCell::start().await?;
//! let client = cell.client().await?;
//! let (rows, mut written) = mpsc::channel(1);
//! let working = tokio::spawn(worker(client.client(), rows));
//! assert_eq!(written.recv().await, Some(0), "it has the lock and works");
//!
//! cell.cut(&client); // nothing comes through any more, in either direction
//! cell.advance(Duration::from_secs(11)).await; // longer than its session lives
//!
//! assert_eq!(working.await.expect("no panic"), Err(LostReason::LeaseRanOut));
//! let other = cell.client().await?;
//! other.lock("import").acquire().await.expect("free for others");
//! # Ok(())
//! # }
//! ```
//!
//! # What to script
//!
//! | | what its holder sees |
//! |---|---|
//! | [`TestCell::break_lock`] | this one lock lost, the session goes on |
//! | [`TestCell::expire`] | the lease runs out, and the cell gives its locks to others |
//! | [`TestCell::cut`], [`TestCell::heal`] | jeopardy, and loss if it lasts |
//! | [`TestCell::pause_leader`], [`TestCell::resume`] | nothing but a delay: another node leads |
//! | [`TestCell::advance`], [`TestCell::until`] | time passes; what is connected is renewed |
//!
//! # Time
//!
//! Everything that a client waits for by its clock (leases, `Wait::For`, timeouts, retries) waits
//! until [`TestCell::advance`] has come there. A program's own `tokio::time` is not part of it; see
//! `tokio::time::pause` for that. While no node leads, or a client has lost its connection, what it
//! asks for waits for time to pass: use [`TestCell::until`]. A guard's
//! [`remaining`](lockd_client::LockGuard::remaining) and
//! [`state`](lockd_client::LockGuard::state) go by the test's clock, but not
//! [`lockd_client::now`].
//!
//! # Layout
//!
//! * `world`: nodes, wires and background tasks, and how one step of time is taken.
//! * `node`: one node: the real core, and a log in memory.
//! * `wire`: what clients ask of the network, handed over without waiting for the world.

mod node;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lockd_client::protocol::{NodeId, SessionId};
use lockd_client::test_kit::{Edges, ManualClock};
use lockd_client::{
    BreakError, Client, ClientBuilder, ClientConfig, ConnectError, QueryError, Time,
};

use wire::Wires;
use world::World;

/// How often others get a turn after each step of time.
const TURNS_FOR_OTHERS: usize = 8;

/// What a [`TestCell`] cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// A client could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cell could not be asked.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A lock could not be broken.
    #[error(transparent)]
    Break(#[from] BreakError),
    /// No thread for the cell.
    #[error("cannot start the cell's thread: {0}")]
    Thread(std::io::Error),
    /// The cell could not be made.
    #[error("cannot make a cell: {0}")]
    Cell(String),
    /// No node leads, and none came to lead while time passed.
    #[error("no node leads: at most one of the three may be paused")]
    NoLeader,
    /// What was waited for did not come.
    #[error("it was not done within {within:?} of the cell's clock")]
    NotDone {
        /// How long time was let pass.
        within: Duration,
    },
    /// The client has no session that could expire.
    #[error("the client has no session at present")]
    NoSession,
}

/// A cell of three nodes in memory, and its clock. It stops when this is dropped.
pub struct TestCell {
    world: Arc<Mutex<World>>,
    wires: Arc<Wires>,
    clock: ManualClock,
    config: ClientConfig,
    last_client: AtomicU64,
    driver: Option<JoinHandle<()>>,
    operator: Option<Client>,
}

impl fmt::Debug for TestCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCell")
            .field("now", &self.clock.now())
            .finish_non_exhaustive()
    }
}

/// A client of a [`TestCell`]: a [`Client`], and what names it when the network is scripted.
#[derive(Clone, Debug)]
pub struct TestClient {
    client: Client,
    number: u64,
}

impl TestClient {
    /// The client itself, for what is tested.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

impl Deref for TestClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl TestCell {
    /// Starts a cell, and lets it elect its leader.
    ///
    /// # Errors
    /// [`KitError`].
    pub async fn start() -> Result<TestCell, KitError> {
        let clock = ManualClock::new(world::BEGINNING);
        let wires = Wires::new();
        let world = World::new(clock.clone(), Arc::clone(&wires))?;
        let config = world.config();
        let world = Arc::new(Mutex::new(world));
        let driver = wires.drive(Arc::clone(&world)).map_err(KitError::Thread)?;
        let mut cell = TestCell {
            world,
            wires,
            clock,
            config,
            last_client: AtomicU64::new(0),
            driver: Some(driver),
            operator: None,
        };
        cell.elect().await?;
        cell.operator = Some(cell.client().await?.client());
        Ok(cell)
    }

    /// A client with a session of its own, which expires after 10 s.
    ///
    /// # Errors
    /// [`KitError::Connect`].
    pub async fn client(&self) -> Result<TestClient, KitError> {
        self.client_with(|builder| builder).await
    }

    /// A client with other settings: `cell.client_with(|builder| builder.ttl(ttl))`.
    ///
    /// # Errors
    /// [`KitError::Connect`].
    pub async fn client_with(
        &self,
        settings: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<TestClient, KitError> {
        let number = self.last_client.fetch_add(1, Ordering::Relaxed) + 1;
        let edges = Edges {
            clock: self.clock.clone(),
            dial: self.wires.dial(number),
            spawn: self.wires.spawn(),
        };
        let builder = Client::builder().config(self.config.clone());
        let description = format!("client {number}");
        let client = settings(builder.description(description))
            .edges(edges)
            .connect()
            .await?;
        Ok(TestClient { client, number })
    }

    /// The configuration of its clients, to verify tickets with.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What its clock shows.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Lets so much time pass, step by step: at each moment at which a node or a client has
    /// something to do, it does it, and then the other tasks of this runtime get a turn.
    pub async fn advance(&self, span: Duration) {
        let until = self.clock.now().after(span);
        while self.clock.now() < until {
            self.world().step(until);
            let_others_run().await;
        }
    }

    /// Lets time pass until `work` is done: for what a client does while it looks for the leader.
    ///
    /// # Errors
    /// [`KitError::NotDone`] after ten minutes of the clock.
    pub async fn until<T>(&self, work: impl Future<Output = T>) -> Result<T, KitError> {
        const PATIENCE: Duration = Duration::from_secs(600);
        let until = self.clock.now().after(PATIENCE);
        let mut work = std::pin::pin!(work);
        while self.clock.now() < until {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.advance(STEP) => {}
            }
        }
        Err(KitError::NotDone { within: PATIENCE })
    }

    /// Takes a lock from whoever holds it, as an operator does: the holder is told at once, and
    /// the lock moves when the holder lets go, or when its lease must have ended.
    ///
    /// # Errors
    /// [`KitError::Break`], for instance if nobody holds it.
    pub async fn break_lock(&self, name: &str) -> Result<(), KitError> {
        let operator = self.operator.as_ref().ok_or(KitError::NoLeader)?;
        operator
            .break_lock(name, "scripted by a test", false)
            .await?;
        self.world().settle();
        let_others_run().await;
        Ok(())
    }

    /// Keeps this client's renewals from the cell, and lets time pass until the cell has ended its
    /// session and given what it held to others. The client sees its lease run out before that, and
    /// is then looking for a node that answers it: see [`TestCell::until`].
    ///
    /// # Errors
    /// [`KitError::NoSession`] if it has none, [`KitError::Query`] if the cell cannot be asked.
    pub async fn expire(&self, client: &Client) -> Result<(), KitError> {
        let session = client.session_id().ok_or(KitError::NoSession)?;
        let operator = self.operator.as_ref().ok_or(KitError::NoLeader)?;
        self.world().mute(session);
        let is_open = |sessions: Vec<SessionId>| sessions.contains(&session);
        loop {
            let sessions = operator.sessions().await?;
            if !is_open(sessions.iter().map(|session| session.session).collect()) {
                break;
            }
            self.advance(STEP).await;
        }
        self.world().unmute(session);
        Ok(())
    }

    /// Cuts this client off: nothing comes through any more, in either direction, and nobody is
    /// told. Its other sessions over the same connection are cut off with it.
    pub fn cut(&self, client: &TestClient) {
        self.wires.cut(client.number, true);
        self.world().settle();
    }

    /// Lets everything through again.
    pub fn heal(&self, client: &TestClient) {
        self.wires.cut(client.number, false);
        self.world().settle();
    }

    /// Stops the leading node, as a suspended machine stops, until it is resumed. Another node
    /// comes to lead after about a second of [`advance`](TestCell::advance).
    ///
    /// # Errors
    /// [`KitError::NoLeader`].
    pub fn pause_leader(&self) -> Result<NodeId, KitError> {
        let mut world = self.world();
        let leader = world.leader().ok_or(KitError::NoLeader)?;
        self.wires.pause(leader, true);
        world.settle();
        Ok(leader)
    }

    /// Lets a node go on that was paused.
    pub fn resume(&self, node: NodeId) {
        self.wires.pause(node, false);
        self.world().settle();
    }

    /// Lets time pass until a node leads.
    ///
    /// # Errors
    /// [`KitError::NoLeader`] if none does within ten seconds of the clock.
    pub async fn elect(&self) -> Result<NodeId, KitError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let until = self.clock.now().after(PATIENCE);
        loop {
            if let Some(leader) = self.world().leader() {
                return Ok(leader);
            }
            if self.clock.now() >= until {
                return Err(KitError::NoLeader);
            }
            self.advance(STEP).await;
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much time passes between two looks at the cell.
const STEP: Duration = Duration::from_millis(50);

impl Drop for TestCell {
    fn drop(&mut self) {
        self.wires.stop();
        if let Some(driver) = self.driver.take() {
            // It ends with a panic only after one that its test has seen.
            let _ = driver.join();
        }
    }
}

async fn let_others_run() {
    for _ in 0..TURNS_FOR_OTHERS {
        tokio::task::yield_now().await;
    }
}

/// The nodes of a cell, in order.
type ByNode<T> = BTreeMap<NodeId, T>;
