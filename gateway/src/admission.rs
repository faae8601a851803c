//! Carries out the steps of one admission: asks the database and the cell, in the order that the
//! fence's core says. What a step is in a database's own terms is behind [`Fence`].

use std::fmt::Display;
use std::time::Duration;

use lockd_protocol::types::Token;

use crate::cell::Cell;
use crate::fence::admission::{Admission, Admitted, Era, Event, Step};
use crate::fence::refusal::Refusal;
use crate::fence::set::{Shown, TicketSet};

/// The fence of one kind of database, as the gateway reaches it over connections of its own.
/// Each call is one transaction there and may be repeated; all calls for one session are done in
/// order.
pub(crate) trait Fence {
    /// Who is admitted: a client's connection, as the database knows it.
    type Session: Copy + Send;
    /// A call that was not done, or is not known to have been done.
    type Error: Display;

    /// Closes, drains what can be drained, and registers the session under this number.
    fn admit(
        &self,
        session: Self::Session,
        set: &TicketSet,
        registration: i64,
    ) -> impl Future<Output = Result<Admitted, Self::Error>> + Send;

    /// Ends writers that are in the way of these tickets. Says how many are left.
    fn evict(
        &self,
        session: Self::Session,
        set: &TicketSet,
    ) -> impl Future<Output = Result<i32, Self::Error>> + Send;

    /// Begins an era, or tells the one that has begun.
    fn begin_era(
        &self,
        session: Self::Session,
    ) -> impl Future<Output = Result<Era, Self::Error>> + Send;

    /// Tokens above this one need no question in this era.
    fn set_horizon(
        &self,
        session: Self::Session,
        era: Era,
        horizon: Token,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The lock service grants this ticket in this era.
    fn seed(
        &self,
        session: Self::Session,
        era: Era,
        shown: &Shown,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Admits a session under a set of tickets, or says why not. The session has to be idle, and
/// nothing of it may be forwarded before this has returned.
pub(crate) async fn admit<F: Fence + Sync>(
    fence: &F,
    cell: &dyn Cell,
    session: F::Session,
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
                    let done = perform(fence, cell, session, set, registration, step).await;
                    admission.next(done.unwrap_or_else(Event::Failed))
                }
            };
        }
    };
    match tokio::time::timeout(timeout, steps).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::Unavailable(format!(
            "it was not done within {} s (does an older writer not end?)",
            timeout.as_secs()
        ))),
    }
}

async fn perform<F: Fence + Sync>(
    fence: &F,
    cell: &dyn Cell,
    session: F::Session,
    set: &TicketSet,
    registration: i64,
    step: Step,
) -> Result<Event, String> {
    let by_server = |error: F::Error| error.to_string();
    Ok(match step {
        Step::Admit => {
            let admitted = fence.admit(session, set, registration).await;
            Event::Admit(admitted.map_err(by_server)?)
        }
        Step::Evict => {
            let left = fence.evict(session, set).await.map_err(by_server)?;
            tracing::info!(left, "ended writers that were in the way of a newer ticket");
            Event::Evicted
        }
        Step::BeginEra => Event::EraBegun(fence.begin_era(session).await.map_err(by_server)?),
        Step::DrawToken => Event::Drawn(cell.draw().await.map_err(|error| error.to_string())?),
        Step::SetHorizon(era, horizon) => {
            let set = fence.set_horizon(session, era, horizon).await;
            set.map_err(by_server)?;
            Event::Noted
        }
        Step::AskCell(shown) => {
            let granted = cell.grants(&shown.lock, shown.token).await;
            Event::Granted(granted.map_err(|error| error.to_string())?)
        }
        Step::Seed(era, shown) => {
            let seeded = fence.seed(session, era, &shown).await;
            seeded.map_err(by_server)?;
            Event::Noted
        }
        Step::Admitted | Step::Refused(_) => Event::Failed("nothing is left to do".into()),
    })
}
