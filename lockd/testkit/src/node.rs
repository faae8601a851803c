//! One node: the real core, and a log in memory that is as fast as it is forgetful.

use std::collections::BTreeMap;

use lockd::server::core::clients::ConnectionId;
use lockd::server::core::compaction::CompactionBounds;
use lockd::server::core::history::HistoryBounds;
use lockd::server::core::quota::Quotas;
use lockd::server::core::replay::Replay;
use lockd::server::core::{Core, Load, Settings};
use lockd_protocol::client::ClientFrame;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{Config, Entry, Membership, Message, Recovered, Replica, Slot, Time, Timing};

use crate::KitError;

/// A node of a cell in memory. Its log is never cut: a test ends before that would be of use.
pub(crate) struct Node {
    core: Core,
    log: BTreeMap<Slot, Entry>,
}

impl Node {
    pub(crate) fn new(
        cell: CellId,
        node: NodeId,
        membership: Membership,
        signer: Signer,
        now: Time,
    ) -> Result<Node, KitError> {
        let config = Config {
            node: paxos::NodeId(node.0),
            seeds: Vec::new(),
            timing: Timing::default(),
            seed: node.0,
        };
        let replica = Replica::new(config, Recovered::fresh(membership), now)
            .map_err(|error| KitError::Cell(error.to_string()))?;
        let settings = Settings {
            cell,
            node,
            signer,
            compaction: CompactionBounds {
                entries: u64::MAX,
                bytes: u64::MAX,
            },
            quotas: Quotas::default(),
            history: HistoryBounds::default(),
        };
        Ok(Node {
            core: Core::new(settings, replica, Replay::default(), now),
            log: BTreeMap::new(),
        })
    }

    pub(crate) fn leads(&self) -> bool {
        self.core.is_established()
    }

    pub(crate) fn next_turn(&self) -> Time {
        self.core.next_turn()
    }

    pub(crate) fn join(&mut self, client: u64) -> ConnectionId {
        self.core.operator_joined(format!("client {client}"))
    }

    pub(crate) fn leave(&mut self, connection: ConnectionId) {
        self.core.client_left(connection);
    }

    pub(crate) fn hear_client(&mut self, now: Time, from: ConnectionId, frame: ClientFrame) {
        self.core.client_frame(now, from, frame);
    }

    pub(crate) fn hear_peer(&mut self, now: Time, from: NodeId, message: Message) {
        self.core.peer_message(now, from, message);
    }

    /// What is to be written to a client.
    pub(crate) fn take_outgoing(&mut self, connection: ConnectionId) -> Vec<u8> {
        let outgoing = self.core.take_outgoing(connection, Vec::new());
        outgoing.map_or_else(Vec::new, |outgoing| outgoing.bytes)
    }

    /// Acts on everything handed in. Gives what is for the peers, and whether anything was done.
    ///
    /// # Panics
    /// If the core says that it cannot go on, which would be a mistake of lockd's.
    pub(crate) fn turn(&mut self, now: Time) -> (Vec<(NodeId, Message)>, bool) {
        let work = self.core.turn(now).expect("nothing here is ever faulty");
        let mut moved = !work.messages.is_empty();
        for batch in work.writes {
            moved = true;
            if let Some(from) = batch.truncate_from {
                self.log.retain(|slot, _| *slot < from);
            }
            let entries = batch.entries.into_iter().map(|entry| (entry.slot, entry));
            self.log.extend(entries);
            self.core.persisted(now, batch.id);
        }
        for load in work.loads {
            moved = true;
            let entries = self.read(load);
            self.core.loaded(now, load.id, entries);
        }
        (work.messages, moved)
    }

    fn read(&self, load: Load) -> Vec<Entry> {
        let mut bytes = 0;
        let wanted = self.log.range(load.first..=load.last);
        let fits = |(_, entry): &(&Slot, &Entry)| {
            let first = bytes == 0;
            bytes += entry.payload.len() + 64;
            first || bytes <= load.bytes_max
        };
        wanted
            .take_while(fits)
            .map(|(_, entry)| entry.clone())
            .collect()
    }
}
