//! For how long locks have been held and waited for, without a time kept for each.
//!
//! Tokens and places in queues are numbered in log order. So it is enough to note now and then how
//! far both have come: whatever is numbered up to a note was there at its time. What is long ago is
//! thinned out, to notes that lie a 64th of their age apart.

use std::collections::VecDeque;

use lockd_protocol::client::Age;
use lockd_protocol::{Millis, Token};
use paxos::Time;

use crate::limits::AGE_NOTES_MAX;

/// Notes that are less than this part of their age apart are as good as one.
const PART: u64 = 64;

/// What a leadership has seen come.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Ages(VecDeque<Note>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    at: Time,
    token: Token,
    place: u64,
}

impl Ages {
    /// A leadership begins: whatever is numbered up to these is older.
    pub(super) fn new(now: Time, token: Token, place: u64) -> Ages {
        let at = now;
        Ages(VecDeque::from([Note { at, token, place }]))
    }

    /// So far have tokens and places come by now.
    pub(super) fn note(&mut self, now: Time, token: Token, place: u64) {
        let last = self.0.back();
        if last.is_some_and(|last| (last.token, last.place) == (token, place)) {
            return;
        }
        let at = now;
        self.0.push_back(Note { at, token, place });
        if self.0.len() > AGE_NOTES_MAX {
            self.thin(now);
        }
    }

    /// For how long the grant with this token has been held.
    pub(super) fn held(&self, now: Time, token: Token) -> Age {
        self.age(now, |note| note.token >= token)
    }

    /// For how long whoever has this place has waited.
    pub(super) fn waited(&self, now: Time, place: u64) -> Age {
        self.age(now, |note| note.place >= place)
    }

    fn age(&self, now: Time, covers: impl Fn(&Note) -> bool) -> Age {
        let first = self.0.partition_point(|note| !covers(note));
        let since = self.0.get(first).map_or(now, |note| note.at);
        Age {
            span: Millis(now.micros_since(since) / 1000),
            at_least: first == 0,
        }
    }

    fn thin(&mut self, now: Time) {
        let notes = std::mem::take(&mut self.0);
        let first = notes.front().copied();
        let mut later = now;
        for note in notes.into_iter().rev() {
            let apart = later.micros_since(note.at);
            let is_new = self.0.is_empty();
            if is_new || Some(note) == first || apart > now.micros_since(note.at) / PART {
                self.0.push_front(note);
                later = note.at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Time {
        Time(millis * 1000)
    }

    fn exactly(span: u64) -> Age {
        let (span, at_least) = (Millis(span), false);
        Age { span, at_least }
    }

    #[test]
    fn what_came_under_this_leadership_has_its_age_and_what_was_there_is_at_least_as_old() {
        let mut ages = Ages::new(ms(100), Token(7), 3);
        ages.note(ms(250), Token(9), 3);
        ages.note(ms(400), Token(9), 4);
        let found = ages.held(ms(1000), Token(7));
        assert_eq!((found.span, found.at_least), (Millis(900), true));
        assert_eq!(ages.held(ms(1000), Token(8)), exactly(750));
        assert_eq!(ages.held(ms(1000), Token(9)), exactly(750));
        assert_eq!(ages.waited(ms(1000), 4), exactly(600));
        assert_eq!(ages.waited(ms(1000), 5), exactly(0), "just now");
    }

    #[test]
    fn ages_of_a_day_are_right_to_a_few_parts_in_a_hundred_in_bounded_memory() {
        let mut ages = Ages::new(ms(0), Token(0), 0);
        let day = 24 * 3600 * 1000;
        let came = |token: u64| token * 50;
        for token in 1..=day / 50 {
            ages.note(ms(came(token)), Token(token), 0);
            assert!(ages.0.len() <= AGE_NOTES_MAX);
        }
        for token in [1, 2, 777, 100_000, 1_700_000, day / 50 - 3, day / 50] {
            let (age, truth) = (ages.held(ms(day), Token(token)), day - came(token));
            let (span, low) = (age.span.0, truth - truth / 16);
            assert!((low..=truth).contains(&span), "{span} of {truth}");
        }
    }
}
