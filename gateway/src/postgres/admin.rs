//! The gateway's own connections to the server: every call of the fence's functions goes over
//! them. Knows SQL and reconnecting; decides nothing.
//!
//! All calls for one session go over one connection, in order. When a connection breaks, its
//! backend is ended before a new one is used: nothing that was on its way is done later. Each
//! call is one statement and one transaction, so a call whose answer was lost is simply repeated.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

use super::admitting::signed;
use super::upstream::{DialError, Target};
use crate::config::PostgresConfig;
use crate::fence::set::Shown;
use crate::limits::ADMIN_CALL_TIMEOUT;

/// What every connection of the gateway is pinned to. The fence's functions lock first and look
/// afterwards, which only READ COMMITTED makes right. Marks need no sync of their own: a crash
/// empties the unlogged tables, and then the lock service is asked.
const SETTINGS: &str = "-c default_transaction_isolation=read\\ committed \
    -c default_transaction_read_only=off -c synchronous_commit=off -c lock_timeout=5000 \
    -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c jit=off";

/// Why a call was not done, or is not known to have been done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No connection to the server.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The fence is not there, or the role may not use it.
    #[error(
        "the fence is not installed in this database, or not for this role ({0}); \
         run `gateway install`"
    )]
    NotInstalled(String),
    /// The server refused the login or the call.
    #[error("the server says: {0}")]
    Server(String),
    /// The connection broke, twice.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("the server did not answer within {} s", ADMIN_CALL_TIMEOUT.as_secs())]
    Timeout,
}

/// The functions of the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Identify,
    Admit,
    Evict,
    GiveBack,
    Forget,
    BeginEra,
    SetHorizon,
    Seed,
    Retire,
    Marks,
    IsBehind,
}

/// In the order of [`Call`].
const CALLS: [&str; 11] = [
    "select started, superuser, port, here from fence.identify($1)",
    "select status, at_lock, at_shown, at_needed, era, told
       from fence.admit($1, $2, $3, $4, $5, $6, $7)",
    "select fence.evict($1, $2, $3, $4)",
    "select fence.give_back($1, $2, $3)",
    "select fence.forget($1, $2, $3)",
    "select fence.begin_era()",
    "select fence.set_horizon($1, $2)",
    "select fence.seed($1, $2, $3)",
    "select fence.retire($1, $2)",
    "select lock, token, drained, sessions, stale_sessions from fence.marks($1)",
    "select fence.is_behind($1, $2)",
];

/// A backend that serves a client, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(super) pid: i32,
    pub(super) started: SystemTime,
    pub(super) port: i32,
}

/// What the server says of a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) backend: Backend,
    /// Whether it may become a superuser.
    pub(super) superuser: bool,
    /// Whether it is in the gateway's database.
    pub(super) here: bool,
}

/// One lock's mark, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The lock.
    pub lock: String,
    /// Highest token admitted or closing.
    pub token: i64,
    /// No writer below this is left.
    pub drained: i64,
    /// Live sessions that carry a current ticket.
    pub sessions: i64,
    /// Live sessions whose ticket is stale.
    pub stale_sessions: i64,
}

/// Connections of the gateway's own.
pub struct Admin {
    links: Vec<Mutex<Link>>,
    target: Target,
    config: tokio_postgres::Config,
}

/// One place for a connection.
#[derive(Default)]
struct Link {
    connected: Option<Arc<Connected>>,
    /// Backend of the connection that was here last, if it may still be alive.
    previous: Option<(i32, SystemTime)>,
}

struct Connected {
    client: Client,
    statements: Vec<Statement>,
}

impl Admin {
    pub(super) fn new(config: &PostgresConfig, target: Target) -> Admin {
        let mut login = login(config);
        login.options(SETTINGS);
        let links = (0..config.admin_connections)
            .map(|_| Mutex::default())
            .collect();
        Admin {
            links,
            target,
            config: login,
        }
    }

