//! In transaction mode: what the server is told of a session's tickets, when, and which answers
//! that brings. Pure bookkeeping over message types; no I/O.
//!
//! A setting that ends with the transaction says what the session carries, so that whoever uses the
//! server's connection next finds nothing of it. It is set by messages of the extended protocol
//! without a Sync in front of the client's own, so that both are one transaction and one round
//! trip; their answers are taken out. What is in front of a transaction depends on how that begins:
//!
//! - A query does for most. It takes the transaction's snapshot, behind which
//!   `BEGIN ISOLATION LEVEL` is an error.
//! - `SET LOCAL` takes none, but the server logs a warning for it outside a transaction block.
//! - In front of a lone `BEGIN` there is nothing; what comes behind it is told by `SET LOCAL`.
//!
//! Nothing here keeps a writer out; that is done by the trigger of the table. A transaction that is
//! not told has no ticket, and its writes are refused.

use super::idle::{Idle, Transaction};
use super::messages;
use super::statement::{Beginning, beginning};

/// The setting that carries what a transaction is told.
const SETTING: &str = "fence.told";

/// Prepared statement and portal of the messages put in front. Named, because the client may still
/// need its unnamed ones.
const NAME: &[u8] = b"lockd_fence";

/// How many of the server's answers to a telling are ends: the statement of an earlier one closed,
/// parsed, bound, executed, the portal closed.
const ENDS: u8 = 5;

/// How a transaction can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Not in front of this.
    Not,
    /// By a query.
    Query,
    /// By a setting, which takes no snapshot.
    Set,
}

/// How the unit that begins with this message can be told; `text` is that of a Query or Parse.
pub(super) fn manner(kind: u8, text: &[u8]) -> Manner {
    if !matches!(kind, b'Q' | b'P') {
        return Manner::Query;
    }
    match beginning(text) {
        Beginning::Lone => Manner::Not,
        // A unit of the extended protocol may go on behind it.
        Beginning::Transaction { alone: true, .. } if kind == b'Q' => Manner::Not,
        Beginning::Transaction { modes: true, .. } => Manner::Set,
        Beginning::Transaction { .. } | Beginning::Other => Manner::Query,
    }
}

/// Whether a message of this type can be the first of a unit that does something.
pub(super) fn begins_unit(kind: u8) -> bool {
    matches!(kind, b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C')
}

/// What one session's server knows of its tickets.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// What to tell. Empty: nothing.
    what: String,
    /// The open transaction has been told.
    told: bool,
    /// Ends of the answers to the telling that are still to come.
    ends_due: u8,
    /// The message behind the telling is answered by ReadyForQuery without a Sync.
    lone: bool,
    /// The telling failed, and the server waits for a Sync that the client will not send.
    sync_due: bool,
}

impl Telling {
    /// The session carries this from now on. It is idle, and no transaction is open.
    pub(super) fn carry(&mut self, what: &str) {
        what.clone_into(&mut self.what);
    }

    /// Whether the next unit has to stop: its transaction is not told, or it is not known yet
    /// whether it is.
    pub(super) fn is_due(&self, idle: &Idle) -> bool {
        let is_known = self.told && idle.is_idle();
        self.is_on() && !is_known
    }

    /// Whether there is anything to tell.
    pub(super) fn is_on(&self) -> bool {
        !self.what.is_empty()
    }

    /// Whether a message of this type may be an answer to the telling.
    pub(super) fn may_take_out(&self, kind: u8) -> bool {
        self.ends_due > 0 && b"123CDNE".contains(&kind)
    }

    /// What goes in front of a unit that begins with this type of message, if anything does. The
    /// session is idle.
    pub(super) fn put_in_front(
        &mut self,
        transaction: Transaction,
        manner: Manner,
        kind: u8,
    ) -> Option<Vec<u8>> {
        let manner = match transaction {
            _ if self.told || self.what.is_empty() => Manner::Not,
            Transaction::None => manner,
            Transaction::Open => Manner::Set,
            // Only its end is possible any more.
            Transaction::Failed => Manner::Not,
        };
        // No quote is in it, nor anything else but letters, digits, `{,-}`, colons and blanks.
        let statement = match manner {
            Manner::Not => return None,
            Manner::Query => format!(
                "select pg_catalog.set_config('{SETTING}', '{}', true) is null",
                self.what
            ),
            Manner::Set => format!("set local {SETTING} = '{}'", self.what),
        };
        self.told = true;
        self.ends_due = ENDS;
        self.lone = matches!(kind, b'Q' | b'F');
        Some(tell(&statement))
    }

    /// Whether a message of the server is an answer to the telling, which the client does not get.
    pub(super) fn takes_out(&mut self, kind: u8, body: &[u8]) -> bool {
        if !self.may_take_out(kind) {
            return false;
        }
        match kind {
            b'1' | b'2' | b'3' | b'C' => {
                self.ends_due -= 1;
                true
            }
            b'D' => true,
            // "SET LOCAL can only be used in transaction blocks", yet it has an effect here.
            b'N' => body.windows(8).any(|field| field == b"\0C25P01\0"),
            b'E' => {
                // Cancelled, most likely. Everything up to a Sync is thrown away.
                (self.ends_due, self.told) = (0, false);
                self.sync_due = self.lone;
                false
            }
            _ => false,
        }
    }

