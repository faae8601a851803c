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
//! * [`quota`]: what one client may take at most.
//! * [`ages`]: for how long locks have been held and waited for.
//! * [`answers`]: renewals and questions that wait for a confirmation.
//! * [`leases`]: session timers and renewals.
//! * [`timers`]: ends of waits and breaks.
//! * [`proposals`]: commands on their way into the log.
//! * [`watching`]: who is told which change, and [`history`]: what is remembered for them.
//! * [`members`]: who the members are and where, and how that is changed.
//! * [`compaction`]: when a new snapshot is due.
//! * [`scrubbing`]: when the store is read again, and how fast.
//! * [`replay`]: a state that follows the log.

mod ages;
mod answers;
pub mod clients;
pub mod compaction;
mod frames;
pub mod history;
mod leading;
mod leases;
pub mod members;
#[cfg(feature = "model")]
mod model;
mod proposals;
pub mod quota;
pub mod replay;
pub mod scrubbing;
#[cfg(test)]
mod tests;
mod timers;
mod watching;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{
    Ballot, Entry, Epoch, Input, LoadId, Membership, Message, Output, PersistId, Replica, Slot,
    SnapshotMeta, Time, WriteBatch,
};

use crate::limits::QUERIES_PER_TURN_MAX;
use crate::state::{Effect, State};
use answers::OwnQuestion;
use clients::{Clients, ConnectionId, Outgoing};
use compaction::{Compact, CompactFailure, Compaction, CompactionBounds};
use history::HistoryBounds;
use leading::Leading;
use members::Members;
use proposals::Proposals;
use quota::Quotas;
use replay::{Replay, apply_entry};
use watching::Watching;

/// What a node is told about itself and its cell.
#[derive(Debug)]
pub struct Settings {
    /// The cell.
    pub cell: CellId,
    /// This node.
    pub node: NodeId,
    /// Signs tickets.
    pub signer: Signer,
    /// When to make a snapshot.
    pub compaction: CompactionBounds,
    /// What one client may take at most.
    pub quotas: Quotas,
    /// How many changes to remember for watches.
    pub history: HistoryBounds,
}

/// What follows from a turn, for the driver to carry out.
#[derive(Debug, Default)]
pub struct Work {
    /// To be made durable, in order; each is answered by [`Core::persisted`].
    pub writes: Vec<WriteBatch>,
    /// To be read from the log; each is answered by [`Core::loaded`].
    pub loads: Vec<Load>,
    /// To be read from snapshots; each is answered by [`Core::chunk_loaded`].
    pub chunk_loads: Vec<ChunkLoad>,
    /// Parts of a peer's snapshot to be kept, in order; each is answered by
    /// [`Core::chunk_stored`], and the last one by [`Core::snapshot_ready`] too.
    pub chunks: Vec<Chunk>,
    /// A snapshot to be made; answered by [`Core::snapshot_taken`] or [`Core::compact_failed`].
    pub compact: Option<Compact>,
    /// The membership is another now: see [`Core::members`].
    pub membership_changed: bool,
    /// A state that is not needed any more. To drop it takes a while.
    pub discarded: Option<Box<State>>,
    /// To be sent to peers.
    pub messages: Vec<(NodeId, Message)>,
    /// Connections with something to write: see [`Core::take_outgoing`].
    pub clients: Vec<ConnectionId>,
    /// What was decided and has been applied, for whoever watches.
    pub applied: Vec<Entry>,
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

/// Bytes to be read from a snapshot of this node.
#[derive(Clone, Copy, Debug)]
pub struct ChunkLoad {
    /// Given back with the bytes.
    pub id: LoadId,
    /// Which snapshot.
    pub slot: Slot,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: usize,
}

/// A part of a peer's snapshot: see [`paxos::Output::StoreChunk`].
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Which snapshot.
    pub meta: SnapshotMeta,
    /// Where the part begins.
    pub offset: u64,
    /// The part.
    pub bytes: Bytes,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(feature = "model", derive(Clone))]
