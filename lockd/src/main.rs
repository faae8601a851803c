//! The `lockd` command.

fn main() {}
