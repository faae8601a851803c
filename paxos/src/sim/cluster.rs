//! The simulated cell: nodes, network, and the events that drive them; and the two phases of a
//! run.

use bytes::Bytes;

use crate::membership::Membership;
use crate::message::Message;
use crate::sim::coverage::Check;
use crate::sim::dice::Dice;
use crate::sim::fault::Fault;
use crate::sim::invariants::{Invariants, Violation, recovery};
use crate::sim::network::Network;
use crate::sim::node::Node;
use crate::sim::operator::Change;
use crate::sim::plan::Plan;
use crate::sim::queue::Queue;
use crate::sim::scenario::Seen;
use crate::sim::story::{Story, TraceHash};
use crate::sim::{Options, Report};
use crate::types::{Entry, LoadId, NodeId, PersistId, Slot, SnapshotMeta};

/// Commands that are proposed after all faults, to see that the cell serves.
const LAST_COMMANDS: u64 = 20;

/// More events than any sound run has.
const EVENTS_MAX: u32 = 5_000_000;

pub(super) struct Cluster {
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    /// How the membership is to be changed.
    pub(super) change: Option<Change>,
    pub(super) network: Network,
    pub(super) story: Story,
    pub(super) report: Report,
    pub(super) invariants: Invariants,
    pub(super) trace: TraceHash,
    /// Every message is encoded and decoded, which costs more than all the rest.
    pub(super) encodes: bool,
    /// If given, only this node's pings arrive, so nobody else can campaign.
    pub(super) sole_candidate: Option<usize>,
    /// For scenarios.
    pub(super) seen: Seen,
    /// No more faults, and the load is measured out by [`Cluster::recover`].
    pub(super) healed: bool,
    queue: Queue<Event>,
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        from: usize,
        node: usize,
        message: Message,
    },
    Timer {
        node: usize,
        boot: u32,
    },
    Drain {
        node: usize,
        boot: u32,
    },
    Written {
        node: usize,
        boot: u32,
        id: PersistId,
    },
    Loaded {
        node: usize,
        boot: u32,
        id: LoadId,
        entries: Vec<Entry>,
    },
    FoundDamaged {
        node: usize,
        boot: u32,
        slot: Slot,
    },
    ChunkLoaded {
        node: usize,
        boot: u32,
        id: LoadId,
        bytes: Bytes,
    },
    ChunkStored {
        node: usize,
        boot: u32,
        meta: SnapshotMeta,
        stored: u64,
        ready: bool,
    },
    SnapshotDone {
        node: usize,
        boot: u32,
    },
    Scrub {
        node: usize,
        boot: u32,
    },
    Restart {
        node: usize,
    },
    Operate,
    Wake {
        node: usize,
    },
    Fault,
    Propose,
    Confirm,
}

impl Cluster {
    pub(super) fn new(options: Options, story: Story) -> Cluster {
        let mut dice = Dice::new(options.seed);
        let plan = Plan::draw(&mut dice, options.nodes);
        Cluster::with_plan(options, story, dice, plan)
    }

    pub(super) fn with_plan(options: Options, story: Story, dice: Dice, plan: Plan) -> Cluster {
        story.landmark(0, || format!("{plan:?}"));
        Cluster {
            options,
            plan,
            dice,
            now: 0,
            nodes: Vec::new(),
            change: None,
            network: Network::new(),
            story,
            report: Report::default(),
            invariants: Invariants::new(options.outcomes_only),
            trace: TraceHash::default(),
            encodes: options.seed.is_multiple_of(16),
            sole_candidate: None,
            seen: Seen::default(),
            healed: false,
            queue: Queue::default(),
        }
    }

    /// Faults and load first; then health, a leader, and everyone up to date.
    pub(super) fn run(mut self) -> Result<Report, Violation> {
        self.begin()?;
        self.schedule_fault();
        let end = self.plan.faulty_micros;
        self.run_until(end, |_| false)?;
        self.now = end;
        self.healed = true;
        self.heal()?;
        self.recover()?;
        self.report.decided = self.invariants.one_value.count();
        self.report.simulated_micros = self.now;
        self.report.trace_hash = self.trace.value();
        self.report.coverage.add(&self.invariants.coverage);
        recovery::check_not_vacuous(&self.report)?;
        Ok(self.report)
    }

