//! What must hold in every run, one file each, under the numbers that the design gives them.
//!
//! They watch the log, the frames and the database from outside, by true time, and know nothing
//! of how nodes, clients and gateways work.

pub(super) mod belief;
pub(super) mod changes;
pub(super) mod expiry;
pub(super) mod fence;
pub(super) mod fifo;
pub(super) mod history;
pub(super) mod identity;
pub(super) mod limits;
pub(super) mod live;
pub(super) mod metadata;
pub(super) mod once;
pub(super) mod one_holder;
pub(super) mod reads;
pub(super) mod release;
pub(super) mod same_state;
pub(super) mod sessions;
pub(super) mod tokens;
pub(super) mod valid_holder;
pub(super) mod watches;

pub(super) use paxos::sim::Violation;

/// What a check comes to.
pub(super) type Verdict = Result<(), Violation>;

/// `Ok` if it holds; or else what contradicts it.
pub(super) fn must(holds: bool, name: &'static str, detail: impl FnOnce() -> String) -> Verdict {
    match holds {
        true => Ok(()),
        false => Err(Violation::new(name, detail())),
    }
}
