//! `--ticket-fd`: the ticket for somebody who holds the other end of a pipe, instead of for
//! everybody who can look at the command's environment.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;

use super::exit::Failure;

/// stdin, stdout and stderr are the command's.
const FIRST: i32 = 3;

/// The descriptor, ours alone.
#[derive(Debug)]
pub(super) struct TicketFd {
    number: i32,
    file: File,
}

impl TicketFd {
    /// Takes over a descriptor that this process was started with, so that the command does not
    /// inherit it. Has to be called before this process has opened anything.
    pub(super) fn claim(number: i32) -> Result<TicketFd, Failure> {
        let wrong = |why: &str| Failure::usage(format!("--ticket-fd {number}: {why}"));
        if number < FIRST {
            return Err(wrong("0, 1 and 2 are the command's own: take 3 or higher"));
        }
        let Some(flags) = flags(number) else {
            return Err(wrong(
                "it is not open: give this process the descriptor, as in 3>file",
            ));
        };
        if flags & OFlags::RWMODE == OFlags::RDONLY {
            return Err(wrong(
                "it is open for reading only: pass the end that is written to",
            ));
        }
        // A pipe that nobody empties must not stop us for good.
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(format!("/proc/self/fd/{number}"))
            .map_err(|error| match error.raw_os_error() {
                Some(ENXIO) => wrong("nobody has the reading end of this pipe, or it is a socket"),
                _ => wrong(&error.to_string()),
            })?;
        nix::unistd::close(number).map_err(|error| wrong(&error.to_string()))?;
        Ok(TicketFd { number, file })
    }

    /// Writes the tickets and a line's end, and closes the descriptor.
    pub(super) fn write(mut self, tickets: &str) -> Result<(), Failure> {
        let line = format!("{tickets}\n");
        self.file.write_all(line.as_bytes()).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::WouldBlock => "the pipe is full".to_owned(),
                _ => error.to_string(),
            };
            Failure::other(format!("--ticket-fd {}: {why}", self.number))
        })
    }
}

/// "No such device or address".
const ENXIO: i32 = rustix::io::Errno::NXIO.raw_os_error();

/// How a descriptor of this process is open, if it is.
fn flags(number: i32) -> Option<OFlags> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    Some(OFlags::from_bits_retain(flags))
}
