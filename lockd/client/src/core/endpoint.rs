//! Which node to talk to, and how long to wait before trying. Connects to nothing itself.

use std::time::Duration;

use super::backoff::Backoff;

/// Redirects followed in a row without being served, before they count as a failure.
const REDIRECTS_MAX: u32 = 4;

/// Most addresses that are taken from a node.
const LEARNED_MAX: usize = 16;

/// Shortest wait before a failed round over the nodes is repeated.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest wait before a failed round over the nodes is repeated.
const RETRY_MAX: Duration = Duration::from_millis(250);

/// What to try next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How long to wait first.
    pub delay: Duration,
    /// The addresses to try, best first.
    pub addresses: Vec<String>,
}

/// Chooses among the nodes of a cell: whoever led last or was named in a redirect first, then
/// the others in turn.
#[derive(Debug)]
pub struct EndpointCore {
    /// Those that the client was given.
    configured: Vec<String>,
    /// All that are known, what a node said last before what was configured.
    nodes: Vec<String>,
    /// Number of the membership that they are of; 0 before any was told.
    epoch: u32,
    first: usize,
    leader: Option<String>,
    /// The leader whose connection was lost. The others may not know yet that it is gone.
    dead: Option<String>,
    redirects: u32,
    /// The connected node has done what only a leader does.
    serving: bool,
    wait: bool,
    backoff: Backoff,
}