pub enum Fatal {
    /// The cell goes on without this node.
    #[error(
        "this node has been removed from the cell, which is in epoch {epoch}: its directory can \
         be deleted; a node that is to join needs a new one, from `lockd member prepare`"
    )]
    Removed {
        /// The first epoch without it that it knows of.
        epoch: u32,
    },
    /// What the disk says and what memory says differ.
    #[error(
        "the state in memory is not what the log makes at slot {slot}: memory or disk of this \
         machine is faulty, so this node must not go on; replace it"
    )]
    Diverged {
        /// Where.
        slot: u64,
    },
    /// The replica wants what the driver did not give: a mistake of the program.
    #[error("the snapshot of slot {slot} is to be installed, and is not at hand")]
    NotAtHand {
        /// Which snapshot.
        slot: u64,
    },
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
#[cfg_attr(feature = "model", derive(Clone))]
pub struct Core {
    settings: Arc<Settings>,
    started: Time,
    /// When the turn after the last one was due at the latest.
    due: Time,
    replica: Replica,
    membership: Membership,
    members: Members,
    /// Disks of nodes without a vote, by what they said of themselves.
    seen: BTreeMap<NodeId, u64>,
    state: State,
    applied: Slot,
    /// Origin of the last entry applied.
    origin: Ballot,
    compaction: Compaction,
    /// A peer's snapshot that can be installed.
    ready: Option<(SnapshotMeta, Box<State>)>,
    damage: Damage,
    /// The first entry that the log keeps, once a write has told.
    log_first: Option<Slot>,
    clients: Clients,
    proposals: Proposals,
    /// Questions that this node answers by itself, in its turns.
    own_questions: VecDeque<OwnQuestion>,
    leading: Option<Leading>,
    watching: Watching,
    effects: Vec<Effect>,
    removed: Option<Epoch>,
    fatal: Option<Fatal>,
}

/// Damaged places of this node's disk since it started.
#[derive(Clone, Copy, Debug, Default)]
struct Damage {
    found: u64,
    repaired: u64,
}

impl Core {
    /// A node that has replayed its log as far as that is known to be decided.
    #[must_use]
    pub fn new(settings: Settings, replica: Replica, replay: Replay, now: Time) -> Core {
        let status = replica.status();
        let watching = Watching::new(settings.history, replay.state.last_event());
        let compaction = Compaction::new(settings.compaction, status.snapshot, &replay);
        Core {
            settings: Arc::new(settings),
            started: now,
            due: now,
            replica,
            members: members::decode_members(&status.membership),
            membership: status.membership,
            seen: BTreeMap::new(),
            state: replay.state,
            applied: replay.slot,
            origin: replay.origin,
            compaction,
            ready: None,
            damage: Damage::default(),
            log_first: None,
            clients: Clients::default(),
            proposals: Proposals::default(),
            own_questions: VecDeque::new(),
            leading: None,
            watching,
            effects: Vec::new(),
            removed: None,
            fatal: None,
        }
    }

    /// A client's connection is gone.
    pub fn client_left(&mut self, connection: ConnectionId) {
        self.clients.leave(connection);
        self.watching.leave(connection);
    }

    /// The replicated state, as far as this node has applied it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether this node leads for sure: its first entry is decided.
    #[must_use]
    pub fn is_established(&self) -> bool {
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| leading.established)
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

    /// The decided entry of this slot cannot be read from the log.
    pub fn damaged(&mut self, now: Time, slot: Slot) {
        self.damage_found(1);
        self.replica.handle(now, Input::Damaged(slot));
    }

    /// The last snapshot cannot be read any more: another one has to take its place.
    pub fn snapshot_damaged(&mut self) {
        self.damage_found(1);
        self.compaction.snapshot_damaged();
    }

    fn snapshot_replaced(&mut self, damaged: bool) {
        if damaged {
            self.damage.repaired += 1;
            tracing::info!("the damaged snapshot was replaced");
        }
    }

    /// Counts damaged places of the disk that were found in another way.
    pub fn damage_found(&mut self, places: u64) {
        self.damage.found += places;
    }

