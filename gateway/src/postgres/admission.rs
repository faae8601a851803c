//! Carries out the steps of one admission: asks the database and the cell, in the order that the
//! fence's core says.

use std::time::Duration;

use super::admin::{Admin, AdminError, Backend};
use crate::cell::Cell;
use crate::fence::admission::{Admission, Event, Step};
use crate::fence::refusal::Refusal;
use crate::fence::set::TicketSet;

/// Admits a session under a set of tickets, or says why not. The session has to be idle, and
/// nothing of it may be forwarded before this has returned.
pub(super) async fn admit(
    admin: &Admin,
    cell: &dyn Cell,
    backend: Backend,
    set: &TicketSet,
    registration: i64,
    timeout: Duration,
) -> Result<(), Refusal> {
    let steps = async {
        let (mut admission, mut step) = Admission::start();
        loop {
            step = match step {
                Step::Admitted => return Ok(()),
                Step::Refused(refusal) => return Err(refusal),
                step => {
                    let done = perform(admin, cell, backend, set, registration, step).await;
                    admission.next(done.unwrap_or_else(Event::Failed))
                }
            };
        }
    };
    match tokio::time::timeout(timeout, steps).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::Unavailable(format!(
            "older writers were still in the way after {} s (is a transaction prepared?)",
            timeout.as_secs()
        ))),
    }
}

async fn perform(
    admin: &Admin,
    cell: &dyn Cell,
    backend: Backend,
    set: &TicketSet,
    registration: i64,
    step: Step,
) -> Result<Event, String> {
    let by_server = |error: AdminError| error.to_string();
    Ok(match step {
        Step::Admit => Event::Admit(
            admin
                .admit(backend, set, registration)
                .await
                .map_err(by_server)?,
        ),
        Step::Evict => {
            let left = admin.evict(backend, set).await.map_err(by_server)?;
            tracing::info!(left, "ended writers that were in the way of a newer ticket");
            Event::Evicted
        }
        Step::BeginEra => Event::EraBegun(admin.begin_era(backend).await.map_err(by_server)?),
        Step::DrawToken => Event::Drawn(cell.draw().await.map_err(|error| error.to_string())?),
        Step::SetHorizon(era, horizon) => {
            admin
                .set_horizon(backend, era, horizon)
                .await
                .map_err(by_server)?;
            Event::Noted
        }
        Step::AskCell(shown) => {
            let granted = cell.grants(&shown.lock, shown.token).await;
            Event::Granted(granted.map_err(|error| error.to_string())?)
        }
        Step::Seed(era, shown) => {
            admin.seed(backend, era, &shown).await.map_err(by_server)?;
            Event::Noted
        }
        Step::Admitted | Step::Refused(_) => Event::Failed("nothing is left to do".into()),
    })
}
