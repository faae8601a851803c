//! How a simulated node starts: what its store recovers is compared with what was written to it,
//! and whether a store may refuse depends on what was done to its disk.

use crate::interface::Config;
use crate::planted::Planted;
use crate::replica::Replica;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::{Branch, Check};
use crate::sim::invariants::Violation;
use crate::sim::machine::Machine;
use crate::sim::observe;
use crate::sim::storage::{Storage, Store};
use crate::store::{LogStore, StoreError};
use crate::types::{NodeId, Recovered, Slot};

impl Cluster {
    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].gone {
            return Ok(());
        }
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} starts"));
        let planted = self.options.planted;
        let opened = self.nodes[node].storage.open(id, planted);
        let opened = opened.or_else(|error| self.start_all_the_same(node, error));
        let recovered = match opened {
            Ok(recovered) => recovered,
            Err(error) => return self.refused(node, &error),
        };
        self.check_recovered(node, &recovered)?;
        self.invariants.on_start(id, &recovered)?;
        if self.nodes[node].boot > 0 {
            observe::restart(&mut self.report.coverage, &recovered);
        }
        let machine = match self.replay(node, &recovered) {
            Ok(machine) => machine,
            Err(error) => return self.refused(node, &error),
        };
        self.invariants
            .on_replayed(id, machine.applied, machine.hash)?;
        self.nodes[node].machine = machine;
        self.boot(node, recovered)
    }

    fn boot(&mut self, node: usize, mut recovered: Recovered) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let newest = self.invariants.epochs.newest().members.clone();
        let config = Config {
            node: id,
            seeds: newest,
            timing: self.plan.timing,
            seed: self.dice.any(),
        };
        if self.options.planted == Some(Planted::DamageHidden) {
            recovered.claimed = Slot(recovered.decided.0 + recovered.entries.len() as u64);
        }
        if self.options.planted == Some(Planted::AcceptWithoutPromise) {
            // Else the replica would notice by itself, and refuse to start.
            recovered.promised = recovered.promised.max(recovered.accepted);
        }
        let local = self.nodes[node].clock.local(self.now);
        let mut replica = match Replica::new(config, recovered, local) {
            Ok(replica) => replica,
            Err(error) => {
                let detail = format!("node {id} does not start: {error}");
                return Err(Violation::of(Check::Store, detail));
            }
        };
        if replica.status().membership.has_removed(id) {
            self.report.coverage.branch(Branch::RemovedStarted);
        }
        replica.tighten(self.plan.bounds);
        if let Some(bug) = self.options.planted {
            replica.plant(bug);
        }
        let this = &mut self.nodes[node];
        this.boot += 1;
        this.role = crate::interface::Role::Follower { leader: None };
        this.replica = Some(replica);
        let boot = this.boot;
        let every = self.plan.scrub_every_micros;
        self.schedule(self.now + every, Event::Scrub { node, boot });
        self.set_timer(node);
        Ok(())
    }

    /// The planted mistakes: a wiped disk, or an old copy of one, is started from.
    fn start_all_the_same(
        &mut self,
        node: usize,
        error: StoreError,
    ) -> Result<Recovered, StoreError> {
        let this = &mut self.nodes[node];
        match (self.options.planted, &error) {
            (Some(Planted::WipedDiskVotes), StoreError::Missing { .. }) => {
                let fresh = Storage::create(this.id, self.dice.any(), &this.founding)?;
                this.storage.files = fresh.files;
            }
            (Some(Planted::CopiedDiskVotes), StoreError::Copied { .. }) => {
                Store::adopt_in(&this.storage.files)?;
            }
            _ => return Err(error),
        }
        this.storage.open(this.id, self.options.planted)
    }

    /// The state that a driver makes of what is on disk.
    fn replay(&self, node: usize, recovered: &Recovered) -> Result<Machine, StoreError> {
        let this = &self.nodes[node];
        let mut machine = match &recovered.snapshot {
            Some(meta) => self.read_snapshot(node, meta)?,
            None => Machine::new(this.founding.clone()),
        };
        let lost = StoreError::Damaged { what: "log" };
        let store = this.storage.store.as_ref().ok_or(lost.clone())?;
        let first = machine.applied.next();
        if first <= recovered.decided {
            let read = store.read(first, recovered.decided, usize::MAX)?;
            read.entries.iter().for_each(|entry| machine.apply(entry));
        }
        if machine.applied == recovered.decided {
            Ok(machine)
        } else {
            Err(lost)
        }
    }

    /// Whether what a store recovered is what was written to it. A write that a crash interrupted
    /// is there or is not.
    fn check_recovered(&mut self, node: usize, recovered: &Recovered) -> Result<(), Violation> {
        let torn = self.nodes[node].torn.take();
        self.invariants.coverage.check(Check::Store);
        let differs = self.nodes[node].shadow.differs_from(recovered);
        let mut or_else = String::new();
        if let (Some(_), Some(batch)) = (&differs, torn) {
            let mut after = self.nodes[node].shadow.clone();
            after.write(&batch);
            let there = match after.differs_from(recovered) {
                None => true,
                Some(_) if self.nodes[node].storage.doubtful => {
                    let numbers = (after.promised(), after.accepted(), after.end());
                    let found = (recovered.promised, recovered.accepted, recovered.claimed);
                    numbers == found
                }
                Some(how) => {
                    or_else = format!("; with the last write: {how}");
                    false
                }
            };
            if there {
                self.report.coverage.branch(Branch::KeptAtCrash);
                self.note_durable(node, &batch)?;
            }
        }
        match self.nodes[node].shadow.differs_from(recovered) {
            Some(how) if !self.nodes[node].storage.doubtful => {
                let id = self.nodes[node].id;
                let detail = format!("node {id}: {how}{or_else}");
                Err(Violation::of(Check::Store, detail))
            }
            Some(_) => {
                self.report.coverage.branch(Branch::RestartedDamaged);
                self.nodes[node].shadow.lose_to(recovered);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The store would not open. That is right only if something was done to its disk.
    fn refused(&mut self, node: usize, error: &StoreError) -> Result<(), Violation> {
        let id: NodeId = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} cannot start: {error}"));
        let io = matches!(error, StoreError::Io { .. } | StoreError::Full { .. });
        if io && self.nodes[node].storage.may_fail {
            return self.disk_failed(node, error);
        }
        if !self.nodes[node].storage.doubtful {
            let detail = format!("node {id} cannot start from an intact disk: {error}");
            return Err(Violation::of(Check::Store, detail));
        }
        self.report.coverage.branch(Branch::Refused);
        self.retire(node);
        Ok(())
    }

    /// A removed node ends, and nothing of it is needed any more.
    pub(super) fn retire(&mut self, node: usize) {
        self.nodes[node].crash();
        self.nodes[node].storage.close(false);
        self.nodes[node].gone = true;
    }
}