    /// Starts all nodes and the load.
    pub(super) fn begin(&mut self) -> Result<(), Violation> {
        let ids = (1..=self.plan.nodes as u64).map(NodeId);
        let mut membership = Membership::first(ids.clone())
            .map_err(|error| Violation::new("a plan is sound", error.to_string()))?;
        if self.plan.flexible_quorums {
            membership.quorums = self.draw_quorums(self.plan.nodes);
        }
        self.invariants.epochs.found(membership.clone());
        for id in ids {
            self.new_node(id, &membership)?;
        }
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.schedule_operator();
        self.schedule(1, Event::Propose);
        self.schedule(1, Event::Confirm);
        if self.plan.bounds != crate::limits::Bounds::default() {
            self.report.coverage.fault(Fault::TinyBounds);
        }
        Ok(())
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
        while !served(self) || !self.is_settled() {
            if self.now >= healed + bound {
                let what = format!("no leader served: {}", self.how_it_is());
                return Err(recovery::too_late(&what, bound));
            }
            if let Some(node) = self.draw_leader() {
                self.propose_at(node, 1)?;
                self.confirm_at(node)?;
            }
            let pause = self.now + self.plan.timing.heartbeat_micros;
            self.run_until(pause, |_| false)?;
            self.now = self.now.max(pause);
        }
        self.report.recovery_micros = self.now - healed;
        self.invariants.coverage.check(Check::Recovery);
        let caught_up = self.now + bound;
        if !self.run_until(caught_up, Cluster::all_are_equal)? {
            let what = format!("not everyone caught up: {}", self.how_it_is());
            return Err(recovery::too_late(&what, bound));
        }
        self.invariants.coverage.check(Check::UpToDate);
        Ok(())
    }

    /// How many entries the node that is furthest behind has yet to get: what is decided, and what
    /// some log has beyond that, and what will be proposed.
    fn most_behind(&self) -> u64 {
        let end = |node: &Node| {
            let replica = node.replica.as_ref();
            replica.map_or(node.shadow.end(), |replica| replica.status().end)
        };
        let end = self.nodes.iter().map(end).max().unwrap_or_default();
        // A new member may have to learn it all.
        end.0 + LAST_COMMANDS
    }

    /// Whether every member knows and has all that is decided, on a disk that is whole.
    fn all_are_equal(&self) -> bool {
        let decided = Slot(self.invariants.one_value.count());
        let present = self.invariants.epochs.newest();
        let equal = |member: &NodeId| {
            let node = &self.nodes[member.0 as usize - 1];
            node.machine.applied == decided && !node.storage.doubtful
        };
        self.is_settled() && present.members.iter().all(equal)
    }

    /// Which node stands where, for people.
    fn how_it_is(&self) -> String {
        let present = self.invariants.epochs.newest();
        let mut how = format!("{:?} of {}", present.members, present.epoch);
        for node in self
            .nodes
            .iter()
            .filter(|node| !node.gone || present.contains(node.id))
        {
            let (id, applied) = (node.id, node.machine.applied);
            let (doubtful, gone) = (node.storage.doubtful, node.gone);
            how += &format!("; node {id} {:?} at {applied}", node.role);
            if doubtful || gone {
                how += &format!(" doubtful {doubtful} gone {gone}");
            }
            let damaged = node
                .replica
                .as_ref()
                .and_then(|replica| replica.status().damaged);
            if let Some(slot) = damaged {
                how += &format!(" damaged to {slot}");
            }
        }
        how
    }

    /// Runs until `done` or the time `end`; whether it was done.
    pub(super) fn run_until(
        &mut self,
        end: u64,
        done: impl Fn(&Cluster) -> bool,
    ) -> Result<bool, Violation> {
        while !done(self) {
            match self.queue.next_at() {
                Some(at) if at <= end => {}
                _ => return Ok(false),
            }
            let Some((at, event)) = self.queue.pop() else {
                return Ok(false);
            };
            self.now = at.max(self.now);
            if self.queue.pushed() > EVENTS_MAX {
                let detail = format!("{EVENTS_MAX} events and no end");
                return Err(Violation::new("work is bounded", detail));
            }
            self.happen(event)?;
        }
        Ok(true)
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.queue.push(at, event);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Fault | Event::Propose | Event::Confirm if self.healed => Ok(()),
            Event::Fault => {
                self.inject_fault()?;
                self.schedule_fault();
                Ok(())
            }
            Event::Propose => self.propose_somewhere(),
            Event::Confirm => {
                if let Some(node) = self.draw_leader() {
                    self.confirm_at(node)?;
                }
                let delay = self.dice.around(self.plan.confirm_every_micros);
                self.schedule(self.now + delay, Event::Confirm);
                Ok(())
            }
            Event::Operate => self.operate(),
            Event::Wake { node } => self.wake(node),
            Event::Restart { node } => self.restart(node),
            Event::Deliver { node, .. }
            | Event::Timer { node, .. }
            | Event::Drain { node, .. }
            | Event::Written { node, .. }
            | Event::Loaded { node, .. }
            | Event::FoundDamaged { node, .. }
            | Event::ChunkLoaded { node, .. }
            | Event::ChunkStored { node, .. }
            | Event::SnapshotDone { node, .. }
            | Event::Scrub { node, .. } => {
                if self.nodes[node].paused_until > self.now {
                    self.nodes[node].hold(event);
                    return Ok(());
                }
                self.happen_at(node, event)
            }
        }
    }

    /// One of those who lead, or believe that they do.
    pub(super) fn draw_leader(&mut self) -> Option<usize> {
        let leads = |node: &&Node| node.paused_until <= self.now && node.leads();
        let count = self.nodes.iter().filter(leads).count();
        if count == 0 {
            return None;
        }
        let nth = if count == 1 {
            0
        } else {
            self.dice.index(count)
        };
        let found = self.nodes.iter().filter(leads).nth(nth)?;
        Some(found.id.0 as usize - 1)
    }
}
