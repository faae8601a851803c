//! The user's end of a session: what [`Client`](crate::Client)s, guards and waiting
//! acquisitions hold on to. When the last of them is gone, the session is closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockd_protocol::SessionId;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;
use crate::core::RequestId;
use crate::task::{Command, SlotId};

/// The user's end of the background task.
#[derive(Debug)]
pub(crate) struct Shared {
    commands: UnboundedSender<Command>,
    last_id: AtomicU64,
    /// How long a request may stay without any answer.
    pub(crate) request_timeout: Duration,
    /// How long a session may take to be opened.
    pub(crate) open_timeout: Duration,
    pub(crate) clock: Clock,
    /// The runtime with the timers that whoever is not async waits by: that of the background task,
    /// if it runs on one.
    pub(crate) runtime: Option<Handle>,
}

/// The background task is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Shared {
    pub(crate) fn new(
        commands: UnboundedSender<Command>,
        request_timeout: Duration,
        open_timeout: Duration,
        clock: Clock,
        runtime: Option<Handle>,
    ) -> Shared {
        Shared {
            commands,
            last_id: AtomicU64::new(0),
            request_timeout,
            open_timeout,
            clock,
            runtime,
        }
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).map_err(|_| Gone)
    }

    /// A number that was never given before.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn next_request(&self) -> RequestId {
        RequestId(self.next_id())
    }
}

/// Which session is open in a slot, if one is.
#[derive(Debug, Default)]
pub(crate) struct Current(Mutex<Option<SessionId>>);

impl Current {
    pub(crate) fn set(&self, session: Option<SessionId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    pub(crate) fn get(&self) -> Option<SessionId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user's end of one session.
#[derive(Debug)]
pub(crate) struct Session {
    slot: SlotId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) current: Arc<Current>,
}

impl Session {
    pub(crate) fn new(slot: SlotId, shared: Arc<Shared>, current: Arc<Current>) -> Session {
        Session {
            slot,
            shared,
            current,
        }
    }

    pub(crate) fn slot(&self) -> SlotId {
        self.slot
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), Gone> {
        self.shared.send(command)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let close = Command::Close {
            slot: self.slot,
            reply: None,
        };
        // Without a background task the session ends when its lease does.
        let _ = self.shared.send(close);
    }
}
