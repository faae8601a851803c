//! How a replica comes to know what is decided when no leader tells it: it asks.
//!
//! Followers that are far behind ask, members that missed the end of an epoch, nodes without a
//! vote, and nodes whose disk damaged an entry. One question is open at a time; what has been cut
//! off every log comes as a snapshot, part by part.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::core::Core;
use crate::limits::{OPEN_SLOTS_MAX, REPAIRS_MAX};
use crate::message::{Body, Chunk, Learn, Learned, Offer};
use crate::planted::Planted;
use crate::serve;
use crate::transfer::Transfer;
use crate::types::{Entry, NodeId, Slot, SnapshotMeta, Time};

/// The questions of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "model"), derive(Hash))]
pub(crate) struct Learning {
    asked: Option<Asked>,
    /// Whom to ask next, if someone offered himself.
    helper: Option<NodeId>,
    /// When a node without a vote turned to another helper last.
    turned_at: Time,
    /// Who could not help lately.
    unhelpful: Option<NodeId>,
    /// Counts through those who might help.
    turn: usize,
    /// When a node that only learns asks again.
    next_question: Time,
    transfer: Option<Transfer>,
    /// Decided slots that the disk damaged.
    damaged: BTreeSet<Slot>,
    /// The damaged slot that was asked for last, and who does not know that it was decided.
    unknown: (Slot, BTreeSet<NodeId>),
    /// Where the readable log ended when the store was last asked for what follows.
    reread_at: Slot,
}

/// The question that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    node: NodeId,
    first: Slot,
    at: Time,
}

impl Learning {
    pub(crate) fn new(now: Time, end: Slot) -> Learning {
        Learning {
            asked: None,
            helper: None,
            turned_at: now,
            unhelpful: None,
            turn: 0,
            next_question: now,
            transfer: None,
            damaged: BTreeSet::new(),
            unknown: (Slot::NONE, BTreeSet::new()),
            reread_at: end,
        }
    }

    /// A peer knows more than this replica.
    pub(crate) fn offered(&mut self, core: &mut Core, from: NodeId) {
        self.helper = Some(from).filter(|from| self.unhelpful != Some(*from));
        if self.asked.is_none() && self.transfer.is_none() {
            self.ask_for_more(core);
        }
    }

    /// What becomes of the timers: nobody answered, and this node is the next to be asked.
    #[cfg(feature = "model")]
    pub(crate) fn ask_now(&mut self, core: &mut Core, node: NodeId) {
        self.asked = None;
        self.helper = Some(node);
        self.ask_for_more(core);
    }

    /// The disk damaged the entry of a decided slot.
    pub(crate) fn note_damaged(&mut self, core: &mut Core, slot: Slot) {
        if let Some(own) = core.acceptor.snapshot().filter(|own| slot <= own.slot) {
            // Of use to others only, who may have none to give back: it is cut off.
            let own = own.clone();
            if core.acceptor.keep_from() <= slot {
                core.acceptor.snapshot_taken(own, slot.next());
            }
            return;
        }
        if core.acceptor.durable().is_unwritten(slot) {
            // What is there is an older log's. A copy must not go ahead of what precedes it.
            return;
        }
        let kept = core.acceptor.keep_from() <= slot && slot <= core.acceptor.log().decided();
        if kept && self.damaged.len() < REPAIRS_MAX {
            self.damaged.insert(slot);
        }
        if let Some(entry) = core.acceptor.log().get(slot).cloned() {
            core.acceptor.repair(entry);
        }
    }

    /// An entry that was damaged is whole again.
    pub(crate) fn repaired(&mut self, slot: Slot) {
        self.damaged.remove(&slot);
    }

    pub(crate) fn on_learned(&mut self, core: &mut Core, from: NodeId, learned: Learned) {
        let Some(asked) = self.asked.filter(|asked| asked.node == from) else {
            return;
        };
        let first = learned.entries.first().map(|entry| entry.slot);
        if first.is_some_and(|first| first != asked.first) {
            return;
        }
        self.asked = None;
        self.note_unknown(from, asked.first, learned.decided);
        let repaired = self.repair_with(core, &learned.entries);
        let before = core.acceptor.log().decided();
        core.acceptor.learn(learned.entries);
        core.apply_decided();
        let decided = core.acceptor.log().decided();
        let more = learned.decided > decided;
        // Who cannot give what it knows is of no use; who is no further need not be asked again.
        let useful = decided > before || repaired;
        let more = more || self.next_damaged(core).is_some();
        self.unhelpful = (more && !useful).then_some(from);
        self.helper = (more && useful).then_some(from);
        let patience = 4 * core.timing.leader_timeout_micros;
        let long = core.now.micros_since(self.turned_at) >= patience;
        if !core.is_member() && long && !core.plant.has(Planted::LearnerUnheard) {
            // Who wants to join goes around the members, so that the leader hears how far it is.
            self.turned_at = core.now;
            self.next_question = core.now;
            self.helper = None;
        }
        self.go_on(core);
    }

