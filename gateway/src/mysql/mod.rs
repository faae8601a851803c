//! MariaDB behind the gateway, with the row fence.
//!
//! A session's bytes are relayed as they are, one upstream connection per client connection. The
//! gateway looks for one thing, a ticket being shown, and asks the database to register the
//! session under it, over connections of its own. What keeps stale writers out is a trigger on
//! each guarded table; a gateway that is paused, killed or wrong can do no harm there, but for
//! two duties: what follows a ticket is held until it is registered, and tickets change only
//! when the session is idle.
//!
//! From the outside in: [`Gateway`] takes connections, `login` brings them to the server with
//! what `handshake` understands of it, `relay` moves bytes as `dialog` lets them through, which
//! walks over the packets of both sides and keeps count of answers with `response`; `session`
//! shows tickets to the fence through [`admin`]. `sql/fence.sql` and `sql/guard_body.sql` are the
//! fence itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::ticket::Verifier;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::admin::Admin;
use self::login::{Greeted, LoginError};
use self::relay::Relay;
use self::session::{Session, Unwelcome};
use self::upstream::Target;
use crate::cell::Cell;
use crate::config::{Config, MysqlConfig};
use crate::limits::ADMISSION_TIMEOUT_DEFAULT;
use crate::net::accept;
use crate::net::stream::Stream;
use crate::tls::{self, TlsError};

pub mod admin;
pub mod check;
mod dialog;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod handshake;
pub mod install;
mod login;
mod messages;
mod packet;
pub mod private_server;
mod relay;
mod response;
mod session;
mod statement;
mod upstream;

/// A gateway in front of one server.
pub struct Gateway {
    allow_superusers: bool,
    verifier: Verifier,
    cell: Arc<dyn Cell>,
    admin: Admin,
    target: Target,
    tls: Option<TlsAcceptor>,
    connections: usize,
    handshake_timeout: Duration,
    admission_timeout: Duration,
}

/// Why a client got no session.
enum NoSession {
    /// It was told, or there is nobody to tell.
    Quiet(String),
    /// A message for the client, and the reason for the log.
    Tell(Stream, Vec<u8>, String),
}

impl Gateway {
    /// A gateway that is not yet serving.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate or key cannot be used.
    pub fn new(
        config: &Config,
        mysql: &MysqlConfig,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
    ) -> Result<Gateway, TlsError> {
        let tls = match &config.tls {
            Some(files) => Some(TlsAcceptor::from(tls::acceptor(files, &[])?)),
            None => None,
        };
        Ok(Gateway {
            allow_superusers: mysql.allow_superusers,
            verifier,
            cell,
            admin: Admin::new(mysql),
            target: Target::new(mysql)?,
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
        let most = self.connections;
        let converse = |stream, peer| Arc::clone(&self).converse(stream, peer);
        accept::serve(listener, most, converse).await;
    }

    async fn converse(self: Arc<Gateway>, stream: TcpStream, peer: SocketAddr) {
        let timeout = self.handshake_timeout;
        let beginning = Box::pin(Arc::clone(&self).begin(stream));
        let relay = match tokio::time::timeout(timeout, beginning).await {
            Ok(Ok(relay)) => relay,
            Ok(Err(NoSession::Quiet(reason))) => {
                return tracing::debug!(%peer, reason, "no session");
            }
            Ok(Err(NoSession::Tell(mut client, message, reason))) => {
                tracing::info!(%peer, reason, "a client was refused");
                // Whether it listens changes nothing.
                let _ = tokio::time::timeout(timeout, async {
                    client.write_all(&message).await?;
                    client.shutdown().await
                })
                .await;
                return;
            }
            Err(_) => return tracing::debug!(%peer, "the login took too long"),
        };
        let end = Box::pin(relay.run()).await;
        tracing::debug!(%peer, %end, "a session ended");
    }

    /// From the first byte to a session that is ready to be relayed.
    async fn begin(self: Arc<Gateway>, client: TcpStream) -> Result<Relay, NoSession> {
        let no_server = |client: TcpStream, reason: String| {
            let message = messages::no_login(0, &reason);
            NoSession::Tell(Stream::Plain(client), message, reason)
        };
        let (mut server, port) = match self.target.dial().await {
            Ok(dialled) => dialled,
            Err(reason) => return Err(no_server(client, reason)),
        };
        let greeting = match login::greeting(&mut server).await {
            Ok(Greeted::Hello(greeting)) => greeting,
            Ok(Greeted::No(message)) => {
                let reason = "the server takes no logins".to_owned();
                return Err(NoSession::Tell(Stream::Plain(client), message, reason));
            }
            Err(reason) => return Err(no_server(client, reason)),
        };
        let acceptor = self.tls.as_ref();
        let login = login::log_in(client, server, &greeting, &self.target, acceptor).await;
        let login = login.map_err(|error| match error {
            LoginError::Quiet(reason) => NoSession::Quiet(reason),
            LoginError::Tell(client, sequence, reason) => {
                NoSession::Tell(client, messages::no_login(sequence, &reason), reason)
            }
        })?;
        let mut session = Session::new(Arc::clone(&self), login.connection, port);
        let mut welcome = session.identify().await;
        if let (Ok(()), Some(tickets)) = (&welcome, &login.tickets) {
            welcome = session.show(tickets).await.map_err(Unwelcome::Refusal);
        }
        if let Err(unwelcome) = welcome {
            session.end();
            let (message, reason) = messages::unwelcome(login.sequence, &unwelcome);
            return Err(NoSession::Tell(login.client, message, reason));
        }
        Ok(Relay::new(login, session))
    }
}
