//! The same for MariaDB: a private server, databases under guard, gateways in front of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use gateway::cell::StaticCell;
use gateway::config::{Config, MysqlConfig, Upstream};
use gateway::mysql::private_server::{Options, PrivateServer};
use gateway::mysql::{Gateway, install};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{GatewayProcess, start_gateway, ticket, verifier, write_client_config};

/// The server that the tests of one program share. It lives as long as any of them uses it, so
/// that it is ended with the last.
static SHARED: Mutex<Weak<PrivateServer>> = Mutex::new(Weak::new());

/// Accounts and procedures belong to the whole server, and two sessions cannot change one at once.
static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

static DATABASES: AtomicU32 = AtomicU32::new(0);

pub fn start_server(flags: &[&str]) -> PrivateServer {
    start_server_with(flags, Vec::new())
}

pub fn start_server_with(flags: &[&str], files: Vec<(String, Vec<u8>)>) -> PrivateServer {
    // A binary log makes each commit one of two phases.
    let options = Options {
        flags: ["--log-bin={dir}/binlog"]
            .iter()
            .chain(flags)
            .map(ToString::to_string)
            .collect(),
        files,
    };
    PrivateServer::start(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// A database with tables `orders` (guarded by `orders/%`), `stock` (by `stock/%`) and `free`. A
/// server has one fence, so the locks of each bed begin with the name of its database.
pub struct MysqlBed {
    pub server: Arc<PrivateServer>,
    pub database: String,
    pub dir: TempDir,
    pub cell: StaticCell,
    /// Further guard rules, as TOML.
    pub rules: String,
}

/// A gateway in this process.
pub struct Running {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const TABLES: [&str; 6] = [
    "create table orders (id int primary key, v varchar(100), hi bigint not null default 0,
      bad int not null default 0, n int not null default 0) engine = InnoDB",
    "create table stock like orders",
    "create table free like orders",
    "insert into orders (id, v) values (1, 'start'), (2, 'start')",
    "insert into stock (id, v) values (1, 'start')",
    "insert into free (id, v) values (1, 'start')",
];

impl MysqlBed {
    /// A fresh database on the shared server.
    pub async fn new() -> MysqlBed {
        let server = {
            let mut shared = SHARED.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(start_server(&[]));
                *shared = Arc::downgrade(&server);
                server
            })
        };
        MysqlBed::on(server).await
    }

    /// A fresh database on this server, with the fence installed.
    pub async fn on(server: Arc<PrivateServer>) -> MysqlBed {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let bed = MysqlBed {
            server,
            database: format!("bed{number}"),
            dir: tempfile::tempdir().unwrap(),
            cell: StaticCell::default(),
            rules: String::new(),
        };
        write_client_config(&bed.dir.path().join("client.toml"));
        {
            let _installing = INSTALLING.lock().await;
            let mut root = connect(&bed.server.url("root", "mysql")).await;
            let database = &bed.database;
            for sql in [
                &format!("create database {database}"),
                "create user if not exists app@'%'",
                "create user if not exists native@'%' identified by 'pencil'",
                &format!("grant all on {database}.* to app@'%', native@'%'"),
            ] {
                root.query_drop(sql).await.unwrap();
            }
            root.query_drop(format!("use {database}")).await.unwrap();
            for sql in TABLES {
                root.query_drop(sql).await.unwrap();
            }
        }
        bed.install().await;
        bed
    }

    /// The statement that shows tickets of this bed's locks.
    pub fn show(&self, tickets: &[(&str, u64)]) -> String {
        format!("set @fence_ticket = '{}'", self.tickets(tickets))
    }

    pub fn tickets(&self, tickets: &[(&str, u64)]) -> String {
        let one =
            |(lock, token): &(&str, u64)| ticket(&format!("{}/{lock}", self.database), *token);
        tickets.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    pub async fn install(&self) {
        let _installing = INSTALLING.lock().await;
        let url = self.server.url("root", "mysql");
        install::install(&self.mysql(), Some(&url)).await.unwrap();
    }

    /// The administrator, straight to the server.
    pub async fn admin(&self) -> Conn {
        connect(&self.server.url("root", &self.database)).await
    }

    /// The application, past the gateway.
    pub async fn bypass(&self) -> Conn {
        connect(&self.server.url("app", &self.database)).await
    }

    pub fn config_text(&self) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\nhandshake_timeout = \"5s\"\n\
             [mysql]\nurl = \"{}\"\n\
             [[guard]]\ntable = \"orders\"\nlock = \"{database}/orders/%\"\n\
             [[guard]]\ntable = \"{database}.stock\"\nlock = \"{database}/stock/%\"\n{}\
             [cell]\nclient_config = \"client.toml\"\n",
            self.server.url("fence_gateway", &self.database),
            self.rules,
            database = self.database,
        )
    }

    pub fn config(&self) -> Config {
        Config::parse(&self.dir.path().join("gateway.toml"), &self.config_text()).unwrap()
    }

    pub fn mysql(&self) -> MysqlConfig {
        match self.config().upstream {
            Upstream::Mysql(mysql) => mysql,
            _ => panic!("not MariaDB"),
        }
    }

    /// A gateway in this process.
    pub async fn gateway(&self) -> Running {
        self.gateway_with(|_| {}).await
    }

    pub async fn gateway_with(&self, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = self.config();
        change(&mut config);
        let Upstream::Mysql(mysql) = &config.upstream else {
            panic!("not MariaDB")
        };
        let cell = Arc::new(self.cell.clone());
        let gateway = Gateway::new(&config, mysql, verifier(), cell).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Running {
            address,
            task: tokio::spawn(Arc::new(gateway).serve(listener)),
        }
    }

    /// A gateway in a process of its own.
    pub fn gateway_process(&self) -> GatewayProcess {
        let file = self.dir.path().join("gateway.toml");
        std::fs::write(&file, self.config_text()).unwrap();
        start_gateway(&file)
    }

    /// What is in the first row of a table.
    pub async fn value(&self, table: &str) -> String {
        let sql = format!("select v from {table} where id = 1");
        self.admin().await.query_first(sql).await.unwrap().unwrap()
    }

    /// A URL by way of a gateway.
    pub fn url(&self, account: &str, address: SocketAddr) -> String {
        format!("mysql://{account}@{address}/{}", self.database)
    }

    /// The application, by way of a gateway.
    pub async fn app(&self, gateway: &Running) -> Conn {
        connect(&self.url("app", gateway.address)).await
    }
}

pub async fn connect(url: &str) -> Conn {
    try_connect(url)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error:?}"))
}

pub async fn try_connect(url: &str) -> Result<Conn, Error> {
    let opts = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    Conn::new(opts).await
}

/// Runs a statement and drops what it gives.
pub async fn run(conn: &mut Conn, sql: &str) -> Result<(), Error> {
    conn.query_drop(sql).await
}

/// SQLSTATE and message of an error.
pub fn refused<T>(result: Result<T, Error>) -> (String, String) {
    match result.err().expect("it was not refused") {
        Error::Server(error) => (error.state, error.message),
        other => panic!("not from the server: {other:?}"),
    }
}
