//! lockd: a distributed lock service whose grants carry fencing tokens.
//!
//! * [`state`]: the replicated lock state machine. Pure.
//! * [`server`]: a node: the core without I/O, and the shell that gives it sockets and a disk.
//! * [`init`]: makes a cell.
//! * [`dev`]: a whole cell in this process.
//! * [`cli`]: the `lockd` command line.

mod authority;
pub mod cli;
pub mod dev;
pub mod init;
pub mod limits;
pub mod server;
pub mod state;
