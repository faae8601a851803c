//! Which faults happen when. How they act is the business of those whom they befall.

use super::invariants::{Verdict, Violation, expiry};
use super::network::End;
use super::world::{Event, World};

/// The kinds of faults; their order is that of the weights in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NodeCrash,
    AllCrash,
    NodePause,
    LongNodePause,
    ClientPause,
    ClientSuspend,
    ClientCrash,
    ClientCut,
    ConnectionDrop,
    OneWayCut,
    Partition,
    SlowDisk,
    StuckDisk,
    GatewayCrash,
    GatewayPause,
    AdminLinkBreak,
    DatabaseCrash,
    MembershipChange,
    DiskDamage,
}

pub(super) const KINDS: [Kind; 19] = [
    Kind::NodeCrash,
    Kind::AllCrash,
    Kind::NodePause,
    Kind::LongNodePause,
    Kind::ClientPause,
    Kind::ClientSuspend,
    Kind::ClientCrash,
    Kind::ClientCut,
    Kind::ConnectionDrop,
    Kind::OneWayCut,
    Kind::Partition,
    Kind::SlowDisk,
    Kind::StuckDisk,
    Kind::GatewayCrash,
    Kind::GatewayPause,
    Kind::AdminLinkBreak,
    Kind::DatabaseCrash,
    Kind::MembershipChange,
    Kind::DiskDamage,
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::NodeCrash => "node crash",
            Kind::AllCrash => "all nodes crash",
            Kind::NodePause => "node pause",
            Kind::LongNodePause => "node pause longer than a TTL",
            Kind::ClientPause => "client pause",
            Kind::ClientSuspend => "client suspend",
            Kind::ClientCrash => "client crash",
            Kind::ClientCut => "client cut off, one way or both",
            Kind::ConnectionDrop => "connection of a client drops",
            Kind::OneWayCut => "one-way cut between nodes",
            Kind::Partition => "partition",
            Kind::SlowDisk => "slow disk",
            Kind::StuckDisk => "stuck disk",
            Kind::GatewayCrash => "gateway crash",
            Kind::GatewayPause => "gateway pause",
            Kind::AdminLinkBreak => "admin link breaks",
            Kind::DatabaseCrash => "database crash",
            Kind::MembershipChange => "change of the membership",
            Kind::DiskDamage => "disk damage",
        }
    }
}

impl World {
    pub(super) fn schedule_fault(&mut self) {
        let delay = self.dice.around(self.plan.fault_every);
        self.after(delay, Event::Fault);
    }

    pub(super) fn inject_fault(&mut self) -> Result<(), Violation> {
        self.schedule_fault();
        let Some(kind) = self.draw_kind() else {
            return Ok(());
        };
        let ttl = self.plan.ttl();
        let short = self.dice.around(self.plan.timing.leader_timeout_micros);
        let long = self.dice.between(ttl / 2, 3 * ttl);
        let node = self.draw_node();
        let client = self.dice.index(self.plan.users);
        let gateway = self.dice.index(self.gateways.len());
        let (soon, late) = (self.now + short, self.now + long);
        self.story.landmark(self.now, || {
            format!(
                "fault: {} (node {node}, client {client}, gateway {gateway})",
                kind.name()
            )
        });
        self.kind_happened(kind);
        match kind {
            Kind::NodeCrash => self.crash_node(node, soon),
            Kind::AllCrash => {
                for node in 0..self.nodes.len() {
                    self.crash_node(node, soon);
                }
            }
            Kind::NodePause => self.pause_node(node, soon),
            Kind::LongNodePause => self.pause_node(node, late),
            Kind::ClientPause => self.pause_client(client, late, false),
            Kind::ClientSuspend => self.pause_client(client, late, true),
            Kind::ClientCrash => self.crash_client(client, Some(late)),
            Kind::ClientCut => self.cut_client(client),
            Kind::ConnectionDrop => self.lose_link_of(client)?,
            Kind::OneWayCut => self.cut_some_links(node, self.now + 2 * short),
            Kind::Partition => self.partition(self.now + 2 * short),
            Kind::SlowDisk => self.nodes[node].disk_slow_until = late,
            Kind::StuckDisk => self.nodes[node].disk_stuck_until = late,
            Kind::GatewayCrash => self.crash_gateway(gateway, soon),
            Kind::GatewayPause => self.pause_gateway(gateway, late),
            Kind::AdminLinkBreak => self.gateways[gateway].breaks_in_a_call = true,
            Kind::DatabaseCrash => self.crash_database(soon)?,
            Kind::MembershipChange => self.change_members(),
            Kind::DiskDamage => self.damage_disk(node),
        }
        Ok(())
    }

    /// The leader is cut off from its peers, or stopped, for just so long that another is elected.
    pub(super) fn flap(&mut self) {
        if self.healed_at.is_some() {
            return;
        }
        let lasts = 2 * self.plan.timing.leader_timeout_micros;
        if let Some(leader) = self.leader() {
            if self.dice.per_mille(500) {
                self.pause_node(leader, self.now + lasts);
            } else {
                self.cut_all_links(leader, self.now + lasts);
            }
        }
        self.after(self.plan.flap_every, Event::Flap);
    }

