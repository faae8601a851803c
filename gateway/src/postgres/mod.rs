//! PostgreSQL behind the gateway, with the row fence and the transaction fence.
//!
//! A session's bytes are relayed as they are, one upstream connection per client connection. The
//! gateway looks for one thing, a ticket being shown, and asks the database to register the
//! session under it, over connections of its own. What keeps stale writers out is a trigger on
//! each guarded table; a gateway that is paused, killed or wrong can do no harm there, but for
//! two duties: what follows a ticket is held until it is registered, and tickets change only
//! when the session is idle.
//!
//! From the outside in: [`Gateway`] takes connections, `startup` and `login` bring them to the
//! server, `relay` moves bytes between `from_client` and `from_server`, which walk over message
//! headers and keep the count of `idle`; `session` shows tickets to the fence through
//! `admitting` and `admin`; `telling` says in transaction mode what the server is told of them.
//! `eager` closes epochs before anybody asks. `sql/fence.sql` is the fence itself.

use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::ticket::Verifier;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::admin::{Admin, Backend};
use self::messages::Severity;
use self::relay::Relay;
use self::session::{Known, Session};
use self::startup::{Opening, Startup};
use self::upstream::Target;
use crate::cell::Cell;
use crate::config::{Config, FenceMode, PostgresConfig};
use crate::limits::ADMISSION_TIMEOUT_DEFAULT;
use crate::net::accept;
use crate::net::stream::Stream;
use crate::rules::LockPattern;
use crate::tls::{self, TlsError};

pub mod admin;
mod admitting;
pub mod check;
pub(crate) mod eager;
mod from_client;
mod from_server;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod idle;
pub mod install;
mod login;
mod messages;
pub mod private_server;
mod relay;
mod session;
mod startup;
mod statement;
mod telling;
mod upstream;

/// A gateway in front of one database.
pub struct Gateway {
    database: String,
    allow_superusers: bool,
    /// Which locks cover anything here.
    guards: Vec<LockPattern>,
    verifier: Verifier,
    cell: Arc<dyn Cell>,
    admin: Admin,
    /// Where clients' sessions go: the server, or a pooler.
    target: Target,
    mode: FenceMode,
    /// Sessions have no backend of their own.
    pooled: bool,
    tls: Option<TlsAcceptor>,
    connections: usize,
    handshake_timeout: Duration,
    admission_timeout: Duration,
}

/// Why a client got no session.
enum NoSession {
    /// It was told, or there is nobody to tell.
    Quiet(String),
    /// Code, text and hint for the client.
    Tell(Stream, Vec<u8>, String),
}

impl Gateway {
    /// A gateway that is not yet serving.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate or key cannot be used.
    pub fn new(
        config: &Config,
        postgres: &PostgresConfig,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
    ) -> Result<Gateway, TlsError> {
        let tls = match &config.tls {
            Some(files) => Some(TlsAcceptor::from(tls::acceptor(files, &[startup::ALPN])?)),
            None => None,
        };
        Ok(Gateway {
            database: postgres.database.clone(),
            allow_superusers: postgres.allow_superusers,
            guards: postgres
                .guards
                .iter()
                .map(|rule| rule.lock.clone())
                .collect(),
            verifier,
            cell,
            admin: Admin::new(postgres, Target::new(postgres)?),
            target: Target::for_clients(postgres)?,
            mode: postgres.mode,
            pooled: postgres.pooler.is_some(),
            tls,
            connections: config.connections,
            handshake_timeout: config.handshake_timeout,
            admission_timeout: ADMISSION_TIMEOUT_DEFAULT,
        })
    }

    /// The gateway's own connections.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Serves until the future that runs it is dropped.
    pub async fn serve(self: Arc<Gateway>, listener: TcpListener) {
        let connections = self.connections;
        accept::serve(listener, connections, |stream, peer| {
            Arc::clone(&self).converse(stream, peer)
        })
        .await;
    }

    async fn converse(self: Arc<Gateway>, stream: TcpStream, peer: std::net::SocketAddr) {
        let timeout = self.handshake_timeout;
        let relay = match tokio::time::timeout(timeout, self.begin(stream)).await {
            Ok(Ok(Some(relay))) => relay,
            Ok(Ok(None)) => return,
            Ok(Err(NoSession::Quiet(reason))) => {
                return tracing::debug!(%peer, reason, "no session");
            }
            Ok(Err(NoSession::Tell(mut client, message, reason))) => {
                tracing::info!(%peer, reason, "a client was refused");
                let _ = tokio::time::timeout(timeout, async {
                    client.write_all(&message).await?;
                    client.shutdown().await
                })
                .await;
                return;
            }
            Err(_) => return tracing::debug!(%peer, "the login took too long"),
        };
        let end = relay.run().await;
        tracing::debug!(%peer, %end, "a session ended");
    }

