//! Servers of other projects, for as long as we need them: each kept by a process of its own, which
//! ends them and removes their files whatever becomes of this one.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use gateway::{mysql, postgres, redis};

use crate::process::{Process, ProcessError};
use crate::terminal::print_line;

/// The hidden subcommand that keeps servers.
pub const KEEPER_COMMAND: &str = "__keep";

/// How long servers may take to be made and to start.
const START_GRACE: Duration = Duration::from_secs(90);

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
}

/// The process that keeps servers.
pub struct Keeper {
    process: Process,
    urls: Vec<String>,
}

impl Keeper {
    /// Starts servers for so many clients, by starting `program` with [`KEEPER_COMMAND`].
    ///
    /// # Errors
    /// [`ProcessError`], with what is wrong in the keeper's log.
    pub async fn start(
        program: &Path,
        directory: &Path,
        kept: Kept,
        clients: u64,
    ) -> Result<Keeper, ProcessError> {
        let name = kept.name();
        let log = directory.join(format!("{name}.log"));
        let clients = clients.to_string();
        let arguments = [KEEPER_COMMAND, name, "--clients", &clients];
        let what = format!("the keeper of {name}");
        let mut keeper = Keeper {
            process: Process::start(&what, program, &arguments, &log)?,
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
        }
    }

    /// Starts it in this process, for so many clients.
    fn start(self, clients: u64) -> Result<Servers, String> {
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
        }
    }
}

/// Servers that run. Dropping ends them.
enum Servers {
    Postgres(postgres::private_server::PrivateServer),
    Mariadb(mysql::private_server::PrivateServer),
    Redis(Vec<redis::private_server::PrivateServer>),
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
        }
    }
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

/// Keeps servers until standard input is closed.
///
/// # Errors
/// Why they did not start.
pub async fn keep(kept: Kept, clients: u64) -> Result<(), String> {
    // Ctrl-C reaches this process too. It waits for its parent to close its input all the same.
    let ignore_interrupts = tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let servers = kept.start(clients)?;
    print_line(&servers.urls().join(" "));
    let closed = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    let _ = closed.await;
    drop(servers);
    ignore_interrupts.abort();
    Ok(())
}
