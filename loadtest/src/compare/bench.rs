//! The services under comparison: started here, each when it is first needed, or somebody's own;
//! and one round of one peer on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::peer::{Peer, Service};
use crate::cell::OwnCell;
use crate::driver::etcd::{self, EtcdDriver};
use crate::driver::lockd::{LockdDriver, LockdOptions};
use crate::driver::mariadb::{self, MariadbDriver};
use crate::driver::postgres::{self, PostgresDriver};
use crate::driver::redis::{self, RedisDriver};
use crate::driver::redlock::RedlockDriver;
use crate::driver::zookeeper::{self, ZookeeperDriver};
use crate::driver::{Driver, Start, Trouble};
use crate::keeper::{KeepOptions, Keeper, Kept};
use crate::machine::environment;
use crate::process::ProcessError;
use crate::run::report::Report;
use crate::run::round::{self, Setup};

/// All services.
pub struct Bench {
    program: PathBuf,
    directory: PathBuf,
    /// The most clients that a service will have.
    clients_max: u64,
    services: BTreeMap<Service, Result<Running, String>>,
    /// Those on which a round was run.
    used: BTreeSet<Service>,
    /// The versions of their programs, by their names.
    versions: BTreeMap<Service, BTreeMap<String, String>>,
}

/// A service that can be used.
enum Running {
    /// Of somebody else.
    Own { urls: Vec<String> },
    /// Three nodes started here.
    Cell(Box<OwnCell>),
    /// Servers started here.
    Kept(Keeper),
}

impl Bench {
    /// The services at these URLs; what else is needed will be started by running `program`, with
    /// its files in `directory`.
    #[must_use]
    pub fn new(
        program: &Path,
        directory: &Path,
        clients_max: u64,
        endpoints: BTreeMap<Service, Vec<String>>,
    ) -> Bench {
        let own = |(service, urls)| (service, Ok(Running::Own { urls }));
        Bench {
            program: program.to_owned(),
            directory: directory.to_owned(),
            clients_max,
            services: endpoints.into_iter().map(own).collect(),
            used: BTreeSet::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Runs one round of a peer.
    ///
    /// # Errors
    /// Why it cannot be measured, and what to do about it.
    pub async fn round(
        &mut self,
        peer: Peer,
        clients: usize,
        setup: &Setup,
    ) -> Result<Report, String> {
        let mut report = self.drive(peer, clients, setup).await?;
        let service = peer.service();
        self.used.insert(service);
        if !self.versions.contains_key(&service) {
            let pids = self.running(service).await?.pids();
            self.versions
                .insert(service, environment::versions_of(&pids));
        }
        report.server_versions = self.versions.get(&service).cloned().unwrap_or_default();
        Ok(report)
    }

    async fn drive(&mut self, peer: Peer, clients: usize, setup: &Setup) -> Result<Report, String> {
        let running = self.running(peer.service()).await?;
        let (urls, pids) = (running.urls(), running.pids());
        let first = urls.first().map_or("", String::as_str);
        let ttl = setup.ttl;
        match peer {
            Peer::Lockd => {
                let options = LockdOptions {
                    clients,
                    connections: clients,
                    ttl,
                    tickets: setup.tickets,
                };
                let drivers = LockdDriver::connect_all(Path::new(first), options).await;
                let drivers = drivers.map_err(|e| Trouble::new(format!("cannot connect: {e}")));
                measure(setup, drivers, &pids, running.cell()).await
            }
            Peer::Etcd => {
                let urls = leader_first(etcd::leader(&urls).await, urls);
                let drivers = EtcdDriver::connect_all(&urls, Start::First, clients, ttl).await;
                measure(setup, drivers, &pids, None).await
            }
            Peer::ZookeeperHerd | Peer::ZookeeperCurator => {
                let scheme = match peer {
                    Peer::ZookeeperHerd => zookeeper::Scheme::Herd,
                    _ => zookeeper::Scheme::Curator,
                };
                let urls = leader_first(zookeeper::leader(&urls).await, urls);
                let start = Start::First;
                let drivers = ZookeeperDriver::connect_all(&urls, start, scheme, clients, ttl);
                measure(setup, drivers.await, &pids, None).await
            }
            Peer::Redlock => {
                let drivers = RedlockDriver::connect_all(&urls, clients, ttl).await;
                measure(setup, drivers, &pids, None).await
            }
            Peer::PostgresAdvisory | Peer::PostgresForUpdate => {
                let scheme = match peer {
                    Peer::PostgresAdvisory => postgres::Scheme::Advisory,
                    _ => postgres::Scheme::ForUpdate,
                };
                let drivers = PostgresDriver::connect_all(first, scheme, clients).await;
                measure(setup, drivers, &pids, None).await
            }
            Peer::MariadbGetLock | Peer::MariadbInsert | Peer::MariadbForUpdate => {
                let scheme = match peer {
                    Peer::MariadbGetLock => mariadb::Scheme::GetLock,
                    Peer::MariadbInsert => mariadb::Scheme::Insert,
                    _ => mariadb::Scheme::ForUpdate,
                };
                let drivers = MariadbDriver::connect_all(first, scheme, clients).await;
                measure(setup, drivers, &pids, None).await
            }
            Peer::Redis
            | Peer::RedisEverysec
            | Peer::RedisAlways
            | Peer::RedisSetnxExpire
            | Peer::RedisGetset
            | Peer::Liar => {
                let scheme = match peer {
                    Peer::RedisSetnxExpire => redis::Scheme::SetnxExpire,
                    Peer::RedisGetset => redis::Scheme::Getset,
                    Peer::Liar => redis::Scheme::Liar,
                    _ => redis::Scheme::SetNxPx,
                };
                let drivers = RedisDriver::connect_all(first, scheme, clients, ttl).await;
                measure(setup, drivers, &pids, None).await
            }
        }
    }

    /// Ends what was started, and removes what was made in somebody else's databases.
    ///
    /// # Errors
    /// What was left behind.
    pub async fn stop(self) -> Result<(), String> {
        let mut left = Vec::new();
        for (service, running) in self.services {
            let cleaned = match (service, running) {
                (Service::Kept(Kept::Postgres), Ok(Running::Own { urls })) => {
                    postgres::clean(urls.first().map_or("", String::as_str)).await
                }
                (Service::Kept(Kept::Mariadb), Ok(Running::Own { urls })) => {
                    mariadb::clean(urls.first().map_or("", String::as_str)).await
                }
                (Service::Kept(Kept::Etcd), Ok(Running::Own { urls })) => etcd::clean(&urls).await,
                (Service::Kept(Kept::Zookeeper), Ok(Running::Own { urls })) => {
                    zookeeper::clean(&urls).await
                }
                (_, Ok(Running::Cell(cell))) => {
                    cell.stop();
                    Ok(())
                }
                // Dropping a keeper ends its servers. Keys in Redis end by themselves.
                _ => Ok(()),
            };
            // Where nothing was measured, there may be nothing to clean, nor a way to.
            if let (Err(trouble), true) = (cleaned, self.used.contains(&service)) {
                left.push(format!("{}: {trouble}", service.name()));
            }
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "could not remove what was made at {}: drop `lockd_loadtest` there",
                left.join(", ")
            )),
        }
    }

