//! 20: a watch is told every change that concerns it, once and in order, from a state that was true
//! when it asked or later; or it is told that something is missing, and gets such a state again.

use std::collections::BTreeMap;

use lockd_client::core::{Snapshot, Update};
use lockd_protocol::client::{Event, Holder, Scope};
use lockd_protocol::{LockName, Token};

use super::{Verdict, must};

pub(crate) const NAME: &str = "20 a watch has no gap that it was not told";

/// How far a watch is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    /// The last event that it was told, or that its state takes into account.
    pub(crate) told: Option<u64>,
    /// The last event of all when it asked for a state.
    pub(crate) asked: u64,
}

#[derive(Debug, Default)]
pub(crate) struct WatchesAreComplete {
    pub(crate) checked: u64,
}

impl WatchesAreComplete {
    /// A watch was told something; `log` has all events so far.
    pub(crate) fn on_update(
        &mut self,
        scope: &Scope,
        position: &mut Position,
        update: &Update,
        log: &[Event],
    ) -> Verdict {
        self.checked += 1;
        match update {
            Update::Event(event) => {
                let number = event.number.0;
                let Some(told) = position.told.replace(number) else {
                    return must(false, NAME, || format!("{event:?} before any state"));
                };
                let mut expected = log
                    .iter()
                    .skip(told as usize)
                    .filter(|event| scope.covers(&event.holder.lock));
                let next = expected.next();
                must(next == Some(event), NAME, || {
                    format!("{scope:?} is told {event:?} after {told}, where {next:?} comes next")
                })
            }
            Update::Snapshot(snapshot) | Update::Resync(snapshot) => {
                let first = matches!(update, Update::Snapshot(_)) == position.told.is_none();
                must(first, NAME, || format!("{position:?}: {update:?}"))?;
                let oldest = position.asked.max(position.told.unwrap_or(0));
                position.told = Some(snapshot.at.0);
                check_state(scope, oldest, snapshot, log)
            }
            other => must(false, NAME, || format!("{other:?}")),
        }
    }
}

fn check_state(scope: &Scope, oldest: u64, snapshot: &Snapshot, log: &[Event]) -> Verdict {
    let at = snapshot.at.0;
    must(oldest <= at && at <= log.len() as u64, NAME, || {
        format!(
            "a state of {at}, asked for at {oldest}, with {} events",
            log.len()
        )
    })?;
    let mut held: BTreeMap<(&LockName, Token), &Holder> = BTreeMap::new();
    for event in &log[..at as usize] {
        let key = (&event.holder.lock, event.holder.token);
        if event.change.is_end() {
            held.remove(&key);
        } else if scope.covers(&event.holder.lock) {
            held.insert(key, &event.holder);
        }
    }
    let same = held.into_values().eq(&snapshot.holders);
    must(same, NAME, || {
        format!("{scope:?} at {at} is told {:?}", snapshot.holders)
    })
}
