//! The set of tickets that a session carries: one token per lock, in order of lock.

use lockd_protocol::types::{LockName, Token};

use super::refusal::{BadTicket, Refusal};
use crate::limits::TICKETS_PER_SESSION_MAX;

/// One ticket of a set, verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shown {
    /// The lock.
    pub lock: LockName,
    /// Token of the grant.
    pub token: Token,
}

/// The tickets of a session. A session carries all of them or none: it may write only while
/// every one of them is current.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TicketSet(Vec<Shown>);

impl TicketSet {
    /// Makes a set of verified tickets.
    ///
    /// # Errors
    /// [`Refusal::BadTicket`] if there are too many. [`Refusal::Stale`] if one lock is shown with
    /// two tokens: the lower one was granted before the higher one and is over.
    pub fn new(mut shown: Vec<Shown>) -> Result<TicketSet, Refusal> {
        shown.sort_unstable();
        shown.dedup();
        if shown.len() > TICKETS_PER_SESSION_MAX {
            return Err(Refusal::BadTicket(BadTicket::TooMany {
                shown: shown.len(),
                most: TICKETS_PER_SESSION_MAX,
            }));
        }
        for (lower, higher) in shown.iter().zip(shown.iter().skip(1)) {
            if lower.lock == higher.lock {
                return Err(Refusal::Stale {
                    lock: lower.lock.clone(),
                    shown: lower.token,
                    needed: Some(higher.token),
                });
            }
        }
        Ok(TicketSet(shown))
    }

    /// The tickets, in order of lock.
    #[must_use]
    pub fn tickets(&self) -> &[Shown] {
        &self.0
    }

    /// Whether no ticket is carried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lock: &str, token: u64) -> Shown {
        Shown {
            lock: LockName::new(lock).unwrap(),
            token: Token(token),
        }
    }

    #[test]
    fn a_set_is_in_order_of_lock_and_holds_each_ticket_once() {
        let set = TicketSet::new(vec![shown("b", 2), shown("a", 9), shown("b", 2)]).unwrap();
        assert_eq!(set.tickets(), [shown("a", 9), shown("b", 2)]);
    }

    #[test]
    fn the_lower_of_two_tokens_of_one_lock_is_stale() {
        let refusal = TicketSet::new(vec![shown("a", 9), shown("a", 4)]).unwrap_err();
        assert!(matches!(
            refusal,
            Refusal::Stale {
                shown: Token(4),
                needed: Some(Token(9)),
                ..
            }
        ));
    }

    #[test]
    fn more_tickets_than_a_session_may_carry_are_refused() {
        let many = (0..=TICKETS_PER_SESSION_MAX)
            .map(|i| shown(&format!("l{i}"), 1))
            .collect();
        assert!(matches!(TicketSet::new(many), Err(Refusal::BadTicket(_))));
    }
}
