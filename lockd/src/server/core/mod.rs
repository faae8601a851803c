//! The node's centre: the replica, the lock state and the sessions' leases, without any I/O.
//!
//! Whoever drives it hands in what arrived ([`Core::client_frame`], [`Core::peer_message`],
//! [`Core::persisted`] ...) and then calls [`Core::turn`] once for the whole batch. What is to be
//! written to disk, to peers and to clients is collected in between and fetched afterwards. So
//! commands that arrive together go into the log together, and everything that arrives while the
//! disk is busy is the next entry.
//!
//! * [`clients`]: connections, routes and outboxes.
//! * [`frames`]: what clients ask.
//! * [`leading`]: what only a leader does.
//! * [`answers`]: renewals and questions that wait for a confirmation.
//! * [`leases`]: session timers and renewals.
//! * [`timers`]: ends of waits and breaks.
//! * [`proposals`]: commands on their way into the log.

mod answers;
pub mod clients;
mod frames;
mod leading;
mod leases;
mod proposals;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;

use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{
    Entry, EntryKind, Input, Leadership, LoadId, Message, Output, PersistId, Replica, Slot, Time,
    WriteBatch,
};

use crate::state::command;
use crate::state::{Effect, State};
use clients::{Clients, ConnectionId, Outgoing};
use leading::Leading;
use proposals::Proposals;

/// What a node is told about itself and its cell.
#[derive(Debug)]
pub struct Settings {
    /// The cell.
    pub cell: CellId,
    /// This node.
    pub node: NodeId,
    /// Every member's address for clients.
    pub addresses: BTreeMap<NodeId, String>,
    /// Signs tickets.
    pub signer: Signer,
}

/// What follows from a turn, for the driver to carry out.
#[derive(Debug, Default)]
pub struct Work {
    /// To be made durable, in order; each is answered by [`Core::persisted`].
    pub writes: Vec<WriteBatch>,
    /// To be read from the log; each is answered by [`Core::loaded`].
    pub loads: Vec<Load>,
    /// To be sent to peers.
    pub messages: Vec<(NodeId, Message)>,
    /// Connections with something to write: see [`Core::take_outgoing`].
    pub clients: Vec<ConnectionId>,
}

/// Entries to be read from the log.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Given back with the entries.
    pub id: LoadId,
    /// First slot.
    pub first: Slot,
    /// Last slot.
    pub last: Slot,
    /// At most this many bytes of payload (but at least one entry).
    pub bytes_max: usize,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A decided entry that this program cannot read.
    #[error(
        "the decided entry at slot {slot} cannot be read ({reason}): it was written by a newer \
         version; start that version instead"
    )]
    UnreadableEntry {
        /// Where.
        slot: u64,
        /// What the decoder says.
        reason: String,
    },
}

/// A node without its I/O.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    started: Time,
    /// When the turn after the last one was due at the latest.
    due: Time,
    replica: Replica,
    state: State,
    applied: Slot,
    clients: Clients,
    proposals: Proposals,
    leading: Option<Leading>,
    effects: Vec<Effect>,
    fatal: Option<Fatal>,
}

impl Core {
    /// A node that has replayed its log: `state` is what the entries up to `applied` made.
    #[must_use]
    pub fn new(
        settings: Settings,
        replica: Replica,
        state: State,
        applied: Slot,
        now: Time,
    ) -> Core {
        Core {
            settings,
            started: now,
            due: now,
            replica,
            state,
            applied,
            clients: Clients::default(),
            proposals: Proposals::default(),
            leading: None,
            effects: Vec::new(),
            fatal: None,
        }
    }

    /// A client connected and showed a client's certificate.
    pub fn client_joined(&mut self, name: String) -> ConnectionId {
        self.clients.join(name)
    }

    /// A client's connection is gone.
    pub fn client_left(&mut self, connection: ConnectionId) {
        self.clients.leave(connection);
    }

    /// How many clients are connected.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Takes a message of a peer, whose certificate said who it is.
    pub fn peer_message(&mut self, now: Time, from: NodeId, message: Message) {
        let from = paxos::NodeId(from.0);
        self.replica.handle(now, Input::Message { from, message });
    }

    /// A write is durable.
    pub fn persisted(&mut self, now: Time, id: PersistId) {
        self.replica.handle(now, Input::Persisted(id));
    }

