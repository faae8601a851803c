//! From the server's greeting to its word that the client is logged in. Authentication is between
//! the client and the server, who share the server's nonce: its packets are relayed and not
//! understood. Where only one leg is encrypted, the packets of the other are one fewer, and their
//! sequence numbers are put right.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::handshake::{Answer, Greeting, SSL_REQUEST_BYTES, is_ssl_request};
use super::packet::{self, ERR, HEADER_BYTES, Header, OK};
use super::response::Dialect;
use super::upstream::Target;
use crate::limits::MYSQL_LOGIN_PACKET_BYTES_MAX;
use crate::net::stream::Stream;

/// A login that the server has accepted; the client does not know it yet.
pub(super) struct LoggedIn {
    pub(super) client: Stream,
    pub(super) server: Stream,
    /// The server's number for this connection.
    pub(super) connection: u32,
    /// The tickets that came with the login.
    pub(super) tickets: Option<String>,
    pub(super) dialect: Dialect,
    /// The packet that tells the client, and its place in the exchange.
    pub(super) done: Vec<u8>,
    pub(super) sequence: u8,
    /// What both sides have already sent behind the login.
    pub(super) client_ahead: Vec<u8>,
    pub(super) server_ahead: Vec<u8>,
}

/// A login that came to nothing.
pub(super) enum LoginError {
    /// The server refused, and the client has its answer; or there is nobody to tell.
    Quiet(String),
    /// What to tell the client, and at which place in the exchange.
    Tell(Stream, u8, String),
}

/// What the server has greeted with.
pub(super) enum Greeted {
    /// It takes logins.
    Hello(Greeting),
    /// It does not: its own words.
    No(Vec<u8>),
}

fn quiet(error: impl std::fmt::Display) -> LoginError {
    LoginError::Quiet(error.to_string())
}

/// Reads the server's greeting.
pub(super) async fn greeting(server: &mut TcpStream) -> Result<Greeted, String> {
    let broken = |error: io::Error| format!("the MariaDB server broke off the login: {error}");
    let (header, payload) = read_packet(server).await.map_err(broken)?;
    if payload.first() == Some(&ERR) {
        return Ok(Greeted::No(packet::packet(header.sequence, &payload)));
    }
    let greeting = Greeting::parse(&payload).map_err(|error| error.to_string())?;
    Ok(Greeted::Hello(greeting))
}

/// Relays until the server has accepted or refused.
pub(super) async fn log_in(
    mut client: TcpStream,
    server: TcpStream,
    greeting: &Greeting,
    target: &Target,
    acceptor: Option<&TlsAcceptor>,
) -> Result<LoggedIn, LoginError> {
    let hello = packet::packet(0, &greeting.for_client(acceptor.is_some()));
    client.write_all(&hello).await.map_err(quiet)?;
    let (mut header, mut payload) = read_packet(&mut client).await.map_err(quiet)?;
    let mut client = match acceptor {
        Some(acceptor) if is_ssl_request(&payload) => {
            let mut encrypted = acceptor.accept(client).await.map_err(quiet)?;
            (header, payload) = read_packet(&mut encrypted).await.map_err(quiet)?;
            Stream::Client(Box::new(encrypted))
        }
        _ => Stream::Plain(client),
    };
    let answer = match Answer::parse(&payload, greeting) {
        Ok(answer) => answer,
        Err(error) => return Err(tell(client, header, error)),
    };
    let over_tls = target.wants_tls();
    if over_tls && !greeting.offers_tls() {
        let reason = "the MariaDB server does not offer TLS; set mysql.tls = \"disable\"";
        return Err(tell(client, header, reason));
    }
    let to_server = answer.for_server(over_tls);
    let mut server = match hand_over(server, target, &to_server).await {
        Ok(server) => server,
        Err(error) => {
            let reason = format!("the MariaDB server broke off the login: {error}");
            return Err(tell(client, header, reason));
        }
    };
    // How much further the client's leg has counted.
    let offset = header.sequence.wrapping_sub(if over_tls { 2 } else { 1 });
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    loop {
        while let Some((header, payload)) = whole(&mut from_server).map_err(quiet)? {
            let sequence = header.sequence.wrapping_add(offset);
            let bytes = packet::packet(sequence, &payload);
            if payload.first() == Some(&OK) {
                return Ok(LoggedIn {
                    client,
                    server,
                    connection: greeting.connection,
                    tickets: answer.tickets,
                    dialect: answer.dialect,
                    done: bytes,
                    sequence,
                    client_ahead: from_client,
                    server_ahead: from_server,
                });
            }
            send(&mut client, &bytes).await.map_err(quiet)?;
            if payload.first() == Some(&ERR) {
                // Errors change nothing any more.
                let _ = client.shutdown().await;
                return Err(quiet("the server refused the login"));
            }
        }
        while let Some((header, payload)) = whole(&mut from_client).map_err(quiet)? {
            let bytes = packet::packet(header.sequence.wrapping_sub(offset), &payload);
            send(&mut server, &bytes).await.map_err(quiet)?;
        }
        let read = tokio::select! {
            read = server.read_buf(&mut from_server) => read,
            read = client.read_buf(&mut from_client) => read,
        };
        if read.map_err(quiet)? == 0 {
            return Err(quiet("a connection ended during the login"));
        }
    }
}

fn tell(client: Stream, header: Header, reason: impl ToString) -> LoginError {
    LoginError::Tell(client, header.sequence.wrapping_add(1), reason.to_string())
}

/// Sends the client's answer, behind a request for TLS where that is configured.
async fn hand_over(mut server: TcpStream, target: &Target, answer: &[u8]) -> io::Result<Stream> {
    let mut sequence = 1;
    if target.wants_tls() {
        let request = answer.get(..SSL_REQUEST_BYTES).unwrap_or_default();
        server.write_all(&packet::packet(sequence, request)).await?;
        sequence += 1;
    }
    let mut server = target.encrypt(server).await?;
    send(&mut server, &packet::packet(sequence, answer)).await?;
    Ok(server)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Takes the packet that these bytes begin with, if it is whole.
fn whole(bytes: &mut Vec<u8>) -> io::Result<Option<(Header, Vec<u8>)>> {
    let Some(header) = packet::header(bytes) else {
        return Ok(None);
    };
    short_enough(header)?;
    if bytes.len() < header.total() {
        return Ok(None);
    }
    let payload = bytes.drain(..header.total()).skip(HEADER_BYTES).collect();
    Ok(Some((header, payload)))
}

/// Reads one packet and not a byte more: what follows may be encrypted.
async fn read_packet(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Header, Vec<u8>)> {
    let mut bytes = [0; HEADER_BYTES];
    from.read_exact(&mut bytes).await?;
    let header = packet::header(&bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
    short_enough(header)?;
    let mut payload = vec![0; header.payload];
    from.read_exact(&mut payload).await?;
    Ok((header, payload))
}

fn short_enough(header: Header) -> io::Result<()> {
    if header.payload > MYSQL_LOGIN_PACKET_BYTES_MAX {
        return Err(io::Error::other("a packet of the login is too long"));
    }
    Ok(())
}
