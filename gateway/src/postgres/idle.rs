//! When is a session idle? Counted from what was sent to the server and what it answered.
//! Pure bookkeeping: sees message types, never bytes or sockets.
//!
//! Query, Sync and FunctionCall are each answered by one ReadyForQuery. Exceptions:
//! - During COPY FROM STDIN the server swallows every Sync up to CopyDone or CopyFail. Clients
//!   may send them before the server has said that the copy begins, so what was sent is kept in
//!   order until it is answered.
//! - A Query or FunctionCall behind messages without a Sync may be thrown away unanswered. What
//!   follows cannot be counted, and such a session never counts as idle again.
//!
//! Taking a busy session for idle would let a statement run under a ticket that it was not sent
//! under. So whatever is in doubt is busy.

use std::collections::VecDeque;

use crate::limits::UNANSWERED_MESSAGES_MAX;

/// The transaction state in ReadyForQuery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Transaction {
    /// None is open.
    #[default]
    None,
    /// One is open.
    Open,
    /// One has failed, and waits for its end.
    Failed,
}

/// What was sent and has an effect on the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Answered by one ReadyForQuery.
    Query,
    /// Answered by one ReadyForQuery, unless a copy swallows it.
    Sync,
    /// May begin a copy.
    Execute,
    /// One CopyData, or several in a row.
    CopyData,
    /// CopyDone or CopyFail.
    CopyEnd,
}

/// The count of one session.
#[derive(Debug, Default)]
pub(super) struct Idle {
    unanswered: VecDeque<Sent>,
    /// Queries and Syncs among the unanswered.
    answers_due: usize,
    /// Messages of the extended protocol have been sent and no Sync after them.
    unit_open: bool,
    /// The server takes copy data, and its end has not been sent.
    copying: bool,
    /// Data of the copy has been sent, so a Sync would come in the middle of it.
    copy_data: bool,
    uncountable: bool,
    transaction: Transaction,
}

impl Idle {
    /// Whether everything sent has been answered and nothing is half sent.
    pub(super) fn is_idle(&self) -> bool {
        self.answers_due == 0 && !self.unit_open && !self.copying && !self.uncountable
    }

    /// Whether the next message begins a unit of its own.
    pub(super) fn is_unit_boundary(&self) -> bool {
        !self.unit_open && !self.copying && !self.uncountable
    }

    /// Whether this session can become idle without the client's help.
    pub(super) fn is_countable(&self) -> bool {
        !self.uncountable
    }

    /// Whether more may be sent before the server has answered some of it.
    pub(super) fn has_room(&self) -> bool {
        self.unanswered.len() < UNANSWERED_MESSAGES_MAX
    }

