//! What was reached: faults, events and checks, by name. A table that stays at zero somewhere says
//! what the simulation never tried.

use std::collections::BTreeMap;
use std::fmt;

use super::faults::KINDS;

/// Events that must come up in a run of many seeds.
const EVENTS: &[&str] = &[
    "grant",
    "grant pushed after failover",
    "session opened",
    "session resumed by another node",
    "session expired",
    "session expired under its client's KeepAlive",
    "session lost by its client",
    "renewal acknowledged",
    "release",
    "shared granted",
    "permit granted",
    "all of several granted",
    "one of several granted",
    "entered again",
    "downgraded",
    "deadlock refused",
    "closed after an expiry",
    "try failed",
    "wait timed out",
    "acquisition taken back",
    "session closed",
    "another client's session refused",
    "broken, holder told",
    "lost told before the next grant",
    "broken at once",
    "request answered again",
    "who answered",
    "ls answered",
    "admission",
    "admission after eviction",
    "admission after re-seed",
    "write",
    "write of a holder that had lost its lock, refused",
    "ticket of a holder that had lost its lock, refused",
    "two tickets shown",
    "ticket verified",
    "write pipelined behind its ticket",
    "admin call repeated on a new link",
    "commit of a gateway lost by the database",
    "leadership",
    "write to disk lost in a crash",
    "snapshot taken",
    "snapshot of a peer installed",
    "node brought",
    "membership changed",
    "removed node ends",
    "entry damaged",
    "damaged entry repaired",
    "clients served after the faults",
    "watch told a change",
    "watch went on at another node",
    "watch told of a gap",
    "watch got the state anew",
    "metadata put",
    "metadata of another version left alone",
    "metadata of what is not held refused",
];

/// Counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    events: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    checks: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Something happened.
    pub(super) fn hit(&mut self, event: &'static str) {
        self.add(event, 1);
    }

    pub(super) fn add(&mut self, event: &'static str, times: u64) {
        debug_assert!(EVENTS.contains(&event), "{event} is not in the table");
        *self.events.entry(event).or_default() += times;
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn checked(&mut self, invariant: &'static str, times: u64) {
        *self.checks.entry(invariant).or_default() += times;
    }

    /// How often an event came up.
    #[must_use]
    pub fn count(&self, event: &str) -> u64 {
        self.events.get(event).copied().unwrap_or_default()
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Coverage) {
        for (ours, theirs) in [
            (&mut self.events, &other.events),
            (&mut self.faults, &other.faults),
            (&mut self.checks, &other.checks),
        ] {
            for (name, times) in theirs {
                *ours.entry(name).or_default() += times;
            }
        }
    }

    /// What has not come up at all.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let events = EVENTS.iter().copied();
        let missing = events.filter(|event| self.count(event) == 0);
        let never = |name: &&'static str| self.faults.get(name).is_none_or(|times| *times == 0);
        let faults = KINDS.iter().map(|kind| kind.name()).filter(never);
        let unchecked = self.checks.iter().filter(|(_, times)| **times == 0);
        missing
            .chain(faults)
            .chain(unchecked.map(|(name, _)| *name))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, counters) in [
            ("faults", &self.faults),
            ("events", &self.events),
            ("checks", &self.checks),
        ] {
            writeln!(f, "{title}:")?;
            for (name, times) in counters {
                writeln!(f, "  {times:>10}  {name}")?;
            }
        }
        Ok(())
    }
}
