//! Which gateway is the active one: the one that holds a lock of the cell. Everything that the
//! order of requests rests on ends with it.

use std::sync::Arc;

use lockd_protocol::types::LockName;

use super::lanes::Lanes;
use crate::cell::{Cell, Hold};
use crate::limits::ACTIVE_PAUSE;

/// Stands by for the lock, is active while it is held, and begins anew. Never returns.
pub(super) async fn stay(lanes: &Lanes, cell: &dyn Cell, lock: &LockName) {
    loop {
        match cell.hold(lock).await {
            Ok(hold) => {
                let hold: Arc<dyn Hold> = Arc::from(hold);
                tracing::info!(%lock, token = %hold.token(), "this gateway is the active one");
                lanes.begin(Arc::clone(&hold));
                let why = hold.lost().await;
                // First nothing is sent any more, then the lock goes.
                lanes.end();
                tracing::warn!(%lock, why, "this gateway is not the active one any more");
            }
            Err(error) => {
                tracing::warn!(%lock, %error, "this gateway cannot become the active one");
                tokio::time::sleep(ACTIVE_PAUSE).await;
            }
        }
    }
}
