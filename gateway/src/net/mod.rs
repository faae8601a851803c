//! What upstreams of every kind need of connections: taking them, both legs of a session and the
//! moving of bytes between them, through fixed buffers. Knows no protocol but HTTP's.

pub(crate) mod accept;
pub(crate) mod buffer;
pub(crate) mod h1;
pub(crate) mod legs;
pub(crate) mod stream;
