//! Thousands of random batches with crashes, against a simple model.

use super::*;
use crate::sim::Dice;

/// What a store should hold, kept the simple way.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    recovered: Recovered,
    /// The log from `recovered.first`.
    log: Vec<Entry>,
}

impl Model {
    fn new() -> Model {
        Model {
            recovered: Recovered::fresh(membership()),
            log: Vec::new(),
        }
    }

    fn end(&self) -> u64 {
        self.recovered.claimed.0
    }

    fn index(&self, slot: u64) -> usize {
        (slot - self.recovered.first.0) as usize
    }

    fn write(&mut self, batch: &WriteBatch) {
        let end = self.end();
        let r = &mut self.recovered;
        r.promised = batch.promised.unwrap_or(r.promised);
        r.accepted = batch.accepted.unwrap_or(r.accepted);
        if let Some(membership) = &batch.membership {
            r.membership = membership.clone();
        }
        let mut restarts = batch.restart;
        if let Some(meta) = &batch.snapshot {
            restarts |= meta.slot.0 > end;
            r.snapshot = Some(meta.clone());
        }
        let covered = r.snapshot.as_ref().map_or(0, |meta| meta.slot.0);
        if restarts {
            self.log.clear();
            r.first = Slot(covered + 1);
        }
        if let Some(from) = batch.truncate_from {
            let kept = self.index(from.0).min(self.log.len());
            self.log.truncate(kept);
        }
        for entry in &batch.entries {
            let index = self.index(entry.slot.0);
            if index < self.log.len() {
                self.log[index] = entry.clone();
            } else {
                self.log.push(entry.clone());
            }
        }
        let first = batch
            .keep_from
            .0
            .min(covered + 1)
            .max(self.recovered.first.0);
        self.log.drain(..self.index(first).min(self.log.len()));
        let r = &mut self.recovered;
        r.first = Slot(first);
        r.claimed = Slot(first + self.log.len() as u64 - 1);
        r.decided = batch.decided.max(Slot(covered));
        let open = (r.decided.0 + 1 - first) as usize;
        r.entries = self.log[open..].to_vec();
    }
}

/// Draws a batch such as a replica may give out.
fn draw(dice: &mut Dice, model: &Model, store: &SimStore) -> WriteBatch {
    let recovered = &model.recovered;
    let (mut end, decided) = (model.end(), recovered.decided.0);
    let mut batch = WriteBatch {
        decided: Slot(decided),
        keep_from: recovered.first,
        ..batch(Vec::new())
    };
    let mut round = recovered.promised.round;
    if dice.chance(0.2) {
        round += 1;
        batch.promised = Some(ballot(round));
        batch.accepted = dice.chance(0.5).then(|| ballot(round));
    }
    if dice.chance(0.02) {
        let context = Bytes::from(vec![round as u8; dice.index(4000)]);
        batch.membership = Some(Membership {
            context,
            ..membership()
        });
    }
    if dice.chance(0.03) {
        // A snapshot of a peer, far ahead, or in the place of what is here.
        let slot = if dice.chance(0.5) {
            end + 5
        } else {
            decided.max(1)
        };
        batch.snapshot = Some(take_snapshot(store, slot, 100));
        batch.restart = true;
        (end, batch.decided) = (slot, Slot(slot));
    } else if dice.chance(0.05) && decided > 0 {
        let covered = recovered.snapshot.as_ref().map_or(0, |meta| meta.slot.0);
        let slot = dice.between(covered.max(1), decided);
        batch.snapshot = Some(take_snapshot(store, slot, 100));
        batch.keep_from = Slot(dice.between(0, slot + 3));
    }
    if dice.chance(0.1) && end > batch.decided.0 {
        let from = dice.between(batch.decided.0 + 1, end);
        batch.truncate_from = Some(Slot(from));
        end = from - 1;
    }
    let count = dice.below(8);
    let mut first = end + 1;
    if !batch.restart && dice.chance(0.05) && end >= recovered.first.0 {
        let least = batch.keep_from.max(recovered.first).0.min(end);
        first = dice.between(least, end);
    }
    let sized = |dice: &mut Dice, slot| {
        let bytes = if dice.chance(0.1) { 5000 } else { 60 };
        let mut payload = vec![0; dice.index(bytes)];
        payload
            .iter_mut()
            .step_by(7)
            .for_each(|byte| *byte = slot as u8);
        Entry::new(
            Slot(slot),
            ballot(round),
            EntryKind::Command,
            payload.into(),
        )
    };
    batch.entries = (first..first + count)
        .map(|slot| sized(dice, slot))
        .collect();
    end = end.max((first + count).saturating_sub(1));
    batch.decided = Slot(dice.between(batch.decided.0, end));
    batch
}

fn run(seed: u64, batches: usize) -> usize {
    let mut dice = Dice::new(seed);
    let files = SimFiles::new(seed);
    let mut store = create(&files);
    let mut model = Model::new();
    let mut crashes = 0;
    for step in 0..batches {
        let batch = draw(&mut dice, &model, &store);
        let before = model.clone();
        model.write(&batch);
        if dice.chance(0.9) {
            store.write(&batch).unwrap();
            if dice.chance(0.1) {
                assert!(held(&store) == model, "seed {seed} step {step}");
            }
        } else {
            files.stop_after(dice.below(9));
            let done = store.write(&batch).is_ok();
            drop(store);
            if dice.chance(0.3) {
                files.end_process();
            } else {
                files.crash();
            }
            crashes += 1;
            store = reopen_after_crashes(&files, &mut dice);
            let found = held(&store);
            if found != model {
                assert!(
                    !done,
                    "seed {seed} step {step}: what was acknowledged is lost"
                );
                assert!(found == before, "seed {seed} step {step}: {batch:?}");
                model = before;
            }
            if dice.chance(0.3) {
                // Whatever a store has shown is there for good.
                drop(store);
                files.crash();
                store = open(&files).unwrap();
                assert!(held(&store) == model, "seed {seed} step {step}");
            }
        }
        let report = store.report();
        assert_eq!(report.damaged, [], "seed {seed} step {step}");
        assert_eq!(report.first_lost, None, "seed {seed} step {step}");
    }
    assert!(held(&store) == model, "seed {seed}");
    crashes
}

/// What the store holds, as the model has it.
fn held(store: &SimStore) -> Model {
    let recovered = store.load().unwrap();
    let read = store.read(recovered.first, Slot(u64::MAX), usize::MAX);
    let read = read.unwrap();
    assert_eq!(read.damaged, None);
    Model {
        recovered,
        log: read.entries,
    }
}

/// Opens the store; sometimes the machine stops while it is being opened.
fn reopen_after_crashes(files: &SimFiles, dice: &mut Dice) -> SimStore {
    while dice.chance(0.3) {
        files.stop_after(dice.below(6));
        drop(open(files));
        files.crash();
    }
    open(files).unwrap()
}

#[test]
fn a_crash_leaves_the_store_with_or_without_the_batch_in_flight_and_all_before_it() {
    let crashes: usize = (0..120).map(|seed| run(seed, 150)).sum();
    assert!(crashes > 1000, "{crashes}");
}
