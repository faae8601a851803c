//! Connections to the MariaDB server: dialled plain, encrypted after its greeting if configured.

use std::io;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::MysqlConfig;
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

impl Target {
    pub(super) fn new(config: &MysqlConfig) -> Result<Target, TlsError> {
        Ok(Target {
            host: config.host.clone(),
            port: config.port,
            tls: tls::outgoing(config.tls, &config.host, config.ca.as_deref())?,
        })
    }

    /// Whether connections are encrypted once the server has greeted.
    pub(super) fn wants_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects. Also says from which of our ports: the server's name for this connection.
    pub(super) async fn dial(&self) -> Result<(TcpStream, u16), String> {
        let failed = |error: io::Error| {
            let Target { host, port, .. } = self;
            format!("cannot connect to the MariaDB server at {host}:{port}: {error}")
        };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(UPSTREAM_CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let port = stream.local_addr().map_err(failed)?.port();
        Ok((stream, port))
    }

    /// Goes on encrypted, if configured.
    pub(super) async fn encrypt(&self, stream: TcpStream) -> io::Result<Stream> {
        match &self.tls {
            None => Ok(Stream::Plain(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Ok(Stream::Server(Box::new(stream)))
            }
        }
    }
}
