//! Printing that survives a reader who has left (`loadtest demo | head`): work and exit code
//! count all the same.

use std::io::Write;

/// Writes a line to standard output.
pub fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
