//! What a batch makes of an acceptor's numbers, and which batches are refused.

use crate::limits::{MEMBERS_MAX, MEMBERSHIP_CONTEXT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::membership::Membership;
use crate::store::error::StoreError;
use crate::store::frame::{Base, Numbers, bytes_of};
use crate::store::limits::FRAME_BYTES_MAX;
use crate::types::WriteBatch;

/// The numbers after the batch, and the base if it is another then.
pub(super) fn step(
    old: &Numbers,
    base: &Base,
    batch: &WriteBatch,
) -> Result<(Numbers, Option<Base>), StoreError> {
    let inconsistent = |what| Err(StoreError::Inconsistent { what });
    let mut numbers = *old;
    numbers.promised = batch.promised.unwrap_or(old.promised);
    numbers.accepted = batch.accepted.unwrap_or(old.accepted);
    if numbers.promised < old.promised {
        return inconsistent("it lowers the promise");
    }
    let changed = (batch.membership.is_some() || batch.snapshot.is_some()).then(|| Base {
        membership: batch
            .membership
            .as_ref()
            .unwrap_or(&base.membership)
            .clone(),
        snapshot: batch.snapshot.as_ref().or(base.snapshot.as_ref()).cloned(),
    });
    let snapshot = batch.snapshot.as_ref().map(|meta| &meta.membership);
    if !batch.membership.iter().chain(snapshot).all(fits) {
        return inconsistent("a membership is longer than it may be");
    }
    let covered = changed.as_ref().unwrap_or(base).covered();
    if batch.restart || (batch.snapshot.is_some() && covered > numbers.end) {
        numbers.first = covered.next();
        numbers.end = covered;
    }
    extend(&mut numbers, batch)?;
    // What the snapshot does not hold is needed, whatever the batch says.
    numbers.first = numbers.first.max(batch.keep_from.min(covered.next()));
    numbers.decided = batch.decided;
    if numbers.decided > numbers.end.max(covered) {
        return inconsistent("more is decided than is in the log");
    }
    Ok((numbers, changed))
}

/// Whether a base with this membership can be read again.
fn fits(membership: &Membership) -> bool {
    membership.members.len() <= MEMBERS_MAX
        && membership.context.len() <= MEMBERSHIP_CONTEXT_BYTES_MAX
}

fn extend(numbers: &mut Numbers, batch: &WriteBatch) -> Result<(), StoreError> {
    let not_contiguous = |first, end| Err(StoreError::NotContiguous { first, end });
    if let Some(from) = batch.truncate_from {
        if from < numbers.first {
            return not_contiguous(from, numbers.end);
        }
        numbers.end = numbers.end.min(from.previous());
    }
    let Some(first) = batch.entries.first() else {
        return Ok(());
    };
    if first.slot < numbers.first || first.slot > numbers.end.next() {
        return not_contiguous(first.slot, numbers.end);
    }
    let mut last = first.slot.previous();
    for entry in &batch.entries {
        if entry.slot != last.next() {
            return not_contiguous(entry.slot, last);
        }
        last = entry.slot;
        if entry.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(StoreError::Inconsistent {
                what: "an entry is larger than PAYLOAD_BYTES_MAX",
            });
        }
    }
    if bytes_of(&batch.entries) > FRAME_BYTES_MAX / 2 {
        return Err(StoreError::Inconsistent {
            what: "it is larger than a frame may be",
        });
    }
    numbers.end = numbers.end.max(last);
    Ok(())
}
