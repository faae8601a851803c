//! Eager fencing: the gateway follows the lock service, and closes an epoch as soon as its lock is
//! granted anew, not only when the new holder shows its ticket.
//!
//! Nothing depends on it. It does earlier, over the gateway's own connections, what the admission
//! of the new holder does anyway; what it misses, because the lock service cannot be followed or
//! the gateway is down, that admission closes.

use std::sync::Arc;
use std::time::Instant;

use lockd_client::{Change, Holder, Mode, Update, Watch};
use lockd_protocol::types::LockName;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Gateway;
use super::admitting::Admitting;
use crate::admission;
use crate::cell::{CellError, LockdCell};
use crate::fence::refusal::Refusal;
use crate::fence::set::{Shown, TicketSet};
use crate::limits::{EAGER_CLOSES_MAX, EAGER_RETRY};
use crate::rules::LockPattern;

/// What one watch is of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Lock(LockName),
    Prefix(String),
}

/// Follows all locks that cover a guarded table, until the future is dropped.
pub(crate) async fn follow(gateway: Arc<Gateway>, cell: Arc<LockdCell>) {
    let places = Arc::new(Semaphore::new(EAGER_CLOSES_MAX));
    let mut watches = JoinSet::new();
    for scope in scopes(&gateway.guards) {
        let follower = Follower {
            gateway: Arc::clone(&gateway),
            places: Arc::clone(&places),
        };
        watches.spawn(follower.keep_following(Arc::clone(&cell), scope));
    }
    while watches.join_next().await.is_some() {}
}

/// One scope for each pattern. The fences of a semaphore's permits are behind its own name.
fn scopes(guards: &[LockPattern]) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::new();
    for guard in guards {
        let (text, exact) = match guard {
            LockPattern::Exact(name) => (name.as_str(), Some(name)),
            LockPattern::Prefix(prefix) => (prefix.as_str(), None),
        };
        let scope = match (text.split_once('#'), exact) {
            (Some((semaphore, _)), _) => Scope::Prefix(semaphore.to_owned()),
            (None, Some(name)) => Scope::Lock(name.clone()),
            (None, None) => Scope::Prefix(text.to_owned()),
        };
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

struct Follower {
    gateway: Arc<Gateway>,
    places: Arc<Semaphore>,
}

impl Follower {
    async fn keep_following(self, cell: Arc<LockdCell>, scope: Scope) {
        loop {
            let Err(error) = self.follow(&cell, &scope).await;
            tracing::warn!(
                %error,
                "cannot follow the lock service; epochs are closed when newer tickets are shown"
            );
            tokio::time::sleep(EAGER_RETRY).await;
        }
    }

    async fn follow(
        &self,
        cell: &LockdCell,
        scope: &Scope,
    ) -> Result<std::convert::Infallible, CellError> {
        let client = cell.client().await?;
        let mut watch: Watch = match scope {
            Scope::Lock(name) => client.watch(name),
            Scope::Prefix(prefix) => client.watch_prefix(prefix.as_str()),
        };
        loop {
            let update = watch.next().await;
            match update.map_err(|error| CellError(error.to_string()))? {
                Update::Event(event) if event.change == Change::Granted => {
                    self.granted(event.holder).await;
                }
                // Where something was missed, whoever holds now is the newest.
                Update::Snapshot(all) | Update::Resync(all) => {
                    for holder in all.holders {
                        self.granted(holder).await;
                    }
                }
                _ => {}
            }
        }
    }

    /// Closes what is below this grant, in a task of its own. Waits while too many are under way:
    /// the watch then tells what is held when there is room again.
    async fn granted(&self, holder: Holder) {
        let granted = Instant::now();
        let fence = match holder.mode {
            Mode::Permit { .. } => holder.lock.of_permit(holder.slot),
            _ => Ok(holder.lock),
        };
        // A fence without a name has no tickets either.
        let Ok(lock) = fence else { return };
        if !self.gateway.guards.iter().any(|guard| guard.covers(&lock)) {
            return;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return;
        };
        let gateway = Arc::clone(&self.gateway);
        let shown = Shown {
            lock,
            token: holder.token,
        };
        tokio::spawn(async move {
            let _place = place;
            match close(&gateway, shown.clone()).await {
                Ok(true) => tracing::debug!(?shown, took = ?granted.elapsed(), "closed early"),
                // Nothing was there to close, or somebody newer has closed it.
                Ok(false) | Err(Refusal::Stale { .. }) => {}
                Err(error) => tracing::warn!(
                    %error,
                    ?shown,
                    "an epoch stays open until a newer ticket is shown"
                ),
            }
        });
    }
}

/// Whether there was anything to close.
async fn close(gateway: &Gateway, shown: Shown) -> Result<bool, Refusal> {
    let behind = gateway.admin.is_behind(&shown).await;
    if !behind.map_err(|error| Refusal::Unavailable(error.to_string()))? {
        return Ok(false);
    }
    let set = TicketSet::new(vec![shown])?;
    let admitting = Admitting::epoch(&gateway.admin, &set);
    let (cell, timeout) = (gateway.cell.as_ref(), gateway.admission_timeout);
    admission::admit(&admitting, cell, (), &set, 0, timeout).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_is_watched_once_and_permits_by_their_semaphore() {
        let guards = ["orders/%", "orders/%", "one", "workers#3", "workers#%", "%"]
            .map(|text| LockPattern::parse(text).unwrap());
        let prefix = |text: &str| Scope::Prefix(text.to_owned());
        let one = Scope::Lock(LockName::new("one").unwrap());
        assert_eq!(
            scopes(&guards),
            [prefix("orders/"), one, prefix("workers"), prefix("")]
        );
    }
}
