//! Connections that others dial: peers by their node certificates, clients by their own.

use std::rc::Rc;

use lockd_protocol::NodeId;
use lockd_protocol::client::ClientFrame;
use lockd_protocol::frame::Decoder;
use lockd_protocol::limits::{CLIENT_ALPN, PEER_ALPN};
use lockd_protocol::peer::PeerHello;
use lockd_protocol::roles::Role;
use paxos::Message;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::acquaintance::Refusal;
use super::core::clients::ConnectionId;
use super::peers::is_of_tls;
use super::shell::Shell;
use super::{clock, tls, transport};
use crate::limits::{CLIENT_CONNECTIONS_MAX, FRAMES_PER_TURN_MAX, HANDSHAKE_TIMEOUT};

/// Accepts connections for as long as the endpoint lives.
pub(super) async fn accept_connections(shell: Rc<Shell>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        spawn_local(serve_connection(shell.clone(), incoming));
    }
}

async fn serve_connection(shell: Rc<Shell>, incoming: Incoming) {
    let address = incoming.remote_address();
    let Ok(handshake) = timeout(HANDSHAKE_TIMEOUT, incoming).await else {
        tracing::info!(%address, "a handshake took too long");
        return;
    };
    let connection = match handshake {
        Ok(connection) => connection,
        Err(error) if is_of_tls(&error) => {
            let message = "a handshake failed: the other side is not of this cell's authority";
            return tracing::warn!(%address, %error, message);
        }
        Err(error) => return tracing::info!(%address, %error, "a handshake failed"),
    };
    let protocol = protocol_of(&connection);
    let speaks = |alpn: &[u8]| protocol.as_deref() == Some(alpn);
    match role_of(&connection) {
        Some(Role::Node(peer)) if speaks(PEER_ALPN) => {
            connection.set_receive_window(transport::PEER_WINDOW);
            hear_peer(&shell, &connection, peer, true).await;
        }
        Some(role @ (Role::Client(_) | Role::Operator(_))) if speaks(CLIENT_ALPN) => {
            if shell.core().client_count() >= CLIENT_CONNECTIONS_MAX {
                return connection.close(transport::CLOSE_TOO_MANY, b"too many connections");
            }
            let most = shell.core().has_all_connections(&role);
            if let Some(most) = most {
                let reason = format!(
                    "identity {:?} has {most} connections to this node, the most it may have: \
                     close some, or raise `connections_per_identity` in [quota] of the nodes",
                    role.identity()
                );
                return connection.close(transport::CLOSE_TOO_MANY, reason.as_bytes());
            }
            serve_client(&shell, &connection, role).await;
        }
        role => {
            tracing::warn!(%address, ?role, "a certificate of the wrong role");
            let reason = match role {
                Some(Role::Node(_)) => "a node's certificate cannot be used by a client",
                Some(Role::Client(_) | Role::Operator(_)) => {
                    "a client's certificate cannot be used by a node"
                }
                None => "the certificate is neither a node's nor a client's",
            };
            connection.close(transport::CLOSE_WRONG_ROLE, reason.as_bytes());
        }
    }
}

fn protocol_of(connection: &Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

/// Whom the verified certificate of the other side speaks for.
pub(super) fn role_of(connection: &Connection) -> Option<Role> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    chain.first().and_then(tls::role_of)
}

/// Hears a peer on the streams that it opens, until the connection breaks. If it is the peer that
/// dialled, it is answered on its connection.
pub(super) async fn hear_peer(
    shell: &Rc<Shell>,
    connection: &Connection,
    peer: NodeId,
    answer: bool,
) {
    // Its tasks end with it.
    let mut tasks = JoinSet::new();
    let mut answer = answer;
    while let Ok(stream) = connection.accept_uni().await {
        let (hearing, hears) = (shell.clone(), connection.clone());
        let answers = std::mem::take(&mut answer);
        tasks.spawn_local(async move {
            hear_stream(hearing, hears, stream, peer, answers).await;
        });
    }
}

