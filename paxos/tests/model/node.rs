//! One node: the production replica, its disk, and the driver between them.
//!
//! Time stands still; what a timer would do is an input of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use paxos::limits::Bounds;
use paxos::message::{Accept, Body};
use paxos::{
    Ballot, Config, ConfigError, ConfirmNumber, Entry, Epoch, Input, LoadId, Membership, Message,
    NodeId, Output, Planted, Replica, Role, Slot, Time, Timing, WriteBatch,
};

use crate::disk::Disk;
use crate::faults::Fault;

const NOW: Time = Time(1_000_000);

/// How all nodes of an instance are set up.
#[derive(Clone, Debug)]
pub(crate) struct SetUp {
    /// All nodes; those that are no members at first begin with nothing.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) first: Membership,
    /// The second membership, if a leader may end the first.
    pub(crate) next: Option<Membership>,
    pub(crate) bounds: Bounds,
    pub(crate) instant_disks: bool,
    pub(crate) first_disk_slow: bool,
    pub(crate) quiet: bool,
    pub(crate) greetings: bool,
    pub(crate) planted: Option<Planted>,
}

impl SetUp {
    pub(crate) fn membership(&self, epoch: Epoch) -> Option<&Membership> {
        let memberships = [Some(&self.first), self.next.as_ref()];
        let mut known = memberships.into_iter().flatten();
        known.find(|membership| membership.epoch == epoch)
    }

    pub(crate) fn votes(&self, node: NodeId, epoch: Epoch) -> bool {
        self.membership(epoch)
            .is_some_and(|membership| membership.contains(node))
    }

    fn is_instant(&self, node: NodeId) -> bool {
        self.instant_disks && !(self.first_disk_slow && node == NodeId(1))
    }

    fn fresh(&self, node: NodeId) -> Disk {
        Disk::fresh(if self.first.contains(node) {
            self.first.clone()
        } else {
            Membership::none()
        })
    }
}

/// A node, up.
#[derive(Clone, Hash)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) replica: Replica,
    pub(crate) disk: Disk,
    /// The write that is given out and not known to be done.
    pub(crate) writing: Option<WriteBatch>,
    /// What is being read for a peer.
    loads: Vec<(LoadId, Slot, Slot)>,
    pub(crate) applied: Slot,
}

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A message comes: its number in the arena of envelopes.
    Deliver(u32),
    Campaign {
        round: u64,
    },
    Propose {
        value: u8,
    },
    Heartbeat,
    Confirm,
    /// A leader ends its epoch.
    Reconfigure,
    /// It asks another node for what is decided, unprompted or because nobody answered.
    Ask {
        node: NodeId,
    },
    Persisted,
    Loaded,
    /// Everything but the disk is lost; the write in flight is there all the same, or is not.
    Crash {
        written: bool,
    },
}

/// A message on its way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// What an event did beside changing the node.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) sent: Vec<Envelope>,
    pub(crate) applied: Vec<Entry>,
    /// After a crash: what the driver makes its state of.
    pub(crate) replayed: Option<Vec<Entry>>,
    pub(crate) asked: Option<(Ballot, ConfirmNumber)>,
    pub(crate) confirmed: Vec<(Ballot, ConfirmNumber)>,
    pub(crate) fault: Option<Fault>,
}

impl Node {
    fn start(id: NodeId, disk: Disk, set_up: &SetUp) -> Result<Node, ConfigError> {
        let mut recovered = disk.recovered();
        if set_up.planted == Some(Planted::AcceptWithoutPromise) {
            // Else the replica would notice by itself, and refuse to start.
            recovered.promised = recovered.promised.max(recovered.accepted);
        }
        let config = Config {
            node: id,
            seeds: set_up.first.members.clone(),
            timing: Timing::default(),
            seed: id.0,
        };
        let applied = recovered.decided;
        let mut replica = Replica::new(config, recovered, NOW)?;
        replica.tighten(set_up.bounds);
        if let Some(bug) = set_up.planted {
            replica.plant(bug);
        }
        let (writing, loads) = (None, Vec::new());
        Ok(Node {
            id,
            replica,
            disk,
            writing,
            loads,
            applied,
        })
    }

    /// The node as it is when its cell is made, or when it first starts to join.
    pub(crate) fn fresh(id: NodeId, set_up: &SetUp) -> Node {
        let started = Node::start(id, set_up.fresh(id), set_up);
        started.expect("a fresh disk is consistent")
    }

    /// The node after an event, and what else it did; none if the event cannot happen to it.
    pub(crate) fn after(
        &self,
        event: Event,
        message: Option<&Envelope>,
        set_up: &SetUp,
    ) -> Option<(Node, Effects)> {
        let mut node = self.clone();
        let mut effects = Effects::default();
        // An assertion of the replica is a finding too: caught, and told with the way to it.
        let run = catch_unwind(AssertUnwindSafe(|| {
            let happens = node.take(event, message, set_up, &mut effects);
            if happens {
                node.drain(set_up, &mut effects);
            }
            while set_up.is_instant(node.id) && node.writing.is_some() {
                node.take(Event::Persisted, None, set_up, &mut effects);
                node.drain(set_up, &mut effects);
            }
            happens
        }));
        match run {
            Ok(true) => Some((node, effects)),
            Ok(false) => None,
            Err(_) => {
                let fault = Some(Fault::Panicked);
                Some((
                    self.clone(),
                    Effects {
                        fault,
                        ..Effects::default()
                    },
                ))
            }
        }
    }

