//! Connections to the Redis server, plain or encrypted.

use std::io;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::RedisConfig;
use crate::limits::UPSTREAM_CONNECT_TIMEOUT;
use crate::net::stream::Stream;
use crate::tls::{self, TlsError};

/// Where the server is and how to talk to it.
#[derive(Clone)]
pub(super) struct Target {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A server that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("cannot connect to the Redis server at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the Redis server at {0} did not answer in time")]
    Timeout(String),
}

impl Target {
    pub(super) fn new(config: &RedisConfig) -> Result<Target, TlsError> {
        Ok(Target {
            host: config.host.clone(),
            port: config.port,
            tls: tls::outgoing(config.tls, &config.host, config.ca.as_deref())?,
        })
    }

    /// Host and port, for messages.
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        match tokio::time::timeout(UPSTREAM_CONNECT_TIMEOUT, self.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(DialError::Connect {
                address: self.address(),
                source,
            }),
            Err(_) => Err(DialError::Timeout(self.address())),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Ok(Stream::Server(Box::new(stream)))
            }
        }
    }
}