async fn hear_stream(
    shell: Rc<Shell>,
    connection: Connection,
    mut stream: RecvStream,
    peer: NodeId,
    answer: bool,
) {
    let mut decoder = Decoder::default();
    let mut greeted = false;
    while let Ok(Some(chunk)) = stream.read_chunk(transport::READ_BYTES, true).await {
        decoder.feed(&chunk.bytes);
        if !greeted {
            match greet(&shell, &mut decoder, peer) {
                Ok(false) => continue,
                Ok(true) => greeted = true,
                Err(Refusal { code, reason }) => {
                    let address = connection.remote_address();
                    tracing::warn!(%peer, %address, reason, "refusing a node");
                    return connection.close(code, reason.as_bytes());
                }
            }
            if answer {
                let (shell, connection) = (shell.clone(), connection.clone());
                // Ends with the connection.
                spawn_local(async move {
                    shell.links().answer(peer, &connection).await;
                });
            }
        }
        let now = clock::now();
        loop {
            match next_message(&mut decoder) {
                Ok(Some(message)) => shell.core().peer_message(now, peer, message),
                Ok(None) => break,
                Err(reason) => {
                    tracing::warn!(%peer, reason, "a peer's bytes make no sense");
                    connection.close(transport::CLOSE_BAD_BYTES, reason.as_bytes());
                    return;
                }
            }
        }
        shell.wake();
    }
}

/// Whether a peer has introduced itself as somebody to speak with.
fn greet(shell: &Rc<Shell>, decoder: &mut Decoder, peer: NodeId) -> Result<bool, Refusal> {
    match decoder.next::<PeerHello>() {
        Ok(Some(hello)) => shell.admit(peer, &hello).map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => Err(Refusal {
            code: transport::CLOSE_BAD_BYTES,
            reason: error.to_string(),
        }),
    }
}

fn next_message(decoder: &mut Decoder) -> Result<Option<Message>, String> {
    let Some(payload) = decoder.next_payload().map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    Message::decode(payload)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Speaks with a client on the one stream that it opens.
async fn serve_client(shell: &Rc<Shell>, connection: &Connection, role: Role) {
    let Ok(Ok((send, receive))) = timeout(HANDSHAKE_TIMEOUT, connection.accept_bi()).await else {
        return connection.close(transport::CLOSE_BAD_BYTES, b"no stream was opened");
    };
    let (id, notify) = shell.join(&role, connection.remote_address());
    spawn_local(write_frames(
        shell.clone(),
        connection.clone(),
        send,
        id,
        notify.clone(),
    ));
    read_frames(shell, connection, receive, id).await;
    shell.leave(id);
    // Ends the writer.
    notify.notify_one();
}

async fn read_frames(
    shell: &Shell,
    connection: &Connection,
    mut stream: RecvStream,
    id: ConnectionId,
) {
    let mut decoder = Decoder::default();
    while let Ok(Some(chunk)) = stream.read_chunk(transport::READ_BYTES, true).await {
        decoder.feed(&chunk.bytes);
        let mut now = clock::now();
        for number in 1u32.. {
            match decoder.next::<ClientFrame>() {
                Ok(Some(frame)) => shell.core().client_frame(now, id, frame),
                Ok(None) => break,
                Err(error) => {
                    shell.core().client_misbehaved(id, error.to_string());
                    shell.wake();
                    // The writer says goodbye and closes; nothing that follows can be read.
                    let _ = stream.stop(VarInt::from_u32(0));
                    let _ = timeout(HANDSHAKE_TIMEOUT, connection.closed()).await;
                    return;
                }
            }
            // What has been read already of one connection must not keep the others waiting.
            if number % FRAMES_PER_TURN_MAX == 0 {
                shell.wake();
                tokio::task::yield_now().await;
                now = clock::now();
            }
        }
        shell.wake();
        let pause = shell.core().take_pause(id);
        match pause.is_zero() {
            true => tokio::task::yield_now().await,
            false => sleep(pause).await,
        }
    }
}

async fn write_frames(
    shell: Rc<Shell>,
    connection: Connection,
    mut stream: SendStream,
    id: ConnectionId,
    notify: Rc<Notify>,
) {
    let mut spare = Vec::new();
    loop {
        notify.notified().await;
        let outgoing = shell.core().take_outgoing(id, std::mem::take(&mut spare));
        let Some(outgoing) = outgoing else {
            return connection.close(transport::CLOSE_DISMISSED, b"");
        };
        if stream.write_all(&outgoing.bytes).await.is_err() {
            return connection.close(transport::CLOSE_DISMISSED, b"");
        }
        if outgoing.more {
            shell.wake();
        }
        if outgoing.close {
            let _ = stream.finish();
            let _ = timeout(HANDSHAKE_TIMEOUT, stream.stopped()).await;
            return connection.close(transport::CLOSE_DISMISSED, b"");
        }
        spare = outgoing.bytes;
        spare.clear();
    }
}
