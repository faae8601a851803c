//! The simulated cell: the queue of events, and the drivers around the replicas.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::interface::Role;
use crate::message::Message;
use crate::sim::dice::Dice;
use crate::sim::invariants::{Invariants, Violation, recovery};
use crate::sim::network::Network;
use crate::sim::node::{Clock, Node};
use crate::sim::plan::Plan;
use crate::sim::story::{Story, TraceHash};
use crate::sim::{Options, Report};
use crate::types::{Ballot, Entry, LoadId, NodeId, PersistId, Slot};

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
    pub(super) invariants: Invariants,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(super) trace: TraceHash,
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
    Wake {
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
            invariants: Invariants::new(options.outcomes_only),
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
        let bound = recovery::bound_micros(&self.plan, self.most_behind());
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
            if let Some(node) = self.draw_leader() {
                self.propose_at(node, 1)?;
                self.confirm_at(node)?;
            }
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

    /// How many entries the node that is furthest behind has yet to get: what is decided, and what
    /// some log has beyond that, and what will be proposed.
    fn most_behind(&self) -> u64 {
        let end = |node: &Node| {
            let replica = node.replica.as_ref();
            replica.map_or(node.disk.end(), |replica| replica.status().end)
        };
        let end = self.nodes.iter().map(end).max().unwrap_or_default();
        let applied = self.nodes.iter().map(|node| node.applied).min();
        end.0 + LAST_COMMANDS - applied.unwrap_or_default().0
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
                if let Some(node) = self.draw_leader() {
                    self.propose_at(node, count)?;
                }
                let delay = self.dice.around(self.plan.propose_every_micros);
                self.schedule(self.now + delay, Event::Propose);
                Ok(())
            }
            Event::Confirm => {
                if let Some(node) = self.draw_leader() {
                    self.confirm_at(node)?;
                }
                let delay = self.dice.around(self.plan.confirm_every_micros);
                self.schedule(self.now + delay, Event::Confirm);
                Ok(())
            }
            // What waits to be read is older than a question asked now.
            Event::Wake { node } => self.confirm_at(node),
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

    fn propose_at(&mut self, node: usize, count: u64) -> Result<(), Violation> {
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

    fn confirm_at(&mut self, node: usize) -> Result<(), Violation> {
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
    pub(super) fn draw_leader(&mut self) -> Option<usize> {
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
