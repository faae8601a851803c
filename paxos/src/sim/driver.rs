//! The drivers around the simulated replicas: what a server does, with a simulated network, disk
//! and clock, and with a look at every output for the invariants.

use crate::interface::{Config, Input, Output, Role};
use crate::message::Message;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::invariants::Violation;
use crate::store::LogStore;
use crate::types::{ConfirmNumber, Entry, Leadership, NodeId, PersistId, WriteBatch};

impl Cluster {
    pub(super) fn happen_at(&mut self, node: usize, event: Event) -> Result<(), Violation> {
        let alive = |boot: u64| self.nodes[node].replica.is_some() && self.nodes[node].boot == boot;
        match event {
            Event::Deliver { from, message, .. } => {
                self.input(node, Input::Message { from, message })
            }
            Event::Timer { boot, .. } if alive(boot) && self.nodes[node].timer <= self.now => {
                self.nodes[node].timer = u64::MAX;
                self.input(node, Input::Tick)
            }
            Event::Drain { boot, .. } if alive(boot) => self.drain(node),
            Event::Written { boot, id, .. } if alive(boot) => self.written(node, id),
            Event::Loaded {
                boot, id, entries, ..
            } if alive(boot) => self.input(node, Input::Loaded { id, entries }),
            _ => Ok(()),
        }
    }

    fn input(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let (id, local) = (self.nodes[node].id, self.nodes[node].clock.local(self.now));
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        self.trace.add(self.now << 8 | id.0);
        self.story
            .step(self.now, || format!("node {id} <- {}", told_input(&input)));
        replica.handle(local, input);
        let promised = replica.status().promised;
        self.invariants.on_step(id, promised)?;
        if self.dice.chance(self.plan.lazy_drain) {
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
        let at = self.nodes[node]
            .clock
            .true_time(replica.next_timer())
            .max(self.now + 1);
        if at < self.nodes[node].timer {
            self.nodes[node].timer = at;
            let boot = self.nodes[node].boot;
            self.schedule(at, Event::Timer { node, boot });
        }
    }

    fn output(&mut self, node: usize, output: Output) -> Result<(), Violation> {
        let (id, boot) = (self.nodes[node].id, self.nodes[node].boot);
        match output {
            Output::Send { to, message } => self.send(node, to, message)?,
            Output::Persist(batch) => {
                assert!(self.nodes[node].writing.is_none(), "one write at a time");
                let delay = self.write_delay(node);
                self.schedule(
                    self.now + delay,
                    Event::Written {
                        node,
                        boot,
                        id: batch.id,
                    },
                );
                self.story
                    .step(self.now, || format!("node {id} writes {batch:?}"));
                self.nodes[node].writing = Some(batch);
            }
            Output::Apply(entries) => {
                for entry in entries {
                    self.apply(node, &entry)?;
                }
            }
            Output::Confirmed { leadership, number } => self.confirmed(node, leadership, number)?,
            Output::Load {
                id: load,
                first,
                last,
                bytes_max,
            } => {
                self.report.loads += 1;
                let Ok(entries) = self.nodes[node].disk.read(first, last, bytes_max);
                let delay = self.dice.around(self.plan.disk_micros);
                self.schedule(
                    self.now + delay,
                    Event::Loaded {
                        node,
                        boot,
                        id: load,
                        entries,
                    },
                );
            }
            Output::RoleChanged(role) => {
                self.story
                    .landmark(self.now, || format!("node {id} is {role:?} now"));
                if let Role::Leader {
                    leadership,
                    established,
                } = role
                {
                    self.report.elections += u64::from(!established);
                    self.invariants.confirm.on_leading(leadership.ballot);
                }
            }
        }
        Ok(())
    }

    fn confirmed(
        &mut self,
        node: usize,
        leadership: Leadership,
        number: ConfirmNumber,
    ) -> Result<(), Violation> {
        self.trace.add(number.0);
        let (id, applied) = (self.nodes[node].id, self.nodes[node].applied);
        self.story.step(self.now, || {
            format!("node {id} confirms {leadership} to {number:?}")
        });
        for question in std::mem::take(&mut self.nodes[node].questions) {
            if question.leadership != leadership {
                continue;
            }
            if question.number > number {
                self.nodes[node].questions.push(question);
                continue;
            }
            self.report.confirms += 1;
            self.invariants
                .confirm
                .on_confirmed(id, &question, applied)?;
        }
        Ok(())
    }

    fn send(&mut self, node: usize, to: NodeId, message: Message) -> Result<(), Violation> {
        let from = self.nodes[node].id;
        let disk = &self.nodes[node].disk;
        self.invariants.on_send(from, &message.body, disk)?;
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        self.trace.add_bytes(&encoded);
        let decoded = Message::decode(&encoded);
        if decoded.as_ref() != Ok(&message) {
            let detail = format!("{message:?} was decoded as {decoded:?}");
            return Err(Violation::new("messages survive their encoding", detail));
        }
        self.report.messages += 1;
        let link = (from, to);
        let arrivals = self
            .network
            .arrivals(&mut self.dice, &self.plan, self.now, link);
        self.report.lost += u64::from(arrivals.is_empty());
        let fate = if arrivals.is_empty() { " (lost)" } else { "" };
        self.story.step(self.now, || {
            format!("node {from} -> {to} {:?}{fate}", message.body)
        });
        let receiver = to.0 as usize - 1;
        for arrival in arrivals {
            let message = message.clone();
            self.schedule(
                arrival,
                Event::Deliver {
                    from,
                    node: receiver,
                    message,
                },
            );
        }
        Ok(())
    }

    fn apply(&mut self, node: usize, entry: &Entry) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        if entry.slot != self.nodes[node].applied.next() {
            let applied = self.nodes[node].applied;
            let detail = format!("node {id} was given {entry:?} after slot {applied}");
            return Err(Violation::new("entries are applied in order, once", detail));
        }
        self.invariants.on_apply(id, entry)?;
        self.nodes[node].applied = entry.slot;
        self.nodes[node].state.apply(entry);
        let state = self.nodes[node].state;
        self.invariants
            .same_state
            .on_applied(id, entry.slot, state)?;
        self.invariants.confirm.on_applied(entry.slot);
        self.trace.add(entry.slot.0);
        self.story
            .step(self.now, || format!("node {id} applies {entry:?}"));
        Ok(())
    }

