//! Watching who holds what.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockd_protocol::client::Scope;
use tokio::sync::Notify;

use crate::client::Client;
use crate::core::Update;
use crate::error::WatchError;
use crate::handle::Shared;
use crate::lock::NameArg;
use crate::task::Command;
use crate::watches::{WatchCommand, WatchId};

/// Updates that wait for a user. One that does not take them gets the state anew instead.
const UPDATES_MAX: usize = 1024;

/// What the background task and a user of a watch share.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    inside: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    updates: VecDeque<Update>,
    /// There was no room for more: the state has to be had anew once these are taken.
    overflown: bool,
    over: Option<WatchError>,
}

impl Inbox {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an update. `false`: there is no room; nothing more is taken until the user wants it.
    pub(crate) fn put(&self, update: Update) -> bool {
        let mut inside = self.inside();
        let room = inside.updates.len() < UPDATES_MAX;
        match room {
            true => inside.updates.push_back(update),
            false => inside.overflown = true,
        }
        drop(inside);
        self.changed.notify_one();
        room
    }

    /// There will be nothing more.
    pub(crate) fn end(&self, error: WatchError) {
        self.inside().over.get_or_insert(error);
        self.changed.notify_one();
    }
}

/// A watch of one lock, or of all whose names begin alike: who holds them, and each change of it,
/// in order and without gaps.
///
/// It goes on through elections and lost connections by itself. The first update is
/// [`Update::Snapshot`]. Where something was missed after all, the next update is
/// [`Update::Resync`], never a later event. [`Holders`](crate::Holders) puts updates together.
///
/// It needs no session, keeps none open, and goes on until it is dropped, also after its client.
#[derive(Debug)]
#[must_use = "a watch that is dropped ends"]
pub struct Watch {
    shared: Arc<Shared>,
    id: WatchId,
    inbox: Arc<Inbox>,
}

impl Client {
    /// Watches one lock.
    pub fn watch(&self, name: impl Into<NameArg>) -> Watch {
        self.watch_scope(name.into().0.map(Scope::Lock).map_err(WatchError::from))
    }

    /// Watches every lock whose name begins with `prefix`; the empty one: all locks.
    pub fn watch_prefix(&self, prefix: impl Into<String>) -> Watch {
        self.watch_scope(Ok(Scope::Prefix(prefix.into())))
    }

    fn watch_scope(&self, scope: Result<Scope, WatchError>) -> Watch {
        let id = WatchId(self.session.shared.next_id());
        let watch = Watch {
            shared: Arc::clone(&self.session.shared),
            id,
            inbox: Arc::new(Inbox::default()),
        };
        let begun = scope.and_then(|scope| {
            let inbox = Arc::clone(&watch.inbox);
            let begin = WatchCommand::Begin { id, scope, inbox };
            let sent = self.session.send(Command::Watch(begin));
            sent.map_err(|_| WatchError::Closed)
        });
        if let Err(error) = begun {
            watch.inbox.end(error);
        }
        watch
    }
}

impl Watch {
    /// The next update, when there is one. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError`]: the watch is over.
    pub async fn next(&mut self) -> Result<Update, WatchError> {
        loop {
            let changed = self.inbox.changed.notified();
            if let Some(update) = self.inbox_next(&self.inbox)? {
                return Ok(update);
            }
            changed.await;
        }
    }

    /// The next update, if there is one already.
    ///
    /// # Errors
    /// [`WatchError`]: the watch is over.
    pub fn try_next(&mut self) -> Result<Option<Update>, WatchError> {
        self.inbox_next(&self.inbox)
    }

    fn inbox_next(&self, inbox: &Inbox) -> Result<Option<Update>, WatchError> {
        let mut inside = inbox.inside();
        if let Some(update) = inside.updates.pop_front() {
            return Ok(Some(update));
        }
        if let Some(error) = &inside.over {
            return Err(error.clone());
        }
        if std::mem::take(&mut inside.overflown) {
            let again = WatchCommand::Again { id: self.id };
            let sent = self.shared.send(Command::Watch(again));
            sent.map_err(|_| WatchError::Closed)?;
        }
        Ok(None)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let end = WatchCommand::End { id: self.id };
        // Without a background task it has ended.
        let _ = self.shared.send(Command::Watch(end));
    }
}
