//! A holder, seen from the one who directs it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::holder::{Answer, HOLDER_COMMAND, Order};
use super::row::Place;
use super::service::WallClock;
use super::system::System;
use crate::process::{Process, ProcessError};

/// How long a holder may take to answer, unless it is to wait for something.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A holder's process.
pub(super) struct Player {
    process: Process,
    /// What it sees of time, if that is not the truth.
    _clock: Option<WallClock>,
}

/// What all holders of a scene have in common.
pub(super) struct Cast<'a> {
    /// This program.
    pub(super) program: &'a Path,
    /// Where logs go.
    pub(super) directory: &'a Path,
    /// What they do.
    pub(super) system: System,
    /// TTL of their locks or sessions.
    pub(super) ttl: Duration,
}

impl Player {
    /// Starts a holder and has it connect; does not wait until it is connected.
    pub(super) fn start(
        cast: &Cast<'_>,
        name: &str,
        environment: &[(String, String)],
        lock: &str,
        urls: &[String],
        place: &Place,
    ) -> Result<Player, ProcessError> {
        let way = cast.system.way.to_possible_value();
        let arguments = [
            HOLDER_COMMAND,
            "--peer",
            cast.system.peer.name(),
            "--way",
            way.as_ref().map_or("", |way| way.get_name()),
            "--lock",
            lock,
            "--ttl",
            &format!("{}ms", cast.ttl.as_millis()),
        ];
        let log = cast.directory.join(format!("{name}.log"));
        let process = Process::start_in(name, cast.program, &arguments, environment, &log)?;
        let mut player = Player {
            process,
            _clock: None,
        };
        let connect = Order::Connect {
            urls: urls.to_vec(),
            place: place.clone(),
        };
        player.tell(&connect)?;
        Ok(player)
    }

    /// Keeps a clock for as long as the process runs.
    pub(super) fn keep(&mut self, clock: Option<WallClock>) {
        self._clock = clock;
    }

    /// Gives an order, without waiting for what comes of it.
    pub(super) fn tell(&mut self, order: &Order) -> Result<(), ProcessError> {
        // An order has nothing that cannot be written down.
        let line = serde_json::to_string(order).unwrap_or_default();
        self.process.tell(&line)
    }

    /// Waits for the answer to the oldest order that has none yet; `None` if it does not come in
    /// time.
    pub(super) async fn hear_within(
        &mut self,
        within: Duration,
    ) -> Result<Option<Answer>, ProcessError> {
        let line = match self.process.next_line(within).await {
            Ok(line) => line,
            Err(ProcessError::TooSlow { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_str(&line) {
            Ok(answer) => Ok(Some(answer)),
            Err(_) => Err(self.process.refused(line)),
        }
    }

    /// Waits for an answer.
    pub(super) async fn hear(&mut self) -> Result<Answer, ProcessError> {
        let answer = self.hear_within(ANSWER_TIMEOUT).await?;
        answer.ok_or_else(|| self.process.too_slow("answer", ANSWER_TIMEOUT))
    }

    /// Waits for this answer, and no other.
    pub(super) async fn expect(&mut self, expected: &Answer) -> Result<(), ProcessError> {
        let answer = self.hear().await?;
        match answer == *expected {
            true => Ok(()),
            false => Err(self.out_of_place(&answer)),
        }
    }

    /// Has it read the row, and tells what is there.
    pub(super) async fn read(&mut self) -> Result<i64, ProcessError> {
        self.tell(&Order::Read)?;
        match self.hear().await? {
            Answer::Read { value } => Ok(value),
            other => Err(self.out_of_place(&other)),
        }
    }

    pub(super) fn pause(&mut self) -> Result<(), ProcessError> {
        self.process.pause()
    }

    pub(super) fn resume(&mut self) -> Result<(), ProcessError> {
        self.process.resume()
    }

    /// The error of an answer that does not belong here.
    pub(super) fn out_of_place(&self, answer: &Answer) -> ProcessError {
        self.process.refused(format!("{answer:?}"))
    }

    /// The UDP ports that it has open.
    pub(super) fn udp_ports(&self) -> Vec<u16> {
        udp_ports(self.process.pid())
    }
}

/// The UDP ports that a process has open, as the kernel lists them.
fn udp_ports(pid: u32) -> Vec<u16> {
    let sockets = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let inode = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let target = target.to_str()?.strip_prefix("socket:[")?;
        target.strip_suffix(']').map(str::to_owned)
    };
    let own: BTreeSet<String> = sockets
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(inode)
        .collect();
    let mut ports = Vec::new();
    for table in ["udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
        for line in text.unwrap_or_default().lines() {
            // The second column is `ADDRESS:PORT` in hexadecimal, the tenth the inode.
            let columns: Vec<&str> = line.split_whitespace().collect();
            if let (Some(address), Some(inode)) = (columns.get(1), columns.get(9))
                && own.contains(*inode)
                && let Some((_, port)) = address.rsplit_once(':')
                && let Ok(port) = u16::from_str_radix(port, 16)
            {
                ports.push(port);
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_which_udp_ports_a_process_has() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(udp_ports(std::process::id()).contains(&port));
        drop(socket);
        assert!(!udp_ports(std::process::id()).contains(&port));
    }
}
