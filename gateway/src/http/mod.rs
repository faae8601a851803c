//! An HTTP server behind the gateway that cannot compare tokens: the gateway itself keeps the
//! order of writes.
//!
//! That is weaker than a fence in the server. A gateway that is paused between its last look at
//! its own lock and a write can be late, and what becomes of a write whose answer is lost is known
//! to nobody; for both there is only the settle time, for which the operator vouches. So a gateway
//! that serves writes is the only one, by a lock of the cell; a new one waits for the settle time
//! first; and a lost answer keeps newer holders of that lock out for as long.
//!
//! From the outside in: [`Gateway`] takes connections; `proxy` decides about each request, with
//! `head` and `path` for what could be read in two ways and [`rules`] for which lock is wanted;
//! `lanes` keep the order ([`crate::fence::order`]) for as long as `active` has the gateway's own
//! lock; `exchange` carries one request to the server and its answer back, over `upstream`.
//! `control` is for the operator, [`check`] for what can be known beforehand.

use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::ticket::Verifier;
use lockd_protocol::types::LockName;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::lanes::Lanes;
use self::proxy::Proxy;
use self::upstream::Target;
use crate::cell::Cell;
use crate::config::{Config, HttpConfig};
use crate::fence::order::Rule;
use crate::net::{accept, h1};
use crate::tls::{self, TlsError};

mod active;
pub mod check;
pub mod control;
mod exchange;
mod head;
mod lanes;
mod not_done;
mod path;
pub mod private_server;
mod proxy;
pub mod rules;
pub mod upstream;

/// A gateway in front of one HTTP server.
pub struct Gateway {
    proxy: Arc<Proxy>,
    cell: Arc<dyn Cell>,
    lock: LockName,
    control: Option<control::Socket>,
    tls: Option<TlsAcceptor>,
    connections: usize,
    handshake_timeout: Duration,
}

/// A gateway that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The control socket cannot be made.
    #[error(transparent)]
    Control(#[from] control::ControlError),
}

impl Gateway {
    /// A gateway that is not yet serving. Needs the runtime it will serve on.
    ///
    /// # Errors
    /// [`MakeError`] if a certificate or key, or the control socket, cannot be used.
    pub fn new(
        config: &Config,
        http: &HttpConfig,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
    ) -> Result<Gateway, MakeError> {
        Gateway::without(config, http, verifier, cell, None)
    }

    /// The same without one of the rules of the order, for tests.
    ///
    /// # Errors
    /// As [`Gateway::new`].
    #[doc(hidden)]
    pub fn without(
        config: &Config,
        http: &HttpConfig,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
        rule: Option<Rule>,
    ) -> Result<Gateway, MakeError> {
        let tls = match &config.tls {
            Some(files) => Some(TlsAcceptor::from(tls::acceptor(files, &[b"http/1.1"])?)),
            None => None,
        };
        let control = http.control.as_deref().map(control::Socket::bind);
        let lanes = Arc::new(Lanes::new(http.settle, rule));
        let target = Target::new(http)?;
        let cell_of_proxy = Arc::clone(&cell);
        Ok(Gateway {
            proxy: Arc::new(Proxy::new(
                config,
                http,
                target,
                verifier,
                cell_of_proxy,
                lanes,
            )),
            cell,
            lock: http.lock.clone(),
            control: control.transpose()?,
            tls,
            connections: config.connections,
            handshake_timeout: config.handshake_timeout,
        })
    }

    /// Serves until the future that runs it is dropped.
    pub async fn serve(self: Arc<Gateway>, listener: TcpListener) {
        tracing::warn!(
            "the server behind this gateway compares no tokens: the order of writes is kept here, \
             by one gateway at a time, and rests on the settle time (docs/gateway-http.md)"
        );
        let lanes = self.proxy.lanes();
        let accept = accept::serve(listener, self.connections, |stream, peer| {
            let (proxy, tls) = (Arc::clone(&self.proxy), self.tls.clone());
            let patience = self.handshake_timeout;
            async move {
                let Some(acceptor) = tls else {
                    return h1::serve(stream, |request| Arc::clone(&proxy).answer(request)).await;
                };
                match tokio::time::timeout(patience, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        h1::serve(stream, |request| Arc::clone(&proxy).answer(request)).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS session"),
                    Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
                }
            }
        });
        let control = async {
            match &self.control {
                Some(socket) => socket.serve(lanes).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(
            accept,
            control,
            active::stay(lanes, self.cell.as_ref(), &self.lock)
        );
    }
}
