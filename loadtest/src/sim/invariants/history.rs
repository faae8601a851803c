//! 6: what the users of each lock were told could have been told by a lock that does one thing
//! after the other: a fenced one that its owner may enter again, or a semaphore.

use super::{Verdict, must};
use crate::models::{self, LockModel};
use crate::sim::history::Histories;

pub(crate) const NAME: &str = "6 the history of each lock is linearizable";

/// Looks at all histories of a run that is over. How many operations were judged.
pub(crate) fn judge(histories: &Histories) -> Result<u64, super::Violation> {
    let mut judged = 0;
    for (lock, history) in histories.locks() {
        let model = match history.permits {
            Some(permits) => LockModel::semaphore(permits),
            None => LockModel::REENTRANT_FENCED_MUTEX,
        };
        let (verdict, operations) = models::check_beginning(model, &history.operations);
        judged += operations as u64;
        if let models::Verdict::Refused(refusal) = verdict {
            refused(lock.as_str(), &refusal)?;
        }
    }
    Ok(judged)
}

fn refused(lock: &str, refusal: &models::Refusal) -> Verdict {
    must(false, NAME, || format!("{lock}: {refusal}"))
}
