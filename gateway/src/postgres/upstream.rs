//! Connections to the PostgreSQL server, plain or encrypted.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::PostgresConfig;
use crate::limits::UPSTREAM_CONNECT_TIMEOUT;
use crate::net::stream::Stream;
use crate::tls::{self, TlsError};

/// The code of an SSLRequest.
pub(super) const SSL_REQUEST: u32 = 80_877_103;

/// Where the server is and how to talk to it.
#[derive(Clone)]
pub(super) struct Target {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A server that cannot be reached, or not in the way that was configured.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("cannot connect to the PostgreSQL server at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the PostgreSQL server at {0} did not answer in time")]
    Timeout(String),
    /// It has no TLS, but the configuration wants it.
    #[error("the PostgreSQL server at {0} does not offer TLS; set postgres.tls = \"disable\"")]
    NoTls(String),
}

impl Target {
    /// The server itself.
    pub(super) fn new(config: &PostgresConfig) -> Result<Target, TlsError> {
        Ok(Target {
            host: config.host.clone(),
            port: config.port,
            tls: tls::outgoing(config.tls, &config.host, config.ca.as_deref())?,
        })
    }

    /// Where clients' sessions go: a pooler, if there is one in between.
    pub(super) fn for_clients(config: &PostgresConfig) -> Result<Target, TlsError> {
        let Some(pooler) = &config.pooler else {
            return Target::new(config);
        };
        Ok(Target {
            host: pooler.host.clone(),
            port: pooler.port,
            tls: tls::outgoing(pooler.tls, &pooler.host, pooler.ca.as_deref())?,
        })
    }

    /// Host and port, for messages.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects. Also says from which of our ports: the server's name for this connection.
    pub(super) async fn dial(&self) -> Result<(Stream, u16), DialError> {
        match tokio::time::timeout(UPSTREAM_CONNECT_TIMEOUT, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(DialError::Timeout(self.address())),
        }
    }

    async fn connect(&self) -> Result<(Stream, u16), DialError> {
        let failed = |source| DialError::Connect {
            address: self.address(),
            source,
        };
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let port = stream.local_addr().map_err(failed)?.port();
        let Some((connector, name)) = &self.tls else {
            return Ok((Stream::Plain(stream), port));
        };
        let mut request = [0, 0, 0, 8, 0, 0, 0, 0];
        request[4..].copy_from_slice(&SSL_REQUEST.to_be_bytes());
        stream.write_all(&request).await.map_err(failed)?;
        // One byte exactly: what came unencrypted behind it must not be taken for TLS.
        if stream.read_u8().await.map_err(failed)? != b'S' {
            return Err(DialError::NoTls(self.address()));
        }
        let stream = connector
            .connect(name.clone(), stream)
            .await
            .map_err(failed)?;
        Ok((Stream::Server(Box::new(stream)), port))
    }
}
