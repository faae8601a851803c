//! What is put through accidents: each way of taking a lock, as its users guard a row with it.

use crate::compare::peer::Peer;

/// A way of guarding a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    /// How the lock is taken.
    pub peer: Peer,
    /// How the row is reached.
    pub way: Way,
}

/// How the row is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// On a connection of its own, which knows nothing of the lock.
    Apart,
    /// Through the gateway, under the lock's ticket.
    Gateway,
    /// On the connection that holds the lock.
    SameConnection,
}

impl System {
    /// Every way of guarding a row with this peer.
    #[must_use]
    pub fn of(peer: Peer) -> Vec<System> {
        let ways: &[Way] = match peer {
            Peer::Lockd => &[Way::Gateway, Way::Apart],
            Peer::PostgresAdvisory => &[Way::Apart, Way::SameConnection],
            // The row that is locked is the row that is written: there is no other way to use it.
            Peer::PostgresForUpdate => &[Way::SameConnection],
            _ => &[Way::Apart],
        };
        ways.iter().map(|&way| System { peer, way }).collect()
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> String {
        let name = self.peer.name();
        match self.way {
            Way::Apart => name.to_owned(),
            Way::Gateway => format!("{name}+gateway"),
            Way::SameConnection => format!("{name}, same connection"),
        }
    }

    /// Whether the lock is in the server that has the row.
    #[must_use]
    pub fn lock_is_with_the_row(self) -> bool {
        matches!(self.peer, Peer::PostgresAdvisory | Peer::PostgresForUpdate)
    }
}

/// What happens to a holder between reading the row and writing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accident {
    /// The holder's process stands still (SIGSTOP) for longer than its lease.
    Pause,
    /// The holder and the lock service do not hear each other; the holder reaches the row.
    Partition,
    /// The wall clocks of the lock service's servers jump ahead by an hour.
    ServerClock,
    /// The holder's wall clock is an hour behind.
    HolderClock,
    /// The lock service's leader, or its one server, is killed and started again.
    Failover,
}

impl Accident {
    /// All of them.
    pub const ALL: [Accident; 5] = [
        Accident::Pause,
        Accident::Partition,
        Accident::ServerClock,
        Accident::HolderClock,
        Accident::Failover,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Accident::Pause => "pause",
            Accident::Partition => "partition",
            Accident::ServerClock => "server-clock",
            Accident::HolderClock => "holder-clock",
            Accident::Failover => "failover",
        }
    }

    /// What happens, in a few words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Accident::Pause => "the holder stands still (SIGSTOP) past its lease",
            Accident::Partition => "the holder is cut off from the lock service, not from the row",
            Accident::ServerClock => "the lock servers' wall clocks jump an hour ahead",
            Accident::HolderClock => "the holder's wall clock is an hour behind",
            Accident::Failover => "the lock service's leader or only server is killed",
        }
    }

    /// Whether the next holder waits for the end of a lease. In the other accidents it waits for
    /// less: who is granted the lock then has the accident to thank.
    #[must_use]
    pub fn outlasts_the_lease(self) -> bool {
        matches!(self, Accident::Pause | Accident::Partition)
    }

    /// Why this cannot be done to the system.
    #[must_use]
    pub fn impossible(self, system: System) -> Option<&'static str> {
        match (self, system.peer) {
            (Accident::ServerClock, Peer::Etcd) => {
                Some("etcd reads the clock without the C library, where libfaketime would move it")
            }
            (Accident::ServerClock, Peer::ZookeeperHerd | Peer::ZookeeperCurator) => {
                Some("a Java virtual machine does not come to serve under libfaketime")
            }
            _ => None,
        }
    }
}
