//! Links to the other nodes of the cell.
//!
//! Each node dials every other node and sends on one unidirectional stream of that connection; it
//! hears its peers on the connections that they dialled (see `accept`). Messages that cannot be
//! sent are lost, which the protocol expects of any network.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lockd_protocol::roles::NODE_SERVER_NAME;
use lockd_protocol::{NodeId, frame};
use paxos::Message;
use quinn::{ClientConfig, Endpoint};
use tokio::sync::Notify;

use super::transport;
use crate::limits::{PEER_OUTBOX_BYTES_MAX, PEER_REDIAL};

/// What is to be sent to one peer.
#[derive(Debug, Default)]
pub(super) struct PeerLink {
    outbox: RefCell<Vec<u8>>,
    connected: Cell<bool>,
    wake: Notify,
}

impl PeerLink {
    /// Queues a message, or loses it.
    pub(super) fn send(&self, message: &Message) {
        let mut outbox = self.outbox.borrow_mut();
        if !self.connected.get() || outbox.len() > PEER_OUTBOX_BYTES_MAX {
            return;
        }
        let framed = frame::encode_with(&mut outbox, |out| {
            message.encode(out);
            Ok(())
        });
        if let Err(error) = framed {
            tracing::error!(%error, "a message does not fit a frame");
        }
        self.wake.notify_one();
    }
}

/// Keeps a connection to a peer, for ever.
pub(super) async fn keep_dialling(
    link: Rc<PeerLink>,
    endpoint: Endpoint,
    config: ClientConfig,
    peer: NodeId,
    address: SocketAddr,
) {
    let mut complained = false;
    loop {
        match dial(&link, &endpoint, &config, address).await {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                tracing::info!(%peer, %address, error, "cannot reach a peer, trying on");
                complained = true;
            }
            Err(_) => {}
        }
        link.connected.set(false);
        link.outbox.borrow_mut().clear();
        tokio::time::sleep(PEER_REDIAL).await;
    }
}

/// Connects once and sends until the connection breaks. `Ok`: it did connect.
async fn dial(
    link: &PeerLink,
    endpoint: &Endpoint,
    config: &ClientConfig,
    address: SocketAddr,
) -> Result<(), String> {
    let connecting = endpoint
        .connect_with(config.clone(), address, NODE_SERVER_NAME)
        .map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let mut stream = connection
        .open_uni()
        .await
        .map_err(|error| error.to_string())?;
    tracing::info!(%address, "connected to a peer");
    link.connected.set(true);
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            () = link.wake.notified() => {}
            reason = connection.closed() => {
                tracing::info!(%address, %reason, "lost the connection to a peer");
                return Ok(());
            }
        }
        std::mem::swap(&mut bytes, &mut *link.outbox.borrow_mut());
        if let Err(error) = stream.write_all(&bytes).await {
            tracing::info!(%address, %error, "lost the connection to a peer");
            return Ok(());
        }
        bytes.clear();
    }
}

/// The settings with which peers are dialled.
pub(super) fn client_config(tls: Arc<quinn::crypto::rustls::QuicClientConfig>) -> ClientConfig {
    let mut config = ClientConfig::new(tls);
    config.transport_config(Arc::new(transport::peer_transport()));
    config
}