    /// Entries were read from the log.
    pub fn loaded(&mut self, now: Time, id: LoadId, entries: Vec<Entry>) {
        self.replica.handle(now, Input::Loaded { id, entries });
    }

    /// What is to be written to a client; `spare` becomes its next buffer.
    pub fn take_outgoing(&mut self, id: ConnectionId, spare: Vec<u8>) -> Option<Outgoing> {
        self.clients.take_outgoing(id, spare)
    }

    /// Acts on everything handed in since the last turn.
    ///
    /// # Errors
    /// [`Fatal`]: the node has to stop.
    pub fn turn(&mut self, now: Time) -> Result<Work, Fatal> {
        if self.replica.next_timer() <= now {
            self.replica.handle(now, Input::Tick);
        }
        self.judge_by_the_clock(now);
        let mut work = Work::default();
        loop {
            self.propose(now);
            if !self.drain_replica(now, &mut work) {
                break;
            }
        }
        work.clients = self.clients.take_dirty();
        self.due = self.next_turn().max(now);
        self.fatal.take().map_or(Ok(work), Err)
    }

    /// When [`Core::turn`] has to be called even if nothing arrives.
    #[must_use]
    pub fn next_turn(&self) -> Time {
        let mut next = self.replica.next_timer();
        if let Some(leading) = self.leading.as_ref().filter(|leading| leading.established) {
            let own = [leading.leases.next_deadline(), leading.timers.next()];
            next = own.into_iter().flatten().fold(next, Time::min);
        }
        next
    }

    fn propose(&mut self, now: Time) {
        while self.replica.idle_for_proposals() {
            let Some(payload) = self.proposals.take() else {
                return;
            };
            match self.replica.propose(now, payload.clone()) {
                Ok(_) => {}
                Err(paxos::ProposeError::Busy) => return self.proposals.put_back(payload),
                // Not the leader any more: the clients are told with the change of role.
                Err(_) => return,
            }
        }
    }

    /// Carries out what the replica wants. Returns whether it did anything.
    fn drain_replica(&mut self, now: Time, work: &mut Work) -> bool {
        let mut any = false;
        while let Some(output) = self.replica.poll_output() {
            any = true;
            match output {
                Output::Send { to, message } => work.messages.push((NodeId(to.0), message)),
                Output::Persist(batch) => work.writes.push(batch),
                Output::Load {
                    id,
                    first,
                    last,
                    bytes_max,
                } => {
                    work.loads.push(Load {
                        id,
                        first,
                        last,
                        bytes_max,
                    });
                }
                Output::Apply(entries) => {
                    for entry in entries {
                        self.apply(now, &entry);
                    }
                }
                Output::Confirmed { leadership, number } => {
                    self.confirmed(now, leadership, number);
                }
                Output::RoleChanged(role) => self.role_changed(now, role),
            }
        }
        any
    }
    fn apply(&mut self, now: Time, entry: &Entry) {
        debug_assert_eq!(
            entry.slot,
            self.applied.next(),
            "entries are applied in order"
        );
        self.applied = entry.slot;
        let mut effects = std::mem::take(&mut self.effects);
        if let Err(fatal) = apply_entry(&mut self.state, entry, &mut effects) {
            self.fatal = Some(fatal);
        }
        for effect in effects.drain(..) {
            if self.leading.is_some() {
                self.lead(now, effect);
            }
        }
        self.effects = effects;
    }
}

/// Applies a decided entry to the state. Also how a node replays its log when it starts.
///
/// # Errors
/// [`Fatal::UnreadableEntry`]: the entry was written by another version.
pub fn apply_entry(
    state: &mut State,
    entry: &Entry,
    effects: &mut Vec<Effect>,
) -> Result<(), Fatal> {
    match entry.kind {
        EntryKind::NewLeader => {
            let epoch = paxos::Epoch::FIRST;
            state.begin_leadership(Leadership {
                epoch,
                ballot: entry.origin,
            });
            Ok(())
        }
        EntryKind::Command => {
            let commands =
                command::decode(&entry.payload).map_err(|error| Fatal::UnreadableEntry {
                    slot: entry.slot.0,
                    reason: error.to_string(),
                })?;
            for command in commands {
                state.apply(command, effects);
            }
            Ok(())
        }
    }
}
