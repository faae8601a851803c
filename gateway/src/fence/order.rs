//! In which order the requests of lock holders may go to a server that cannot compare tokens.
//!
//! Each lock has a *lane*: the highest token admitted so far (the mark), the writes that have been
//! sent and not finally answered, and *doubts*, writes whose outcome nobody knows. The rules:
//!
//! - a token below the mark is refused, one above it raises the mark first: the lower ones are
//!   closed from then on, whatever becomes of the newcomer;
//! - nobody is admitted while a write under a lower token is unanswered, or in doubt;
//! - a doubt ends when the settle time has passed, or when an operator says so;
//! - of a lane that is not known, a token up to the *horizon* may have been overtaken under an
//!   earlier gateway: the cell has to be asked whether it grants it now. What is above the horizon
//!   was granted after everything that may have been forgotten.
//!
//! So once a token has been admitted, no write under a lower one of the same lock can take effect,
//! *as long as this is the only gateway, an answered write has taken effect or never will, and the
//! settle time is true*. That is weaker than a fence in the server; `docs/gateway-http.md` says by
//! how much.
//!
//! Times are since any one moment, on a clock that never goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use lockd_protocol::types::{LockName, Token};

use super::admission::Era;
use super::set::{Shown, TicketSet};
use super::{Standing, standing};
use crate::limits::LANES_MAX;

/// Names a request for as long as it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A rule that tests take out, to see that they would notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Nobody is admitted while a write under a lower token is unanswered.
    Drain,
    /// Nobody is admitted while a write under a lower token is in doubt.
    Doubt,
    /// The cell is asked for what an earlier gateway may have overtaken.
    Ask,
    /// A gateway that takes over waits for what the one before it may have sent.
    Rest,
    /// What the cell has said does not count once lanes have been forgotten.
    Era,
}

/// Whether a request may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may; a write counts as unanswered from now on.
    Admitted,
    /// A higher token has been admitted.
    Stale {
        /// Of which lock.
        lock: LockName,
        /// The token shown.
        shown: Token,
        /// The lowest that would be taken.
        needed: Token,
    },
    /// The cell has to be asked whether it grants this one now; see [`Order::seed`].
    Ask(Era, Shown),
    /// Writes under lower tokens are unanswered: try again when one of them has ended.
    Busy,
    /// A write under a lower token is in doubt.
    Doubtful(Quarantine),
    /// More lanes than [`LANES_MAX`] are in use.
    Full,
}

/// Why nobody newer is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// The lock and the token of the write in doubt; none for what an earlier gateway may have
    /// sent.
    pub write: Option<(LockName, Token)>,
    /// When it ends by itself. None: when an operator says so.
    pub until: Option<Duration>,
}

/// When a doubt ends by itself; a later end comes after an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    At(Duration),
    Never,
}

impl End {
    fn is_over(self, now: Duration) -> bool {
        matches!(self, End::At(end) if end <= now)
    }

