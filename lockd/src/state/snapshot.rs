//! The whole state as bytes, and back.
//!
//! A snapshot is a short head and then items, one after the other in a fixed order: the counters,
//! every session with its answers, every hold, everybody who waits, every lock that is closed for
//! a while, every session that is called silent, and an end that counts them. What a session
//! acquired and who stands in a lock's queue is not written: the holds and the waiters say it. So
//! the bytes of a state are always the same, and [`State::digest`] over them tells whether two
//! replicas agree.
//!
//! Neither side ever holds more than a chunk beside the state: [`State::encode`] yields chunks,
//! [`Decoder::feed`] takes chunks, however they are cut. The decoder believes nothing: no length
//! is allocated before its bytes are there, and every item is checked against the limits that
//! [`State::apply`] keeps and against what came before it.

mod decode;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use lockd_protocol::client::{About, Outcome};
use lockd_protocol::{EventNumber, LockName, Millis, Nonce, Sequence, SessionId, Token};
use paxos::Ballot;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::State;
use super::lock::{Closed, Hold, Waiter};
use super::session::Session;

pub use decode::{Decoder, SnapshotError};

/// What a snapshot begins with; the byte after it is its version.
const MAGIC: [u8; 7] = *b"lkstate";

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u8 = 4;

/// Bytes of a chunk at most, before its last item.
const CHUNK_BYTES: usize = 32 * 1024;

/// Longest encoded item, bytes: nothing in one is longer than what a client may send in a frame.
const ITEM_BYTES_MAX: usize = 64 * 1024;

/// A piece of a snapshot.
#[derive(Serialize, Deserialize)]
enum Item<'a> {
    /// The first one.
    Counters {
        last_session: SessionId,
        last_token: Token,
        last_place: u64,
        last_event: EventNumber,
        leadership: Option<Ballot>,
    },
    /// A session, in order of ids.
    Session {
        id: SessionId,
        nonce: Nonce,
        ttl: Millis,
        identity: &'a str,
        about: Cow<'a, About>,
        floor: Sequence,
    },
    /// An answer of the session before, in order of sequence.
    Answer {
        sequence: Sequence,
        outcome: Cow<'a, Outcome>,
    },
    /// A hold, in order of locks and tokens.
    Hold { lock: LockName, hold: Cow<'a, Hold> },
    /// Somebody who waits, in order of places.
    Waiter { place: u64, waiter: Cow<'a, Waiter> },
    /// A lock that is closed for a while, in order of names.
    Closed { lock: LockName, closed: Closed },
    /// The last one: how many there were before it.
    End { items: u64 },
    /// A session that the log calls silent, in order of ids: behind the closed locks.
    Silent { session: SessionId, spent: Millis },
}

impl State {
    /// The state as bytes, in chunks of some 32 KiB.
    pub fn encode(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut items = self.items().zip(1u64..);
        let mut written = 0;
        let mut head = Some([MAGIC.as_slice(), &[VERSION]].concat());
        let mut ended = false;
        std::iter::from_fn(move || {
            let mut chunk = head.take().unwrap_or_default();
            while chunk.len() < CHUNK_BYTES && !ended {
                let item = match items.next() {
                    Some((item, number)) => {
                        written = number;
                        item
                    }
                    None => {
                        ended = true;
                        Item::End { items: written }
                    }
                };
                chunk = postcard::to_extend(&item, chunk)
                    .expect("data made of numbers, texts and options has an encoding");
            }
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    /// A fingerprint of the state: the first half of the SHA-256 of its snapshot.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut context = digest::Context::new(&digest::SHA256);
        self.encode().for_each(|chunk| context.update(&chunk));
        let hash = context.finish();
        let half = hash.as_ref().first_chunk().copied();
        u128::from_be_bytes(half.unwrap_or_default())
    }

    fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let counters = Item::Counters {
            last_session: self.last_session,
            last_token: self.last_token,
            last_place: self.last_place,
            last_event: self.last_event,
            leadership: self.leadership,
        };
        let sessions = self.sessions.iter();
        let holds = self.locks.iter().flat_map(|(name, lock)| {
            lock.holds.iter().map(|hold| Item::Hold {
                lock: name.clone(),
                hold: Cow::Borrowed(hold),
            })
        });
        let waiters = self.waiters.iter().map(|(place, waiter)| Item::Waiter {
            place: *place,
            waiter: Cow::Borrowed(waiter),
        });
        let closed = self.closed.iter().map(|(lock, closed)| Item::Closed {
            lock: lock.clone(),
            closed: *closed,
        });
        let silent = self.silent.iter().map(|(session, spent)| Item::Silent {
            session: *session,
            spent: *spent,
        });
        std::iter::once(counters)
            .chain(sessions.flat_map(|(id, session)| session_items(*id, session)))
            .chain(holds)
            .chain(waiters)
            .chain(closed)
            .chain(silent)
    }
}

fn session_items(id: SessionId, session: &Session) -> impl Iterator<Item = Item<'_>> {
    let first = Item::Session {
        id,
        nonce: session.nonce(),
        ttl: session.ttl(),
        identity: session.identity(),
        about: Cow::Borrowed(session.about()),
        floor: session.floor(),
    };
    let answers = session.answers().iter();
    std::iter::once(first).chain(answers.map(|(sequence, outcome)| Item::Answer {
        sequence: *sequence,
        outcome: Cow::Borrowed(outcome),
    }))
}
