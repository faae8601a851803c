//! lockd's gateway.

pub mod cell;
pub mod cli;
pub mod config;
pub mod fence;
pub mod limits;
pub mod postgres;
pub mod rules;
pub mod server;
pub mod store;
pub mod tickets;
pub mod tls;

pub use server::{ServeError, serve};