    /// Ends all faults. Whoever is down starts again; but one client stays silent for ever.
    pub(super) fn heal(&mut self) -> Verdict {
        self.story
            .landmark(self.now, || "all faults end".to_owned());
        self.forget(|event| matches!(event, Event::Fault | Event::Flap));
        self.healed_at = Some(self.now);
        self.network.heal();
        let newest = self.members.iter().max().copied().unwrap_or(0);
        for node in 0..self.nodes.len() {
            if node < newest && !self.members.contains(&node) {
                // Operators switch off what was removed, should it not know.
                self.nodes[node].removed = true;
                self.crash_node(node, self.now);
            }
            self.heal_node(node)?;
        }
        self.heal_database()?;
        for client in 0..self.clients.len() {
            // Whoever knows none of the present members is told where they are.
            self.learn_members(client);
            self.clients[client].paused_until = 0;
            self.start_client(client)?;
            self.wake_client(client, false)?;
        }
        let open = |client: &usize| self.clients[*client].session().is_some();
        let silenced = (0..self.plan.users)
            .find(open)
            .filter(|_| self.plan.users > 1);
        if let Some(client) = silenced {
            self.silenced = self.clients[client].session();
            self.crash_client(client, None);
        }
        Ok(())
    }

    /// Whether the session of the silenced client has ended. If a leader was there for long enough,
    /// it must have.
    pub(super) fn silenced_is_gone(&self) -> bool {
        let ended = |session| self.judge.expiry.ended(session).is_some();
        self.silenced.is_none_or(ended)
    }

    /// Under one leader without faults, a silent session does not outlive its TTL by long.
    pub(super) fn look_at_silenced(&mut self) -> Verdict {
        let (Some(session), Some(healed)) = (self.silenced, self.healed_at) else {
            return Ok(());
        };
        let Some(led_since) = self.led_since else {
            return Ok(());
        };
        // A frame that was on its way when the faults ended arrives within this.
        let silent_since = healed.max(self.last_heard) + 10_000;
        let from = silent_since.max(led_since);
        let bound = self.plan.ttl() * 1010 / 1000 + expiry::OUTLIVES_BY;
        let lives = self.judge.expiry.ended(session).is_none() && self.leader().is_some();
        super::invariants::must(!lives || self.now <= from + bound, expiry::OUTLIVED, || {
            format!(
                "session {session} is silent since {from} us and lives at {}",
                self.now
            )
        })
    }

    fn lose_link_of(&mut self, client: usize) -> Verdict {
        if self.clients[client].paused_until > self.now {
            return Ok(());
        }
        self.lose_link(client)
    }

    fn draw_kind(&mut self) -> Option<Kind> {
        let total: u64 = self.plan.weights.iter().sum();
        let mut drawn = self.dice.between(1, total.max(1));
        for (kind, weight) in KINDS.into_iter().zip(self.plan.weights) {
            if drawn <= weight {
                return Some(kind);
            }
            drawn -= weight;
        }
        None
    }

    /// Leaders are worth most.
    fn draw_node(&mut self) -> usize {
        match self.leader() {
            Some(leader) if self.dice.per_mille(600) => leader,
            _ => self.dice.index(self.nodes.len()),
        }
    }

    /// What it says and what it hears are held up, for spans of their own. In some cuts answers are
    /// only late, but soon nothing that it says gets through any more.
    fn cut_client(&mut self, client: usize) {
        let (now, ttl) = (self.now, self.plan.ttl());
        let (mut since, mut said) = (now, now + self.dice.between(ttl / 8, 3 * ttl));
        let mut heard = now + self.dice.between(ttl / 8, 3 * ttl);
        match self.dice.below(5) {
            0 => said = now,
            1 => heard = now,
            2 | 3 => {
                heard = now + self.dice.between(ttl / 20, ttl / 3);
                since = now + self.dice.below(heard - now);
                // Half of them end about when the session does.
                said = since
                    + match self.dice.per_mille(500) {
                        true => self.dice.between(2 * ttl / 3, ttl + 100_000),
                        false => self.dice.between(ttl, 3 * ttl),
                    };
            }
            _ => {}
        }
        for node in 0..self.nodes.len() {
            let (here, there) = (End::Client(client), End::Node(node));
            self.network.cut_from(here, there, since, said);
            self.network.cut(there, here, heard);
        }
    }

    fn cut_some_links(&mut self, node: usize, until: u64) {
        let outwards = self.dice.per_mille(500);
        for peer in 0..self.nodes.len() {
            if peer != node && self.dice.per_mille(600) {
                let (from, to) = if outwards { (node, peer) } else { (peer, node) };
                self.network.cut(End::Node(from), End::Node(to), until);
            }
        }
    }

    fn cut_all_links(&mut self, node: usize, until: u64) {
        for peer in 0..self.nodes.len() {
            self.network.cut(End::Node(node), End::Node(peer), until);
            self.network.cut(End::Node(peer), End::Node(node), until);
        }
    }

    fn partition(&mut self, until: u64) {
        let sides: Vec<bool> = self
            .nodes
            .iter()
            .map(|_| self.dice.per_mille(500))
            .collect();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if sides[from] != sides[to] {
                    self.network.cut(End::Node(from), End::Node(to), until);
                }
            }
        }
    }
}
