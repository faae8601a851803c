//! The client: the production core of a session, and a clock.
//!
//! Which node it talks to is not modelled: what it sends may reach any node. It reconnects whenever
//! the checker says so, at which it sends what is unanswered again, and a fresh KeepAlive.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use lockd_client::core::{Input, Output, SessionCore, SessionOptions, Time};
use lockd_protocol::client::{About, ClientFrame};
use lockd_protocol::{Nonce, SessionId};

use crate::clock::TTL;

/// The nonce under which the session is opened.
pub(crate) const NONCE: Nonce = Nonce(1);

/// The first session of a cell.
pub(crate) const SESSION: SessionId = SessionId(1);

/// A client.
#[derive(Clone)]
pub(crate) struct Client {
    core: SessionCore<()>,
    now: Time,
    /// KeepAlives after this number are lost.
    last: u8,
    /// Requests that it has sent, as bits.
    sent: u8,
}

/// What can happen to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientEvent {
    /// It gets a new connection.
    Connect,
    /// The answer to a KeepAlive comes.
    KeptAlive { number: u8 },
    /// The answer to Open comes.
    Opened,
    /// Time passes.
    Pass { micros: u32 },
}

impl Client {
    pub(crate) fn new(last: u8) -> Client {
        let options = SessionOptions {
            nonce: NONCE,
            ttl: TTL,
            keepalive: Duration::from(TTL),
            about: About::default(),
            seed: 1,
        };
        Client {
            core: SessionCore::new(options),
            now: Time::from_micros(1_000_000),
            last,
            sent: 0,
        }
    }

    /// What happens to it; the requests that it sends, as bits: 0 is Open, the others KeepAlives.
    pub(crate) fn take(&mut self, event: ClientEvent) -> u8 {
        let input = match event {
            ClientEvent::Connect => Input::Connected,
            ClientEvent::KeptAlive { number } => Input::KeptAlive {
                number: number.into(),
            },
            ClientEvent::Opened => Input::Opened {
                result: Ok(SESSION),
            },
            ClientEvent::Pass { micros } => {
                self.now = self.now.after(Duration::from_micros(micros.into()));
                return 0;
            }
        };
        self.core.handle(self.now, input);
        let mut sent = 0;
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(ClientFrame::Open { .. }) => sent |= 1,
                Output::Send(ClientFrame::KeepAlive { number, .. })
                    if number <= self.last.into() =>
                {
                    sent |= 1 << number;
                }
                _ => {}
            }
        }
        self.sent |= sent;
        sent
    }

    /// Whether it believes in its session now.
    pub(crate) fn believes(&self) -> bool {
        self.looked_at().is_usable()
    }

    /// Whether it will never believe in it again: it has given up, or whatever could still be
    /// answered comes too late.
    pub(crate) fn is_over(&self) -> bool {
        let all_sent = (0..=self.last).all(|number| self.sent & 1 << number != 0);
        let in_vain = !self.believes() && all_sent && self.waits_for() == 0;
        in_vain || self.looked_at().ended().is_some()
    }

    /// The core after its user has looked at the clock.
    fn looked_at(&self) -> SessionCore<()> {
        let mut core = self.core.clone();
        core.handle(self.now, Input::Tick);
        core
    }

    /// How much of its lease is left, microseconds.
    pub(crate) fn left(&self) -> u64 {
        let deadline = self.core.deadline();
        deadline.since(self.now).as_micros() as u64
    }

    /// Whether all of its lease is left.
    pub(crate) fn is_fresh(&self) -> bool {
        self.left() == self.core.lease().as_micros() as u64
    }

    /// Requests whose answers could move the deadline, as bits.
    pub(crate) fn waits_for(&self) -> u8 {
        let numbers = 1..=self.last;
        let waits = numbers.filter(|number| self.core.waits_for(self.now, u64::from(*number)));
        let opening = u8::from(self.core.id().is_none());
        waits.fold(opening, |all, number| all | 1 << number)
    }
}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.core.hash_at(self.now, self.last.into(), state);
        self.sent.hash(state);
    }
}
