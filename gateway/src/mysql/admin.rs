//! The gateway's own connections to the server: every call of the fence's procedures goes over
//! them. Knows SQL and reconnecting; decides nothing.
//!
//! All calls for one session go over one connection, in order. When a connection breaks, its
//! thread is ended before a new one is used: nothing that was on its way is done later. Each call
//! is one statement and one transaction, so a call whose answer was lost is simply repeated.
//! Waiting for older writers is done over further connections, one more ends those in the way.

use std::time::Duration;

use lockd_protocol::types::{LockName, Token};
use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, Row, ServerError, SslOpts, Value};
use tokio::sync::Mutex;

use crate::admission::Fence;
use crate::config::{MysqlConfig, UpstreamTls};
use crate::fence::admission::{Admitted, Era};
use crate::fence::set::{Shown, TicketSet};
use crate::limits::{
    ADMIN_CALL_TIMEOUT, DRAIN_LOCK_TIMEOUT, EVICT_PAUSE, EVICT_WAIT_SECONDS, MARIADB_VERSION_MIN,
};
pub use crate::postgres::admin::Mark;

/// What every connection of the gateway is pinned to.
const SETTINGS: &str = "set session autocommit = 1, lock_wait_timeout = 5, max_statement_time = 0, \
    wait_timeout = 31536000, sql_mode = \
    'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

/// Why a call was not done, or is not known to have been done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The fence is not there, or the account may not use it.
    #[error(
        "the fence is not installed in this server, or not for this account ({0}); \
         run `gateway install`"
    )]
    NotInstalled(String),
    /// Not a server that the fence is known to hold in.
    #[error(
        "the server is {0}; the fence is known to hold in MariaDB {major}.{minor} and newer",
        major = MARIADB_VERSION_MIN.0, minor = MARIADB_VERSION_MIN.1
    )]
    Unknown(String),
    /// The server refused the login or the call.
    #[error("the server says: {0}")]
    Server(String),
    /// No connection, or it broke.
    #[error("cannot talk to the MariaDB server at {address}: {reason}")]
    Broken {
        /// Host and port.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("the server did not answer within {} s", ADMIN_CALL_TIMEOUT.as_secs())]
    Timeout,
}

/// A connection that serves a client, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    /// Its number.
    pub(crate) connection: u64,
    /// The start of the server in which it has that number.
    pub(crate) boot: i64,
}

/// What the server says of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) thread: Thread,
    /// Where it comes from, as the server sees it: `address:port`.
    pub(crate) host: String,
    /// Whether its account may switch the fence off.
    pub(crate) superuser: bool,
}

/// Connections of the gateway's own.
pub struct Admin {
    links: Vec<Mutex<Link>>,
    drains: Vec<Mutex<Link>>,
    evictor: Mutex<Link>,
    opts: Opts,
    address: String,
}

/// One place for a connection.
#[derive(Default)]
struct Link {
    live: Option<Live>,
    /// The connection that was here last, if it may still be alive.
    previous: Option<Thread>,
}

struct Live {
    conn: Conn,
    thread: Thread,
}

impl Admin {
    /// Connections that are made when they are first needed.
    #[must_use]
    pub fn new(config: &MysqlConfig) -> Admin {
        let places = || (0..config.admin_connections).map(|_| Mutex::default());
        Admin {
            links: places().collect(),
            drains: places().collect(),
            evictor: Mutex::default(),
            opts: login(config).into(),
            address: format!("{}:{}", config.host, config.port),
        }
    }