    fn write_delay(&mut self, node: usize) -> u64 {
        let stuck = self.nodes[node].disk_stuck_until.saturating_sub(self.now);
        let slow = if self.nodes[node].disk_slow_until > self.now {
            20
        } else {
            1
        };
        stuck + self.dice.around(slow * self.plan.disk_micros)
    }

    fn written(&mut self, node: usize, id: PersistId) -> Result<(), Violation> {
        // A write may end twice in the queue: a healed disk finishes it early.
        if !self.nodes[node].is_writing(id) {
            return Ok(());
        }
        let Some(batch) = self.nodes[node].writing.take() else {
            return Ok(());
        };
        self.make_durable(node, &batch)?;
        self.input(node, Input::Persisted(id))
    }

    pub(super) fn make_durable(
        &mut self,
        node: usize,
        batch: &WriteBatch,
    ) -> Result<(), Violation> {
        self.report.writes += 1;
        let (id, members) = (self.nodes[node].id, self.nodes.len());
        let disk = &self.nodes[node].disk;
        self.invariants.on_write(id, disk, batch)?;
        let Ok(()) = disk.write(batch);
        self.invariants.one_value.on_disk(id, disk, members)
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} starts"));
        self.invariants.on_start(id, &self.nodes[node].disk)?;
        let config = Config {
            node: id,
            members: self.nodes.iter().map(|node| node.id).collect(),
            timing: self.plan.timing,
            seed: self.dice.any(),
        };
        let planted = self.options.planted;
        self.nodes[node].start(self.now, config, self.plan.bounds, planted);
        self.set_timer(node);
        Ok(())
    }
}

fn told_input(input: &Input) -> String {
    match input {
        Input::Message { from, message } => format!("{from} {:?}", message.body),
        Input::Loaded { id, entries } => format!("{id:?}: {} entries", entries.len()),
        other => format!("{other:?}"),
    }
}