    fn time(self) -> Option<Duration> {
        match self {
            End::At(end) => Some(end),
            End::Never => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lane {
    mark: Token,
    unanswered: BTreeMap<Token, u32>,
    doubts: BTreeMap<Token, End>,
}

impl Lane {
    fn is_idle(&self, now: Duration) -> bool {
        self.unanswered.is_empty() && self.doubts.values().all(|end| end.is_over(now))
    }

    fn has_unanswered_below(&self, token: Token) -> bool {
        self.unanswered.range(..token).next().is_some()
    }

    /// The doubt below this token that ends last, if one has not ended.
    fn doubt_below(&self, token: Token, now: Duration) -> Option<(Token, End)> {
        let doubts = self
            .doubts
            .range(..token)
            .map(|(token, end)| (*token, *end));
        doubts
            .filter(|(_, end)| !end.is_over(now))
            .max_by_key(|(_, end)| *end)
    }

    fn answered(&mut self, token: Token) {
        if let Some(count) = self.unanswered.get_mut(&token) {
            *count -= 1;
            if *count == 0 {
                self.unanswered.remove(&token);
            }
        }
    }
}

/// The lanes of all locks, for as long as one gateway is the only one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    lanes: BTreeMap<LockName, Lane>,
    /// Writes under way, with what they have shown.
    requests: BTreeMap<RequestId, TicketSet>,
    horizon: Token,
    era: Era,
    /// What an earlier gateway may have sent is in doubt until then.
    rest: End,
    settle: Option<Duration>,
    lanes_max: usize,
    without: Option<Rule>,
}

impl Order {
    /// The order of a gateway that has become the only one at this moment, under a grant with this
    /// token. `settle` is how long after its sender has given up on it a write may still take
    /// effect; without it only an operator ends a doubt.
    #[must_use]
    pub fn begin(era: Era, token: Token, settle: Option<Duration>, now: Duration) -> Order {
        let mut order = Order {
            lanes: BTreeMap::new(),
            requests: BTreeMap::new(),
            horizon: token,
            era,
            rest: End::Never,
            settle,
            lanes_max: LANES_MAX,
            without: None,
        };
        order.rest = order.end(now);
        order
    }

    /// The same without one of its rules, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn without(mut self, rule: Option<Rule>) -> Order {
        self.without = rule;
        self
    }

    /// The same with room for so many lanes.
    #[doc(hidden)]
    #[must_use]
    pub fn with_lanes_max(mut self, most: usize) -> Order {
        self.lanes_max = most;
        self
    }

    /// Names what the cell's answers belong to.
    #[must_use]
    pub fn era(&self) -> Era {
        self.era
    }

    /// Admits a request that shows these tickets, or says why not yet or never. The whole set is
    /// checked before anything is closed.
    pub fn admit(
        &mut self,
        request: RequestId,
        set: &TicketSet,
        writes: bool,
        now: Duration,
    ) -> Verdict {
        if let Some(verdict) = self.overtaken(set) {
            return verdict;
        }
        if !self.raise(set, now) {
            return Verdict::Full;
        }
        if let Some(doubt) = self.quarantine(set, now) {
            return Verdict::Doubtful(doubt);
        }
        if self.is_busy(set) {
            return Verdict::Busy;
        }
        if writes && self.requests.insert(request, set.clone()).is_none() {
            for shown in set.tickets() {
                if let Some(lane) = self.lanes.get_mut(&shown.lock) {
                    *lane.unanswered.entry(shown.token).or_default() += 1;
                }
            }
        }
        Verdict::Admitted
    }

    /// The first ticket that is stale, or of which only the cell knows.
    fn overtaken(&self, set: &TicketSet) -> Option<Verdict> {
        let mut unknown = None;
        for shown in set.tickets() {
            match self.lanes.get(&shown.lock).map(|lane| lane.mark) {
                Some(mark) => {
                    if let Standing::Stale { needed } = standing(Some(mark), shown.token) {
                        return Some(Verdict::Stale {
                            lock: shown.lock.clone(),
                            shown: shown.token,
                            needed,
                        });
                    }
                }
                None if shown.token <= self.horizon && self.without != Some(Rule::Ask) => {
                    unknown.get_or_insert(shown);
                }
                None => {}
            }
        }
        unknown.map(|shown| Verdict::Ask(self.era, shown.clone()))
    }

    /// Raises the marks; says whether there was room.
    fn raise(&mut self, set: &TicketSet, now: Duration) -> bool {
        let is_new = |shown: &&Shown| !self.lanes.contains_key(&shown.lock);
        let new = set.tickets().iter().filter(is_new).count();
        if !self.make_room(new, set, now) {
            return false;
        }
        for shown in set.tickets() {
            let lane = self.lanes.entry(shown.lock.clone()).or_default();
            lane.mark = lane.mark.max(shown.token);
            lane.doubts.retain(|_, end| !end.is_over(now));
        }
        true
    }

    /// Forgets idle lanes, those with the lowest marks, but none of these tickets'.
    fn make_room(&mut self, new: usize, keep: &TicketSet, now: Duration) -> bool {
        if self.lanes.len() + new <= self.lanes_max {
            return true;
        }
        let kept = |lock: &LockName| keep.tickets().iter().any(|shown| shown.lock == *lock);
        let idle = self.lanes.iter().filter(|(_, lane)| lane.is_idle(now));
        let mut idle: Vec<_> = idle
            .filter(|(lock, _)| !kept(lock))
            .map(|(lock, lane)| (lane.mark, lock.clone()))
            .collect();
        idle.sort_unstable();
        idle.truncate(idle.len().div_ceil(2).max(new));
        for (mark, lock) in &idle {
            self.lanes.remove(lock);
            self.horizon = self.horizon.max(*mark);
        }
        if self.without != Some(Rule::Era) {
            self.era = Era(self.era.0 + i64::from(!idle.is_empty()));
        }
        self.lanes.len() + new <= self.lanes_max
    }

    /// What keeps these tickets out although they are current, if it ends only with time.
    #[must_use]
    pub fn quarantine(&self, set: &TicketSet, now: Duration) -> Option<Quarantine> {
        if !self.rest.is_over(now) && self.without != Some(Rule::Rest) {
            return Some(Quarantine {
                write: None,
                until: self.rest.time(),
            });
        }
        if self.without == Some(Rule::Doubt) {
            return None;
        }
        set.tickets().iter().find_map(|shown| {
            let (token, end) = self.lanes.get(&shown.lock)?.doubt_below(shown.token, now)?;
            Some(Quarantine {
                write: Some((shown.lock.clone(), token)),
                until: end.time(),
            })
        })
    }

    fn is_busy(&self, set: &TicketSet) -> bool {
        let busy = |shown: &Shown| {
            let lane = self.lanes.get(&shown.lock);
            lane.is_some_and(|lane| lane.has_unanswered_below(shown.token))
        };
        self.without != Some(Rule::Drain) && set.tickets().iter().any(busy)
    }

    /// The cell has said, to a question put in this era, that it grants this ticket. An answer of
    /// another era is worth nothing: a newer token may have come and been forgotten since.
    pub fn seed(&mut self, era: Era, shown: &Shown, now: Duration) {
        if era != self.era || self.lanes.contains_key(&shown.lock) {
            return;
        }
        if self.make_room(1, &TicketSet::default(), now) {
            let lane = Lane {
                mark: shown.token,
                ..Lane::default()
            };
            self.lanes.insert(shown.lock.clone(), lane);
        }
    }

    /// A write is over: it was finally answered, or never sent.
    pub fn finish(&mut self, request: RequestId) {
        let Some(set) = self.requests.remove(&request) else {
            return;
        };
        for shown in set.tickets() {
            if let Some(lane) = self.lanes.get_mut(&shown.lock) {
                lane.answered(shown.token);
            }
        }
    }

    /// Nobody will ever say what became of a write that may have been sent.
    pub fn lose(&mut self, request: RequestId, now: Duration) {
        let Some(set) = self.requests.remove(&request) else {
            return;
        };
        let end = self.end(now);
        for shown in set.tickets() {
            if let Some(lane) = self.lanes.get_mut(&shown.lock) {
                lane.answered(shown.token);
                let doubt = lane.doubts.entry(shown.token).or_insert(end);
                *doubt = end.max(*doubt);
            }
        }
    }

    fn end(&self, now: Duration) -> End {
        self.settle
            .map_or(End::Never, |settle| End::At(now.saturating_add(settle)))
    }

    /// An operator vouches that nothing in doubt will take effect any more: of one lock, or of all
    /// and of what an earlier gateway may have sent. Says how many doubts that ends.
    pub fn settle(&mut self, lock: Option<&LockName>, now: Duration) -> usize {
        let mut ended = 0;
        for (name, lane) in &mut self.lanes {
            if lock.is_none_or(|lock| lock == name) {
                ended += lane.doubts.values().filter(|end| !end.is_over(now)).count();
                lane.doubts.clear();
            }
        }
        if lock.is_none() && !self.rest.is_over(now) {
            self.rest = End::At(now);
            ended += 1;
        }
        ended
    }

    /// The lanes in order of lock: the mark, how many writes are unanswered, and until when what
    /// is in doubt keeps newer tokens out.
    pub fn lanes(&self, now: Duration) -> impl Iterator<Item = LaneView<'_>> {
        self.lanes.iter().map(move |(lock, lane)| LaneView {
            lock,
            mark: lane.mark,
            unanswered: lane.unanswered.values().sum(),
            doubts: lane.doubts.values().filter(|end| !end.is_over(now)).count(),
        })
    }
}