    async fn running(&mut self, service: Service) -> Result<&mut Running, String> {
        if !self.services.contains_key(&service) {
            let started = self.start(service).await;
            self.services.insert(service, started);
        }
        match self.services.get_mut(&service) {
            Some(Ok(running)) => Ok(running),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("{} was not started", service.name())),
        }
    }

    async fn start(&self, service: Service) -> Result<Running, String> {
        eprintln!("starting {}", service.name());
        match service {
            Service::Cell => {
                let started = OwnCell::start(&self.program, &self.directory);
                let mut cell = started.map_err(|error| error.to_string())?;
                cell.leader().await.map_err(|error| error.to_string())?;
                Ok(Running::Cell(Box::new(cell)))
            }
            Service::Kept(kept) => {
                let options = KeepOptions {
                    clients: self.clients_max,
                    ..KeepOptions::default()
                };
                let starting = Keeper::start(&self.program, &self.directory, kept, &options);
                starting.await.map(Running::Kept).map_err(reason)
            }
        }
    }
}

impl Running {
    fn urls(&self) -> Vec<String> {
        match self {
            Running::Own { urls } => urls.clone(),
            Running::Cell(cell) => vec![cell.client_config().display().to_string()],
            Running::Kept(keeper) => keeper.urls().to_vec(),
        }
    }

    /// The processes whose spending, with their children's, is the service's; none if unknown.
    fn pids(&self) -> Vec<u32> {
        match self {
            Running::Own { .. } => Vec::new(),
            Running::Cell(cell) => cell.pids(),
            Running::Kept(keeper) => vec![keeper.pid()],
        }
    }

    fn cell(&mut self) -> Option<&mut OwnCell> {
        match self {
            Running::Cell(cell) => Some(cell),
            Running::Own { .. } | Running::Kept(_) => None,
        }
    }
}

async fn measure<D: Driver + 'static>(
    setup: &Setup,
    drivers: Result<Vec<D>, Trouble>,
    pids: &[u32],
    cell: Option<&mut OwnCell>,
) -> Result<Report, String> {
    let drivers = drivers.map_err(|trouble| trouble.to_string())?;
    let report = Box::pin(round::measure(setup, drivers, pids, cell)).await;
    report.map_err(|error| error.to_string())
}

/// A cluster serves best the clients of its leader.
fn leader_first(leader: Option<usize>, mut urls: Vec<String>) -> Vec<String> {
    if let Some(leader) = leader.filter(|&leader| leader < urls.len()) {
        urls.rotate_left(leader);
    }
    urls
}

/// What a keeper said before it ended, without the rest: it names what to install.
pub(super) fn reason(error: ProcessError) -> String {
    match error {
        ProcessError::Ended { log, .. } => {
            log.strip_prefix("loadtest: ").unwrap_or(&log).to_owned()
        }
        error => error.to_string(),
    }
}
