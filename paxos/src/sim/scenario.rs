//! A cell without chance faults, which a test leads to a chosen moment, and to whose links and
//! disks it then does what it wants.

use bytes::Bytes;

use crate::interface::Role;
use crate::limits::Bounds;
use crate::message::Body;
use crate::planted::Planted;
use crate::sim::Options;
use crate::sim::cluster::Cluster;
use crate::sim::dice::Dice;
use crate::sim::invariants::Violation;
use crate::sim::node::Node;
use crate::sim::plan::Plan;
use crate::sim::story::Story;
use crate::types::{Ballot, Entry, EntryKind, Epoch};

/// A moment of the protocol, at a node that is about to lead or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has asked its peers how they are.
    Asked,
    /// Its own promise is being written.
    Promising,
    /// Its first `Prepare` was sent.
    PrepareSent,
    /// Another acceptor has made its promise durable.
    PromiseDurable,
    /// It fetches what it lacks of the log that it adopts.
    Fetching,
    /// It leads, and its `NewLeader` is not decided yet.
    Leads,
    /// A follower is being brought under its ballot.
    Syncing,
    /// Its `NewLeader` is decided.
    Established,
    /// Entries have been sent and are not decided.
    Replicating,
    /// Its own disk writes.
    Writing,
    /// It was asked to confirm itself, and has not yet.
    Confirming,
    /// It leads and has sent the entry that ends the epoch.
    Stopping,
    /// It has entered the next epoch, and another has not.
    StopDecided,
    /// It campaigns in the next epoch.
    NextEpoch,
    /// It leads, and offers a snapshot to who lacks what was cut off.
    Offering,
    /// A part of that is on its way.
    Transferring,
    /// The other writes that the snapshot takes the place of its log.
    Installing,
}

impl Moment {
    /// All moments.
    pub const ALL: [Moment; 17] = [
        Moment::Asked,
        Moment::Promising,
        Moment::PrepareSent,
        Moment::PromiseDurable,
        Moment::Fetching,
        Moment::Leads,
        Moment::Syncing,
        Moment::Established,
        Moment::Replicating,
        Moment::Writing,
        Moment::Confirming,
        Moment::Stopping,
        Moment::StopDecided,
        Moment::NextEpoch,
        Moment::Offering,
        Moment::Transferring,
        Moment::Installing,
    ];
}

/// What was last seen of the protocol, for [`Moment`]s.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What a node sent last, by kind.
    last: Option<(usize, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ping,
    Prepare,
    Promise,
    Fetch,
    Sync,
    Entries,
    Stop,
    Offer,
    Chunk,
    Other,
}

impl Seen {
    /// A node sends a message.
    pub(super) fn on_send(&mut self, node: usize, body: &Body) {
        let kind = match body {
            Body::Ping(_) => Kind::Ping,
            Body::Prepare(_) => Kind::Prepare,
            Body::Promise(_) => Kind::Promise,
            Body::Fetch(_) => Kind::Fetch,
            Body::Sync(_) => Kind::Sync,
            Body::Accept(accept) if ends_epoch(&accept.entries) => Kind::Stop,
            Body::Accept(accept) if !accept.entries.is_empty() => Kind::Entries,
            Body::Offer(_) => Kind::Offer,
            Body::Chunk(_) => Kind::Chunk,
            _ => Kind::Other,
        };
        self.last = Some((node, kind));
    }
}

fn ends_epoch(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.kind == EntryKind::Stop)
}

/// A cell under a test's control. Nodes are numbered from 0 here.
pub struct Scenario {
    cluster: Cluster,
    story: Story,
}

/// What a scenario came to.
pub type Outcome<T> = Result<T, Violation>;

impl Scenario {
    /// A calm cell of this many nodes; the seed draws the jitter. With `told`, it tells a story.
    ///
    /// # Errors
    ///
    /// If an invariant was broken already.
    pub fn new(nodes: usize, seed: u64, told: bool) -> Outcome<Scenario> {
        Scenario::with_plan(Plan::calm(nodes), seed, told)
    }

    /// One whose logs are short, behind snapshots that take several messages.
    ///
    /// # Errors
    ///
    /// If an invariant was broken already.
    pub fn with_short_logs(nodes: usize, seed: u64, told: bool) -> Outcome<Scenario> {
        let bounds = Bounds {
            tail_cache_entries: 10,
            tail_slots: 10,
            log_slots: 20,
            ..Bounds::default()
        };
        let plan = Plan {
            bounds,
            snapshot_every: 50,
            snapshot_bytes: 150_000,
            ..Plan::calm(nodes)
        };
        Scenario::with_plan(plan, seed, told)
    }

    fn with_plan(plan: Plan, seed: u64, told: bool) -> Outcome<Scenario> {
        let story = if told { Story::told() } else { Story::silent() };
        let dice = Dice::new(seed);
        let mut cluster = Cluster::with_plan(Options::seed(seed), story.clone(), dice, plan);
        cluster.begin()?;
        Ok(Scenario { cluster, story })
    }

    /// Plants a bug in every node that is up.
    pub fn plant(&mut self, bug: Planted) {
        let replicas = self.cluster.nodes.iter_mut();
        let replicas = replicas.filter_map(|node| node.replica.as_mut());
        replicas.for_each(|replica| replica.plant(bug));
    }

    /// What was told so far, if anything.
    #[must_use]
    pub fn story(&self) -> Vec<String> {
        self.story.lines()
    }

    /// The time that everything else is measured by, microseconds: how long it takes a cell in
    /// health to replace a dead leader at most. A follower waits for the leader's timeout, a round
    /// that it had begun before may have to end, one more asks, and the jitter passes.
    #[must_use]
    pub fn election_timeout_micros(&self) -> u64 {
        let timing = &self.cluster.plan.timing;
        timing.leader_timeout_micros + 2 * timing.round_micros + timing.jitter_micros
    }