    /// Who serves the client whose backend has this number?
    pub(super) async fn identify(&self, pid: i32) -> Result<Option<Identity>, AdminError> {
        let row = self.row(pid, Call::Identify, &[&pid]).await?;
        let Some(started) = get::<Option<SystemTime>>(&row, 0)? else {
            return Ok(None);
        };
        let port = get::<Option<i32>>(&row, 2)?.unwrap_or(-1);
        Ok(Some(Identity {
            backend: Backend { pid, started, port },
            superuser: get(&row, 1)?,
            here: get::<Option<bool>>(&row, 3)?.unwrap_or(false),
        }))
    }

    /// Takes a session's tickets away that were registered under this number or before.
    pub(super) async fn give_back(
        &self,
        backend: Backend,
        registration: i64,
    ) -> Result<(), AdminError> {
        let Backend { pid, started, .. } = backend;
        self.row(pid, Call::GiveBack, &[&pid, &started, &registration])
            .await
            .map(drop)
    }

    /// The same after the client's connection has ended.
    pub(super) async fn forget(
        &self,
        backend: Backend,
        registration: i64,
    ) -> Result<(), AdminError> {
        let Backend { pid, started, .. } = backend;
        self.row(pid, Call::Forget, &[&pid, &started, &registration])
            .await
            .map(drop)
    }

    /// Whether somebody may still write under a lower token of this lock.
    pub(super) async fn is_behind(&self, shown: &Shown) -> Result<bool, AdminError> {
        let (lock, token) = (shown.lock.as_str(), signed(shown.token));
        let link = i32::try_from(shown.token.0 & 0xffff).unwrap_or(0);
        get(&self.row(link, Call::IsBehind, &[&lock, &token]).await?, 0)
    }

    /// The marks, in order of lock.
    ///
    /// # Errors
    /// [`AdminError`] if the server cannot be asked.
    pub async fn marks(&self, most: i32) -> Result<Vec<Mark>, AdminError> {
        let rows = self.rows(0, Call::Marks, &[&most]).await?;
        rows.iter()
            .map(|row| {
                Ok(Mark {
                    lock: get(row, 0)?,
                    token: get(row, 1)?,
                    drained: get(row, 2)?,
                    sessions: get(row, 3)?,
                    stale_sessions: get(row, 4)?,
                })
            })
            .collect()
    }

    /// Whether the server can be reached and the fence be used.
    ///
    /// # Errors
    /// [`AdminError`] says why not.
    pub async fn ping(&self) -> Result<(), AdminError> {
        self.rows(0, Call::Marks, &[&0_i32]).await.map(drop)
    }