    /// The transaction state as of the last ReadyForQuery.
    pub(super) fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// A message of this type is sent to the server.
    pub(super) fn sent(&mut self, kind: u8) {
        match kind {
            b'Q' | b'F' => {
                if self.unit_open || self.copying {
                    self.uncountable = true;
                }
                self.push(Sent::Query);
            }
            // After an error in the data the server would answer it, otherwise not.
            b'S' if self.copying => self.uncountable |= self.copy_data,
            b'S' => {
                self.unit_open = false;
                self.push(Sent::Sync);
            }
            b'd' if self.copying => self.copy_data = true,
            b'd' if self.unanswered.back() == Some(&Sent::CopyData) => {}
            b'd' => self.push(Sent::CopyData),
            b'c' | b'f' if self.copying => self.copying = false,
            b'c' | b'f' => self.push(Sent::CopyEnd),
            b'P' | b'B' | b'D' | b'C' | b'E' => {
                self.uncountable |= self.copying;
                self.unit_open = true;
                if kind == b'E' {
                    self.push(Sent::Execute);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, sent: Sent) {
        if matches!(sent, Sent::Query | Sent::Sync) {
            self.answers_due += 1;
        }
        // A copy's end and an Execute matter only behind something that is still unanswered, or
        // in an open unit; an end of nothing is dropped when the next answer comes.
        self.unanswered.push_back(sent);
    }

    /// The server says ReadyForQuery.
    pub(super) fn ready(&mut self, state: u8) {
        self.transaction = match state {
            b'I' => Transaction::None,
            b'T' => Transaction::Open,
            _ => Transaction::Failed,
        };
        // A copy that fails ends here, whatever the client still sends of it.
        self.copying = false;
        while let Some(sent) = self.unanswered.pop_front() {
            if matches!(sent, Sent::Query | Sent::Sync) {
                self.answers_due -= 1;
                break;
            }
        }
        self.drop_leftovers_of_copy();
    }

    /// The data of a copy that never began, or that has failed, is ignored by the server.
    fn drop_leftovers_of_copy(&mut self) {
        while matches!(
            self.unanswered.front(),
            Some(Sent::CopyEnd | Sent::CopyData)
        ) {
            self.unanswered.pop_front();
        }
    }

    /// The server says CopyInResponse.
    pub(super) fn copy_begins(&mut self) {
        // The statement that began it: the Query at the front, or an Execute before any answer.
        self.drop_leftovers_of_copy();
        let simple = self.unanswered.front() == Some(&Sent::Query);
        let behind = usize::from(simple);
        self.copying = true;
        self.copy_data = false;
        while let Some(&sent) = self.unanswered.get(behind) {
            match sent {
                Sent::Query => {
                    // Sent into a copy: an error there, and nobody knows what is answered.
                    self.uncountable = true;
                    return;
                }
                Sent::Sync => {
                    self.uncountable |= self.copy_data;
                    self.answers_due -= 1;
                }
                Sent::CopyData => self.copy_data = true,
                Sent::Execute => {}
                Sent::CopyEnd => self.copying = false,
            }
            self.unanswered.remove(behind);
            if !self.copying {
                break;
            }
        }
        if !simple && self.answers_due == 0 {
            // The unit of the copy still wants its Sync.
            self.unit_open = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types of the client's messages; `>` before each of the server's.
    fn after(messages: &str) -> Idle {
        let mut idle = Idle::default();
        let mut bytes = messages.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' => {}
                b'>' => match bytes.next() {
                    Some(b'Z') => idle.ready(b'I'),
                    Some(b'G') => idle.copy_begins(),
                    _ => {}
                },
                sent => idle.sent(sent),
            }
        }
        idle
    }

    #[test]
    fn every_kind_of_exchange_comes_back_to_idle() {
        for messages in [
            "Q >Z",
            "PBDES >Z",
            "PBES PBES >Z >Z",
            "PDS >Z BES >Z",
            "F >Z",
            "PBEH PBES >Z",
            "Q >G ddc >Z",
            "Q >G S dd c >Z",
            "Q >G dd >Z",
            "Q >G dd >Z dc",
            "Q ddc >G >Z",
            "Q f >G >Z",
            "PBES >G ddc S >Z",
            "PBES ddc S >G >Z",
            "PBE ddc S >G >Z",
            "PBE >G ddc S >Z",
            "PBES f S >G >Z",
            "Q ddc >Z",
            "PBES ddc S >Z >Z",
            "Q ddc >Z Q >G ddc >Z",
            "Q >G dc >G dc >Z",
            "Q >G ddc Q >Z >Z",
            "PBES PBES >Z >G dc S >Z",
        ] {
            let idle = after(messages);
            assert!(idle.is_idle(), "{messages}: {idle:?}");
        }
    }

    #[test]
    fn what_is_under_way_is_not_idle() {
        for messages in [
            "Q",
            "PBE",
            "PBES",
            "Q Q >Z",
            "PBEH",
            "Q >G",
            "Q >G dd",
            "PBES >G ddc",
            "PBES >G dd S",
        ] {
            let idle = after(messages);
            assert!(!idle.is_idle(), "{messages}: {idle:?}");
        }
    }

    #[test]
    fn what_cannot_be_counted_is_busy_for_ever() {
        for messages in [
            "PBE Q >Z",
            "PBE F >Z S >Z",
            "Q Q >G c >Z >Z",
            "Q >G Q >Z >Z",
            "Q >G d S c >Z",
            "Q d S c >G",
        ] {
            let idle = after(messages);
            assert!(
                !idle.is_countable() && !idle.is_idle(),
                "{messages}: {idle:?}"
            );
        }
    }

    #[test]
    fn the_memory_of_unanswered_messages_is_bounded() {
        let mut idle = Idle::default();
        for _ in 0..UNANSWERED_MESSAGES_MAX {
            assert!(idle.has_room());
            idle.sent(b'S');
        }
        assert!(!idle.has_room());
        idle.ready(b'I');
        assert!(idle.has_room());
    }

    #[test]
    fn the_transaction_state_is_that_of_the_last_answer() {
        let mut idle = after("Q");
        idle.ready(b'T');
        assert_eq!(idle.transaction(), Transaction::Open);
        idle.sent(b'Q');
        idle.ready(b'E');
        assert_eq!(idle.transaction(), Transaction::Failed);
    }
}