    /// Bytes were read from a snapshot: none if that is gone, or damaged there.
    pub fn chunk_loaded(&mut self, now: Time, id: LoadId, bytes: Bytes) {
        self.replica.handle(now, Input::ChunkLoaded { id, bytes });
    }

    /// So much of a peer's snapshot is kept, counted from its beginning.
    pub fn chunk_stored(&mut self, now: Time, meta: SnapshotMeta, stored: u64) {
        self.replica
            .handle(now, Input::ChunkStored { meta, stored });
    }

    /// A peer's snapshot is complete, durable and right, and holds this state.
    pub fn snapshot_ready(&mut self, now: Time, meta: SnapshotMeta, state: Box<State>) {
        self.ready = Some((meta.clone(), state));
        self.replica.handle(now, Input::SnapshotReady(meta));
    }

    /// The snapshot that was ordered is made, durable and checked.
    pub fn snapshot_taken(&mut self, now: Time, meta: SnapshotMeta) {
        tracing::info!(slot = meta.slot.0, bytes = meta.bytes, "took a snapshot");
        let mended = self.compaction.made(meta.clone());
        self.snapshot_replaced(mended);
        self.replica.handle(now, Input::SnapshotTaken(meta));
    }

    /// The snapshot that was ordered could not be made.
    pub fn compact_failed(&mut self, now: Time, failure: &CompactFailure) {
        tracing::warn!(?failure, "could not take a snapshot; later again");
        if self.compaction.failed(now, failure) {
            self.damage_found(1);
        }
    }

    /// What the disk holds at this slot is not what memory holds.
    pub fn diverged(&mut self, slot: Slot) {
        self.fatal = Some(Fatal::Diverged { slot: slot.0 });
    }

    /// What is to be written to a client; `spare` becomes its next buffer.
    pub fn take_outgoing(&mut self, id: ConnectionId, spare: Vec<u8>) -> Option<Outgoing> {
        let outgoing = self.clients.take_outgoing(id, spare)?;
        let more = self.watching.has_room_again(id);
        Some(Outgoing { more, ..outgoing })
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
        let mut left = QUERIES_PER_TURN_MAX;
        self.answer_questions(now, &mut left);
        loop {
            self.propose(now);
            if !self.drain_replica(now, &mut work) {
                break;
            }
            self.answer_questions(now, &mut left);
        }
        self.answer_own_questions(now);
        self.note_ages(now);
        self.watching.catch_up(&self.state, &mut self.clients);
        let at = (self.applied, self.origin);
        work.compact = self
            .compaction
            .order(now, &self.state, at, &self.membership);
        // A snapshot that the replica did not want after all.
        let unused = self.ready.take().map(|(_, state)| state);
        work.discarded = work.discarded.or(unused);
        work.clients = self.clients.take_dirty();
        self.due = self.next_turn().max(now);
        self.fatal.take().map_or(Ok(work), Err)
    }

    /// When [`Core::turn`] has to be called even if nothing arrives.
    #[must_use]
    pub fn next_turn(&self) -> Time {
        if self.watching.is_busy() {
            return Time(0);
        }
        let mut next = self.replica.next_timer();
        if let Some(leading) = self.leading.as_ref().filter(|leading| leading.established) {
            let own = [leading.leases.next_deadline(), leading.timers.next()];
            next = own.into_iter().flatten().fold(next, Time::min);
            if leading.has_questions() {
                next = next.min(self.due);
            }
        }
        if !self.own_questions.is_empty() {
            next = next.min(self.due);
        }
        next
    }