    /// The ballot that it campaigns or leads under.
    pub(crate) fn ballot(&self) -> Option<Ballot> {
        match self.replica.role() {
            Role::Follower { .. } | Role::Learner => None,
            Role::Candidate => Some(self.replica.status().promised),
            Role::Leader { leadership, .. } => Some(leadership),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.replica.status().membership.epoch
    }

    pub(crate) fn votes(&self) -> bool {
        self.replica.status().membership.contains(self.id)
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.replica.role(), Role::Leader { .. })
    }

    fn take(
        &mut self,
        event: Event,
        message: Option<&Envelope>,
        set_up: &SetUp,
        effects: &mut Effects,
    ) -> bool {
        match event {
            Event::Deliver(_) => {
                let Some(envelope) = message else {
                    return false;
                };
                let (from, message) = (envelope.from, envelope.message.clone());
                self.replica.handle(NOW, Input::Message { from, message });
            }
            Event::Campaign { round } => return self.replica.campaign_now(NOW, round),
            Event::Propose { value } => {
                let payload = Bytes::copy_from_slice(&[value]);
                return self.replica.propose(NOW, payload).is_ok();
            }
            Event::Heartbeat => return self.replica.heartbeat_now(NOW),
            Event::Confirm => {
                let Role::Leader { leadership, .. } = self.replica.role() else {
                    return false;
                };
                let asked = self.replica.confirm(NOW);
                effects.asked = asked.ok().map(|number| (leadership, number));
            }
            Event::Reconfigure => {
                let Some(next) = set_up.next.clone() else {
                    return false;
                };
                let quorums = Some(next.quorums);
                let replica = &mut self.replica;
                let stopped = replica.reconfigure(NOW, next.members, quorums, next.context);
                return stopped.is_ok();
            }
            Event::Ask { node } => return self.replica.ask_now(NOW, node),
            Event::Persisted => {
                let Some(batch) = self.writing.take() else {
                    return false;
                };
                self.disk.write(&batch);
                self.replica.handle(NOW, Input::Persisted(batch.id));
            }
            Event::Loaded => {
                if self.loads.is_empty() {
                    return false;
                }
                let (id, first, last) = self.loads.remove(0);
                let entries = self.disk.read(first, last);
                self.replica.handle(NOW, Input::Loaded { id, entries });
            }
            Event::Crash { written } => {
                let mut disk = self.disk.clone();
                match &self.writing {
                    Some(batch) if written => disk.write(batch),
                    None if written => return false,
                    _ => {}
                }
                effects.replayed = Some(disk.read(Slot(1), disk.decided));
                match Node::start(self.id, disk.clone(), set_up) {
                    Ok(started) => *self = started,
                    Err(error) => panic!("a disk that a replica wrote: {error}"),
                }
            }
        }
        true
    }

    /// What a driver does with what the replica gives out.
    fn drain(&mut self, set_up: &SetUp, effects: &mut Effects) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Send { to, message } => self.send(to, message, set_up, effects),
                Output::Persist(batch) => {
                    assert!(self.writing.is_none(), "one write at a time");
                    self.writing = Some(batch);
                }
                Output::Apply(entries) => {
                    for entry in entries {
                        assert_eq!(entry.slot, self.applied.next(), "each once, in order");
                        self.applied = entry.slot;
                        effects.applied.push(entry);
                    }
                }
                Output::Confirmed { leadership, number } => {
                    effects.confirmed.push((leadership, number));
                }
                Output::Load {
                    id, first, last, ..
                } => self.loads.push((id, first, last)),
                Output::RoleChanged(_)
                | Output::Membership(_)
                | Output::Removed(_)
                | Output::Retired => {}
                Output::Install(_)
                | Output::StoreChunk { .. }
                | Output::LoadChunk { .. }
                | Output::Repaired(_) => unreachable!("no snapshots, no damage"),
            }
        }
    }

    fn send(&self, to: NodeId, message: Message, set_up: &SetUp, effects: &mut Effects) {
        // They only plan campaigns, which here begin whenever they like.
        if matches!(message.body, Body::Ping(_) | Body::Pong(_)) {
            return;
        }
        let idle = |accept: &Accept| accept.entries.is_empty() && accept.confirm.0 == 0;
        let loud = match &message.body {
            Body::Accept(accept) => idle(accept),
            Body::Sync(sync) => sync.entries.is_empty() && sync.confirm.0 == 0 && !set_up.greetings,
            Body::Reject(_) | Body::Removed => true,
            Body::Learned(learned) => learned.entries.is_empty(),
            _ => false,
        };
        if set_up.quiet && loud {
            return;
        }
        effects.fault = effects.fault.or(Fault::of_message(
            self.id,
            &message.body,
            &self.disk,
            set_up,
        ));
        effects.sent.push(Envelope {
            from: self.id,
            to,
            message,
        });
    }
}
