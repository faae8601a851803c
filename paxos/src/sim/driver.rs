//! The drivers around the simulated replicas: what a server does, with a simulated network, disk
//! and clock, and with a look at every output for the invariants.

use crate::interface::{Input, Output, Role};
use crate::message::Message;
use crate::planted::Planted;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::{Branch, Check};
use crate::sim::fault::Fault;
use crate::sim::invariants::Violation;
use crate::sim::observe;
use crate::types::{Ballot, ConfirmNumber, Entry, NodeId};

impl Cluster {
    pub(super) fn happen_at(&mut self, node: usize, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver { from, message, .. } => {
                let from = self.nodes[from].id;
                self.input(node, Input::Message { from, message })
            }
            Event::Timer { boot, .. } => {
                let due = self.nodes[node].timer <= self.now;
                if !self.nodes[node].is_up(boot) || !due {
                    return Ok(());
                }
                self.nodes[node].timer = u64::MAX;
                self.input(node, Input::Tick)
            }
            Event::Drain { boot, .. } if self.nodes[node].is_up(boot) => self.drain(node),
            Event::Written { boot, id, .. } if self.nodes[node].is_up(boot) => {
                self.written(node, id)
            }
            Event::Loaded {
                boot, id, entries, ..
            } if self.nodes[node].is_up(boot) => self.input(node, Input::Loaded { id, entries }),
            Event::FoundDamaged { boot, slot, .. } if self.nodes[node].is_up(boot) => {
                self.input(node, Input::Damaged(slot))
            }
            Event::ChunkLoaded {
                boot, id, bytes, ..
            } if self.nodes[node].is_up(boot) => self.input(node, Input::ChunkLoaded { id, bytes }),
            Event::ChunkStored {
                boot,
                meta,
                stored,
                ready,
                ..
            } if self.nodes[node].is_up(boot) => self.chunk_stored(node, meta, stored, ready),
            Event::SnapshotDone { boot, .. } if self.nodes[node].is_up(boot) => {
                self.snapshot_done(node)
            }
            Event::Scrub { boot, .. } if self.nodes[node].is_up(boot) => self.scrub(node),
            _ => Ok(()),
        }
    }

    pub(super) fn input(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let (id, local) = (self.nodes[node].id, self.nodes[node].clock.local(self.now));
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        self.trace.add(self.now << 8 | id.0);
        self.story
            .step(self.now, || format!("node {id} <- {}", told_input(&input)));
        replica.handle(local, input);
        if self.dice.chance(self.plan.lazy_drain) {
            self.report.coverage.fault(Fault::LazyDriver);
            let boot = self.nodes[node].boot;
            let delay = self.dice.between(1, 300);
            self.schedule(self.now + delay, Event::Drain { node, boot });
            return Ok(());
        }
        self.drain(node)
    }

    pub(super) fn drain(&mut self, node: usize) -> Result<(), Violation> {
        while let Some(replica) = &mut self.nodes[node].replica {
            let Some(output) = replica.poll_output() else {
                break;
            };
            self.output(node, output)?;
        }
        self.set_timer(node);
        Ok(())
    }

    pub(super) fn set_timer(&mut self, node: usize) {
        let Some(replica) = &self.nodes[node].replica else {
            return;
        };
        let due = replica.next_timer();
        let at = self.nodes[node].clock.true_time(due).max(self.now + 1);
        if at < self.nodes[node].timer {
            self.nodes[node].timer = at;
            let boot = self.nodes[node].boot;
            self.schedule(at, Event::Timer { node, boot });
        }
    }

    fn output(&mut self, node: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Send { to, message } => self.send(node, to, message),
            Output::Persist(batch) => self.begin_write(node, batch),
            Output::Apply(entries) => {
                for entry in entries {
                    self.apply(node, entry)?;
                }
                Ok(())
            }
            Output::Confirmed { leadership, number } => self.confirmed(node, leadership, number),
            Output::Load {
                id,
                first,
                last,
                bytes_max,
            } => self.load(node, id, (first, last), bytes_max),
            Output::RoleChanged(role) => self.role_changed(node, role),
            Output::Install(meta) => self.install(node, &meta),
            Output::StoreChunk {
                meta,
                offset,
                bytes,
            } => self.store_chunk(node, meta, offset, &bytes),
            Output::LoadChunk {
                id,
                slot,
                offset,
                bytes,
            } => self.load_chunk(node, id, slot, (offset, bytes)),
            Output::Membership(membership) => {
                self.report.coverage.branch(Branch::EpochEntered);
                let (id, coverage) = (self.nodes[node].id, &mut self.invariants.coverage);
                let epochs = &self.invariants.epochs;
                epochs.on_entered(id, &membership, coverage)
            }
            Output::Removed(_) => {
                self.report.coverage.branch(Branch::Removed);
                Ok(())
            }
            Output::Retired => {
                self.report.coverage.branch(Branch::Retired);
                self.retire(node);
                Ok(())
            }
            Output::Repaired(_) => {
                self.report.coverage.branch(Branch::Repaired);
                Ok(())
            }
        }
    }

    fn role_changed(&mut self, node: usize, role: Role) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} is {role:?} now"));
        let before = std::mem::replace(&mut self.nodes[node].role, role);
        observe::role(&mut self.report.coverage, before, role);
        if role == Role::Candidate {
            self.nodes[node].fetched = false;
        } else if before == Role::Candidate && self.nodes[node].leads() && !self.nodes[node].fetched
        {
            self.report.coverage.branch(Branch::AdoptedOwn);
        }
        if before != role && !self.nodes[node].leads() {
            let dropped = self.nodes[node].questions.drain(..).count();
            if dropped > 0 {
                self.report.coverage.branch(Branch::ConfirmUnanswered);
            }
        }
        if let Role::Leader {
            leadership,
            established,
        } = role
        {
            self.report.elections += u64::from(!established);
            if !established && self.nodes[node].held_back_until <= self.now {
                self.deliver_late(node);
            }
            self.invariants.on_leading(id, leadership)?;
        }
        Ok(())
    }

    /// What was held back for a node that leads again arrives within the next heartbeats.
    fn deliver_late(&mut self, node: usize) {
        for event in std::mem::take(&mut self.nodes[node].late) {
            let delay = self.dice.around(self.plan.timing.heartbeat_micros);
            self.schedule(self.now + delay, event);
        }
    }

    fn confirmed(
        &mut self,
        node: usize,
        leadership: Ballot,
        number: ConfirmNumber,
    ) -> Result<(), Violation> {
        self.trace.add(number.0);
        let (id, applied) = (self.nodes[node].id, self.nodes[node].machine.applied);
        self.story.step(self.now, || {
            format!("node {id} confirms {leadership} to {number:?}")
        });
        let mut questions = std::mem::take(&mut self.nodes[node].questions);
        let answered = |question: &_| confirm_answers(question, leadership, number);
        for question in questions.iter().filter(|question| answered(question)) {
            self.report.confirms += 1;
            self.report.coverage.branch(Branch::Confirmed);
            self.invariants.on_confirmed(id, question, applied)?;
        }
        questions.retain(|question| question.leadership == leadership && !answered(question));
        self.nodes[node].questions = questions;
        Ok(())
    }

    fn send(&mut self, node: usize, to: NodeId, message: Message) -> Result<(), Violation> {
        let from = self.nodes[node].id;
        self.invariants
            .on_send(from, &message.body, &self.nodes[node].shadow)?;
        observe::message(&mut self.report.coverage, &message.body);
        self.seen.on_send(node, &message.body);
        self.trace.add(observe::fingerprint(&message.body));
        if self.encodes {
            self.check_encoding(&message)?;
        }
        self.report.messages += 1;
        self.nodes[node].fetched |= observe::is_fetch(&message);
        let receiver = to.0 as usize - 1;
        if self.sole_candidate.is_some_and(|sole| sole != node) && observe::is_ping(&message) {
            return Ok(());
        }
        let arrivals = self.network.arrivals(
            &mut self.dice,
            &self.plan,
            &mut self.report.coverage,
            self.now,
            (node, receiver),
        );
        let times = arrivals.times();
        self.report.lost += u64::from(times.is_empty());
        self.story.step(self.now, || {
            let fate = if times.is_empty() { " (lost)" } else { "" };
            format!("node {from} -> {to} {:?}{fate}", message.body)
        });
        let deliver = |message| Event::Deliver {
            from: node,
            node: receiver,
            message,
        };
        if self.nodes[receiver].held_back_until > self.now && !times.is_empty() {
            // It may arrive now, and in any case again.
            self.nodes[receiver].late.push(deliver(message.clone()));
            if self.dice.chance(0.5) {
                return Ok(());
            }
        }
        if let [first, second] = times {
            self.schedule(*second, deliver(message.clone()));
            self.schedule(*first, deliver(message));
        } else if let [only] = times {
            self.schedule(*only, deliver(message));
        }
        Ok(())
    }

    fn check_encoding(&mut self, message: &Message) -> Result<(), Violation> {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        self.trace.add_bytes(&encoded);
        self.report.coverage.check(Check::Encoding);
        let decoded = Message::decode(&encoded);
        if decoded.as_ref() != Ok(message) {
            let detail = format!("{message:?} was decoded as {decoded:?}");
            return Err(Violation::of(Check::Encoding, detail));
        }
        Ok(())
    }

    fn apply(&mut self, node: usize, entry: Entry) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let applied = self.nodes[node].machine.applied;
        self.nodes[node].machine.apply(&entry);
        if self.options.planted == Some(Planted::ApplyDiffers) && entry.slot.0 % 64 == id.0 {
            self.nodes[node].machine.apply(&entry);
        }
        self.trace.add(entry.slot.0);
        self.story
            .step(self.now, || format!("node {id} applies {entry:?}"));
        let state = self.nodes[node].machine.hash;
        self.invariants.on_apply(id, applied, entry, state)?;
        self.consider_snapshot(node);
        Ok(())
    }
}

fn confirm_answers(
    question: &crate::sim::invariants::confirm::Question,
    leadership: Ballot,
    number: ConfirmNumber,
) -> bool {
    question.leadership == leadership && question.number <= number
}

fn told_input(input: &Input) -> String {
    match input {
        Input::Message { from, message } => format!("{from} {:?}", message.body),
        Input::Loaded { id, entries } => format!("{id:?}: {} entries", entries.len()),
        other => format!("{other:?}"),
    }
}