    /// Now, microseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.cluster.now
    }

    /// From now on only this node, or everyone if none is given, may find out that it may campaign.
    pub fn only_candidate(&mut self, node: Option<usize>) {
        self.cluster.sole_candidate = node;
    }

    /// Cuts the link from one node to another, or joins it.
    pub fn connect(&mut self, from: usize, to: usize, connected: bool) {
        self.cluster.network.sever(from, to, !connected);
    }

    /// The node's disk answers no more.
    pub fn stick_disk(&mut self, node: usize) {
        self.cluster.nodes[node].disk_stuck_until = u64::MAX / 2;
    }

    /// The node crashes and comes back after a time.
    ///
    /// # Errors
    ///
    /// If an invariant was broken.
    pub fn crash(&mut self, node: usize, micros: u64) -> Outcome<()> {
        let until = self.cluster.now + micros;
        self.cluster.crash(node, until)
    }

    /// The leader is asked to end the epoch, for another with the same members. Whether it began.
    ///
    /// # Errors
    ///
    /// If an invariant was broken.
    pub fn end_epoch(&mut self, leader: usize) -> Outcome<bool> {
        let node = &mut self.cluster.nodes[leader];
        let now = node.clock.local(self.cluster.now);
        let Some(replica) = &mut node.replica else {
            return Ok(false);
        };
        let members = replica.status().membership.members;
        let context = Bytes::from_static(b"the next epoch");
        let begun = replica.reconfigure(now, members, None, context).is_ok();
        self.cluster.drain(leader)?;
        Ok(begun)
    }

    /// Goes on for this long.
    ///
    /// # Errors
    ///
    /// If an invariant was broken.
    pub fn run_for(&mut self, micros: u64) -> Outcome<()> {
        let end = self.cluster.now + micros;
        self.cluster.run_until(end, |_| false)?;
        self.cluster.now = end;
        Ok(())
    }

    /// Goes on until the node comes to this moment, for so long at most; whether it came.
    ///
    /// # Errors
    ///
    /// If an invariant was broken.
    pub fn run_to(&mut self, moment: Moment, node: usize, micros: u64) -> Outcome<bool> {
        let end = self.cluster.now + micros;
        self.cluster
            .run_until(end, |cluster| is_at(cluster, node, moment))
    }

    /// Goes on until `leader` leads and is established, for so long at most; whether it came.
    ///
    /// # Errors
    ///
    /// If an invariant was broken.
    pub fn run_to_leader(&mut self, leader: usize, micros: u64) -> Outcome<bool> {
        let end = self.cluster.now + micros;
        self.cluster
            .run_until(end, |cluster| established(cluster, leader).is_some())
    }

    /// How many slots are decided.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.cluster.invariants.one_value.count()
    }

    /// How many campaigns were begun so far.
    #[must_use]
    pub fn campaigns(&self) -> u64 {
        let coverage = &self.cluster.report.coverage;
        coverage.taken(crate::sim::Branch::Campaign)
    }

    /// Who leads under the highest ballot, if that leadership is established.
    #[must_use]
    pub fn leader(&self) -> Option<(usize, Ballot)> {
        let nodes = 0..self.cluster.nodes.len();
        let leaders = nodes.filter_map(|node| Some((node, established(&self.cluster, node)?)));
        leaders.max_by_key(|(_, ballot)| *ballot)
    }
}

fn established(cluster: &Cluster, node: usize) -> Option<Ballot> {
    match cluster.nodes[node].role {
        Role::Leader {
            leadership,
            established: true,
        } => Some(leadership),
        _ => None,
    }
}

fn epoch(cluster: &Cluster, node: usize) -> Option<Epoch> {
    let replica = cluster.nodes[node].replica.as_ref();
    replica.map(|replica| replica.status().membership.epoch)
}

fn is_at(cluster: &Cluster, node: usize, moment: Moment) -> bool {
    let role = cluster.nodes[node].role;
    let sent = |kind| cluster.seen.last == Some((node, kind));
    let leads = matches!(role, Role::Leader { .. });
    let writes = cluster.nodes[node].writing.is_some();
    match moment {
        Moment::Asked => sent(Kind::Ping),
        Moment::Promising => role == Role::Candidate && writes,
        Moment::PrepareSent => sent(Kind::Prepare),
        Moment::PromiseDurable => {
            let promised = matches!(cluster.seen.last, Some((_, Kind::Promise)));
            role == Role::Candidate && promised
        }
        Moment::Fetching => sent(Kind::Fetch),
        Moment::Leads => leads && established(cluster, node).is_none(),
        Moment::Syncing => sent(Kind::Sync),
        Moment::Established => established(cluster, node).is_some(),
        Moment::Replicating => established(cluster, node).is_some() && sent(Kind::Entries),
        Moment::Writing => established(cluster, node).is_some() && writes,
        Moment::Confirming => {
            established(cluster, node).is_some() && !cluster.nodes[node].questions.is_empty()
        }
        Moment::Stopping => sent(Kind::Stop),
        Moment::StopDecided => {
            let others = 0..cluster.nodes.len();
            let behind = |other| epoch(cluster, other) < epoch(cluster, node);
            others.into_iter().any(behind)
        }
        Moment::NextEpoch => role == Role::Candidate && epoch(cluster, node) > Some(Epoch::FIRST),
        Moment::Offering => sent(Kind::Offer),
        Moment::Transferring => sent(Kind::Chunk),
        Moment::Installing => {
            let writing = |node: &Node| node.writing.as_ref().is_some_and(|batch| batch.restart);
            cluster.nodes.iter().any(writing)
        }
    }
}
