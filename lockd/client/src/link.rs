//! One connection to one node, after its Welcome: frames in, bytes out. Knows nothing of sessions.

use std::time::Duration;

use lockd_protocol::client::NodeFrame;
use lockd_protocol::frame::{self, Decoder};
use quinn::{ReadError, VarInt};

/// Most bytes taken off the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// A connection that was welcomed.
pub(crate) struct Link {
    /// The address that was dialled.
    pub(crate) address: String,
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: Decoder,
}

/// What came off a connection.
pub(crate) enum Received {
    /// Bytes; there may be whole frames now.
    Some,
    /// The connection is gone.
    Gone(Gone),
}

/// Why a connection is gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    /// The node ended the stream.
    #[error("the node hung up")]
    HungUp,
    /// The stream or the connection failed.
    #[error(transparent)]
    Failed(#[from] ReadError),
}

impl Link {
    /// A connection to the node at `address`, with the one stream there is.
    pub(crate) fn new(
        address: &str,
        connection: quinn::Connection,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
    ) -> Link {
        Link {
            address: address.to_owned(),
            connection,
            send,
            recv,
            decoder: Decoder::default(),
        }
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<NodeFrame>, frame::FrameError> {
        self.decoder.next()
    }

    /// Both directions, for one `select!`.
    pub(crate) fn split(&mut self) -> (&mut quinn::SendStream, Receiver<'_>) {
        let receiver = Receiver {
            recv: &mut self.recv,
            decoder: &mut self.decoder,
        };
        (&mut self.send, receiver)
    }

    /// Drops what has arrived already, but for the last word on who leads: a node that does not
    /// lead answers every frame with the same redirect. `Err` if the connection is gone.
    pub(crate) async fn skim(&mut self) -> Result<Option<String>, String> {
        let mut leader = None;
        loop {
            while let Some(frame) = self.next_frame().map_err(|error| error.to_string())? {
                if let NodeFrame::Redirect { leader: named } = frame {
                    leader = named.map(|(_, address)| address).or(leader);
                }
            }
            let (_, receiver) = self.split();
            match tokio::time::timeout(Duration::ZERO, receiver.receive()).await {
                Ok(Received::Some) => {}
                Ok(Received::Gone(gone)) => return Err(gone.to_string()),
                Err(_) => return Ok(leader),
            }
        }
    }

    /// How many packets have come from the node.
    pub(crate) fn packets(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Says good-bye.
    pub(crate) fn close(&mut self) {
        // Fails only if the stream is finished or reset already.
        let _ = self.send.finish();
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// The receiving direction of a [`Link`].
pub(crate) struct Receiver<'a> {
    recv: &'a mut quinn::RecvStream,
    decoder: &'a mut Decoder,
}

impl Receiver<'_> {
    /// Waits for bytes. Cancel-safe.
    pub(crate) async fn receive(self) -> Received {
        match self.recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => {
                self.decoder.feed(&chunk.bytes);
                Received::Some
            }
            Ok(None) => Received::Gone(Gone::HungUp),
            Err(error) => Received::Gone(error.into()),
        }
    }
}