    pub(crate) fn on_offer(&mut self, core: &mut Core, from: NodeId, offer: Offer) {
        let asked = self.asked.take_if(|asked| asked.node == from);
        let decided = core.acceptor.log().decided();
        let newer = offer.meta.slot > decided || core.plant.has(Planted::OlderSnapshot);
        if asked.is_none() || (!newer && !self.mends(core, &offer.meta)) {
            return;
        }
        let transfer = Transfer::begin(core, from, offer.meta);
        self.transfer = Some(transfer);
    }

    pub(crate) fn on_chunk(&mut self, core: &mut Core, from: NodeId, chunk: Chunk) {
        if let Some(transfer) = &mut self.transfer
            && !transfer.on_chunk(core, from, chunk)
        {
            self.transfer = None;
            self.ask_for_more(core);
        }
    }

    pub(crate) fn on_chunk_stored(&mut self, core: &mut Core, meta: &SnapshotMeta, stored: u64) {
        if let Some(transfer) = &mut self.transfer {
            transfer.on_stored(core, meta, stored);
        }
    }

    /// The snapshot is complete and checked: whether it was fetched.
    pub(crate) fn on_ready(&mut self, meta: &SnapshotMeta) -> bool {
        let fetched = self.transfer.take_if(|transfer| transfer.meta() == meta);
        self.helper = fetched.as_ref().map(Transfer::from).or(self.helper);
        fetched.is_some()
    }

    /// The last damaged entry that a snapshot makes dispensable.
    pub(crate) fn damaged_up_to(&self, slot: Slot) -> Option<Slot> {
        self.damaged.range(..=slot).next_back().copied()
    }

    /// Entries up to here are not needed any more: those of them that were damaged.
    pub(crate) fn dispense_with(&mut self, last: Slot) -> BTreeSet<Slot> {
        let needed = self.damaged.split_off(&last.next());
        std::mem::replace(&mut self.damaged, needed)
    }

    /// Whether a snapshot that is not newer than the log is still of use: others have cut off what
    /// is damaged here.
    fn mends(&self, core: &Core, meta: &SnapshotMeta) -> bool {
        let own = core.acceptor.snapshot().map_or(Slot::NONE, |own| own.slot);
        meta.slot > own && self.damaged_up_to(meta.slot).is_some()
    }

    /// Asks on where it was interrupted: by a full disk queue, or by the end of an epoch.
    pub(crate) fn go_on(&mut self, core: &mut Core) {
        if self.helper.is_some() && self.asked.is_none() && self.transfer.is_none() {
            self.ask_for_more(core);
        }
    }

    /// Reads the own log on behind an entry that has been put right.
    pub(crate) fn reread(&mut self, core: &mut Core) {
        let end = core.acceptor.log().end();
        if let Some(claimed) = core.acceptor.damaged()
            && end != self.reread_at
            && core.acceptor.durable().is_clean()
        {
            self.reread_at = end;
            serve::load_own(core, claimed);
        }
    }

    pub(crate) fn next_timer(&self, core: &Core) -> Option<Time> {
        if let Some(asked) = self.asked {
            return Some(asked.at.plus_micros(core.timing.leader_timeout_micros));
        }
        if let Some(transfer) = &self.transfer {
            return Some(transfer.next_timer(core));
        }
        self.needs_help(core).then_some(self.next_question)
    }

    /// Asks somebody else when there is no answer; a learner asks again and again.
    pub(crate) fn tick(&mut self, core: &mut Core) {
        let patience = core.timing.leader_timeout_micros;
        if let Some(asked) = self.asked
            && core.now.micros_since(asked.at) >= patience
        {
            self.asked = None;
            // Somebody else may have offered help meanwhile.
            self.helper = self.helper.filter(|helper| *helper != asked.node);
            self.next_question = core.now;
        }
        if let Some(transfer) = &mut self.transfer
            && !transfer.tick(core)
        {
            self.transfer = None;
            self.helper = None;
            self.next_question = core.now;
        }
        let idle = self.asked.is_none() && self.transfer.is_none();
        if idle && self.needs_help(core) && core.now >= self.next_question {
            self.ask_for_more(core);
        }
    }

