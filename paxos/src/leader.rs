//! Phase 2: a leadership from its `NewLeader` entry to its end.
//!
//! It proposes, replicates, counts what a quorum has made durable, and confirms itself. It does
//! not know how it was elected, and another part decides what follows when it steps down.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::confirm::Confirm;
use crate::core::Core;
use crate::interface::{Output, PeerStatus, ProposeError, ReconfigureError, Role};
use crate::limits::{LEARNER_LAG_MAX, PAYLOAD_BYTES_MAX, WINDOW_BYTES_MAX};
use crate::membership::Membership;
use crate::message::{Accept, Accepted, Body, Promise, Standing, Sync};
use crate::planted::Planted;
use crate::progress::Progress;
use crate::serve;
use crate::types::{Ballot, ConfirmNumber, Entry, EntryKind, NodeId, Slot, Time};

/// A leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    ballot: Ballot,
    /// The slot of its first entry. What was adopted lies before it. None if the log that was
    /// adopted ends its epoch: nothing follows that, so this leadership only completes it.
    new_leader: Option<Slot>,
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
        let lax = core.plant.has(Planted::ProposalAfterStop);
        let stops = core.acceptor.log().stop().is_some() && !lax;
        if !stops {
            let entry = Entry::new(adopted.next(), ballot, EntryKind::NewLeader, Bytes::new());
            core.acceptor.append_own(entry);
        }
        let progress = |peer: &NodeId| {
            let known = promises.get(peer).map(|promise| promise.decided);
            // Of who has not promised nothing is known: its answer to a heartbeat tells.
            Progress::new(known.unwrap_or(adopted.next()).next(), core.now)
        };
        Leader {
            ballot,
            new_leader: (!stops).then_some(adopted.next()),
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
            leadership: self.ballot,
            established: self.established,
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    pub(crate) fn ballot(&self) -> Ballot {
        self.ballot
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
        if log.stop().is_some() && !core.plant.has(Planted::ProposalAfterStop) {
            return Err(ProposeError::Stopping);
        }
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

    /// Ends the epoch with an entry that names the next one.
    pub(crate) fn stop(
        &mut self,
        core: &mut Core,
        next: &Membership,
    ) -> Result<Slot, ReconfigureError> {
        if core.acceptor.log().stop().is_some() {
            return Err(ReconfigureError::Stopping);
        }
        next.validate()?;
        let present = &core.membership;
        if next.members == present.members
            && next.quorums == present.quorums
            && next.context == present.context
        {
            return Err(ReconfigureError::Unchanged);
        }
        let decided = core.acceptor.log().decided();
        let earliest = Time(
            core.now
                .0
                .saturating_sub(core.timing.leader_timeout_micros * 2),
        );
        for node in &next.members {
            if present.contains(*node) {
                continue;
            }
            if *node <= present.newest {
                return Err(ReconfigureError::NumberUsed {
                    node: *node,
                    newest: present.newest,
                });
            }
            let durable = core.learners.durable(*node, earliest).unwrap_or(Slot::NONE);
            if durable.0.saturating_add(LEARNER_LAG_MAX) < decided.0 || durable == Slot::NONE {
                return Err(ReconfigureError::NotCaughtUp {
                    node: *node,
                    durable,
                    decided,
                });
            }
        }
        let slot = core.acceptor.log().end().next();
        let entry = Entry::new(slot, self.ballot, EntryKind::Stop, next.encode());
        core.acceptor.append_own(entry);
        Ok(slot)
    }

    /// The number of a confirm round yet to be sent; none once the entry that ends the epoch is in
    /// the log, because the next epoch's leader may already answer.
    pub(crate) fn confirm(&mut self, core: &Core) -> Option<ConfirmNumber> {
        if core.acceptor.log().stop().is_some() && !core.plant.asks_after_stop() {
            return None;
        }
        let number = self.confirm.ask();
        Some(core.plant.number_to_await(number))
    }

    /// The epoch is over: tells the followers, who cannot be told later.
    pub(crate) fn farewell(&mut self, core: &mut Core) {
        for index in 0..core.peers.len() {
            self.send_heartbeat(core, core.peers[index]);
        }
    }

    /// The last slot that every follower has that was heard lately.
    pub(crate) fn slowest_live(&self, core: &Core) -> Option<Slot> {
        let timeout = core.timing.leader_timeout_micros;
        let live = |peer: &&Progress| core.now.micros_since(peer.last_heard) <= timeout;
        self.peers
            .values()
            .filter(live)
            .map(|peer| peer.persisted)
            .min()
    }

    #[cfg(feature = "model")]
    pub(crate) fn heartbeat_is_due(&mut self, now: Time) {
        self.next_heartbeat = now;
        for progress in self.peers.values_mut() {
            progress.sent_lately = false;
        }
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
            let far_behind = progress.next < core.acceptor.log().first();
            if !std::mem::take(&mut progress.sent_lately) {
                self.send_heartbeat(core, peer);
            }
            if far_behind {
                serve::hint(core, peer);
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
            self.count_planted(core, from, accepted);
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
            // It has been told, or will be with the next heartbeat.
            Standing::Unsynced { .. } if progress.lacks_ballot(received) => {}
            Standing::Unsynced { .. } => {
                progress.heard(received, settled, accepted.gap);
                // What it has learnt from others meanwhile need not be exchanged any more.
                let exchanged = progress.sync_end.map_or(end, |end| end.max(received));
                progress.sync_end = progress.sync_end.map(|_| exchanged);
                if received == exchanged {
                    progress.lacks_only_the_ballot();
                }
            }
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

    /// The planted mistakes: an acknowledgement or an echo counts, whatever ballot it was given to.
    fn count_planted(&mut self, core: &mut Core, from: NodeId, accepted: Accepted) {
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        if core.plant.has(Planted::AckOfOlderBallot)
            && let Standing::Synced { persisted, .. } = accepted.standing
            && persisted <= core.acceptor.log().end()
        {
            progress.persisted = progress.persisted.max(persisted);
            self.advance(core);
        } else if core.plant.has(Planted::EchoOfOlderBallot)
            && accepted.confirm <= self.confirm.sent()
        {
            progress.echoed = progress.echoed.max(accepted.confirm);
            self.advance(core);
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
        let decided = core.quorum.accepted(persisted);
        core.acceptor.decide(decided);
        core.apply_decided();
        let decided = core.acceptor.log().decided();
        let first_decided = self.new_leader.is_some_and(|first| first <= decided);
        let established = first_decided || core.plant.has(Planted::ConfirmBeforeNewLeader);
        if established && !self.established {
            self.established = true;
            core.announce(self.role());
        }
        let mut echoed: Vec<_> = self.peers.values().map(|peer| peer.echoed).collect();
        echoed.push(self.confirm.sent());
        self.confirm.reached(core.quorum.accepted(echoed));
        if self.established
            && let Some(number) = self.confirm.announce()
        {
            core.output(Output::Confirmed {
                leadership: self.ballot,
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
            .is_accepted_by(1 + self.peers.values().filter(heard).count())
    }

    fn send_heartbeat(&mut self, core: &mut Core, peer: NodeId) {
        let Some(progress) = self.peers.get_mut(&peer) else {
            return;
        };
        let accept = Accept {
            ballot: self.ballot,
            first: progress.next,
            entries: Vec::new(),
            decided: core.acceptor.log().decided(),
            confirm: self.confirm.sent(),
        };
        core.send(peer, Body::Accept(accept));
    }

    /// Sends entries to a peer as long as it may be sent more; whether any were.
    fn send_entries(&mut self, core: &mut Core, peer: NodeId) -> bool {
        let ballot = self.ballot;
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
            let entries = log.message_part(first, last);
            let sent = match entries.last() {
                Some(entry) => entry.slot,
                None if progress.lacks_ballot(last) => last,
                // Only what is in memory is sent; with the next heartbeat it is told to ask.
                None => break,
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
