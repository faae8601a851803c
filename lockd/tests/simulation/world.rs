//! The network between nodes and clients, the faults, and what must hold at every instant.

use std::collections::BTreeMap;

use lockd_protocol::Token;
use paxos::Message;

use super::Seen;
use super::client::{Client, LOCKS, Link};
use super::dice::Dice;
use super::node::{NODES, Node};

const CLIENTS: u64 = 6;

/// Clocks are off by up to this, per mille.
const RATE_MAX: i64 = 10;

pub(crate) struct World {
    seed: u64,
    /// True time, milliseconds.
    now: u64,
    dice: Dice,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    /// Between nodes: when it arrives, from, to.
    messages: Vec<(u64, u64, u64, Message)>,
    /// Links that their clients gave up: until when the node keeps them.
    ghosts: Vec<(u64, Link)>,
    /// Pairs of nodes between which nothing gets through, in that direction.
    cut: Vec<(u64, u64)>,
    faults: bool,
    highest: BTreeMap<u64, Token>,
    counted: Vec<usize>,
    seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let rate = |dice: &mut Dice| {
            let span = u64::try_from(2 * RATE_MAX + 1).expect("positive");
            i64::try_from(dice.below(span)).expect("small") - RATE_MAX
        };
        let nodes = (1..=NODES)
            .map(|id| Node::new(id, rate(&mut dice)))
            .collect();
        let clients = (1..=CLIENTS).map(|id| Client::new(id, rate(&mut dice)));
        let clients: Vec<Client> = clients.collect();
        World {
            seed,
            now: 0,
            counted: vec![0; clients.len()],
            nodes,
            clients,
            dice,
            messages: Vec::new(),
            ghosts: Vec::new(),
            cut: Vec::new(),
            faults: true,
            highest: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        let mut seen = self.seen;
        self.clients.iter().for_each(|client| seen.add(client.seen));
        seen
    }

    pub(crate) fn run_with_faults(&mut self, millis: u64) {
        for _ in 0..millis {
            self.break_something();
            self.want_something();
            self.step();
        }
    }

    /// Ends all faults; everybody must come to rest, and everything be given back.
    pub(crate) fn heal_and_finish(&mut self) {
        self.faults = false;
        self.cut.clear();
        for node in &mut self.nodes {
            node.pause(0);
            node.start(self.now);
        }
        for _ in 0..60_000 {
            self.step();
            if self.now.is_multiple_of(1_000) && self.is_at_rest() {
                return;
            }
        }
        let now = self.now;
        let idle: Vec<bool> = self.clients.iter().map(Client::is_idle).collect();
        let counts: Vec<_> = self.nodes.iter_mut().map(|node| node.counts(now)).collect();
        panic!(
            "seed {}: no rest in a minute without faults; clients idle: {idle:?}; \
             locks and sessions of each node: {counts:?}",
            self.seed
        );
    }

    fn is_at_rest(&mut self) -> bool {
        let now = self.now;
        self.clients.iter().all(Client::is_idle)
            && self.nodes.iter_mut().all(|node| {
                let counts = node.counts(now);
                counts.is_some_and(|(locks, sessions)| locks == 0 && sessions == CLIENTS)
            })
    }

    fn step(&mut self) {
        self.now += 1;
        self.connect_clients();
        self.move_client_frames();
        self.move_messages();
        self.turn_nodes();
        self.deliver_to_clients();
        for client in &mut self.clients {
            client.act(self.now, &mut self.dice);
        }
        self.check();
    }

    /// No two clients believe in the same lock, and tokens rise.
    fn check(&mut self) {
        let mut holders: BTreeMap<u64, Token> = BTreeMap::new();
        for client in &self.clients {
            for (lock, token) in client.believes(self.now) {
                if let Some(other) = holders.insert(lock, token) {
                    panic!(
                        "seed {} at {} ms: two clients hold lock {lock}: tokens {token}, {other}",
                        self.seed, self.now
                    );
                }
            }
        }
        for (client, counted) in self.clients.iter().zip(&mut self.counted) {
            for (lock, token) in client.grants.iter().skip(*counted) {
                let highest = self.highest.entry(*lock).or_default();
                let stale = token <= highest && holders.get(lock) == Some(token);
                assert!(!stale, "seed {}: token {token} after {highest}", self.seed);
                *highest = (*highest).max(*token);
            }
            *counted = client.grants.len();
        }
        assert!(holders.len() <= usize::try_from(LOCKS).expect("few"));
    }

    fn want_something(&mut self) {
        for client in &mut self.clients {
            if client.is_idle() && self.dice.once_in(150) {
                client.want(self.now, &mut self.dice);
            }
        }
    }