    /// Who serves the client whose connection has this number? `None`: nobody.
    pub(super) async fn identify(&self, connection: u64) -> Result<Option<Identity>, AdminError> {
        let sql = "call fence.identify(?)";
        let rows = self.call(connection, sql, (connection,)).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(Identity {
            host: field(row, 0)?,
            superuser: field(row, 1)?,
            thread: Thread {
                connection,
                boot: field(row, 2)?,
            },
        }))
    }

    /// Takes a session's tickets away that were registered under this number or before. With
    /// `skip`, only if it is doing nothing under them.
    pub(super) async fn give_back(
        &self,
        thread: Thread,
        registration: i64,
        skip: bool,
    ) -> Result<(), AdminError> {
        let Thread { connection, boot } = thread;
        let sql = "call fence.give_back(?, ?, ?, ?)";
        let parameters = (connection, boot, registration, skip);
        self.call(connection, sql, parameters).await.map(drop)
    }

    /// The marks, in order of lock.
    ///
    /// # Errors
    /// [`AdminError`] if the server cannot be asked.
    pub async fn marks(&self, most: i32) -> Result<Vec<Mark>, AdminError> {
        let rows = self.call(0, "call fence.marks(?)", (most,)).await?;
        let mark = |row: &Row| {
            Ok(Mark {
                lock: field(row, 0)?,
                token: field(row, 1)?,
                drained: field(row, 2)?,
                sessions: field(row, 3)?,
                stale_sessions: field(row, 4)?,
            })
        };
        rows.iter().map(mark).collect()
    }

    /// Whether the server can be reached and the fence be used.
    ///
    /// # Errors
    /// [`AdminError`] says why not.
    pub async fn ping(&self) -> Result<(), AdminError> {
        self.marks(0).await.map(drop)
    }

    async fn call(
        &self,
        connection: u64,
        sql: &str,
        parameters: impl Into<Params>,
    ) -> Result<Vec<Row>, AdminError> {
        let link = place(&self.links, connection)?;
        self.call_over(&mut *link.lock().await, sql, parameters.into())
            .await
    }

    /// Calls a procedure, again if the connection breaks or it loses a deadlock.
    async fn call_over(
        &self,
        link: &mut Link,
        sql: &str,
        parameters: Params,
    ) -> Result<Vec<Row>, AdminError> {
        let mut broken = None;
        for _ in 0..ATTEMPTS_MAX {
            // While it is used it is not in its place: if this is given up, it is closed.
            let mut live = self.take(link).await?;
            let answer = live.conn.exec::<Row, _, _>(sql, parameters.clone());
            match tokio::time::timeout(ADMIN_CALL_TIMEOUT, answer).await {
                Ok(Ok(rows)) => {
                    link.live = Some(live);
                    return Ok(rows);
                }
                // The call was chosen to end a deadlock, and nothing of it was done.
                Ok(Err(error @ Error::Server(ServerError { code: 1213, .. }))) => {
                    link.live = Some(live);
                    broken = Some(error);
                }
                Ok(Err(error)) if !ends_connection(&error) => {
                    link.live = Some(live);
                    return Err(server_error(&error));
                }
                Ok(Err(error)) => broken = Some(error),
                Err(_) => return Err(AdminError::Timeout),
            }
        }
        Err(self.broken(broken.map_or_else(String::new, |error| error.to_string())))
    }

    fn broken(&self, reason: String) -> AdminError {
        AdminError::Broken {
            address: self.address.clone(),
            reason,
        }
    }

    /// The connection of a place, made anew if there is none.
    async fn take(&self, link: &mut Link) -> Result<Live, AdminError> {
        if let Some(live) = link.live.take() {
            return Ok(live);
        }
        let connecting = self.connect(link.previous);
        let live = tokio::time::timeout(ADMIN_CALL_TIMEOUT, connecting)
            .await
            .map_err(|_| AdminError::Timeout)??;
        link.previous = Some(live.thread);
        Ok(live)
    }

    async fn connect(&self, previous: Option<Thread>) -> Result<Live, AdminError> {
        let mut conn = connect(self.opts.clone()).await?;
        if let Some(Thread { connection, boot }) = previous {
            let retire = "call fence.retire(?, ?)";
            let gone = conn
                .exec_first::<bool, _, _>(retire, (connection, boot))
                .await;
            if gone.map_err(|error| server_error(&error))? != Some(true) {
                return Err(AdminError::Server(format!(
                    "the gateway's earlier connection {connection} does not end"
                )));
            }
        }
        let identify = "call fence.identify(connection_id())";
        let row = conn.query_first::<Row, _>(identify).await;
        let row = row.map_err(|error| server_error(&error))?;
        let boot = match &row {
            Some(row) => field(row, 2)?,
            None => return Err(self.broken("it does not know its own connection".into())),
        };
        let connection = u64::from(conn.id());
        Ok(Live {
            conn,
            thread: Thread { connection, boot },
        })
    }

    /// Waits for older writers over a connection of its own, and after a while ends those that
    /// are in the way. Says how many were ended.
    async fn drain(&self, thread: Thread, set: &TicketSet) -> Result<i32, AdminError> {
        let place = place(&self.drains, thread.connection)?;
        let mut link = place.lock().await;
        let mut live = self.take(&mut link).await?;
        let waiter = live.thread.connection;
        let parameters = admit_parameters(thread, set, 0, EVICT_WAIT_SECONDS);
        let mut ended = 0;
        {
            let waiting = live.conn.exec::<Row, _, _>(ADMIT, parameters);
            let mut waiting = std::pin::pin!(tokio::time::timeout(ADMIN_CALL_TIMEOUT, waiting));
            let mut pause = DRAIN_LOCK_TIMEOUT;
            let drained = loop {
                tokio::select! {
                    drained = &mut waiting => break drained,
                    () = tokio::time::sleep(pause) => {}
                }
                tokio::select! {
                    drained = &mut waiting => break drained,
                    round = self.evict_round(waiter, set) => ended += round?,
                }
                pause = EVICT_PAUSE;
            };
            drained
                .map_err(|_| AdminError::Timeout)?
                .map_err(|error| server_error(&error))?;
        }
        link.live = Some(live);
        Ok(ended)
    }

    async fn evict_round(&self, waiter: u64, set: &TicketSet) -> Result<i32, AdminError> {
        let (locks, tokens, count) = lists(set);
        let mut link = self.evictor.lock().await;
        let sql = "call fence.evict(?, ?, ?, ?)";
        let parameters = (locks, tokens, count, waiter).into();
        let rows = self.call_over(&mut link, sql, parameters).await?;
        first(&rows)
    }
}