    /// Whether to ask without having been told to.
    fn needs_help(&self, core: &Core) -> bool {
        !core.is_member() || !self.damaged.is_empty() || core.acceptor.damaged().is_some()
    }

    /// Whether this node has to let others lead: it cannot read an entry that it knows to be
    /// decided, and so many others do not know that it was that they need nobody else to find out.
    ///
    /// Those of them that have it have it undecided, which they cannot give away. A new leader that
    /// is elected among them adopts it and decides it again.
    pub(crate) fn leaves_the_lead(&self, core: &Core) -> bool {
        let (slot, nodes) = &self.unknown;
        let others = nodes.iter().filter(|node| core.peers.contains(node));
        let others = others.count();
        self.damaged.contains(slot)
            && core.quorum.is_prepared_by(others)
            && core.quorum.is_accepted_by(others)
    }

    /// Somebody who was asked from `first` on has so much decided.
    fn note_unknown(&mut self, node: NodeId, first: Slot, decided: Slot) {
        if !self.damaged.contains(&first) {
            return;
        }
        if self.unknown.0 != first {
            self.unknown = (first, BTreeSet::new());
        }
        if decided < first {
            self.unknown.1.insert(node);
        } else {
            self.unknown.1.remove(&node);
        }
    }

    /// Puts copies of damaged entries back. A decided slot has one value, so any copy is right.
    /// Whether there was a copy of any.
    fn repair_with(&mut self, core: &mut Core, entries: &[Entry]) -> bool {
        let damaged = entries
            .iter()
            .filter(|entry| self.damaged.contains(&entry.slot));
        let copies: Vec<Entry> = damaged.cloned().collect();
        let any = !copies.is_empty();
        copies
            .into_iter()
            .for_each(|entry| core.acceptor.repair(entry));
        any
    }

    /// Damaged entries that nobody was asked for, from the first on as far as one answer may go.
    fn next_damaged(&self, core: &Core) -> Option<(Slot, Slot)> {
        let durable = core.acceptor.durable();
        let mut missing = self
            .damaged
            .iter()
            .filter(|slot| !durable.is_repairing(**slot));
        let first = *missing.next()?;
        let near = |slot: &&Slot| slot.0 - first.0 <= REPAIRS_MAX as u64;
        let last = missing.take_while(near).last().copied();
        Some((first, last.unwrap_or(first)))
    }

    fn ask_for_more(&mut self, core: &mut Core) {
        self.next_question = core.now.plus_micros(core.timing.heartbeat_micros);
        if core.acceptor.is_stopping() || !core.acceptor.has_room_to_learn() {
            return;
        }
        let Some(node) = self.helper.or_else(|| self.choose_helper(core)) else {
            return;
        };
        let decided = core.acceptor.log().decided();
        // Damaged entries come first: there are few of them.
        let next = decided.next();
        let (first, last) = match self.next_damaged(core) {
            Some(range) => range,
            None => (next, Slot(next.0.saturating_add(OPEN_SLOTS_MAX))),
        };
        self.asked = Some(Asked {
            node,
            first,
            at: core.now,
        });
        let durable = core.acceptor.durable().clean_end().min(decided);
        core.send(
            node,
            Body::Learn(Learn {
                first,
                last,
                durable,
            }),
        );
    }

    /// One after the other of those who may know something.
    fn choose_helper(&mut self, core: &Core) -> Option<NodeId> {
        let candidates = core.peers.iter().chain(&core.seeds);
        let candidates: Vec<NodeId> = candidates.copied().collect();
        self.turn = self.turn.wrapping_add(1);
        let index = self.turn.checked_rem(candidates.len())?;
        candidates.get(index).copied()
    }
}

/// Not whose turn it is nor when: a checker asks whom and when it likes.
#[cfg(feature = "model")]
impl std::hash::Hash for Learning {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let asked = self.asked.map(|asked| (asked.node, asked.first));
        (asked, self.helper, self.unhelpful).hash(state);
        (&self.transfer, &self.damaged, &self.unknown, self.reread_at).hash(state);
    }
}
