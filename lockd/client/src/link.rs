//! One connection to one node, after its Welcome: frames in, bytes out. Knows nothing of sessions.

use std::time::Duration;

use lockd_protocol::client::NodeFrame;
use lockd_protocol::frame::{self, Decoder};
use quinn::{ReadError, VarInt, WriteError};

use crate::clock::Clock;
#[cfg(feature = "test-kit")]
use {
    crate::test_kit::Pipe,
    std::sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
};

/// Most bytes taken off the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// A connection that was welcomed.
pub(crate) struct Link {
    /// The address that was dialled.
    pub(crate) address: String,
    connection: Connection,
    sender: Sender,
    source: Source,
    decoder: Decoder,
}

enum Connection {
    Quic(quinn::Connection),
    #[cfg(feature = "test-kit")]
    Memory(Arc<AtomicU64>),
}

/// The sending direction of a [`Link`].
pub(crate) enum Sender {
    /// A QUIC stream.
    Quic(quinn::SendStream),
    /// A test kit's.
    #[cfg(feature = "test-kit")]
    Memory(WriteHalf<DuplexStream>),
}

/// Where bytes come from.
enum Source {
    Quic(quinn::RecvStream),
    #[cfg(feature = "test-kit")]
    Memory(ReadHalf<DuplexStream>),
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
            connection: Connection::Quic(connection),
            sender: Sender::Quic(send),
            source: Source::Quic(recv),
            decoder: Decoder::default(),
        }
    }

    /// A connection in memory.
    #[cfg(feature = "test-kit")]
    pub(crate) fn in_memory(address: &str, pipe: Pipe) -> Link {
        let (recv, send) = tokio::io::split(pipe.stream);
        Link {
            address: address.to_owned(),
            connection: Connection::Memory(pipe.packets),
            sender: Sender::Memory(send),
            source: Source::Memory(recv),
            decoder: Decoder::default(),
        }
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<NodeFrame>, frame::FrameError> {
        self.decoder.next()
    }

    /// Both directions, for one `select!`.
    pub(crate) fn split(&mut self) -> (&mut Sender, Receiver<'_>) {
        let receiver = Receiver {
            source: &mut self.source,
            decoder: &mut self.decoder,
        };
        (&mut self.sender, receiver)
    }

    /// Drops what has arrived already, but for the last word on who leads: a node that does not
    /// lead answers every frame with the same redirect. `Err` if the connection is gone.
    pub(crate) async fn skim(&mut self, clock: &Clock) -> Result<Option<String>, String> {
        let mut leader = None;
        loop {
            while let Some(frame) = self.next_frame().map_err(|error| error.to_string())? {
                if let NodeFrame::Redirect { leader: named } = frame {
                    leader = named.map(|(_, address)| address).or(leader);
                }
            }
            let (_, receiver) = self.split();
            match clock.timeout(Duration::ZERO, receiver.receive()).await {
                Some(Received::Some) => {}
                Some(Received::Gone(gone)) => return Err(gone.to_string()),
                None => return Ok(leader),
            }
        }
    }

    /// How many packets have come from the node.
    pub(crate) fn packets(&self) -> u64 {
        match &self.connection {
            Connection::Quic(connection) => connection.stats().udp_rx.datagrams,
            #[cfg(feature = "test-kit")]
            Connection::Memory(packets) => packets.load(Ordering::Relaxed),
        }
    }

    /// Says good-bye. What is in memory is closed when it is dropped.
    pub(crate) fn close(&mut self) {
        match &mut self.sender {
            // Fails only if the stream is finished or reset already.
            Sender::Quic(send) => drop(send.finish()),
            #[cfg(feature = "test-kit")]
            Sender::Memory(_) => {}
        }
        match &self.connection {
            Connection::Quic(connection) => connection.close(VarInt::from_u32(0), b""),
            #[cfg(feature = "test-kit")]
            Connection::Memory(_) => {}
        }
    }
}

impl Sender {
    /// Writes as much as goes at once. Cancel-safe.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        match self {
            Sender::Quic(send) => send.write(bytes).await,
            #[cfg(feature = "test-kit")]
            Sender::Memory(send) => send
                .write(bytes)
                .await
                .map_err(|_| WriteError::ClosedStream),
        }
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.write(rest).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The receiving direction of a [`Link`].
pub(crate) struct Receiver<'a> {
    source: &'a mut Source,
    decoder: &'a mut Decoder,
}

impl Receiver<'_> {
    /// Waits for bytes. Cancel-safe.
    pub(crate) async fn receive(self) -> Received {
        let recv = match self.source {
            Source::Quic(recv) => recv,
            #[cfg(feature = "test-kit")]
            Source::Memory(recv) => {
                let mut bytes = vec![0; READ_BYTES];
                return match recv.read(&mut bytes).await {
                    Ok(count @ 1..) => {
                        self.decoder.feed(&bytes[..count]);
                        Received::Some
                    }
                    Ok(0) | Err(_) => Received::Gone(Gone::HungUp),
                };
            }
        };
        match recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => {
                self.decoder.feed(&chunk.bytes);
                Received::Some
            }
            Ok(None) => Received::Gone(Gone::HungUp),
            Err(error) => Received::Gone(error.into()),
        }
    }
}
