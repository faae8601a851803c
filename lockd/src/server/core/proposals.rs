//! Commands on their way into the log: encoded once, and cut into payloads as large as an entry
//! may be.

use std::collections::VecDeque;

use bytes::Bytes;
use paxos::limits::PAYLOAD_BYTES_MAX;

use crate::limits::PENDING_COMMANDS_BYTES_MAX;
use crate::state::command::{Batch, Command};

/// Commands that no entry holds yet.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone, Hash))]
pub(super) struct Proposals {
    full: VecDeque<Bytes>,
    full_bytes: usize,
    open: Batch,
}

impl Proposals {
    /// Takes a client's command. `false`: too much is waiting already.
    pub(super) fn push(&mut self, command: &Command) -> bool {
        let room = self.full_bytes + self.open.len() < PENDING_COMMANDS_BYTES_MAX;
        if room {
            self.push_unbounded(command);
        }
        room
    }

    /// Takes a command of the leader's own, of which there is a bounded number a turn.
    pub(super) fn push_unbounded(&mut self, command: &Command) {
        let before = self.open.len();
        self.open.push(command);
        if self.open.len() <= PAYLOAD_BYTES_MAX || before == 0 {
            return;
        }
        let mut bytes = Bytes::from(self.open.take());
        let last = bytes.split_off(before);
        self.full_bytes += bytes.len();
        self.full.push_back(bytes);
        self.open = Batch::from(last.to_vec());
    }

    /// The next entry's payload.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if let Some(payload) = self.full.pop_front() {
            self.full_bytes -= payload.len();
            return Some(payload);
        }
        (!self.open.is_empty()).then(|| Bytes::from(self.open.take()))
    }

    /// Takes back a payload that could not be proposed yet.
    pub(super) fn put_back(&mut self, payload: Bytes) {
        self.full_bytes += payload.len();
        self.full.push_front(payload);
    }

    /// The leadership is over: clients send everything unanswered to the next leader.
    pub(super) fn clear(&mut self) {
        *self = Proposals::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command;
    use lockd_protocol::{Millis, Nonce};

    fn open(nonce: u128) -> Command {
        Command::Open {
            nonce: Nonce(nonce),
            ttl: Millis(1000),
            label: "x".repeat(200),
        }
    }

    #[test]
    fn commands_come_out_in_order_in_payloads_that_fit_an_entry() {
        let mut proposals = Proposals::default();
        let commands: Vec<Command> = (0..2000).map(open).collect();
        assert!(commands.iter().all(|command| proposals.push(command)));
        let mut seen = Vec::new();
        while let Some(payload) = proposals.take() {
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            seen.extend(command::decode(&payload).expect("whole commands"));
        }
        assert_eq!(seen, commands);
    }

    #[test]
    fn when_too_much_waits_the_next_command_is_refused() {
        let mut proposals = Proposals::default();
        let taken = (0..u128::MAX)
            .take_while(|nonce| proposals.push(&open(*nonce)))
            .count();
        assert!(taken * 200 >= PENDING_COMMANDS_BYTES_MAX / 2);
        let payload = proposals.take().expect("one");
        assert!(proposals.push(&open(1)));
        proposals.put_back(payload);
        assert!(!proposals.push(&open(1)));
        proposals.clear();
        assert!(proposals.take().is_none());
    }
}
