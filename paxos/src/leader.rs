//! Phase 2: a leadership from its `NewLeader` entry to its end.
//!
//! It proposes, replicates, counts what a quorum has made durable, and confirms itself. It does
//! not know how it was elected, and another part decides what follows when it steps down.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::catchup::LoadFor;
use crate::confirm::Confirm;
use crate::core::Core;
use crate::interface::{Output, PeerStatus, ProposeError, Role};
use crate::limits::{LOAD_BYTES_MAX, PAYLOAD_BYTES_MAX, WINDOW_BYTES_MAX};
use crate::message::{Accept, Accepted, Body, Promise, Standing, Sync};
use crate::planted::Planted;
use crate::progress::Progress;
use crate::types::{Ballot, ConfirmNumber, Entry, EntryKind, Leadership, NodeId, Slot, Time};

/// A leadership.
#[derive(Debug)]
pub(crate) struct Leader {
    leadership: Leadership,
    /// The slot of its first entry. What was adopted lies before it.
    new_leader: Slot,
    established: bool,
    peers: BTreeMap<NodeId, Progress>,
    confirm: Confirm,
    next_heartbeat: Time,
}

impl Leader {
    /// Begins to lead. The log under the ballot has been adopted, in memory at least.
    pub(crate) fn begin(core: &mut Core, promises: &BTreeMap<NodeId, Promise>) -> Leader {
        let ballot = core.acceptor.promised();
        let adopted = core.acceptor.log().end();
        let entry = Entry::new(adopted.next(), ballot, EntryKind::NewLeader, Bytes::new());
        core.acceptor.append_own(entry);
        let progress = |peer: &NodeId| {
            let known = promises.get(peer).map(|promise| promise.decided);
            // Of who has not promised nothing is known: its answer to a heartbeat tells.
            Progress::new(known.unwrap_or(adopted.next()).next(), core.now)
        };
        Leader {
            leadership: Leadership {
                epoch: core.epoch,
                ballot,
            },
            new_leader: adopted.next(),
            established: false,
            peers: core
                .peers
                .iter()
                .map(|peer| (*peer, progress(peer)))
                .collect(),
            confirm: Confirm::default(),
            next_heartbeat: core.now,
        }
    }

    pub(crate) fn role(&self) -> Role {
        Role::Leader {
            leadership: self.leadership,
            established: self.established,
        }
    }

    pub(crate) fn ballot(&self) -> Ballot {
        self.leadership.ballot
    }

    pub(crate) fn next_timer(&self) -> Time {
        self.next_heartbeat
    }

    pub(crate) fn peers(&self, now: Time) -> Vec<PeerStatus> {
        let status = |(node, progress): (&NodeId, &Progress)| PeerStatus {
            node: *node,
            synced: progress.synced,
            persisted: progress.persisted,
            next: progress.next,
            silent_micros: now.micros_since(progress.last_heard),
        };
        self.peers.iter().map(status).collect()
    }