    /// The server says that a statement is done. Some take back what was told.
    pub(super) fn done(&mut self, tag: &[u8]) {
        if [&b"COMMIT\0"[..], b"ROLLBACK\0", b"RESET\0"].contains(&tag) {
            self.told = false;
        }
    }

    /// The server says ReadyForQuery.
    pub(super) fn ready(&mut self, transaction: Transaction) {
        self.told &= transaction != Transaction::None;
    }

    /// Whether a Sync has to be sent in the client's place.
    pub(super) fn sync_due(&self) -> bool {
        self.sync_due
    }

    /// It has been sent.
    pub(super) fn synced(&mut self) {
        self.sync_due = false;
    }
}

fn tell(statement: &str) -> Vec<u8> {
    let named = |prefix: &[u8], rest: &[u8]| [prefix, NAME, b"\0", rest].concat();
    [
        // Left over from one that was cancelled, perhaps, and perhaps another session's.
        messages::message(b'C', &named(b"S", b"")),
        messages::parse(NAME, statement),
        messages::message(b'B', &named(b"", &named(b"", &[0; 6]))),
        messages::message(b'E', &named(b"", &[0; 4])),
        messages::message(b'C', &named(b"P", b"")),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carrying() -> Telling {
        let mut telling = Telling::default();
        telling.carry("{a} 1:ff");
        telling
    }

    fn statement(message: Option<Vec<u8>>) -> String {
        String::from_utf8_lossy(&message.unwrap_or_default()).into_owned()
    }

    #[test]
    fn a_transaction_is_told_once_and_the_next_one_again() {
        let (mut telling, idle) = (carrying(), Idle::default());
        assert!(telling.is_due(&idle));
        let front = telling.put_in_front(Transaction::None, Manner::Query, b'Q');
        assert!(statement(front).contains("set_config('fence.told', '{a} 1:ff', true)"));
        for kind in *b"312DC3" {
            assert!(telling.takes_out(kind, b""), "{}", char::from(kind));
        }
        assert!(!telling.takes_out(b'C', b"INSERT 0 1\0"));
        telling.ready(Transaction::Open);
        assert!(!telling.is_due(&idle));
        telling.done(b"COMMIT\0");
        telling.ready(Transaction::None);
        assert!(telling.is_due(&idle));
    }

    #[test]
    fn what_takes_back_the_setting_has_it_told_again() {
        for tag in [&b"ROLLBACK\0"[..], b"COMMIT\0", b"RESET\0"] {
            let (mut telling, idle) = (carrying(), Idle::default());
            telling.put_in_front(Transaction::Open, Manner::Query, b'Q');
            telling.done(tag);
            telling.ready(Transaction::Open);
            assert!(telling.is_due(&idle));
            let front = telling.put_in_front(Transaction::Open, Manner::Query, b'Q');
            assert!(statement(front).contains("set local fence.told"));
        }
    }

    #[test]
    fn how_it_is_told_depends_on_how_the_transaction_begins() {
        for (kind, text, manner_wanted) in [
            (b'Q', "update t set a = 1", Manner::Query),
            (b'Q', "begin", Manner::Not),
            (b'Q', "begin isolation level serializable;", Manner::Not),
            (b'Q', "begin; update t set a = 1; commit", Manner::Query),
            (b'Q', "begin transaction read write; update t", Manner::Set),
            (b'P', "begin", Manner::Query),
            (
                b'P',
                "start transaction isolation level serializable",
                Manner::Set,
            ),
            (b'Q', "vacuum t", Manner::Not),
            (
                b'P',
                "create unique index concurrently on t (a)",
                Manner::Not,
            ),
            (b'Q', "create table t (a int)", Manner::Query),
            (b'B', "", Manner::Query),
        ] {
            assert_eq!(manner(kind, text.as_bytes()), manner_wanted, "{text}");
        }
        let mut telling = carrying();
        assert_eq!(
            telling.put_in_front(Transaction::Failed, Manner::Query, b'Q'),
            None
        );
    }

    #[test]
    fn a_telling_that_fails_wants_the_sync_that_a_query_has_not() {
        for (kind, due) in [(b'Q', true), (b'F', true), (b'P', false)] {
            let mut telling = carrying();
            telling.put_in_front(Transaction::None, Manner::Query, kind);
            assert!(telling.takes_out(b'3', b"") && telling.takes_out(b'1', b""));
            assert!(!telling.takes_out(b'E', b"\0C57014\0"));
            assert_eq!(telling.sync_due(), due);
            assert!(telling.is_due(&Idle::default()));
        }
    }

    #[test]
    fn notices_other_than_the_tellings_own_are_passed_on() {
        let mut telling = carrying();
        telling.put_in_front(Transaction::None, Manner::Set, b'P');
        assert!(telling.takes_out(b'N', b"SWARNING\0C25P01\0Mx\0\0"));
        assert!(!telling.takes_out(b'N', b"SWARNING\0C01000\0Mx\0\0"));
        assert!(!telling.takes_out(b'S', b"TimeZone\0UTC\0"));
    }

    #[test]
    fn a_session_without_tickets_tells_nothing_and_waits_for_nothing() {
        let mut idle = Idle::default();
        idle.sent(b'Q');
        assert!(!Telling::default().is_due(&idle) && carrying().is_due(&idle));
    }
}