/// What there is to see of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneView<'a> {
    /// Of which lock.
    pub lock: &'a LockName,
    /// The highest token admitted.
    pub mark: Token,
    /// Writes that have been sent and not finally answered.
    pub unanswered: u32,
    /// Tokens under which a write is in doubt.
    pub doubts: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lock(name: &str) -> LockName {
        LockName::new(name).unwrap()
    }

    fn set(tickets: &[(&str, u64)]) -> TicketSet {
        let shown = tickets.iter().map(|(name, token)| Shown {
            lock: lock(name),
            token: Token(*token),
        });
        TicketSet::new(shown.collect()).unwrap()
    }

    /// The only gateway since second 0, under token 100; at rest from second 10 on.
    fn order() -> Order {
        Order::begin(Era(1), Token(100), Some(SETTLE), at(0))
    }

    fn write(order: &mut Order, id: u64, tickets: &[(&str, u64)], now: u64) -> Verdict {
        order.admit(RequestId(id), &set(tickets), true, at(now))
    }

    #[test]
    fn a_higher_token_closes_the_lower_one_and_waits_for_what_it_has_sent() {
        let mut order = order();
        assert_eq!(write(&mut order, 1, &[("a", 101)], 10), Verdict::Admitted);
        assert_eq!(write(&mut order, 2, &[("a", 101)], 10), Verdict::Admitted);
        assert_eq!(write(&mut order, 3, &[("a", 102)], 10), Verdict::Busy);
        let stale = Verdict::Stale {
            lock: lock("a"),
            shown: Token(101),
            needed: Token(102),
        };
        assert_eq!(write(&mut order, 4, &[("a", 101)], 10), stale);
        order.finish(RequestId(1));
        assert_eq!(write(&mut order, 3, &[("a", 102)], 10), Verdict::Busy);
        assert_eq!(write(&mut order, 5, &[("b", 101)], 10), Verdict::Admitted);
        order.finish(RequestId(2));
        assert_eq!(write(&mut order, 3, &[("a", 102)], 10), Verdict::Admitted);
    }

    #[test]
    fn a_read_waits_like_a_write_and_is_waited_for_by_nobody() {
        let mut order = order();
        write(&mut order, 1, &[("a", 101)], 10);
        let read =
            |order: &mut Order| order.admit(RequestId(2), &set(&[("a", 102)]), false, at(10));
        assert_eq!(read(&mut order), Verdict::Busy);
        order.finish(RequestId(1));
        assert_eq!(read(&mut order), Verdict::Admitted);
        assert_eq!(write(&mut order, 3, &[("a", 103)], 10), Verdict::Admitted);
    }

    #[test]
    fn a_lost_write_keeps_higher_tokens_out_until_it_has_settled_or_an_operator_vouches() {
        let mut order = order();
        write(&mut order, 1, &[("a", 101)], 10);
        order.lose(RequestId(1), at(20));
        // Its own holder goes on: it was told.
        assert_eq!(write(&mut order, 2, &[("a", 101)], 20), Verdict::Admitted);
        order.finish(RequestId(2));
        let doubtful = Verdict::Doubtful(Quarantine {
            write: Some((lock("a"), Token(101))),
            until: Some(at(30)),
        });
        assert_eq!(write(&mut order, 3, &[("a", 102)], 29), doubtful);
        assert!(matches!(
            write(&mut order, 2, &[("a", 101)], 29),
            Verdict::Stale { .. }
        ));
        assert_eq!(
            write(&mut order.clone(), 3, &[("a", 102)], 30),
            Verdict::Admitted
        );
        assert_eq!(order.settle(Some(&lock("b")), at(29)), 0);
        assert_eq!(order.settle(Some(&lock("a")), at(29)), 1);
        assert_eq!(write(&mut order, 3, &[("a", 102)], 29), Verdict::Admitted);
    }

    #[test]
    fn without_a_settle_time_only_an_operator_ends_a_doubt() {
        let mut order = Order::begin(Era(1), Token(100), None, at(0));
        let verdict = write(&mut order, 1, &[("a", 101)], 1_000_000);
        let never = Quarantine {
            write: None,
            until: None,
        };
        assert_eq!(verdict, Verdict::Doubtful(never));
        assert_eq!(order.settle(None, at(1_000_000)), 1);
        assert_eq!(
            write(&mut order, 1, &[("a", 101)], 1_000_000),
            Verdict::Admitted
        );
    }

    #[test]
    fn after_a_takeover_nobody_is_admitted_before_the_settle_time_has_passed() {
        let mut order = order();
        let verdict = write(&mut order, 1, &[("a", 101)], 9);
        assert!(matches!(
            verdict,
            Verdict::Doubtful(Quarantine { write: None, .. })
        ));
        assert_eq!(write(&mut order, 1, &[("a", 101)], 10), Verdict::Admitted);
    }

    #[test]
    fn the_cell_is_asked_up_to_the_horizon_and_its_answer_counts_in_its_era_only() {
        let mut order = order();
        let shown = set(&[("a", 100)]).tickets()[0].clone();
        let ask = Verdict::Ask(Era(1), shown.clone());
        assert_eq!(write(&mut order, 1, &[("a", 100)], 10), ask);
        order.seed(Era(0), &shown, at(10));
        assert_eq!(write(&mut order, 1, &[("a", 100)], 10), ask);
        order.seed(Era(1), &shown, at(10));
        assert_eq!(write(&mut order, 1, &[("a", 100)], 10), Verdict::Admitted);
        // A late answer for somebody older does not lower the mark.
        order.seed(Era(1), &set(&[("a", 90)]).tickets()[0], at(10));
        assert!(matches!(
            write(&mut order, 2, &[("a", 90)], 10),
            Verdict::Stale { .. }
        ));
    }

    #[test]
    fn nothing_is_closed_by_a_set_of_which_one_ticket_is_stale() {
        let mut order = order();
        write(&mut order, 1, &[("b", 105)], 10);
        let both = [("a", 103), ("b", 104)];
        assert!(matches!(
            write(&mut order, 2, &both, 10),
            Verdict::Stale { .. }
        ));
        assert_eq!(write(&mut order, 3, &[("a", 101)], 10), Verdict::Admitted);
    }

    #[test]
    fn a_write_under_two_locks_holds_up_the_next_of_either() {
        let mut order = order();
        write(&mut order, 1, &[("a", 101), ("b", 101)], 10);
        assert_eq!(write(&mut order, 2, &[("b", 102)], 10), Verdict::Busy);
        order.lose(RequestId(1), at(10));
        let verdict = write(&mut order, 2, &[("b", 102)], 10);
        assert!(matches!(verdict, Verdict::Doubtful(_)), "{verdict:?}");
        assert_eq!(order.settle(None, at(10)), 2);
    }

    #[test]
    fn idle_lanes_are_forgotten_and_the_cell_is_asked_for_them_again() {
        let mut order = order().with_lanes_max(2);
        for (id, name) in [(1, "a"), (2, "b")] {
            write(&mut order, id, &[(name, 200 + id)], 10);
        }
        assert_eq!(write(&mut order, 3, &[("c", 300)], 10), Verdict::Full);
        order.finish(RequestId(1));
        assert_eq!(write(&mut order, 3, &[("c", 300)], 10), Verdict::Admitted);
        // The mark of a was 201: what was granted later needs no question.
        assert_eq!(order.era(), Era(2));
        order.finish(RequestId(2));
        assert!(matches!(
            write(&mut order, 4, &[("a", 201)], 10),
            Verdict::Ask(Era(2), _)
        ));
        assert_eq!(write(&mut order, 4, &[("a", 203)], 10), Verdict::Admitted);
    }

    #[test]
    fn what_is_under_way_can_be_seen() {
        let mut order = order();
        write(&mut order, 1, &[("a", 101)], 10);
        write(&mut order, 2, &[("a", 101)], 10);
        order.lose(RequestId(2), at(10));
        let view = LaneView {
            lock: &lock("a"),
            mark: Token(101),
            unanswered: 1,
            doubts: 1,
        };
        assert_eq!(order.lanes(at(10)).collect::<Vec<_>>(), [view]);
        assert_eq!(order.lanes(at(20)).next().unwrap().doubts, 0);
    }
}