    pub(crate) fn propose(
        &mut self,
        core: &mut Core,
        payload: Bytes,
    ) -> Result<Slot, ProposeError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: payload.len(),
            });
        }
        let log = core.acceptor.log();
        let full = log.open_slots() >= log.bounds().window_slots
            || log.open_bytes() + payload.len() > WINDOW_BYTES_MAX;
        if full {
            return Err(ProposeError::Busy);
        }
        let slot = log.end().next();
        core.acceptor
            .append_own(Entry::new(slot, self.ballot(), EntryKind::Command, payload));
        Ok(slot)
    }

    pub(crate) fn confirm(&mut self, core: &Core) -> ConfirmNumber {
        let number = self.confirm.ask();
        if core.plant.has(Planted::OldEchoes) {
            return ConfirmNumber(number.0 - 1);
        }
        number
    }

    /// Heartbeats, and whether this leadership can go on.
    #[must_use]
    pub(crate) fn tick(&mut self, core: &mut Core) -> bool {
        if core.now < self.next_heartbeat {
            return true;
        }
        if !self.reaches_a_quorum(core) || !core.disk_ok() {
            return false;
        }
        self.next_heartbeat = core.now.plus_micros(core.timing.heartbeat_micros);
        for index in 0..core.peers.len() {
            let peer = core.peers[index];
            let Some(progress) = self.peers.get_mut(&peer) else {
                continue;
            };
            progress.retry();
            if !std::mem::take(&mut progress.sent_lately) {
                self.send_heartbeat(core, peer);
            }
        }
        true
    }

    /// The process stood still: answers may wait unread, so nobody counts as silent yet.
    pub(crate) fn forgive_stall(&mut self, now: Time) {
        for progress in self.peers.values_mut() {
            progress.last_heard = now;
        }
    }

    pub(crate) fn on_accepted(&mut self, core: &mut Core, from: NodeId, accepted: Accepted) {
        if accepted.ballot != self.ballot() {
            if core.plant.has(Planted::AckOfOlderBallot) {
                self.count_foreign(core, from, accepted);
            }
            return;
        }
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        let end = core.acceptor.log().end();
        let (received, settled) = match accepted.standing {
            Standing::Unsynced { received } => (received, received),
            Standing::Synced {
                persisted,
                received,
            } => (received, persisted),
        };
        let unsent = accepted.confirm > self.confirm.sent();
        if received > end || settled > received || unsent {
            return;
        }
        progress.last_heard = core.now;
        progress.echoed = progress.echoed.max(accepted.confirm);
        match accepted.standing {
            // Only a late one: a log that came under the ballot stays under it.
            Standing::Unsynced { .. } if progress.synced => {}
            Standing::Unsynced { .. } => progress.heard(received, settled, accepted.gap),
            Standing::Synced { persisted, .. } => {
                progress.persisted = progress.persisted.max(persisted);
                if !progress.synced {
                    progress.came_under(received);
                }
                progress.heard(received, settled, accepted.gap);
            }
        }
        self.advance(core);
    }

    /// The planted mistake: an acknowledgement is counted, whatever ballot it was given to.
    fn count_foreign(&mut self, core: &mut Core, from: NodeId, accepted: Accepted) {
        if let Standing::Synced { persisted, .. } = accepted.standing
            && let Some(progress) = self.peers.get_mut(&from)
            && persisted <= core.acceptor.log().end()
        {
            progress.persisted = progress.persisted.max(persisted);
            self.advance(core);
        }
    }

    /// Entries for a follower came from the store.
    pub(crate) fn on_loaded(&mut self, node: NodeId, ballot: Ballot, entries: Vec<Entry>) {
        if let Some(progress) = self.peers.get_mut(&node)
            && ballot == self.leadership.ballot
            && entries
                .first()
                .is_some_and(|entry| entry.slot == progress.next)
        {
            progress.loaded = entries.into();
        }
    }

    /// Decides what a quorum has made durable, and confirms what a quorum has echoed.
    pub(crate) fn advance(&mut self, core: &mut Core) {
        let ballot = self.ballot();
        let own = core
            .acceptor
            .durable()
            .end_under(ballot)
            .unwrap_or(Slot::NONE);
        let mut persisted: Vec<Slot> = self.peers.values().map(|peer| peer.persisted).collect();
        persisted.push(own);
        let decided = core.quorum.reached(persisted);
        core.acceptor.decide(decided);
        core.apply_decided();
        let established = core.acceptor.log().decided() >= self.new_leader
            || core.plant.has(Planted::ConfirmBeforeNewLeader);
        if established && !self.established {
            self.established = true;
            core.announce(self.role());
        }
        let mut echoed: Vec<_> = self.peers.values().map(|peer| peer.echoed).collect();
        echoed.push(self.confirm.sent());
        self.confirm.reached(core.quorum.reached(echoed));
        if self.established
            && let Some(number) = self.confirm.announce()
        {
            core.output(Output::Confirmed {
                leadership: self.leadership,
                number,
            });
        }
    }

    /// Sends what can be sent: entries to who has room for them, a confirm round to everyone.
    pub(crate) fn replicate(&mut self, core: &mut Core) {
        let round = self.confirm.begin();
        for index in 0..core.peers.len() {
            let peer = core.peers[index];
            let sent = self.send_entries(core, peer);
            if round && !sent {
                self.send_heartbeat(core, peer);
            }
        }
        if round {
            // Alone in its cell, a leader is a quorum by itself.
            self.advance(core);
        }
    }

    fn reaches_a_quorum(&self, core: &Core) -> bool {
        let timeout = core.timing.leader_timeout_micros;
        let heard = |peer: &&Progress| core.now.micros_since(peer.last_heard) <= timeout;
        core.quorum
            .is_reached_by(1 + self.peers.values().filter(heard).count())
    }

    fn send_heartbeat(&mut self, core: &mut Core, peer: NodeId) {
        let Some(progress) = self.peers.get_mut(&peer) else {
            return;
        };
        let accept = Accept {
            ballot: self.leadership.ballot,
            first: progress.next,
            entries: Vec::new(),
            decided: core.acceptor.log().decided(),
            confirm: self.confirm.sent(),
        };
        core.send(peer, Body::Accept(accept));
    }

    /// Sends entries to a peer as long as it may be sent more; whether any were.
    fn send_entries(&mut self, core: &mut Core, peer: NodeId) -> bool {
        let ballot = self.leadership.ballot;
        let confirm = self.confirm.sent();
        let Some(progress) = self.peers.get_mut(&peer) else {
            return false;
        };
        let mut any = false;
        while progress.may_send() {
            let log = core.acceptor.log();
            let last = if progress.synced {
                log.end()
            } else {
                *progress.sync_end.get_or_insert(log.end())
            };
            let first = progress.next;
            if first > last {
                break;
            }
            let entries = if first < log.first() {
                log.fitting(progress.loaded.iter())
            } else {
                log.message_part(first, last)
            };
            let Some(sent) = entries.last().map(|entry| entry.slot) else {
                let load = LoadFor::Follower { node: peer, ballot };
                core.load(load, first, last, LOAD_BYTES_MAX);
                break;
            };
            let decided = log.decided();
            let end = if core.plant.has(Planted::PartialFirstAccept) {
                sent
            } else {
                last
            };
            let body = if progress.synced {
                Body::Accept(Accept {
                    ballot,
                    first,
                    entries,
                    decided,
                    confirm,
                })
            } else {
                Body::Sync(Sync {
                    ballot,
                    first,
                    entries,
                    end,
                    decided,
                    confirm,
                })
            };
            core.send(peer, body);
            progress.sent(sent);
            progress.sent_lately = true;
            any = true;
        }
        any
    }
}