/// How often a call is tried.
const ATTEMPTS_MAX: u32 = 3;

const ADMIT: &str = "call fence.admit(?, ?, ?, ?, ?, ?, ?)";

fn admit_parameters(thread: Thread, set: &TicketSet, registration: i64, wait_s: u32) -> Params {
    let (locks, tokens, count) = lists(set);
    let Thread { connection, boot } = thread;
    (locks, tokens, count, connection, boot, registration, wait_s).into()
}

impl Fence for Admin {
    type Session = Thread;
    type Error = AdminError;

    async fn admit(
        &self,
        thread: Thread,
        set: &TicketSet,
        registration: i64,
    ) -> Result<Admitted, AdminError> {
        // Without waiting: what has to be waited for is waited for in `evict`.
        let parameters = admit_parameters(thread, set, registration, 0);
        let rows = self.call(thread.connection, ADMIT, parameters).await?;
        let row = rows.first().ok_or_else(no_row)?;
        let shown = || -> Result<Shown, AdminError> {
            let lock = LockName::from_bytes(&field::<Vec<u8>>(row, 1)?);
            Ok(Shown {
                lock: lock.map_err(|error| AdminError::Server(error.to_string()))?,
                token: token(field(row, 2)?),
            })
        };
        match field::<String>(row, 0)?.as_str() {
            "ok" => Ok(Admitted::Done),
            "busy" => Ok(Admitted::Busy),
            "unseeded" => Ok(Admitted::Unseeded),
            "gone" => Ok(Admitted::Gone),
            "unknown" => Ok(Admitted::Unknown(Era(field(row, 4)?), shown()?)),
            "stale" => {
                let Shown { lock, token: shown } = shown()?;
                Ok(Admitted::Stale {
                    lock,
                    shown,
                    needed: token(field(row, 3)?),
                })
            }
            other => Err(AdminError::Server(format!("fence.admit answers {other:?}"))),
        }
    }

    async fn evict(&self, thread: Thread, set: &TicketSet) -> Result<i32, AdminError> {
        self.drain(thread, set).await
    }

    async fn begin_era(&self, thread: Thread) -> Result<Era, AdminError> {
        // A prepared transaction survives restarts, the lock that it held on its registration
        // does not.
        if !self
            .call(thread.connection, "xa recover", ())
            .await?
            .is_empty()
        {
            let reason = "prepared XA transactions are pending; finish them: see XA RECOVER";
            return Err(AdminError::Server(reason.into()));
        }
        let rows = self.call(thread.connection, "call fence.begin_era()", ());
        Ok(Era(first(&rows.await?)?))
    }

    async fn set_horizon(
        &self,
        thread: Thread,
        era: Era,
        horizon: Token,
    ) -> Result<(), AdminError> {
        let sql = "call fence.set_horizon(?, ?)";
        let parameters = (era.0, signed(horizon));
        self.call(thread.connection, sql, parameters)
            .await
            .map(drop)
    }

    async fn seed(&self, thread: Thread, era: Era, shown: &Shown) -> Result<(), AdminError> {
        let sql = "call fence.seed(?, ?, ?)";
        let parameters = (era.0, shown.lock.as_str(), signed(shown.token));
        self.call(thread.connection, sql, parameters)
            .await
            .map(drop)
    }
}