    fn break_something(&mut self) {
        let node = usize::try_from(self.dice.below(NODES)).expect("few");
        // Some seeds are calm, so that sessions live long; some are wild.
        match self.dice.below(8_000 * (1 + self.seed % 4)) {
            0..4 if self.nodes.iter().all(Node::is_up) => {
                self.nodes[node].crash();
                self.seen.crashes += 1;
            }
            4..14 => self.nodes[node].start(self.now),
            14..20 => {
                let until = self.now + self.dice.below(3_500);
                self.nodes[node].pause(until);
            }
            20..26 => {
                let pair = (1 + self.dice.below(NODES), 1 + self.dice.below(NODES));
                self.cut.push(pair);
            }
            26..40 => self.cut.clear(),
            40..70 => {
                let client = usize::try_from(self.dice.below(CLIENTS)).expect("few");
                let again = self.dice.below(6_000);
                self.drop_link(client, again);
            }
            _ => {}
        }
    }

    fn drop_link(&mut self, client: usize, again_after: u64) {
        self.seen.cuts += 1;
        if let Some(link) = self.clients[client].disconnect(self.now, again_after) {
            let kept = self.now + self.dice.below(3_000);
            self.ghosts.push((kept, link));
        }
    }

    fn connect_clients(&mut self) {
        for client in &mut self.clients {
            if client.link.is_some() || self.now < client.connect_at {
                continue;
            }
            let id = client.hint.take().unwrap_or(1 + self.dice.below(NODES));
            let node = &mut self.nodes[usize::try_from(id - 1).expect("few")];
            match node.join() {
                Some(connection) => {
                    let link = Link::new(self.now, id, node.life(), connection);
                    client.connected(self.now, link);
                }
                None => client.connect_at = self.now + 100,
            }
        }
    }

    /// Frames from clients, those of given-up connections too, arrive in order but late.
    fn move_client_frames(&mut self) {
        let now = self.now;
        let live = self.clients.iter_mut().filter_map(|c| c.link.as_mut());
        let ghosts = self.ghosts.iter_mut().map(|(_, link)| link);
        for link in live.chain(ghosts) {
            let node = &mut self.nodes[usize::try_from(link.node - 1).expect("few")];
            if node.life() != link.life || !node.listens(now) {
                continue;
            }
            while link.up.front().is_some_and(|(sent, _)| *sent < now) {
                // Sometimes the whole stream is held up.
                if self.faults && self.dice.once_in(60) {
                    let late = now + self.dice.below(1_500);
                    link.up.iter_mut().for_each(|(at, _)| *at = late);
                    break;
                }
                if let Some((_, frame)) = link.up.pop_front() {
                    node.client_frame(now, link.connection, frame);
                }
            }
        }
        for (kept, link) in &self.ghosts {
            if *kept <= now {
                let node = &mut self.nodes[usize::try_from(link.node - 1).expect("few")];
                if node.life() == link.life {
                    node.leave(link.connection);
                }
            }
        }
        self.ghosts.retain(|(kept, _)| *kept > now);
    }

    fn move_messages(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.messages = later;
        let due: Vec<(u64, u64, u64, Message)> = due;
        for (_, from, to, message) in due {
            let node = &mut self.nodes[usize::try_from(to - 1).expect("few")];
            if node.listens(now) && !self.cut.contains(&(from, to)) {
                node.peer_message(now, from, message);
            }
        }
    }

    fn turn_nodes(&mut self) {
        for id in 1..=NODES {
            let sync = self.dice.below(4);
            let node = &mut self.nodes[usize::try_from(id - 1).expect("few")];
            for (to, message) in node.turn(self.now, sync) {
                if self.faults && self.dice.once_in(200) {
                    continue;
                }
                let arrives = self.now + self.dice.below(4);
                self.messages.push((arrives, id, to, message));
            }
        }
    }

    fn deliver_to_clients(&mut self) {
        for at in 0..self.clients.len() {
            let now = self.now;
            let Some(link) = &mut self.clients[at].link else {
                continue;
            };
            let node = &mut self.nodes[usize::try_from(link.node - 1).expect("few")];
            if node.life() == link.life {
                let bytes = node.take_bytes(link.connection);
                if !bytes.is_empty() {
                    let held_up = self.faults && self.dice.once_in(80);
                    let latency = if held_up { self.dice.below(1_500) } else { 1 };
                    let before = link.down.back().map_or(0, |(at, _)| *at);
                    link.down.push_back((before.max(now + latency), bytes));
                }
            }
            let mut over = false;
            while let Some(link) = &mut self.clients[at].link
                && link.down.front().is_some_and(|(due, _)| *due <= now)
            {
                let Some((_, bytes)) = link.down.pop_front() else {
                    break;
                };
                over |= self.clients[at].receive(now, &bytes, &mut self.dice);
            }
            if over || self.clients[at].hears_nothing(now) {
                let again = 1 + self.dice.below(60);
                self.drop_link(at, again);
            }
        }
    }
}