    /// Calls a function that gives one row, over the connection that is this session's.
    pub(super) async fn row(
        &self,
        pid: i32,
        call: Call,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, AdminError> {
        let mut rows = self.rows(pid, call, parameters).await?;
        rows.pop()
            .ok_or_else(|| AdminError::Server("a function of the fence gave no row".into()))
    }

    /// Calls a function over the connection that is this session's, reconnecting once.
    async fn rows(
        &self,
        pid: i32,
        call: Call,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, AdminError> {
        let place = pid.unsigned_abs() as usize % self.links.len().max(1);
        let Some(link) = self.links.get(place) else {
            return Err(AdminError::Broken("no connection is configured".into()));
        };
        let mut broken = None;
        for _ in 0..2 {
            let connected = self.connected(link).await?;
            let Some(statement) = connected.statements.get(call as usize) else {
                break;
            };
            let answer = connected.client.query(statement, parameters);
            match tokio::time::timeout(ADMIN_CALL_TIMEOUT, answer).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if connected.client.is_closed() || ends_connection(&error) => {
                    broken = Some(error);
                    forsake(link, &connected).await;
                }
                Ok(Err(error)) => return Err(server_error(&error)),
                Err(_) => {
                    forsake(link, &connected).await;
                    return Err(AdminError::Timeout);
                }
            }
        }
        Err(AdminError::Broken(
            broken.map_or_else(String::new, |error| error.to_string()),
        ))
    }

    async fn connected(&self, link: &Mutex<Link>) -> Result<Arc<Connected>, AdminError> {
        let mut link = link.lock().await;
        if let Some(connected) = &link.connected {
            if !connected.client.is_closed() {
                return Ok(Arc::clone(connected));
            }
            link.connected = None;
        }
        let connecting = self.connect(link.previous);
        let (connected, backend) = tokio::time::timeout(ADMIN_CALL_TIMEOUT, connecting)
            .await
            .map_err(|_| AdminError::Timeout)??;
        let connected = Arc::new(connected);
        link.connected = Some(Arc::clone(&connected));
        link.previous = Some(backend);
        Ok(connected)
    }

    async fn connect(
        &self,
        previous: Option<(i32, SystemTime)>,
    ) -> Result<(Connected, (i32, SystemTime)), AdminError> {
        let client = log_in(&self.target, &self.config).await?;
        let mut statements = Vec::with_capacity(CALLS.len());
        for sql in CALLS {
            statements.push(
                client
                    .prepare(sql)
                    .await
                    .map_err(|error| server_error(&error))?,
            );
        }
        let connected = Connected { client, statements };
        if let Some((pid, started)) = previous {
            let gone: bool = get(&connected.ask(Call::Retire, &[&pid, &started]).await?, 0)?;
            if !gone {
                return Err(AdminError::Server(format!(
                    "the gateway's earlier connection (backend {pid}) does not end"
                )));
            }
        }
        let own = connected
            .client
            .query_one("select pg_backend_pid()", &[])
            .await;
        let pid: i32 = get(&own.map_err(|error| server_error(&error))?, 0)?;
        let started = get(&connected.ask(Call::Identify, &[&pid]).await?, 0)?;
        Ok((connected, (pid, started)))
    }
}

/// How the gateway's own role logs in.
pub(super) fn login(config: &PostgresConfig) -> tokio_postgres::Config {
    let mut login = tokio_postgres::Config::new();
    login
        .user(&config.user)
        .dbname(&config.database)
        .application_name("lockd gateway")
        // The target has done what there is to do about TLS before the login begins.
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    if let Some(password) = &config.password {
        login.password(password);
    }
    login
}

/// Connects and logs in.
pub(super) async fn log_in(
    target: &Target,
    config: &tokio_postgres::Config,
) -> Result<Client, AdminError> {
    let (stream, _) = target.dial().await?;
    let connecting = config.connect_raw(stream, NoTls);
    let (client, connection) = connecting.await.map_err(|error| server_error(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a connection of the gateway to its server ended");
        }
    });
    Ok(client)
}

impl Connected {
    async fn ask(&self, call: Call, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, AdminError> {
        let Some(statement) = self.statements.get(call as usize) else {
            return Err(AdminError::Server(
                "a function of the fence is missing".into(),
            ));
        };
        let row = self.client.query_one(statement, parameters).await;
        row.map_err(|error| server_error(&error))
    }
}

/// Takes a connection out of use, unless somebody has put another in its place.
async fn forsake(link: &Mutex<Link>, used: &Arc<Connected>) {
    let mut link = link.lock().await;
    if link
        .connected
        .as_ref()
        .is_some_and(|current| Arc::ptr_eq(current, used))
    {
        link.connected = None;
    }
}

/// Whether the server ended the connection along with the statement.
fn ends_connection(error: &tokio_postgres::Error) -> bool {
    error.is_closed()
        || matches!(
            error.code(),
            Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN)
        )
}

pub(super) fn server_error(error: &tokio_postgres::Error) -> AdminError {
    match error.as_db_error() {
        Some(reason)
            if [
                SqlState::INVALID_SCHEMA_NAME,
                SqlState::UNDEFINED_FUNCTION,
                SqlState::INSUFFICIENT_PRIVILEGE,
            ]
            .contains(reason.code()) =>
        {
            AdminError::NotInstalled(reason.message().to_owned())
        }
        Some(reason) => {
            let hint = reason
                .hint()
                .map(|hint| format!(" ({hint})"))
                .unwrap_or_default();
            let code = reason.code().code();
            AdminError::Server(format!("{} [{code}]{hint}", reason.message()))
        }
        None => AdminError::Broken(with_sources(error)),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A column of an answer.
pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
) -> Result<T, AdminError> {
    row.try_get(column)
        .map_err(|error| AdminError::Server(with_sources(&error)))
}
