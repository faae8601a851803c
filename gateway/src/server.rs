//! A gateway process from its configuration: runtime, listener, upstream, signals.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cell::LockdCell;
use crate::config::{
    Config, ConfigError, HttpConfig, MysqlConfig, PostgresConfig, RedisConfig, StoreConfig,
    Upstream,
};
use crate::findings::{Finding, Severity};
use crate::http;
use crate::mysql;
use crate::postgres::admin::AdminError;
use crate::postgres::check::{self, CheckError};
use crate::postgres::{Gateway, eager};
use crate::redis;
use crate::store::engine::{OpenError, Store};
use crate::store::http::{self as store_http, Service};
use crate::tickets;
use crate::tls::{self, TlsError};

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No threads, no signals.
    #[error("cannot start: {0}")]
    Machine(#[from] std::io::Error),
    /// The server cannot be reached or used.
    #[error(transparent)]
    Upstream(#[from] AdminError),
    /// The MariaDB server cannot be reached or used.
    #[error(transparent)]
    Mysql(#[from] mysql::admin::AdminError),
    /// The Redis server cannot be reached or used.
    #[error(transparent)]
    Redis(#[from] redis::link::LinkError),
    /// The HTTP server cannot be reached.
    #[error(transparent)]
    Http(#[from] http::upstream::DialError),
    /// The control socket cannot be used.
    #[error(transparent)]
    Control(#[from] http::control::ControlError),
    /// The fence does not hold there.
    #[error("{0}; `gateway check` tells everything that is missing")]
    Unguarded(String),
}

impl From<CheckError> for ServeError {
    fn from(error: CheckError) -> ServeError {
        match error {
            CheckError::Tls(error) => ServeError::Tls(error),
            CheckError::Server(error) => ServeError::Upstream(error),
        }
    }
}

impl From<redis::check::CheckError> for ServeError {
    fn from(error: redis::check::CheckError) -> ServeError {
        match error {
            redis::check::CheckError::Tls(error) => ServeError::Tls(error),
            redis::check::CheckError::Server(error) => ServeError::Redis(error),
        }
    }
}

impl From<http::check::CheckError> for ServeError {
    fn from(error: http::check::CheckError) -> ServeError {
        match error {
            http::check::CheckError::Tls(error) => ServeError::Tls(error),
            http::check::CheckError::Server(error) => ServeError::Http(error),
        }
    }
}

impl From<http::MakeError> for ServeError {
    fn from(error: http::MakeError) -> ServeError {
        match error {
            http::MakeError::Tls(error) => ServeError::Tls(error),
            http::MakeError::Control(error) => ServeError::Control(error),
        }
    }
}

/// Serves as a configuration file says, until SIGTERM or SIGINT.
///
/// Prints `listening on ADDR` to stdout when clients can connect.
///
/// # Errors
/// [`ServeError`] if it cannot begin.
pub fn serve(config: &Path) -> Result<(), ServeError> {
    serve_config(&Config::load(config)?)
}

/// Serves as [`serve`] does, from a configuration that is read already.
///
/// # Errors
/// [`ServeError`] if it cannot begin.
pub fn serve_config(config: &Config) -> Result<(), ServeError> {
    let mut runtime = if config.threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    runtime
        .worker_threads(config.threads)
        .enable_all()
        .build()?
        .block_on(run(config))
}

async fn run(config: &Config) -> Result<(), ServeError> {
    // Before anything is announced, so that an early signal is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (listener, serving) = bind(config).await?;
    announce(listener)?;
    tokio::select! {
        () = serving => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ended by a signal");
    Ok(())
}

/// A gateway that is ready, as a future that serves until it is dropped.
type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Prepares everything and listens; the address is the one really bound.
///
/// # Errors
/// [`ServeError`] if it cannot begin.
pub async fn bind(config: &Config) -> Result<(SocketAddr, Serving), ServeError> {
    let serving: Box<dyn FnOnce(TcpListener) -> Serving + Send> = match &config.upstream {
        Upstream::Postgres(postgres) => {
            let cell = Arc::new(LockdCell::new(config.cell.clone()));
            let gateway = postgres_gateway(config, postgres, Arc::clone(&cell)).await?;
            let gateway = Arc::new(gateway);
            if postgres.eager {
                let following = eager::follow(Arc::clone(&gateway), cell);
                Box::new(|listener| {
                    let serving = gateway.serve(listener);
                    Box::pin(async {
                        tokio::join!(serving, following);
                    })
                })
            } else {
                Box::new(|listener| Box::pin(gateway.serve(listener)))
            }
        }
        Upstream::Mysql(mysql) => {
            let gateway = Arc::new(mysql_gateway(config, mysql).await?);
            Box::new(|listener| Box::pin(gateway.serve(listener)))
        }
        Upstream::Redis(redis) => {
            let gateway = Arc::new(redis_gateway(config, redis).await?);
            Box::new(|listener| Box::pin(gateway.serve(listener)))
        }
        Upstream::Http(http) => {
            let gateway = Arc::new(http_gateway(config, http).await?);
            Box::new(|listener| Box::pin(gateway.serve(listener)))
        }
        Upstream::Store(store) => {
            let service = Arc::new(store_service(config, store)?);
            let tls = match &config.tls {
                Some(files) => Some(tls::acceptor(files, &[b"http/1.1"])?),
                None => None,
            };
            Box::new(|listener| Box::pin(store_http::serve(listener, service, tls)))
        }
    };
    let address = config.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((bound, serving(listener)))
}

fn announce(address: SocketAddr) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// A gateway whose tables are really under guard: a rule that the database does not know would
/// be worse than none.
async fn postgres_gateway(
    config: &Config,
    postgres: &PostgresConfig,
    cell: Arc<LockdCell>,
) -> Result<Gateway, ServeError> {
    let verifier = tickets::verifier(&config.cell)?;
    insist(check::check(postgres).await?)?;
    let gateway = Gateway::new(config, postgres, verifier, cell)?;
    gateway.admin().ping().await?;
    Ok(gateway)
}

/// The same in MariaDB.
async fn mysql_gateway(config: &Config, mysql: &MysqlConfig) -> Result<mysql::Gateway, ServeError> {
    let verifier = tickets::verifier(&config.cell)?;
    insist(mysql::check::check(mysql).await?)?;
    let cell = Arc::new(LockdCell::new(config.cell.clone()));
    let gateway = mysql::Gateway::new(config, mysql, verifier, cell)?;
    gateway.admin().ping().await?;
    Ok(gateway)
}

/// The same for keys.
async fn redis_gateway(config: &Config, redis: &RedisConfig) -> Result<redis::Gateway, ServeError> {
    let verifier = tickets::verifier(&config.cell)?;
    insist(redis::check::check(redis).await?)?;
    let cell = Arc::new(LockdCell::new(config.cell.clone()));
    let gateway = redis::Gateway::new(config, redis, verifier, cell)?;
    gateway.admin().ping().await?;
    Ok(gateway)
}

/// The order of writes in front of a server that knows nothing of it.
async fn http_gateway(config: &Config, http: &HttpConfig) -> Result<http::Gateway, ServeError> {
    let verifier = tickets::verifier(&config.cell)?;
    insist(http::check::check(http).await?)?;
    let cell = Arc::new(LockdCell::new(config.cell.clone()));
    Ok(http::Gateway::new(config, http, verifier, cell)?)
}

/// Notes are for the log; a problem keeps the gateway from serving.
fn insist(findings: Vec<Finding>) -> Result<(), ServeError> {
    for finding in findings {
        match finding.severity {
            Severity::Problem => return Err(ServeError::Unguarded(finding.what)),
            Severity::Note => tracing::info!(note = finding.what, "a way around the fence"),
        }
    }
    Ok(())
}

fn store_service(config: &Config, store: &StoreConfig) -> Result<Service, ServeError> {
    let (opened, _writer) = Store::open(&store.data)?;
    Ok(Service {
        store: opened,
        verifier: tickets::verifier(&config.cell)?,
        rules: store.rules.clone(),
        connections: config.connections,
        handshake_timeout: config.handshake_timeout,
    })
}