    /// From the first byte to a session that is ready to be relayed. `None`: a cancel request.
    async fn begin(self: &Arc<Gateway>, stream: TcpStream) -> Result<Option<Relay>, NoSession> {
        let quiet = |error: &dyn std::fmt::Display| NoSession::Quiet(error.to_string());
        let (mut client, startup) = match startup::open(stream, self.tls.as_ref()).await {
            Ok(Opening::Login(client, startup)) => (client, startup),
            Ok(Opening::Cancel(bytes)) => {
                self.cancel(&bytes).await.map_err(|error| quiet(&error))?;
                return Ok(None);
            }
            Err(error) => return Err(quiet(&error)),
        };
        if startup.database() != self.database.as_bytes() {
            let text = format!(
                "this gateway serves the database {:?} only, not {:?}",
                self.database,
                String::from_utf8_lossy(startup.database())
            );
            return Err(refused(
                client,
                "3D000",
                &text,
                "Name that database in the connection.",
            ));
        }
        let (mut server, port) = match self.target.dial().await {
            Ok(dialled) => dialled,
            Err(error) => {
                return Err(refused(
                    client,
                    "08001",
                    &error.to_string(),
                    "Try again later.",
                ));
            }
        };
        let logged_in = match self.log_in(&mut client, &mut server, &startup).await {
            Ok(logged_in) => logged_in,
            Err(login::LoginError::Server(error)) => {
                let text = format!("the PostgreSQL server broke off the login: {error}");
                return Err(refused(client, "08006", &text, "Try again later."));
            }
            Err(login::LoginError::Violation(text)) => {
                return Err(refused(client, "08P01", &text, "Is this PostgreSQL?"));
            }
            Err(error) => return Err(quiet(&error)),
        };
        let known = match self.identify(&logged_in, port).await {
            Ok(backend) if self.mode == FenceMode::Row => Known::Backend(backend),
            Ok(_) => Known::Told,
            Err((code, text)) => {
                let hint = "Ask the operator of the gateway.";
                return Err(refused(client, code, &text, hint));
            }
        };
        let mut session = Session::new(Arc::clone(self), known);
        if let Some(tickets) = &startup.tickets
            && let Err(refusal) = session.show(tickets).await
        {
            session.end();
            let message = messages::refusal(Severity::Fatal, &refusal);
            return Err(NoSession::Tell(client, message, refusal.to_string()));
        }
        let mut ahead = messages::ready();
        ahead.extend_from_slice(&logged_in.server_ahead);
        Ok(Some(Relay::new(
            client,
            server,
            &logged_in.client_ahead,
            &ahead,
            session,
        )))
    }

    async fn log_in(
        &self,
        client: &mut Stream,
        server: &mut Stream,
        startup: &Startup,
    ) -> Result<login::LoggedIn, login::LoginError> {
        server
            .write_all(&startup.encode())
            .await
            .map_err(login::LoginError::Server)?;
        server.flush().await.map_err(login::LoginError::Server)?;
        login::relay(client, server).await
    }

    /// Who serves this session? Checked against what the gateway knows itself, because a backend
    /// of the same number may be another one's on another server.
    async fn identify(
        &self,
        login: &login::LoggedIn,
        port: u16,
    ) -> Result<Option<Backend>, (&'static str, String)> {
        let superuser = || {
            let text = "superusers are refused here: they could switch the fence off".to_owned();
            Err(("28000", text))
        };
        if login.superuser && !self.allow_superusers {
            return superuser();
        }
        let Some(pid) = login.pid.filter(|_| !self.pooled) else {
            return Ok(None);
        };
        let identity = match self.admin.identify(pid).await {
            Ok(Some(identity)) if identity.backend.port == i32::from(port) && identity.here => {
                identity
            }
            Ok(_) => {
                tracing::warn!(
                    pid,
                    "a session cannot be identified: its backend is not on the server that the \
                     gateway's own connections reach, or its port is translated on the way"
                );
                return Ok(None);
            }
            Err(error) => return Err(("FN004", format!("the fence is not available: {error}"))),
        };
        if identity.superuser && !self.allow_superusers {
            return superuser();
        }
        Ok(Some(identity.backend))
    }

    /// A cancel request goes to the server as it came: the key in it is the server's own.
    async fn cancel(&self, bytes: &[u8]) -> Result<(), String> {
        let (mut server, _) = self
            .target
            .dial()
            .await
            .map_err(|error| error.to_string())?;
        let sent = async {
            server.write_all(bytes).await?;
            server.flush().await?;
            // The server closes when it has done it; the client waits for the same.
            tokio::io::copy(&mut server, &mut tokio::io::sink()).await
        };
        sent.await.map(drop).map_err(|error| error.to_string())
    }
}

fn refused(client: Stream, code: &str, text: &str, hint: &str) -> NoSession {
    let message = messages::error(Severity::Fatal, code, text, None, Some(hint));
    NoSession::Tell(client, message, text.to_owned())
}
