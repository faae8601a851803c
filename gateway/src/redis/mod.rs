//! Redis behind the gateway, with the fence in its access list.
//!
//! A connection's bytes are relayed as they are, one upstream connection per client connection.
//! Applications log in as users that may read everything and write what is free. For a connection
//! that shows tickets the gateway makes a user of its own, a *registration*, which may write the
//! keys that the tickets cover, and logs the connection in as that user. To keep an older holder
//! out is to take the rights of its registrations away, in the transaction that raises the mark:
//! the server looks at rights before each command, each queued command, each call of a script.
//!
//! From the outside in: [`Gateway`] takes connections, `relay` moves bytes between `from_client`
//! and `from_server`, which walk over commands and replies; `session` shows tickets to the fence
//! through [`admin`], which changes the fence's `hash` over a `link` of the gateway's own. `keys`
//! and `acl` say what the fence is in the words of an access list, `mark` what it keeps;
//! [`install`] and [`check`] put it there and look for ways around it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::ticket::Verifier;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::admin::Admin;
use self::relay::Relay;
use self::session::Session;
use self::upstream::Target;
use crate::cell::Cell;
use crate::config::{Config, RedisConfig};
use crate::limits::ADMISSION_TIMEOUT_DEFAULT;
use crate::net::accept;
use crate::net::stream::Stream;
use crate::tls::{self, TlsError};

pub(crate) mod acl;
pub mod admin;
pub mod check;
mod from_client;
mod from_server;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod hash;
pub mod install;
pub mod keys;
pub mod link;
mod mark;
pub mod private_server;
mod relay;
mod resp;
mod session;
pub mod upstream;

/// A gateway in front of one Redis server.
pub struct Gateway {
    verifier: Verifier,
    cell: Arc<dyn Cell>,
    admin: Admin,
    target: Target,
    tls: Option<TlsAcceptor>,
    /// The guard rules, in words.
    guards: Vec<String>,
    connections: usize,
    handshake_timeout: Duration,
    admission_timeout: Duration,
}

impl Gateway {
    /// A gateway that is not yet serving.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate or key cannot be used.
    pub fn new(
        config: &Config,
        redis: &RedisConfig,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
    ) -> Result<Gateway, TlsError> {
        let target = Target::new(redis)?;
        let tls = match &config.tls {
            Some(files) => Some(TlsAcceptor::from(tls::acceptor(files, &[])?)),
            None => None,
        };
        Ok(Gateway {
            verifier,
            cell,
            admin: Admin::new(redis, target.clone()),
            target,
            tls,
            guards: redis.guards.iter().map(ToString::to_string).collect(),
            connections: config.connections,
            handshake_timeout: config.handshake_timeout,
            admission_timeout: ADMISSION_TIMEOUT_DEFAULT,
        })
    }

    /// The gateway's own connection.
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

    async fn converse(self: Arc<Gateway>, stream: TcpStream, peer: SocketAddr) {
        let begun = tokio::time::timeout(self.handshake_timeout, self.open(stream)).await;
        let mut client = match begun {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS session"),
            Err(_) => return tracing::debug!(%peer, "the TLS handshake took too long"),
        };
        let server = match self.target.dial().await {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(%peer, %error, "a client could not be served");
                let message = resp::line('-', &format!("ERR {error}"));
                let told = async {
                    client.write_all(&message).await?;
                    client.shutdown().await
                };
                let _ = tokio::time::timeout(self.handshake_timeout, told).await;
                return;
            }
        };
        let session = Session::new(Arc::clone(&self));
        let end = Relay::new(client, server, session).run().await;
        tracing::debug!(%peer, %end, "a connection ended");
    }

    async fn open(&self, stream: TcpStream) -> std::io::Result<Stream> {
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            Some(acceptor) => Ok(Stream::Client(Box::new(acceptor.accept(stream).await?))),
        }
    }
}
