//! Commands on their way into the log: encoded once, and cut into payloads as large as an entry
//! may be.
//!
//! **Fair turns.** A connection's commands go straight into the next entry up to a share of it.
//! What is beyond waits in a line of that connection, and the lines take turns, a command each. So
//! whoever asks little waits for one entry, however much others ask. All lines share one bound of
//! memory, of which a single one may take half of what is still free (a dynamic threshold:
//! Choudhury and Hahne, 1998): whoever floods meets it, and the others still find room.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use paxos::limits::PAYLOAD_BYTES_MAX;

use super::clients::ConnectionId;
use crate::limits::{ENTRY_SHARE_BYTES, PENDING_COMMANDS_BYTES_MAX};
use crate::state::command::{Batch, Command};

/// Commands that no entry holds yet.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Proposals {
    full: VecDeque<Bytes>,
    open: Batch,
    /// What each connection has in `open`, bytes.
    shares: BTreeMap<ConnectionId, usize>,
    lines: BTreeMap<ConnectionId, Line>,
    /// Whose turn was last.
    last: ConnectionId,
    /// All of it, bytes.
    bytes: usize,
}

/// Encoded commands of one connection.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone, Hash))]
struct Line {
    commands: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Proposals {
    /// Takes a client's command. `false`: too much is waiting already.
    pub(super) fn push(&mut self, from: ConnectionId, command: &Command) -> bool {
        let share = self.shares.get(&from).copied().unwrap_or(0);
        let free = PENDING_COMMANDS_BYTES_MAX.saturating_sub(self.bytes);
        let waits = share >= ENTRY_SHARE_BYTES || self.lines.contains_key(&from);
        if !waits && free > 0 {
            let bytes = self.push_unbounded(command);
            *self.shares.entry(from).or_default() += bytes;
            return true;
        }
        let mut encoded = Batch::default();
        encoded.push(command);
        let encoded = encoded.take().into_boxed_slice();
        let waiting = self.lines.get(&from).map_or(0, |line| line.bytes);
        if waiting + encoded.len() > free / 2 {
            return false;
        }
        self.bytes += encoded.len();
        let line = self.lines.entry(from).or_default();
        line.bytes += encoded.len();
        line.commands.push_back(encoded);
        true
    }

    /// Takes a command of the leader's own, of which there is a bounded number a turn. Says how
    /// many bytes it has.
    pub(super) fn push_unbounded(&mut self, command: &Command) -> usize {
        let before = self.open.len();
        self.open.push(command);
        let bytes = self.open.len() - before;
        self.bytes += bytes;
        self.cut(before);
        bytes
    }

    /// Closes the open payload before its last command, which began at `before`, if it is too
    /// long.
    fn cut(&mut self, before: usize) {
        if self.open.len() <= PAYLOAD_BYTES_MAX || before == 0 {
            return;
        }
        let mut bytes = Bytes::from(self.open.take());
        let last = bytes.split_off(before);
        self.full.push_back(bytes);
        self.open = Batch::from(last.to_vec());
        self.shares.clear();
    }

    /// Fills the open payload from the lines, in turn.
    fn fill(&mut self) {
        while self.full.is_empty() && !self.lines.is_empty() {
            let after = (
                std::ops::Bound::Excluded(self.last),
                std::ops::Bound::Unbounded,
            );
            let next = self.lines.range(after).next().or(self.lines.iter().next());
            let Some(from) = next.map(|(from, _)| *from) else {
                return;
            };
            self.last = from;
            let Some(line) = self.lines.get_mut(&from) else {
                return;
            };
            if let Some(command) = line.commands.pop_front() {
                line.bytes -= command.len();
                let before = self.open.len();
                self.open.append(&command);
                self.cut(before);
            }
            if self.lines.get(&from).is_some_and(|l| l.commands.is_empty()) {
                self.lines.remove(&from);
            }
        }
    }

    /// The next entry's payload.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.fill();
        let payload = match self.full.pop_front() {
            Some(payload) => payload,
            None if self.open.is_empty() => return None,
            None => {
                self.shares.clear();
                Bytes::from(self.open.take())
            }
        };
        self.bytes -= payload.len();
        Some(payload)
    }