impl EndpointCore {
    /// A choice among these addresses. The seed spreads clients over the nodes.
    #[must_use]
    pub fn new(nodes: Vec<String>, seed: u64) -> EndpointCore {
        let first = usize::try_from(seed % nodes.len().max(1) as u64).unwrap_or(0);
        EndpointCore {
            configured: nodes.clone(),
            nodes,
            epoch: 0,
            first,
            leader: None,
            dead: None,
            redirects: 0,
            serving: false,
            wait: false,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX, seed),
        }
    }

    /// What to try next.
    pub fn plan(&mut self) -> Plan {
        let delay = if std::mem::take(&mut self.wait) {
            self.backoff.next_delay()
        } else {
            Duration::ZERO
        };
        let mut addresses: Vec<String> = self.leader.iter().cloned().collect();
        let turn = self.nodes.iter().cycle().skip(self.first);
        for node in turn.take(self.nodes.len()) {
            if Some(node) != self.leader.as_ref() {
                addresses.push(node.clone());
            }
        }
        Plan { delay, addresses }
    }

    /// Whether a redirect to `address` only repeats what was true before that node was lost.
    #[must_use]
    pub fn is_dead(&self, address: &str) -> bool {
        self.dead.as_deref() == Some(address)
    }

    /// A node said who the members are by the membership `epoch`; nothing older is believed
    /// afterwards. Those that the client was given stay as the last resort.
    pub fn learned(&mut self, epoch: u32, members: impl IntoIterator<Item = String>) {
        if epoch < self.epoch {
            return;
        }
        self.epoch = epoch;
        let first = self.nodes.get(self.first).cloned();
        self.nodes = members.into_iter().take(LEARNED_MAX).collect();
        for node in &self.configured {
            if !self.nodes.contains(node) {
                self.nodes.push(node.clone());
            }
        }
        let same = |node: &String| Some(node) == first.as_ref();
        self.first = self.nodes.iter().position(same).unwrap_or(0);
    }

    /// The node at `address` has welcomed this client.
    pub fn connected(&mut self, address: &str) {
        self.serving = false;
        if self.is_dead(address) {
            self.dead = None;
        }
    }

    /// The node at `address` did what only a leader does.
    pub fn served(&mut self, address: &str) {
        self.dead = None;
        self.serving = true;
        if self.leader.as_deref() != Some(address) {
            self.leader = Some(address.to_owned());
        }
        self.redirects = 0;
        self.wait = false;
        self.backoff.reset();
    }

    /// The node at `from` named `leader`. Says whether it is worth following at once.
    pub fn redirected(&mut self, from: &str, leader: Option<&str>) -> bool {
        self.redirects = self.redirects.saturating_add(1);
        match leader {
            Some(leader)
                if leader != from && !self.is_dead(leader) && self.redirects <= REDIRECTS_MAX =>
            {
                self.leader = Some(leader.to_owned());
                true
            }
            _ => {
                self.failed(from);
                self.redirects = 0;
                false
            }
        }
    }

    /// The node at `address` could not be reached, or was lost, or leads to nowhere.
    pub fn failed(&mut self, address: &str) {
        self.leader = None;
        self.wait = true;
        if let Some(at) = self.nodes.iter().position(|node| node == address) {
            self.first = (at + 1) % self.nodes.len();
        }
    }

    /// The connection to `address` was lost. If it was of use, the others are tried at once; or
    /// else a node that welcomes everybody and then fails would be dialled without a pause.
    pub fn lost(&mut self, address: &str) {
        self.failed(address);
        self.dead = Some(address.to_owned());
        self.wait = !std::mem::take(&mut self.serving);
    }

    /// No node at all could be reached.
    pub fn all_failed(&mut self) {
        self.leader = None;
        self.wait = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> EndpointCore {
        let nodes = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        EndpointCore::new(nodes, 0)
    }

    #[test]
    fn every_node_is_tried_in_turn() {
        let mut core = core();
        assert_eq!(core.plan().addresses, ["a:1", "b:1", "c:1"]);
        core.failed("a:1");
        assert_eq!(core.plan().addresses, ["b:1", "c:1", "a:1"]);
    }

    #[test]
    fn a_redirect_is_followed_without_delay_even_to_an_address_that_was_not_configured() {
        let mut core = core();
        assert!(core.redirected("a:1", Some("d:9")));
        let plan = core.plan();
        assert_eq!(plan.delay, Duration::ZERO);
        assert_eq!(plan.addresses, ["d:9", "a:1", "b:1", "c:1"]);
    }

    #[test]
    fn a_client_with_an_old_list_learns_the_members_and_keeps_its_list_as_the_last_resort() {
        let mut core = core();
        core.learned(1, ["c:1", "d:1", "e:1"].map(str::to_owned));
        assert_eq!(core.plan().addresses, ["a:1", "b:1", "c:1", "d:1", "e:1"]);
        core.failed("b:1");
        assert_eq!(core.plan().addresses, ["c:1", "d:1", "e:1", "a:1", "b:1"]);
        core.learned(2, ["d:1".to_owned()]);
        assert_eq!(core.plan().addresses, ["c:1", "d:1", "a:1", "b:1"]);
        core.learned(3, (0..1000).map(|n| format!("x:{n}")));
        assert_eq!(core.plan().addresses.len(), LEARNED_MAX + 3);
    }

    #[test]
    fn an_older_list_of_members_from_a_node_that_missed_its_removal_is_not_believed() {
        let mut core = core();
        core.learned(7, ["d:1", "e:1"].map(str::to_owned));
        let known = core.plan().addresses;
        core.learned(6, ["a:1", "x:1"].map(str::to_owned));
        assert_eq!(core.plan().addresses, known);
        core.learned(7, ["d:1", "f:1"].map(str::to_owned));
        assert!(core.plan().addresses.contains(&"f:1".to_owned()));
    }

    #[test]
    fn nodes_that_redirect_to_each_other_for_ever_are_held_off() {
        let mut core = core();
        let mut followed = 0;
        let (mut from, mut to) = ("a:1", "b:1");
        while core.redirected(from, Some(to)) {
            followed += 1;
            (from, to) = (to, from);
        }
        assert_eq!(followed, REDIRECTS_MAX);
        assert!(core.plan().delay > Duration::ZERO);
    }

    #[test]
    fn a_node_without_a_leader_makes_the_client_wait_and_try_the_next() {
        let mut core = core();
        assert!(!core.redirected("a:1", None));
        let plan = core.plan();
        assert!(plan.delay > Duration::ZERO);
        assert_eq!(plan.addresses.first().map(String::as_str), Some("b:1"));
    }

    #[test]
    fn a_redirect_to_the_leader_that_was_just_lost_is_not_followed() {
        let mut core = core();
        core.served("b:1");
        core.lost("b:1");
        core.connected("c:1");
        assert!(!core.redirected("c:1", Some("b:1")));
        let plan = core.plan();
        assert!(plan.delay > Duration::ZERO);
        assert_eq!(plan.addresses, ["a:1", "b:1", "c:1"]);
        core.connected("b:1");
        assert!(core.redirected("c:1", Some("b:1")), "it is back");
    }

    #[test]
    fn a_node_that_fails_before_it_has_served_is_not_dialled_again_without_a_pause() {
        let mut core = core();
        core.connected("a:1");
        core.lost("a:1");
        assert!(core.plan().delay > Duration::ZERO);
    }

    #[test]
    fn the_last_leader_is_tried_first_until_it_is_lost() {
        let mut core = core();
        core.served("b:1");
        assert_eq!(core.plan().addresses, ["b:1", "a:1", "c:1"]);
        core.lost("b:1");
        let plan = core.plan();
        assert_eq!(plan.delay, Duration::ZERO);
        assert_eq!(plan.addresses, ["c:1", "a:1", "b:1"]);
    }
}
