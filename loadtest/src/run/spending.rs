//! What nodes, clients and the rest of the machine spend between two points of a run.

use std::time::Duration;

use crate::machine;

/// A measurement that has begun.
pub struct Meter {
    servers: Vec<Server>,
    client: Duration,
    machine: Duration,
}

struct Server {
    pid: u32,
    before: Duration,
    /// What it had spent when it was last seen.
    latest: Duration,
}

/// What was spent.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// CPU time of all nodes; `None` if none are known.
    pub servers_cpu: Option<Duration>,
    /// Memory of all nodes, bytes.
    pub servers_memory: Option<u64>,
    /// CPU time of this process.
    pub client_cpu: Duration,
    /// Memory of this process, bytes.
    pub client_memory: u64,
    /// CPU time of everything else on this machine.
    pub others_cpu: Duration,
}

impl Meter {
    /// Begins to measure the nodes of these pids.
    #[must_use]
    pub fn begin(pids: &[u32]) -> Meter {
        let server = |&pid: &u32| {
            let before = machine::cpu_of(pid);
            Server {
                pid,
                before,
                latest: before,
            }
        };
        Meter {
            servers: pids.iter().map(server).collect(),
            client: machine::own_cpu(),
            machine: machine::machine_cpu(),
        }
    }

    /// Looks at the nodes while they all exist: a node that ends takes its count with it.
    pub fn look(&mut self) {
        for server in &mut self.servers {
            server.latest = server.latest.max(machine::cpu_of(server.pid));
        }
    }

    /// Ends the measurement.
    #[must_use]
    pub fn end(mut self) -> Spent {
        self.look();
        let spent = |server: &Server| server.latest.saturating_sub(server.before);
        let servers_cpu: Duration = self.servers.iter().map(spent).sum();
        let client_cpu = machine::own_cpu().saturating_sub(self.client);
        let whole = machine::machine_cpu().saturating_sub(self.machine);
        let known = !self.servers.is_empty();
        let memory = self.servers.iter().map(|s| machine::memory_of(s.pid));
        Spent {
            servers_cpu: known.then_some(servers_cpu),
            servers_memory: known.then(|| memory.sum()),
            client_cpu,
            client_memory: machine::memory_of(std::process::id()),
            others_cpu: whole.saturating_sub(servers_cpu + client_cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_nodes_their_spending_is_unknown() {
        let spent = Meter::begin(&[]).end();
        assert_eq!(spent.servers_cpu, None);
        assert_eq!(spent.servers_memory, None);
        assert!(spent.client_memory > 0);
    }

    #[test]
    fn a_node_that_ended_keeps_what_it_had_spent_when_last_seen() {
        let mut meter = Meter::begin(&[std::process::id()]);
        meter.servers[0].latest += Duration::from_secs(1000);
        meter.servers[0].pid = u32::MAX;
        let spent = meter.end().servers_cpu.unwrap();
        assert!(spent >= Duration::from_secs(1000));
    }
}
