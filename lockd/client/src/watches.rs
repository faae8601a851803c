//! All watches of the background task: which news go to which, and starting them again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{ClientFrame, News, Refusal, Scope};

use crate::clock;
use crate::core::{Time, WatchCore};
use crate::error::WatchError;
use crate::sessions::Sessions;
use crate::watch::Inbox;

/// How long a node that refused watches because it was busy is left alone.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// Which watch of the task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct WatchId(pub(crate) u64);

/// What users want of watches.
#[derive(Debug)]
pub(crate) enum WatchCommand {
    Begin {
        id: WatchId,
        scope: Scope,
        inbox: Arc<Inbox>,
    },
    /// The user has taken all that there was room for, and wants the state anew.
    Again {
        id: WatchId,
    },
    End {
        id: WatchId,
    },
}

/// The watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    all: BTreeMap<WatchId, Entry>,
    /// By their numbers on the connection. Each start has a new one, so that what comes late is
    /// not taken for what comes next.
    by_number: HashMap<u64, WatchId>,
    last_number: u64,
    retry_at: Option<Time>,
}

#[derive(Debug)]
struct Entry {
    core: WatchCore,
    inbox: Arc<Inbox>,
    number: Option<u64>,
    /// Its user does not take updates.
    stopped: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inbox.end(WatchError::Closed);
    }
}

impl Watches {
    pub(crate) fn command(&mut self, command: WatchCommand, out: &mut Sessions) {
        match command {
            WatchCommand::Begin { id, scope, inbox } => {
                let entry = Entry {
                    core: WatchCore::new(scope),
                    inbox,
                    number: None,
                    stopped: false,
                };
                self.all.insert(id, entry);
                self.start(id, out);
            }
            WatchCommand::Again { id } => {
                if let Some(entry) = self.all.get_mut(&id) {
                    entry.stopped = false;
                    self.start(id, out);
                }
            }
            WatchCommand::End { id } => {
                self.stop(id, out);
                self.all.remove(&id);
            }
        }
    }

    /// There is a new connection.
    pub(crate) fn start_all(&mut self, out: &mut Sessions) {
        self.retry_at = None;
        self.by_number.clear();
        let all: Vec<WatchId> = self.all.keys().copied().collect();
        for id in all {
            self.start(id, out);
        }
    }

    /// When to call [`Watches::tick`].
    pub(crate) fn next_timeout(&self) -> Time {
        self.retry_at.unwrap_or(Time::MAX)
    }

    /// Time has passed: those that were refused because the node was busy are started again.
    pub(crate) fn tick(&mut self, out: &mut Sessions) {
        if self.retry_at.is_none_or(|at| clock::now() < at) {
            return;
        }
        self.retry_at = None;
        let idle = self.all.iter().filter(|(_, entry)| entry.number.is_none());
        let idle: Vec<WatchId> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            self.start(id, out);
        }
    }

    /// Takes what a node tells.
    pub(crate) fn take(&mut self, number: u64, news: News, out: &mut Sessions) {
        let Some(&id) = self.by_number.get(&number) else {
            return;
        };
        let Some(entry) = self.all.get_mut(&id) else {
            return;
        };
        match entry.core.take(news) {
            Ok(None) => {}
            Ok(Some(update)) => {
                if !entry.inbox.put(update) {
                    entry.stopped = true;
                    entry.core.forget();
                    self.stop(id, out);
                }
            }
            Err(Refusal::Busy) => {
                entry.number = None;
                self.by_number.remove(&number);
                self.retry_at = Some(clock::now().after(BUSY_WAIT));
            }
            Err(refusal) => {
                entry.inbox.end(WatchError::Refused(refusal));
                self.by_number.remove(&number);
                self.all.remove(&id);
            }
        }
    }

    fn start(&mut self, id: WatchId, out: &mut Sessions) {
        let Some(entry) = self.all.get_mut(&id).filter(|entry| !entry.stopped) else {
            return;
        };
        if let Some(old) = entry.number.take() {
            self.by_number.remove(&old);
        }
        if out.is_up() {
            self.last_number += 1;
            entry.number = Some(self.last_number);
            self.by_number.insert(self.last_number, id);
            out.send(&entry.core.start(self.last_number));
        }
    }

    /// The node need not tell it any more.
    fn stop(&mut self, id: WatchId, out: &mut Sessions) {
        let number = self.all.get_mut(&id).and_then(|entry| entry.number.take());
        if let Some(watch) = number {
            self.by_number.remove(&watch);
            if out.is_up() {
                out.send(&ClientFrame::Unwatch { watch });
            }
        }
    }
}