    fn propose(&mut self, now: Time) {
        if planted::has(Planted::QueueOutlivesLeadership) && !self.is_established() {
            return;
        }
        while self.replica.idle_for_proposals() {
            let Some(payload) = self.proposals.take() else {
                return;
            };
            match self.replica.propose(now, payload.clone()) {
                Ok(_) => {}
                // While the membership changes, commands wait for the change of role that ends it.
                Err(paxos::ProposeError::Busy | paxos::ProposeError::Stopping) => {
                    return self.proposals.put_back(payload);
                }
                Err(_) if planted::has(Planted::QueueOutlivesLeadership) => {
                    return self.proposals.put_back(payload);
                }
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
                Output::Apply(entries) => {
                    entries.iter().for_each(|entry| self.apply(now, entry));
                    work.applied.extend(entries);
                }
                Output::Confirmed { leadership, number } => {
                    self.confirmed(now, leadership, number);
                }
                Output::RoleChanged(role) => self.role_changed(now, role),
                Output::Install(meta) => work.discarded = self.install(meta),
                Output::Membership(membership) => {
                    self.membership_changed(membership);
                    work.membership_changed = true;
                }
                Output::Repaired(slot) => {
                    self.damage.repaired += 1;
                    tracing::info!(slot = slot.0, "a damaged entry was repaired by the others");
                }
                Output::Removed(epoch) => {
                    self.removed = Some(epoch);
                    tracing::warn!(
                        epoch = epoch.0,
                        "this node has been removed from the cell; it stays until enough of the \
                         others know"
                    );
                }
                Output::Retired => {
                    let epoch = self.removed.unwrap_or(self.membership.epoch).0;
                    self.fatal = Some(Fatal::Removed { epoch });
                }
                Output::Persist(batch) => {
                    self.log_first = Some(batch.keep_from);
                    work.writes.push(batch);
                }
                order => work.take_order(order),
            }
        }
        any
    }

    /// Puts a peer's snapshot in the place of the state.
    fn install(&mut self, meta: SnapshotMeta) -> Option<Box<State>> {
        let ready = self.ready.take_if(|(ready, _)| *ready == meta);
        let Some((meta, state)) = ready else {
            self.fatal = Some(Fatal::NotAtHand { slot: meta.slot.0 });
            return None;
        };
        tracing::info!(
            slot = meta.slot.0,
            bytes = meta.bytes,
            "installed a peer's snapshot"
        );
        self.applied = meta.slot;
        self.origin = meta.origin;
        let mended = self.compaction.installed(meta);
        self.snapshot_replaced(mended);
        let old = std::mem::replace(&mut self.state, *state);
        self.watching.start_anew(self.state.last_event());
        Some(Box::new(old))
    }

    fn apply(&mut self, now: Time, entry: &Entry) {
        debug_assert_eq!(
            entry.slot,
            self.applied.next(),
            "entries are applied in order"
        );
        self.applied = entry.slot;
        self.origin = entry.origin;
        self.compaction.applied(entry);
        let mut effects = std::mem::take(&mut self.effects);
        if let Err(fatal) = apply_entry(&mut self.state, entry, &mut effects) {
            self.fatal = Some(fatal);
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Changed(event) => self.watching.happened(event, &mut self.clients),
                effect if self.leading.is_some() => self.lead(now, effect),
                _ => {}
            }
        }
        self.effects = effects;
    }
}

impl Work {
    /// Takes what is for the driver to do.
    fn take_order(&mut self, order: Output) {
        match order {
            Output::Send { to, message } => self.messages.push((NodeId(to.0), message)),
            Output::Load {
                id,
                first,
                last,
                bytes_max,
            } => self.loads.push(Load {
                id,
                first,
                last,
                bytes_max,
            }),
            Output::LoadChunk {
                id,
                slot,
                offset,
                bytes,
            } => self.chunk_loads.push(ChunkLoad {
                id,
                slot,
                offset,
                bytes,
            }),
            Output::StoreChunk {
                meta,
                offset,
                bytes,
            } => self.chunks.push(Chunk {
                meta,
                offset,
                bytes,
            }),
            // Dealt with by the core itself.
            Output::Apply(_)
            | Output::Persist(_)
            | Output::Confirmed { .. }
            | Output::RoleChanged(_)
            | Output::Install(_)
            | Output::Membership(_)
            | Output::Repaired(_)
            | Output::Removed(_)
            | Output::Retired => {}
        }
    }
}
