//! Faults of disks. Which of them may happen when is the budget in `fault.rs`.

use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::Branch;
use crate::sim::disk::DiskFault;
use crate::sim::fault::Fault;
use crate::sim::invariants::Violation;
use crate::store::{Files, LogStore};

/// Writes after one that was lost, by which the store can notice it.
const NOTICED_AFTER: u32 = 4;

impl Cluster {
    /// Damages a disk, if the budget allows it. Whether it was done.
    pub(super) fn damage(
        &mut self,
        fault: Fault,
        node: usize,
        until: u64,
    ) -> Result<bool, Violation> {
        if !self.may_damage(node) || self.nodes[node].replica.is_none() {
            return Ok(false);
        }
        match fault {
            Fault::LyingDisk | Fault::MisdirectedWrite => {
                let kind = if fault == Fault::LyingDisk {
                    DiskFault::LostWrite
                } else {
                    DiskFault::MisdirectedWrite
                };
                let storage = &mut self.nodes[node].storage;
                storage.doubt();
                storage.unnoticed = Some(NOTICED_AFTER);
                storage.hidden = true;
                storage.files.inject(kind, 0);
                return Ok(true);
            }
            Fault::UnreadableSector | Fault::FlippedLog | Fault::DamagedSnapshot
                if self.dice.chance(0.5) =>
            {
                // Under the running process, which finds it when it reads there.
                // What nobody reads, such as an old record of the membership, shows at a restart.
                self.nodes[node].storage.doubt();
                self.nodes[node].storage.hidden = true;
                return Ok(self.damage_file(fault, node));
            }
            _ => {}
        }
        if fault == Fault::CopiedDisk && self.nodes[node].storage.backup.is_none() {
            // What is put in its place some day must be old.
            let seed = self.dice.any();
            let storage = &mut self.nodes[node].storage;
            storage.backup = Some(storage.files.restored_copy(seed));
            return Ok(false);
        }
        self.crash(node, until)?;
        self.nodes[node].storage.doubt();
        match fault {
            Fault::WipedDisk => {
                let seed = self.dice.any();
                self.nodes[node].storage.files = crate::sim::files::SimFiles::new(seed);
            }
            Fault::CopiedDisk => {
                let storage = &mut self.nodes[node].storage;
                if let Some(backup) = storage.backup.take() {
                    storage.files = backup;
                }
            }
            _ => return Ok(self.damage_file(fault, node)),
        }
        Ok(true)
    }

    /// Damages some file of the kind that the fault is about.
    fn damage_file(&mut self, fault: Fault, node: usize) -> bool {
        let files = self.nodes[node].storage.files.clone();
        let mut names = files.list().unwrap_or_default();
        let is_log = |name: &str| name.ends_with(".seg");
        names.retain(|name| match fault {
            Fault::FlippedLog | Fault::UnreadableSector => is_log(name),
            Fault::DamagedSnapshot => name.ends_with(".snap"),
            _ => !is_log(name),
        });
        if names.is_empty() {
            return false;
        }
        let name = &names[self.dice.index(names.len())];
        let length = files.contents(name).map_or(0, |bytes| bytes.len() as u64);
        if length == 0 {
            return false;
        }
        let offset = self.dice.between(0, length - 1);
        if fault == Fault::UnreadableSector {
            return files.make_unreadable(name, offset).is_ok();
        }
        let mask = 1 << self.dice.between(0, 7);
        files.flip(name, offset, mask).is_ok()
    }

    /// Makes an operation of a disk fail, soon. That takes nothing away that was acknowledged.
    pub(super) fn fail_operation(&mut self, fault: Fault, node: usize) {
        let after = self.dice.between(0, 3);
        let storage = &mut self.nodes[node].storage;
        storage.may_fail = true;
        match fault {
            Fault::ShortWrite => storage.files.inject(DiskFault::ShortWrite, after),
            Fault::WriteError => storage.files.inject(DiskFault::WriteError, after),
            Fault::SyncError => storage.files.inject(DiskFault::SyncError, after),
            _ => storage.files.inject(DiskFault::Full, after),
        }
    }

    /// Crashes the node if it is receiving a snapshot. Whether it was.
    pub(super) fn interrupt_transfer(&mut self, until: u64) -> Result<bool, Violation> {
        let receives = |node: &crate::sim::node::Node| {
            node.replica.is_some() && node.storage.incoming.is_some()
        };
        let Some(node) = self.nodes.iter().position(receives) else {
            return Ok(false);
        };
        self.crash(node, until)?;
        Ok(true)
    }

    pub(super) fn crash(&mut self, node: usize, until: u64) -> Result<(), Violation> {
        if self.nodes[node].replica.is_none() {
            return Ok(());
        }
        self.report.crashes += 1;
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} crashes"));
        self.nodes[node].questions.clear();
        let mut power_lost = self.dice.chance(self.plan.power_loss);
        if let Some(machine) = self.nodes[node].snapshotting.take()
            && self.dice.chance(0.3)
        {
            // A part of it is written, and stays behind.
            self.nodes[node].storage.files.stop_after(2);
            let _ = self.write_snapshot(node, &machine);
            power_lost = true;
        }
        if let Some(batch) = self.nodes[node].crash() {
            let drawn = self.dice.chance(self.plan.kept);
            let torn = self.dice.chance(self.plan.torn);
            let fault = match (torn, drawn) {
                (true, _) => Fault::TornWrite,
                (false, true) => Fault::KeptWrite,
                (false, false) => Fault::LostWrite,
            };
            self.report.coverage.fault(fault);
            let storage = &mut self.nodes[node].storage;
            match fault {
                Fault::TornWrite => {
                    let operations = self.dice.between(1, 3);
                    storage.files.stop_after(operations);
                    power_lost = true;
                }
                Fault::LostWrite => self.report.coverage.branch(Branch::LostAtCrash),
                _ => {}
            }
            if let Some(store) = storage.store.as_ref().filter(|_| fault != Fault::LostWrite) {
                // Whatever it says: nobody hears it.
                let _ = store.write(&batch);
                self.nodes[node].torn = Some(batch);
            }
        }
        if power_lost {
            self.report.coverage.fault(Fault::LostPower);
        }
        let storage = &mut self.nodes[node].storage;
        storage.close(power_lost);
        if storage.unnoticed.take().is_some_and(|left| left > 0) {
            self.story
                .landmark(self.now, || format!("node {id} lost a write for good"));
            self.retire(node);
        }
        self.schedule(until, Event::Restart { node });
        Ok(())
    }
}
