//! Sessions and the locks that they hold, over few connections.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockd_client::{AcquireError, Client, ConnectError, GuardState, LockGuard, Wait};
use lockd_protocol::Millis;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ScaleArgs;
use crate::machine::{latencies, nanoseconds};
use crate::run::latency::Latency;

/// Longer than any pause that the cell makes: what is measured is to be seen, not given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why the cell could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum PopulationError {
    /// A connection or a session could not be opened.
    #[error("cannot open a session: {0}")]
    Connect(#[from] ConnectError),
    /// A lock that nobody holds was not granted.
    #[error("lock {lock} was not granted: {error}")]
    Acquire {
        /// Its name.
        lock: String,
        /// Why not.
        error: AcquireError,
    },
    /// A task ended without a result.
    #[error("a task of the load ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// All sessions, each with its guards.
pub(super) struct Population {
    members: Vec<Member>,
    /// How long a client counts on a renewal.
    lease: Duration,
}

struct Member {
    client: Client,
    guards: Vec<LockGuard>,
}

pub(super) async fn connect(config: &Path, ttl: Duration) -> Result<Client, ConnectError> {
    let builder = Client::builder().config_file(config)?;
    let builder = builder.ttl(ttl).description("scale");
    let builder = builder.connect_timeout(PATIENCE).request_timeout(PATIENCE);
    builder.connect().await
}

impl Population {
    /// Opens all sessions.
    pub(super) async fn open(
        config: &Path,
        asked: &ScaleArgs,
    ) -> Result<Population, PopulationError> {
        let mut first = Vec::new();
        for _ in 0..asked.connections {
            first.push(connect(config, asked.ttl).await?);
        }
        let limit = Arc::new(Semaphore::new(in_flight(asked)));
        let mut tasks = JoinSet::new();
        for index in asked.connections..asked.sessions {
            let over = first[(index % asked.connections) as usize].clone();
            let (limit, ttl) = (Arc::clone(&limit), asked.ttl);
            tasks.spawn(async move {
                let _turn = limit.acquire_owned().await;
                over.session().ttl(ttl).description("scale").open().await
            });
        }
        let mut clients = first;
        while let Some(opened) = tasks.join_next().await {
            clients.push(opened??);
        }
        let member = |client| Member {
            client,
            guards: Vec::new(),
        };
        let members = clients.into_iter().map(member).collect();
        let ttl = u64::try_from(asked.ttl.as_millis()).unwrap_or(u64::MAX);
        let lease = Millis(ttl).client_lease().into();
        Ok(Population { members, lease })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Has every session acquire its share of the locks, one after the other.
    pub(super) async fn acquire(&mut self, asked: &ScaleArgs) -> Result<Latency, PopulationError> {
        let limit = Arc::new(Semaphore::new(in_flight(asked)));
        let mut tasks = JoinSet::new();
        for (index, mut member) in std::mem::take(&mut self.members).into_iter().enumerate() {
            let limit = Arc::clone(&limit);
            let names = (index as u64..asked.locks).step_by(asked.sessions as usize);
            tasks.spawn(async move {
                let _turn = limit.acquire_owned().await;
                let mut took = Vec::with_capacity(names.clone().count());
                for number in names {
                    let lock = format!("scale/{number:08}");
                    let begun = Instant::now();
                    let asked = member.client.lock(lock.as_str()).wait(Wait::Try);
                    match asked.without_ticket().acquire().await {
                        Ok(guard) => member.guards.push(guard),
                        Err(error) => return Err(PopulationError::Acquire { lock, error }),
                    }
                    took.push(begun.elapsed());
                }
                Ok((member, took))
            });
        }
        let mut histogram = latencies();
        while let Some(done) = tasks.join_next().await {
            let (member, took) = done??;
            self.members.push(member);
            for took in took {
                histogram.saturating_record(nanoseconds(took));
            }
        }
        Ok(super::latency(&histogram))
    }

    /// How many sessions have no renewal yet that was sent after this time and answered.
    pub(super) fn not_renewed_since(&self, time: lockd_client::Time) -> usize {
        let renewed = |member: &&Member| {
            let guard = member.guards.first();
            guard.is_some_and(|guard| {
                let held = !matches!(guard.state(), GuardState::Lost { .. });
                !held || guard.deadline() > time.after(self.lease)
            })
        };
        self.members.len() - self.members.iter().filter(renewed).count()
    }

    /// How many guards are lost.
    pub(super) fn lost(&self) -> usize {
        let guards = self.members.iter().flat_map(|member| &member.guards);
        guards
            .filter(|guard| matches!(guard.state(), GuardState::Lost { .. }))
            .count()
    }
}

fn in_flight(asked: &ScaleArgs) -> usize {
    usize::try_from(asked.in_flight).unwrap_or(usize::MAX)
}
