//! The embedded store: a small fenced key-value store over HTTP.
//!
//! ```text
//! GET    /kv/<key>     200 value | 404
//! PUT    /kv/<key>     204, with `Fencing-Token: <ticket>`
//! DELETE /kv/<key>     204 | 404, with `Fencing-Token: <ticket>`
//! GET    /fences       the highest token admitted for each lock
//! ```
//!
//! The fence is a mark per lock, the highest token admitted, kept in the same database as the
//! values and raised in the same transaction as the write. A read that carries a ticket raises
//! the mark as well, before it reads: what a holder has read, no older holder changes any more.
//! Reads without a ticket are free. Refusals are problem documents (RFC 9457) with the fence's
//! code; nothing is answered before it is durable.

pub mod engine;
pub mod http;
mod key;
mod problem;