/// How the gateway's own account logs in.
pub(super) fn login(config: &MysqlConfig) -> OptsBuilder {
    let tls = match config.tls {
        UpstreamTls::Disable => None,
        UpstreamTls::Require => Some(
            SslOpts::default()
                .with_danger_accept_invalid_certs(true)
                .with_danger_skip_domain_validation(true),
        ),
        UpstreamTls::VerifyFull => {
            let authorities = config.ca.clone().map(Into::into).into_iter().collect();
            Some(
                SslOpts::default()
                    .with_root_certs(authorities)
                    .with_disable_built_in_roots(true),
            )
        }
    };
    OptsBuilder::default()
        .ip_or_hostname(config.host.clone())
        .tcp_port(config.port)
        .user(Some(config.user.clone()))
        .pass(config.password.clone())
        .ssl_opts(tls)
        .prefer_socket(false)
        .secure_auth(true)
        // Asked for otherwise, with a statement of its own.
        .max_allowed_packet(Some(16 * 1024 * 1024))
        .wait_timeout(Some(28_800))
        .setup(vec![SETTINGS.to_owned()])
}

/// Connects and logs in.
pub(super) async fn connect(opts: impl Into<Opts>) -> Result<Conn, AdminError> {
    let opts = opts.into();
    let address = format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port());
    let connecting = tokio::time::timeout(ADMIN_CALL_TIMEOUT, Conn::new(opts));
    match connecting.await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error @ Error::Server(_))) => Err(server_error(&error)),
        Ok(Err(error)) => Err(AdminError::Broken {
            address,
            reason: error.to_string(),
        }),
        Err(_) => Err(AdminError::Timeout),
    }
}

/// Closes a connection in order.
pub(super) async fn disconnect(conn: Conn) {
    if let Err(error) = conn.disconnect().await {
        tracing::debug!(%error, "a connection was not closed in order");
    }
}

/// Refuses servers in which nobody has tried whether the fence holds.
pub(super) async fn known_server(conn: &mut Conn) -> Result<(), AdminError> {
    let version: Option<String> = conn
        .query_first("select version()")
        .await
        .map_err(|error| server_error(&error))?;
    let version = version.unwrap_or_default();
    let mut numbers = version
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version.contains("MariaDB") && number >= MARIADB_VERSION_MIN {
        return Ok(());
    }
    Err(AdminError::Unknown(version))
}

/// Whether the connection cannot be used any more.
fn ends_connection(error: &Error) -> bool {
    match error {
        // Shutdown, killed, interrupted by a kill.
        Error::Server(error) => matches!(error.code, 1053 | 1317 | 1927),
        _ => true,
    }
}

pub(super) fn server_error(error: &Error) -> AdminError {
    match error {
        // No such database, table, routine or definer, or no right to it.
        Error::Server(reason)
            if matches!(reason.code, 1044 | 1049 | 1142 | 1146 | 1305 | 1370 | 1449) =>
        {
            AdminError::NotInstalled(reason.message.clone())
        }
        Error::Server(reason) => {
            AdminError::Server(format!("{} [{}]", reason.message, reason.code))
        }
        other => AdminError::Server(other.to_string()),
    }
}

fn place(places: &[Mutex<Link>], connection: u64) -> Result<&Mutex<Link>, AdminError> {
    let count = u64::try_from(places.len()).unwrap_or(1).max(1);
    let at = usize::try_from(connection % count).unwrap_or(0);
    places
        .get(at)
        .ok_or_else(|| AdminError::Server("no connection of the gateway is configured".into()))
}

pub(super) fn field<T: FromValue>(row: &Row, at: usize) -> Result<T, AdminError> {
    match row.get_opt::<T, usize>(at) {
        Some(Ok(value)) => Ok(value),
        _ => {
            let value: Option<&Value> = row.as_ref(at);
            let reason = format!("column {at} of the fence's answer is {value:?}");
            Err(AdminError::Server(reason))
        }
    }
}

fn first<T: FromValue>(rows: &[Row]) -> Result<T, AdminError> {
    field(rows.first().ok_or_else(no_row)?, 0)
}

fn no_row() -> AdminError {
    AdminError::Server("a procedure of the fence gave no row".into())
}

/// The locks, each on a line, and their tokens, in the same order.
fn lists(set: &TicketSet) -> (String, String, usize) {
    let tickets = set.tickets();
    let locks: Vec<_> = tickets.iter().map(|ticket| ticket.lock.as_str()).collect();
    let tokens: Vec<_> = tickets
        .iter()
        .map(|ticket| ticket.token.to_string())
        .collect();
    (locks.join("\n"), tokens.join(","), tickets.len())
}

/// Tokens stay below 2^63, which is checked where tickets are verified.
fn signed(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

fn token(number: i64) -> Token {
    Token(u64::try_from(number).unwrap_or(0))
}

const _: () = assert!(EVICT_WAIT_SECONDS as u64 * 2 <= ADMIN_CALL_TIMEOUT.as_secs());
const _: () = assert!(EVICT_PAUSE.as_millis() < Duration::from_secs(1).as_millis());
