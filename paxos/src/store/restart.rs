//! Which snapshot a store goes on from, and what is left of the log if there is none.

use crate::store::error::StoreError;
use crate::store::files::Files;
use crate::store::recovery::Recovery;
use crate::store::report::Damage;
use crate::store::snapshot::Snapshots;
use crate::types::{Slot, SnapshotMeta};

/// Finds the snapshot that the log goes on from, reading all of it. Whether it is another than the
/// one that the log refers to.
///
/// If there is none, but the log was cut behind it, this node cannot make its state by itself: then
/// nothing is known to be decided and the whole log counts as lost, for others to repair, and only
/// what was promised and how far the log went is kept.
pub(super) fn choose_snapshot<F: Files>(
    snapshots: &Snapshots<F>,
    recovery: &mut Recovery<F>,
) -> Result<bool, StoreError> {
    let Some(wanted) = recovery.base.snapshot.clone() else {
        return Ok(false);
    };
    if let Some((meta, header_damaged)) = verified(snapshots, wanted.slot)?
        && meta == wanted
    {
        recovery.report.harmless += u64::from(header_damaged);
        return Ok(false);
    }
    let (file, slot) = (snapshots.path(wanted.slot), None);
    let damage = Damage {
        file,
        offset: 0,
        slot,
    };
    recovery.report.damaged.push(damage);
    let (first, decided) = (recovery.numbers.first, recovery.numbers.decided);
    let mut others = snapshots.list()?;
    others.retain(|slot| slot.next() >= first && *slot <= decided && *slot != wanted.slot);
    recovery.base.snapshot = None;
    for slot in others.into_iter().rev() {
        recovery.base.snapshot = verified(snapshots, slot)?.map(|(meta, _)| meta);
        if recovery.base.snapshot.is_some() {
            return Ok(true);
        }
    }
    if first > Slot(1) {
        recovery.numbers.first = Slot(1);
        recovery.numbers.decided = Slot::NONE;
        recovery.index.clear();
        recovery.index.set_bounds(Slot(1), recovery.numbers.end);
    }
    Ok(true)
}

/// Refuses to let the log refer to a snapshot that is not there.
pub(super) fn check_snapshot<F: Files>(
    snapshots: &Snapshots<F>,
    meta: &SnapshotMeta,
) -> Result<(), StoreError> {
    if snapshots.open(meta.slot)?.meta() == meta {
        return Ok(());
    }
    Err(StoreError::Snapshot {
        path: snapshots.path(meta.slot),
        what: "the snapshot is another than the one that the log is to be cut behind",
    })
}

/// The meta of a snapshot, if all of it is right, but perhaps for one of the two copies of its
/// header; and whether that is damaged.
fn verified<F: Files>(
    snapshots: &Snapshots<F>,
    slot: Slot,
) -> Result<Option<(SnapshotMeta, bool)>, StoreError> {
    let checked = snapshots.open(slot).and_then(|snapshot| {
        snapshot.verify()?;
        Ok((snapshot.meta().clone(), snapshot.header_damaged()))
    });
    match checked {
        Ok(meta) => Ok(Some(meta)),
        Err(StoreError::Snapshot { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
