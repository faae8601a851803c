//! Where a client's background task runs: the task that owns its connection and renews its
//! sessions.

use std::io;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::{ClientConfig, ConfigError};
use crate::dialer::Dialer;
use crate::error::ConnectError;
use crate::link::Link;
use crate::task::Task;

/// Where a client's background task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Background {
    /// On a thread of the client's own. The default: sessions are renewed whatever the program
    /// does with its runtime, which is worth more than what it costs: 1.2 to 1.4 times the
    /// client's CPU time per lock with a runtime of two workers, 1.8 to 2.8 times with one (2 to
    /// 76 us), and 6 to 28 % of the median time. All sessions over one connection share the thread.
    #[default]
    OwnThread,
    /// On the runtime in which [`connect`](crate::ClientBuilder::connect) was called: cheaper, by
    /// two changes of threads for each request. Whoever blocks that runtime (by work that does
    /// not await, on all of its threads) for longer than the TTL loses the session. A guard says
    /// so when it is looked at next, because it looks at the clock itself.
    CallersRuntime,
}

/// The same, with what only a test kit has.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Real(Background),
    #[cfg(feature = "test-kit")]
    Kit(crate::test_kit::Edges),
}

/// What makes the first connection, and the task that goes on with it.
pub(crate) trait Opening:
    Future<Output = Result<(Task, Link), ConnectError>> + Send
{
}

impl<F: Future<Output = Result<(Task, Link), ConnectError>> + Send> Opening for F {}

impl Place {
    /// Whether a client could be connected with this configuration.
    pub(crate) fn check(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        match self {
            Place::Real(_) => config.check(),
            // There are no certificates in memory.
            #[cfg(feature = "test-kit")]
            Place::Kit(_) => Ok(()),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        match self {
            Place::Real(_) => Clock::Boot,
            #[cfg(feature = "test-kit")]
            Place::Kit(edges) => Clock::Manual(edges.clock.clone()),
        }
    }

    /// Has to be called where the task runs, which is where the socket is driven.
    pub(crate) fn dialer(
        &self,
        config: &ClientConfig,
        ttl: Duration,
    ) -> Result<Dialer, ConnectError> {
        match self {
            Place::Real(_) => Dialer::new(config, ttl),
            #[cfg(feature = "test-kit")]
            Place::Kit(edges) => Ok(Dialer::in_memory(config, edges)),
        }
    }

    /// Starts the task, and waits for its first connection. Gives the runtime that it runs on; a
    /// test kit's that of the caller, if there is one.
    pub(crate) async fn start(
        self,
        opening: impl Opening + 'static,
    ) -> Result<Option<Handle>, ConnectError> {
        let (ready, begun) = oneshot::channel();
        let work = Box::pin(work(opening, ready));
        let handle = match self {
            Place::Real(Background::OwnThread) => Some(on_a_thread(work)?),
            Place::Real(Background::CallersRuntime) => {
                let runtime = Handle::try_current().map_err(|_| no_runtime())?;
                runtime.spawn(work);
                Some(runtime)
            }
            #[cfg(feature = "test-kit")]
            Place::Kit(edges) => {
                (edges.spawn)(work);
                Handle::try_current().ok()
            }
        };
        let gone = || ConnectError::Thread(io::Error::other("it ended at once"));
        begun.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(handle)
    }
}

async fn work(opening: impl Opening, mut ready: oneshot::Sender<Result<(), ConnectError>>) {
    let opened = tokio::select! {
        opened = opening => opened,
        // Nobody waits for the client any more.
        () = ready.closed() => return,
    };
    match opened {
        Ok((task, first)) => {
            if ready.send(Ok(())).is_ok() {
                task.run(first).await;
            }
        }
        // Whoever waited may have gone.
        Err(error) => drop(ready.send(Err(error))),
    }
}

fn on_a_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<Handle, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectError::Thread)?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("lockd-client".to_owned())
        .spawn(move || runtime.block_on(work))
        .map_err(ConnectError::Thread)?;
    Ok(handle)
}

fn no_runtime() -> ConnectError {
    ConnectError::Invalid {
        field: "background",
        problem: "is the caller's runtime, and `connect` was called in none: call it in a tokio \
                  runtime, or give the client a thread of its own"
            .to_owned(),
    }
}
