//! What upstreams of every kind need of connections: taking them, one type for both legs of a
//! session, and fixed buffers between the legs. Knows no protocol.

pub(crate) mod accept;
pub(crate) mod buffer;
pub(crate) mod stream;
