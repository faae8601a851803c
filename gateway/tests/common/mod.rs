//! What the gateway's tests share: tickets signed by a key of their own, a private PostgreSQL
//! server, databases under guard, and gateways in front of them.
// Helpers are outside of test functions, each program uses some of them, and a failed one fails
// its test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod flood;
pub mod http;
pub mod mysql;
pub mod mysql_raw;
pub mod pgbouncer;
pub mod raw;
pub mod redis;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use gateway::cell::StaticCell;
use gateway::config::{Config, FenceMode, PostgresConfig, TlsFiles, Upstream};
use gateway::postgres::private_server::{Options, PrivateServer};
use gateway::postgres::{Gateway, install};
use lockd_protocol::ticket::{Signer, Verifier};
use lockd_protocol::types::{CellId, LockName, Mode, SessionId, Token};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

const CELL: CellId = CellId(*b"the test's cell!");

fn signer() -> Signer {
    Signer::from_seed(CELL, &[9; 32]).unwrap()
}

/// A genuine ticket.
pub fn ticket(lock: &str, token: u64) -> String {
    let lock = LockName::new(lock).unwrap();
    signer()
        .sign(&lock, Token(token), Mode::Exclusive, SessionId(1))
        .to_string()
}

/// The statement that shows tickets.
pub fn show(tickets: &[(&str, u64)]) -> String {
    let tickets: Vec<_> = tickets
        .iter()
        .map(|(lock, token)| ticket(lock, *token))
        .collect();
    format!("set fence.ticket = '{}'", tickets.join(" "))
}

/// Verifies the tickets made here.
pub fn verifier() -> Verifier {
    Verifier::new(CELL, [signer().public_key()]).unwrap()
}

/// A client configuration with the key that verifies the tickets made here, and no node.
pub fn write_client_config(file: &Path) {
    let key: String = signer()
        .public_key()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let text = format!("cell = \"{CELL}\"\nnodes = []\nticket_keys = [\"{key}\"]\n");
    std::fs::write(file, text).unwrap();
}

/// The server that the tests of one program share. It lives as long as any of them uses it, so
/// that it is ended with the last.
static SHARED: Mutex<Weak<PrivateServer>> = Mutex::new(Weak::new());

/// Roles belong to the whole server, and two sessions cannot change one at once.
static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Logins that need a password, for the tests of authentication.
fn access() -> Vec<String> {
    vec![
        "host all scram_user 127.0.0.1/32 scram-sha-256".into(),
        "host all md5_user 127.0.0.1/32 md5".into(),
    ]
}

/// Starts a server of one's own.
pub fn start_server() -> PrivateServer {
    start_server_with(|_| {})
}

