//! The simulated cell: the queue of events, and the drivers around the replicas.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::interface::{Config, Input, Output, Role};
use crate::message::Message;
use crate::sim::dice::Dice;
use crate::sim::invariants::{Invariants, Violation, recovery};
use crate::sim::network::Network;
use crate::sim::node::{Clock, Node};
use crate::sim::plan::Plan;
use crate::sim::story::{Story, TraceHash};
use crate::sim::{Options, Report};
use crate::store::LogStore;
use crate::types::{Ballot, Entry, LoadId, NodeId, PersistId, Slot, WriteBatch};

/// Commands that are proposed after all faults, to see that the cell serves.
const LAST_COMMANDS: u64 = 20;

/// More events than any sound run has.
const EVENTS_MAX: u64 = 5_000_000;

pub(super) struct Cluster {
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) story: Story,
    pub(super) report: Report,
    invariants: Invariants,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    trace: TraceHash,
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver {
        from: NodeId,
        node: usize,
        message: Message,
    },
    Timer {
        node: usize,
        boot: u64,
    },
    Drain {
        node: usize,
        boot: u64,
    },
    Written {
        node: usize,
        boot: u64,
        id: PersistId,
    },
    Loaded {
        node: usize,
        boot: u64,
        id: LoadId,
        entries: Vec<Entry>,
    },
    Restart {
        node: usize,
    },
    Fault,
    Propose,
    Confirm,
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Cluster {
    pub(super) fn new(options: Options, story: Story) -> Cluster {
        let mut dice = Dice::new(options.seed);
        let plan = Plan::draw(&mut dice, options.nodes);
        story.landmark(0, || format!("{plan:?}"));
        let members: Vec<NodeId> = (1..=plan.nodes as u64).map(NodeId).collect();
        let rate = plan.clock_rate_ppm;
        let node = |id: &NodeId| {
            let rate_ppm = dice.between(0, 2 * rate) as i64 - rate as i64;
            let clock = Clock {
                offset: dice.between(0, 1 << 40),
                rate_ppm,
            };
            Node::new(*id, members.clone(), clock)
        };
        let nodes = members.iter().map(node).collect();
        Cluster {
            options,
            plan,
            dice,
            now: 0,
            nodes,
            network: Network::new(),
            story,
            report: Report::default(),
            invariants: Invariants::default(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            trace: TraceHash::new(),
        }
    }

    /// Faults and load first; then health, a leader, and everyone up to date.
    pub(super) fn run(mut self) -> Result<Report, Violation> {
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.schedule(1, Event::Propose);
        self.schedule(1, Event::Confirm);
        self.schedule_fault();
        let end = self.plan.faulty_micros;
        self.run_until(end, |_| false)?;
        self.now = end;
        self.queue.retain(|Reverse(next)| {
            !matches!(next.event, Event::Fault | Event::Propose | Event::Confirm)
        });
        self.heal()?;
        self.recover()?;
        self.report.decided = self.invariants.one_value.count();
        self.report.simulated_micros = self.now;
        self.report.trace_hash = self.trace.value();
        recovery::check_not_vacuous(&self.report)?;
        Ok(self.report)
    }

    /// The second phase: within a bound a leader serves, and everyone catches up.
    fn recover(&mut self) -> Result<(), Violation> {
        let healed = self.now;
        let bound = recovery::bound_micros(&self.plan.timing);
        let (decided, confirms) = (self.invariants.one_value.count(), self.report.confirms);
        let served = |cluster: &Cluster| {
            cluster.invariants.one_value.count() >= decided + LAST_COMMANDS
                && cluster.report.confirms >= confirms + LAST_COMMANDS
        };
        // Whoever seems to lead may be deposed already, so clients try again and again.
        while !served(self) {
            if self.now >= healed + bound {
                return Err(recovery::too_late("no leader served", bound));
            }
            self.propose_at_leader(1)?;
            self.confirm_at_leader()?;
            let pause = self.now + self.plan.timing.heartbeat_micros / 4;
            self.run_until(pause, served)?;
            self.now = self.now.max(pause);
        }
        self.report.recovery_micros = self.now - healed;
        let caught_up = self.now + bound;
        if !self.run_until(caught_up, Cluster::all_are_equal)? {
            return Err(recovery::too_late("not everyone caught up", bound));
        }
        Ok(())
    }

    fn all_are_equal(&self) -> bool {
        let first = self.nodes[0].applied;
        let decided = Slot(self.invariants.one_value.count());
        first == decided && self.nodes.iter().all(|node| node.applied == first)
    }

    /// Runs until `done` or the time `end`; whether it was done.
    fn run_until(&mut self, end: u64, done: impl Fn(&Cluster) -> bool) -> Result<bool, Violation> {
        while !done(self) {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                _ => return Ok(false),
            }
            let Some(Reverse(next)) = self.queue.pop() else {
                return Ok(false);
            };
            self.now = next.at.max(self.now);
            if self.scheduled > EVENTS_MAX {
                let detail = format!("{EVENTS_MAX} events and no end");
                return Err(Violation::new("work is bounded", detail));
            }
            self.happen(next.event)?;
        }
        Ok(true)
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let number = self.scheduled;
        self.queue.push(Reverse(Scheduled { at, number, event }));
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Fault => {
                self.inject_fault()?;
                self.schedule_fault();
                Ok(())
            }
            Event::Propose => {
                let most = self.plan.proposals_at_once;
                let count = self.dice.between(1, most);
                self.propose_at_leader(count)?;
                let delay = self.dice.around(self.plan.propose_every_micros);
                self.schedule(self.now + delay, Event::Propose);
                Ok(())
            }
            Event::Confirm => {
                self.confirm_at_leader()?;
                let delay = self.dice.around(self.plan.confirm_every_micros);
                self.schedule(self.now + delay, Event::Confirm);
                Ok(())
            }
            Event::Restart { node } => {
                if self.nodes[node].replica.is_none() {
                    self.start(node)?;
                }
                Ok(())
            }
            Event::Deliver { node, .. }
            | Event::Timer { node, .. }
            | Event::Drain { node, .. }
            | Event::Written { node, .. }
            | Event::Loaded { node, .. } => {
                let until = self.nodes[node].paused_until;
                if until > self.now {
                    self.schedule(until, event);
                    return Ok(());
                }
                self.happen_at(node, event)
            }
        }
    }

    fn happen_at(&mut self, node: usize, event: Event) -> Result<(), Violation> {
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
        self.invariants.promise.on_step(id, promised)?;
        if self.dice.chance(self.plan.lazy_drain) {
            let boot = self.nodes[node].boot;
            let delay = self.dice.between(1, 300);
            self.schedule(self.now + delay, Event::Drain { node, boot });
            return Ok(());
        }
        self.drain(node)
    }

    fn drain(&mut self, node: usize) -> Result<(), Violation> {
        while let Some(replica) = &mut self.nodes[node].replica {
            let Some(output) = replica.poll_output() else {
                break;
            };
            self.output(node, output)?;
        }
        self.set_timer(node);
        Ok(())
    }

    fn set_timer(&mut self, node: usize) {
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
            Output::Confirmed { leadership, number } => {
                self.trace.add(number.0);
                let applied = self.nodes[node].applied;
                let questions = std::mem::take(&mut self.nodes[node].questions);
                for question in questions {
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
            }
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

    fn send(&mut self, node: usize, to: NodeId, message: Message) -> Result<(), Violation> {
        let from = self.nodes[node].id;
        let disk = &self.nodes[node].disk;
        self.invariants.promise.on_send(from, &message.body, disk)?;
        self.invariants
            .acknowledged
            .on_send(from, &message.body, disk)?;
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
        self.invariants.one_value.on_apply(id, entry)?;
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
        let decided = &self.invariants.one_value;
        self.invariants
            .acknowledged
            .on_write(id, disk, batch, decided)?;
        let Ok(()) = disk.write(batch);
        self.invariants.one_value.on_disk(id, disk, members)
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} starts"));
        self.invariants
            .promise
            .on_start(id, &self.nodes[node].disk)?;
        self.invariants
            .acknowledged
            .on_start(id, &self.nodes[node].disk)?;
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

    fn propose_at_leader(&mut self, count: u64) -> Result<(), Violation> {
        let Some(node) = self.draw_leader() else {
            return Ok(());
        };
        let local = self.nodes[node].clock.local(self.now);
        for _ in 0..count {
            let Some(replica) = &mut self.nodes[node].replica else {
                break;
            };
            let number = self.invariants.one_value.new_command();
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(
                8 + self.dice.between(0, self.plan.payload_bytes) as usize,
                7,
            );
            if replica.propose(local, Bytes::from(payload)).is_err() {
                break;
            }
        }
        self.drain(node)
    }

    fn confirm_at_leader(&mut self) -> Result<(), Violation> {
        let Some(node) = self.draw_leader() else {
            return Ok(());
        };
        let local = self.nodes[node].clock.local(self.now);
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        let Role::Leader { leadership, .. } = replica.role() else {
            return Ok(());
        };
        if let Ok(number) = replica.confirm(local) {
            let highest: Ballot = self.invariants.one_value.highest_ballot();
            let question = self.invariants.confirm.ask(leadership, number, highest);
            self.nodes[node].questions.push(question);
        }
        self.drain(node)
    }

    /// One of those who lead, or believe that they do.
    fn draw_leader(&mut self) -> Option<usize> {
        let now = self.now;
        let leads = |node: &Node| {
            let role = node.replica.as_ref().map(|replica| replica.role());
            node.paused_until <= now && matches!(role, Some(Role::Leader { .. }))
        };
        let leaders: Vec<usize> = (0..self.nodes.len())
            .filter(|node| leads(&self.nodes[*node]))
            .collect();
        (!leaders.is_empty()).then(|| self.dice.pick(&leaders))
    }
}

fn told_input(input: &Input) -> String {
    match input {
        Input::Message { from, message } => format!("{from} {:?}", message.body),
        Input::Loaded { id, entries } => format!("{id:?}: {} entries", entries.len()),
        other => format!("{other:?}"),
    }
}
