//! lockd's gateway.

pub mod config;
pub mod fence;
pub mod limits;
pub mod rules;
pub mod store;
pub mod tickets;
pub mod tls;