/// The same with something changed.
pub fn start_server_with(change: impl FnOnce(&mut Options)) -> PrivateServer {
    let mut options = Options {
        settings: vec![
            "max_prepared_transactions = 5".into(),
            "log_min_messages = fatal".into(),
        ],
        access: access(),
        ..Options::default()
    };
    change(&mut options);
    PrivateServer::start(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// A database with tables `orders` (guarded by `orders/%`), `stock` (by `stock/%`) and `free`.
pub struct Bed {
    pub server: Arc<PrivateServer>,
    pub database: String,
    pub dir: TempDir,
    pub cell: StaticCell,
}

/// A gateway in this process.
pub struct Running {
    pub address: SocketAddr,
    pub task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A gateway in a process of its own.
pub struct GatewayProcess {
    pub address: SocketAddr,
    child: Child,
}

impl GatewayProcess {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        // It may have ended already; a second wait gives the same answer.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TABLES: &str = "
    create table orders (id int primary key, v text, hi bigint default 0, bad int default 0,
      n int default 0);
    create table stock (like orders including all);
    create table free (like orders including all);
    insert into orders values (1, 'start'), (2, 'start');
    insert into stock values (1, 'start');
    grant all on orders, stock, free to public;
    grant create on schema public to public;";

impl Bed {
    /// A fresh database on the shared server.
    pub async fn new() -> Bed {
        let server = {
            let mut shared = SHARED.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(start_server());
                *shared = Arc::downgrade(&server);
                server
            })
        };
        Bed::on(server).await
    }

    /// A fresh database on this server, with the fence installed.
    pub async fn on(server: Arc<PrivateServer>) -> Bed {
        let database = format!("bed{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let cell = StaticCell::default();
        let bed = Bed {
            server,
            database,
            dir: tempfile::tempdir().unwrap(),
            cell,
        };
        write_client_config(&bed.dir.path().join("client.toml"));
        let _installing = INSTALLING.lock().await;
        let admin = connect(&bed.server.url("postgres", "postgres")).await;
        admin
            .batch_execute(&format!("create database {}", bed.database))
            .await
            .unwrap();
        let roles = "do $$ begin create role app login;
            create role scram_user login password 'pencil';
            set password_encryption = 'md5'; create role md5_user login password 'pencil';
            exception when duplicate_object then null; end $$;
            reset password_encryption";
        admin.batch_execute(roles).await.unwrap();
        bed.admin().await.batch_execute(TABLES).await.unwrap();
        bed.install().await;
        bed
    }

    pub async fn install(&self) {
        let url = self.server.url("postgres", &self.database);
        install::install(&self.postgres(), Some(&url))
            .await
            .unwrap();
    }

    /// The superuser, straight to the server.
    pub async fn admin(&self) -> Client {
        connect(&self.server.url("postgres", &self.database)).await
    }

    /// The application, past the gateway.
    pub async fn bypass(&self) -> Client {
        connect(&self.server.url("app", &self.database)).await
    }

    pub fn config_text(&self) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\nhandshake_timeout = \"5s\"\n\
             [postgres]\nurl = \"{}\"\n\
             [[guard]]\ntable = \"public.orders\"\nlock = \"orders/%\"\n\
             [[guard]]\ntable = \"stock\"\nlock = \"stock/%\"\n\
             [cell]\nclient_config = \"client.toml\"\n",
            self.server.url("fence_gateway", &self.database)
        )
    }

    pub fn config(&self) -> Config {
        Config::parse(&self.dir.path().join("gateway.toml"), &self.config_text()).unwrap()
    }

    pub fn postgres(&self) -> PostgresConfig {
        match self.config().upstream {
            Upstream::Postgres(postgres) => postgres,
            _ => panic!("not PostgreSQL"),
        }
    }

    /// A gateway in this process.
    pub async fn gateway(&self) -> Running {
        self.gateway_with(|_| {}).await
    }

    pub async fn gateway_with(&self, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = self.config();
        change(&mut config);
        let Upstream::Postgres(postgres) = &config.upstream else {
            panic!("not PostgreSQL")
        };
        let cell = Arc::new(self.cell.clone());
        let gateway = Gateway::new(&config, postgres, verifier(), cell).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Running {
            address,
            task: tokio::spawn(Arc::new(gateway).serve(listener)),
        }
    }

    /// A gateway in transaction mode, straight to the server or through a pooler.
    pub async fn transaction_gateway(&self, pooler: Option<&pgbouncer::PrivatePooler>) -> Running {
        self.gateway_with(|config| {
            let Upstream::Postgres(postgres) = &mut config.upstream else {
                panic!("not PostgreSQL")
            };
            postgres.mode = FenceMode::Transaction;
            postgres.pooler = pooler.map(pgbouncer::PrivatePooler::config);
        })
        .await
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
        self.admin()
            .await
            .query_one(&sql, &[])
            .await
            .unwrap()
            .get(0)
    }

    /// A URL by way of a gateway.
    pub fn url(&self, role: &str, address: SocketAddr) -> String {
        format!("postgres://{role}@{address}/{}", self.database)
    }

    /// The application, by way of a gateway.
    pub async fn app(&self, gateway: &Running) -> Client {
        connect(&self.url("app", gateway.address)).await
    }

    /// The application as a client that sends what it is told to.
    pub async fn raw(&self, address: SocketAddr) -> raw::Raw {
        raw::Raw::connect(address, &[("user", "app"), ("database", &self.database)]).await
    }
}

/// A gateway in a process of its own, as soon as it listens.
pub fn start_gateway(file: &Path) -> GatewayProcess {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["serve", "--config"])
        .arg(file)
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .expect(&line)
        .parse()
        .unwrap();
    GatewayProcess { address, child }
}

pub async fn connect(url: &str) -> Client {
    try_connect(url)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error:?}"))
}

pub async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// SQLSTATE and message of an error.
pub fn refused<T>(result: Result<T, tokio_postgres::Error>) -> (String, String) {
    let error = result.err().expect("it was not refused");
    let error = error
        .as_db_error()
        .unwrap_or_else(|| panic!("not from the server: {error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

/// What the cell of a bed grants.
pub fn granted(grants: &[(&str, u64)], newest: u64) -> StaticCell {
    let granted: HashSet<_> = grants
        .iter()
        .map(|(lock, token)| (LockName::new(lock).unwrap(), Token(*token)))
        .collect();
    StaticCell {
        granted,
        newest: Token(newest),
    }
}

/// A certificate for the gateway or the server, made by the program that PostgreSQL users make
/// theirs with.
pub fn certificate(dir: &Path) -> TlsFiles {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is needed: run `apt-get install openssl`");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    TlsFiles { certificate, key }
}
