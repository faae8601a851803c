//! Connections to the HTTP server, plain or encrypted. Each carries one request: nothing can be
//! behind it that the server would take for another one, and no connection that is being closed
//! makes a write's outcome unknown.

use std::io;
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::HttpConfig;
use crate::limits::UPSTREAM_CONNECT_TIMEOUT;
use crate::net::stream::Stream;
use crate::tls::{self, TlsError};

/// Where the server is and how to talk to it.
#[derive(Clone)]
pub(super) struct Target {
    host: String,
    port: u16,
    authority: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// How long the kernel may try to deliver what was sent.
    deliver_within: Option<Duration>,
}

/// A server that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("cannot connect to the HTTP server at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the HTTP server at {0} did not answer in time")]
    Timeout(String),
}

impl Target {
    pub(super) fn new(config: &HttpConfig) -> Result<Target, TlsError> {
        Ok(Target {
            host: config.host.clone(),
            port: config.port,
            authority: config.authority.clone(),
            tls: tls::outgoing(config.tls, &config.host, config.ca.as_deref())?,
            deliver_within: config.settle.map(|settle| settle / 2),
        })
    }

    /// The server's own name, for the header `Host`.
    pub(super) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        let address = || format!("{}:{}", self.host, self.port);
        match tokio::time::timeout(UPSTREAM_CONNECT_TIMEOUT, self.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(DialError::Connect {
                address: address(),
                source,
            }),
            Err(_) => Err(DialError::Timeout(address())),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        // When a write is given up, or this process dies, what has not left must not leave.
        stream.set_zero_linger()?;
        if let Some(time) = self.deliver_within {
            let millis = u32::try_from(time.as_millis().max(1)).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)?;
        }
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Ok(Stream::Server(Box::new(stream)))
            }
        }
    }
}
