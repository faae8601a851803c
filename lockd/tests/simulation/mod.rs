//! A cell and its clients in memory, under a virtual clock, driven by one seed.

mod client;
mod dice;
mod node;
mod world;

pub(crate) use world::World;

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) grants: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) sessions_lost: u64,
    pub(crate) broken: u64,
    pub(crate) taken_back: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Seen) {
        self.grants += other.grants;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.sessions_lost += other.sessions_lost;
        self.broken += other.broken;
        self.taken_back += other.taken_back;
    }
}
