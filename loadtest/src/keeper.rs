//! Servers of other projects, for as long as we need them: each kept by a process of its own, which
//! ends them and removes their files whatever becomes of this one. It takes orders to kill, pause
//! and start them.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use gateway::{mysql, postgres, redis};

use crate::cluster::{self, Cluster, Timeouts};
use crate::process::{Process, ProcessError, input_lines};
use crate::terminal::print_line;

/// The hidden subcommand that keeps servers.
pub const KEEPER_COMMAND: &str = "__keep";

/// How long servers may take to be made and to start.
const START_GRACE: Duration = Duration::from_secs(90);

/// How long it may take to carry out an order.
const ORDER_GRACE: Duration = Duration::from_secs(90);

/// What a keeper answers when it has done what it was told.
const DONE: &str = "done";

/// Connections that are made beside those of the clients.
const OTHER_CONNECTIONS: u64 = 100;

/// Instances of Redlock, as its description has them.
pub const REDLOCK_INSTANCES: usize = 5;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kept {
    /// A PostgreSQL server, durable as it comes.
    Postgres,
    /// A MariaDB server, durable as it comes.
    Mariadb,
    /// A Redis server that keeps nothing on disk.
    Redis,
    /// A Redis server that syncs its append-only file every second.
    RedisEverysec,
    /// A Redis server that syncs its append-only file before it answers.
    RedisAlways,
    /// Five Redis servers that keep nothing on disk.
    Redlock,
    /// Three nodes of etcd, durable as it comes.
    Etcd,
    /// Three servers of ZooKeeper, durable as it comes.
    Zookeeper,
}

/// How servers are to be.
#[derive(Clone, Debug, Default)]
pub struct KeepOptions {
    /// Clients that they will have.
    pub clients: u64,
    /// How long nodes of a cluster wait for each other.
    pub timeouts: Timeouts,
    /// Environment of the keeper and so of its servers.
    pub environment: Vec<(String, String)>,
}

/// What can be done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is killed, as by a power cut.
    Kill,
    /// It is stopped in its tracks.
    Pause,
    /// It goes on.
    Resume,
    /// It is started again, on the data it left behind.
    Run,
}

impl Fate {
    const ALL: [Fate; 4] = [Fate::Kill, Fate::Pause, Fate::Resume, Fate::Run];

    fn name(self) -> &'static str {
        match self {
            Fate::Kill => "kill",
            Fate::Pause => "pause",
            Fate::Resume => "resume",
            Fate::Run => "run",
        }
    }
}

/// The process that keeps servers.
pub struct Keeper {
    process: Process,
    urls: Vec<String>,
}

impl Keeper {
    /// Starts servers, by starting `program` with [`KEEPER_COMMAND`].
    ///
    /// # Errors
    /// [`ProcessError`], with what is wrong in the keeper's log.
    pub async fn start(
        program: &Path,
        directory: &Path,
        kept: Kept,
        options: &KeepOptions,
    ) -> Result<Keeper, ProcessError> {
        let name = kept.name();
        let log = directory.join(format!("{name}.log"));
        let clients = options.clients.to_string();
        let timeouts = options.timeouts.to_possible_value();
        let timeouts = timeouts.as_ref().map_or("default", PossibleValue::get_name);
        let arguments = [
            KEEPER_COMMAND,
            name,
            "--clients",
            &clients,
            "--timeouts",
            timeouts,
        ];
        let what = format!("the keeper of {name}");
        let environment = &options.environment;
        let process = Process::start_in(&what, program, &arguments, environment, &log)?;
        let mut keeper = Keeper {
            process,
            urls: Vec::new(),
        };
        let line = keeper.process.first_line(START_GRACE).await?;
        keeper.urls = line.split_whitespace().map(str::to_owned).collect();
        Ok(keeper)
    }

    /// URLs of the servers, for whoever may do everything there.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Does this to one of the servers. Of a server that runs again it is not said that it serves.
    ///
    /// # Errors
    /// [`ProcessError`], if it could not be done.
    pub async fn order(&mut self, fate: Fate, server: usize) -> Result<(), ProcessError> {
        self.process.tell(&format!("{} {server}", fate.name()))?;
        let answer = self.process.next_line(ORDER_GRACE).await?;
        match answer.as_str() {
            DONE => Ok(()),
            _ => Err(self.process.refused(answer)),
        }
    }

    /// The process whose children the servers are. It sleeps while they run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.process.close();
    }
}

impl Kept {
    /// Its name, on the command line too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kept::Postgres => "postgres",
            Kept::Mariadb => "mariadb",
            Kept::Redis => "redis",
            Kept::RedisEverysec => "redis-everysec",
            Kept::RedisAlways => "redis-always",
            Kept::Redlock => "redlock",
            Kept::Etcd => "etcd",
            Kept::Zookeeper => "zookeeper",
        }
    }

    /// Starts it in this process, for so many clients.
    fn start(self, clients: u64, timeouts: Timeouts) -> Result<Servers, String> {
        let connections = clients.saturating_add(OTHER_CONNECTIONS);
        match self {
            Kept::Postgres => postgres(connections),
            Kept::Mariadb => mariadb(connections),
            Kept::Redis => redis_servers(&["--appendonly", "no"], 1),
            Kept::RedisEverysec => {
                redis_servers(&["--appendonly", "yes", "--appendfsync", "everysec"], 1)
            }
            Kept::RedisAlways => {
                redis_servers(&["--appendonly", "yes", "--appendfsync", "always"], 1)
            }
            Kept::Redlock => redis_servers(&["--appendonly", "no"], REDLOCK_INSTANCES),
            Kept::Etcd => cluster(cluster::etcd::start(timeouts)),
            Kept::Zookeeper => cluster(cluster::zookeeper::start(timeouts)),
        }
    }
}