    /// Takes back a payload that could not be proposed yet.
    pub(super) fn put_back(&mut self, payload: Bytes) {
        self.bytes += payload.len();
        self.full.push_front(payload);
    }

    /// The leadership is over: clients send everything unanswered to the next leader.
    pub(super) fn clear(&mut self) {
        *self = Proposals::default();
    }
}

#[cfg(feature = "model")]
impl std::hash::Hash for Proposals {
    /// What will be proposed, and not by whom.
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        (&self.full, &self.open).hash(hasher);
        self.lines.values().for_each(|line| line.hash(hasher));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command;
    use lockd_protocol::client::About;
    use lockd_protocol::{Millis, Nonce};

    const ONE: ConnectionId = ConnectionId(1);
    const OTHER: ConnectionId = ConnectionId(2);

    fn open(nonce: u128) -> Command {
        Command::Open {
            nonce: Nonce(nonce),
            ttl: Millis(1000),
            identity: "client".to_owned(),
            about: About::described("x".repeat(200)),
        }
    }

    fn decode(payload: &[u8]) -> Vec<Command> {
        command::decode(payload).expect("whole commands")
    }

    #[test]
    fn commands_come_out_in_order_in_payloads_that_fit_an_entry() {
        let mut proposals = Proposals::default();
        let commands: Vec<Command> = (0..2000).map(open).collect();
        let mut taken = commands.iter().map(|command| proposals.push(ONE, command));
        assert!(taken.all(|taken| taken));
        let mut seen = Vec::new();
        while let Some(payload) = proposals.take() {
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            seen.extend(decode(&payload));
        }
        assert_eq!(seen, commands);
        assert_eq!(proposals.bytes, 0);
    }

    #[test]
    fn whoever_floods_is_refused_while_others_still_find_room() {
        let mut proposals = Proposals::default();
        let taken = (0..u128::MAX)
            .take_while(|nonce| proposals.push(ONE, &open(*nonce)))
            .count();
        let bytes = proposals.bytes;
        assert!(taken * 200 >= PENDING_COMMANDS_BYTES_MAX / 4);
        assert!(bytes <= PENDING_COMMANDS_BYTES_MAX / 2 + PAYLOAD_BYTES_MAX);
        assert!(proposals.push(OTHER, &open(1)));
        let payload = proposals.take().expect("one");
        assert!(proposals.push(ONE, &open(1)));
        proposals.put_back(payload);
        proposals.clear();
        assert!(proposals.take().is_none());
    }

    #[test]
    fn a_command_waits_for_one_entry_however_many_another_connection_has_waiting() {
        let mut proposals = Proposals::default();
        for nonce in 0..10_000 {
            assert!(proposals.push(ONE, &open(nonce)));
        }
        let payload = proposals.take().expect("one");
        assert!(payload.len() > PAYLOAD_BYTES_MAX / 2, "the entry is used");
        for victim in [900_001, 900_002] {
            assert!(proposals.push(OTHER, &open(victim)));
            let next = decode(&proposals.take().expect("another"));
            assert!(next.contains(&open(victim)), "{victim}");
        }
    }

    #[test]
    fn lines_take_turns() {
        let mut proposals = Proposals::default();
        for nonce in 0..4000 {
            assert!(proposals.push(ONE, &open(nonce)));
            assert!(proposals.push(OTHER, &open(1_000_000 + nonce)));
        }
        proposals.take();
        let next = decode(&proposals.take().expect("there is more"));
        let other = |command: &&Command| matches!(command, Command::Open { nonce, .. } if nonce.0 >= 1_000_000);
        let of_other = next.iter().filter(other).count();
        assert!(next.len().abs_diff(2 * of_other) <= 2, "{of_other}");
    }
}
