//! Drives lockd and its gateway, and proves safety while it does.
//!
//! - [`demo`]: the accident of the paused lock holder, with everything real.
//! - [`run`]: workloads on a cell, judged by an [`oracle`] while they run.
//! - [`compare`]: the same on what people use for locks without lockd.
//! - [`report`]: results, held against each other, and as files for people.
//! - [`scale`]: a cell with very many sessions and locks, and what they cost.
//! - `sim` (feature `sim`): the whole system in a seeded simulation, with every promise checked at
//!   every step.
//! - [`driver`]: what a workload needs of a lock service.
//! - [`cell`] and [`process`]: nodes as child processes, which can be paused and killed.
//! - [`keeper`] and [`cluster`]: servers of other projects.
//! - [`models`]: what locks are, and whether a history could be theirs.
//! - [`machine`]: what it all costs.
//!
//! Nothing here is part of the product; the product knows nothing of this crate.

pub mod cell;
pub mod cluster;
pub mod compare;
pub mod demo;
pub mod driver;
pub mod keeper;
pub mod machine;
pub mod models;
pub mod oracle;
pub mod process;
pub mod report;
pub mod run;
pub mod scale;
#[cfg(feature = "sim")]
pub mod sim;
pub mod terminal;