/// Servers that run. Dropping ends them.
enum Servers {
    Postgres(postgres::private_server::PrivateServer),
    Mariadb(mysql::private_server::PrivateServer),
    Redis(Vec<redis::private_server::PrivateServer>),
    Cluster(Box<Cluster>),
}

impl Servers {
    fn urls(&self) -> Vec<String> {
        match self {
            Servers::Postgres(server) => vec![server.url("postgres", "postgres")],
            Servers::Mariadb(server) => vec![server.url("root", "mysql")],
            Servers::Redis(servers) => {
                let url = |port| format!("redis://127.0.0.1:{port}");
                servers.iter().map(|server| url(server.port())).collect()
            }
            Servers::Cluster(cluster) => cluster.urls().to_vec(),
        }
    }

    /// Carries out an order, and tells what came of it.
    fn carry_out(&mut self, order: &str) -> Result<(), String> {
        let words = order.split_once(' ');
        let fate = |name: &str| Fate::ALL.into_iter().find(|fate| fate.name() == name);
        let order = words.and_then(|(name, number)| Some((fate(name)?, number.parse().ok()?)));
        let (fate, number): (Fate, usize) = order.ok_or("this is not an order")?;
        match (self, fate) {
            (Servers::Postgres(server), Fate::Kill) => words_of(server.crash()),
            (Servers::Postgres(server), Fate::Run) => words_of(server.run()),
            (Servers::Mariadb(server), Fate::Kill) => words_of(server.crash()),
            (Servers::Mariadb(server), Fate::Run) => words_of(server.run()),
            (Servers::Redis(servers), fate) => match (servers.get_mut(number), fate) {
                (Some(server), Fate::Kill) => words_of(server.crash()),
                (Some(server), Fate::Run) => words_of(server.run()),
                _ => Err("this cannot be done to a Redis server".to_owned()),
            },
            (Servers::Cluster(cluster), Fate::Kill) => words_of(cluster.kill(number)),
            (Servers::Cluster(cluster), Fate::Pause) => words_of(cluster.pause(number)),
            (Servers::Cluster(cluster), Fate::Resume) => words_of(cluster.resume(number)),
            (Servers::Cluster(cluster), Fate::Run) => words_of(cluster.run(number)),
            _ => Err("this cannot be done to a database server".to_owned()),
        }
    }
}

fn words_of<E: std::fmt::Display>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn cluster(started: Result<Cluster, cluster::ClusterError>) -> Result<Servers, String> {
    let cluster = started.map(Box::new).map(Servers::Cluster);
    cluster.map_err(|error| error.to_string())
}

fn postgres(connections: u64) -> Result<Servers, String> {
    let options = postgres::private_server::Options {
        settings: vec![format!("max_connections = {connections}")],
        durable: true,
        ..Default::default()
    };
    let server = postgres::private_server::PrivateServer::start(&options);
    server.map(Servers::Postgres).map_err(|e| e.to_string())
}

fn mariadb(connections: u64) -> Result<Servers, String> {
    let options = mysql::private_server::Options {
        flags: vec![
            // As it comes; private servers for tests are faster.
            "--innodb-flush-log-at-trx-commit=1".to_owned(),
            "--innodb-buffer-pool-size=128M".to_owned(),
            format!("--max-connections={connections}"),
        ],
        files: Vec::new(),
    };
    let server = mysql::private_server::PrivateServer::start(&options);
    server.map(Servers::Mariadb).map_err(|e| e.to_string())
}

fn redis_servers(settings: &[&str], count: usize) -> Result<Servers, String> {
    let server = |_| redis::private_server::PrivateServer::start(settings);
    let servers: Result<Vec<_>, _> = (0..count).map(server).collect();
    servers.map(Servers::Redis).map_err(|e| e.to_string())
}

/// Keeps servers until standard input is closed, and does to them what is ordered there.
///
/// # Errors
/// Why they did not start.
pub async fn keep(kept: Kept, clients: u64, timeouts: Timeouts) -> Result<(), String> {
    // Ctrl-C reaches this process too. It waits for its parent to close its input all the same.
    let ignore_interrupts = tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut servers = kept.start(clients, timeouts)?;
    print_line(&servers.urls().join(" "));
    let mut orders = input_lines();
    while let Some(order) = orders.recv().await {
        match servers.carry_out(&order) {
            Ok(()) => print_line(DONE),
            // One line, as every answer.
            Err(reason) => print_line(&reason.replace('\n', " | ")),
        }
    }
    drop(servers);
    ignore_interrupts.abort();
    Ok(())
}
