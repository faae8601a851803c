//! Every order of events, within bounds, around the order of requests to an HTTP server: grants,
//! requests that come late, answers and lost answers, effects that come late, gateways that take
//! over, lanes that are forgotten. With a rule taken out, the search has to find a stale effect.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use gateway::fence::admission::Era;
use gateway::fence::order::{Order, RequestId, Rule, Verdict};
use gateway::fence::set::{Shown, TicketSet};
use lockd_protocol::types::{LockName, Token};

/// How long a write that was given up may still take effect.
const SETTLE: u64 = 1;

/// How far the search goes.
#[derive(Clone, Copy)]
struct Bounds {
    locks: usize,
    tokens: u64,
    requests: usize,
    ticks: u64,
    takeovers: u32,
    lanes: usize,
    /// How often lanes may be forgotten: without end, if requests are tried again without end.
    eras: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// Not admitted yet; nothing is sent.
    Waiting,
    /// The cell was asked, and has answered.
    Asked(Era, bool),
    /// Sent; it may take effect.
    Sent,
    /// It has taken effect; the answer is on its way.
    Applied,
    /// Given up by the gateway; it may take effect until then.
    Late(u64),
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Request {
    lock: usize,
    token: u64,
    phase: Phase,
}

#[derive(Clone)]
struct World {
    order: Order,
    now: u64,
    next_token: u64,
    takeovers: u32,
    /// The tokens granted of each lock; the last one is granted now.
    granted: [Vec<u64>; 2],
    /// The highest token admitted of each lock, by any gateway.
    admitted: [u64; 2],
    requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Grant(usize),
    Come(usize, u64),
    Admit(usize),
    Seed(usize),
    Apply(usize),
    Answer(usize),
    Lose(usize),
    Tick,
    TakeOver,
}

fn shown(request: Request) -> Shown {
    Shown {
        lock: LockName::new(["a", "b"][request.lock]).unwrap(),
        token: Token(request.token),
    }
}

impl World {
    /// Lock `a` was granted before the gateway became the only one.
    fn new(bounds: Bounds, without: Option<Rule>) -> World {
        World {
            order: order(bounds, without, Era(1), 2, 0),
            now: 0,
            next_token: 3,
            takeovers: 0,
            granted: [vec![1], vec![]],
            admitted: [0; 2],
            requests: Vec::new(),
        }
    }

    fn events(&self, bounds: Bounds) -> Vec<Event> {
        let mut events = Vec::new();
        for (lock, granted) in self.granted.iter().enumerate().take(bounds.locks) {
            if self.next_token <= bounds.tokens {
                events.push(Event::Grant(lock));
            }
            if self.requests.len() < bounds.requests {
                events.extend(granted.iter().map(|token| Event::Come(lock, *token)));
            }
        }
        for (at, request) in self.requests.iter().enumerate() {
            match request.phase {
                Phase::Waiting => events.push(Event::Admit(at)),
                Phase::Asked(..) => events.push(Event::Seed(at)),
                Phase::Sent => events.extend([Event::Apply(at), Event::Lose(at)]),
                Phase::Applied => events.extend([Event::Answer(at), Event::Lose(at)]),
                Phase::Late(until) if self.now < until => events.push(Event::Apply(at)),
                Phase::Late(_) | Phase::Over => {}
            }
        }
        if self.now < bounds.ticks {
            events.push(Event::Tick);
        }
        if self.takeovers < bounds.takeovers && self.next_token <= bounds.tokens {
            events.push(Event::TakeOver);
        }
        events
    }

    /// What happens. An error is an effect below a token that was admitted before.
    fn step(&mut self, event: Event, bounds: Bounds, without: Option<Rule>) -> Result<(), String> {
        let now = Duration::from_secs(self.now);
        match event {
            Event::Grant(lock) => {
                self.granted[lock].push(self.next_token);
                self.next_token += 1;
            }
            Event::Come(lock, token) => {
                let phase = Phase::Waiting;
                self.requests.push(Request { lock, token, phase });
                self.admit(self.requests.len() - 1);
            }
            Event::Admit(at) => self.admit(at),
            Event::Seed(at) => {
                let Phase::Asked(era, granted) = self.requests[at].phase else {
                    return Ok(());
                };
                if granted {
                    self.order.seed(era, &shown(self.requests[at]), now);
                }
                self.requests[at].phase = if granted { Phase::Waiting } else { Phase::Over };
            }
            Event::Apply(at) => {
                let request = self.requests[at];
                let admitted = self.admitted[request.lock];
                if request.token < admitted {
                    return Err(format!("{} took effect below {admitted}", request.token));
                }
                let is_sent = request.phase == Phase::Sent;
                self.requests[at].phase = if is_sent { Phase::Applied } else { Phase::Over };
            }
            Event::Answer(at) => {
                self.order.finish(RequestId(at as u64));
                self.requests[at].phase = Phase::Over;
            }
            Event::Lose(at) => {
                self.order.lose(RequestId(at as u64), now);
                self.requests[at].phase = self.given_up(self.requests[at].phase);
            }
            Event::Tick => self.now += 1,
            Event::TakeOver => {
                let era = Era(self.order.era().0 + 1);
                self.order = order(bounds, without, era, self.next_token, self.now);
                self.next_token += 1;
                self.takeovers += 1;
                for at in 0..self.requests.len() {
                    self.requests[at].phase = self.given_up(self.requests[at].phase);
                }
            }
        }
        Ok(())
    }

    /// The same for worlds that differ in nothing that can still matter.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.order, self.now, self.next_token, self.takeovers).hash(&mut hasher);
        (&self.granted, self.admitted).hash(&mut hasher);
        for request in &self.requests {
            match request.phase {
                Phase::Over => 0.hash(&mut hasher),
                Phase::Late(until) if until <= self.now => 0.hash(&mut hasher),
                _ => request.hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    fn given_up(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Sent => Phase::Late(self.now + SETTLE),
            Phase::Applied => Phase::Over,
            other => other,
        }
    }

    fn admit(&mut self, at: usize) {
        let request = self.requests[at];
        let set = TicketSet::new(vec![shown(request)]).unwrap();
        let now = Duration::from_secs(self.now);
        self.requests[at].phase = match self.order.admit(RequestId(at as u64), &set, true, now) {
            Verdict::Admitted => {
                let admitted = &mut self.admitted[request.lock];
                *admitted = request.token.max(*admitted);
                Phase::Sent
            }
            Verdict::Stale { .. } => Phase::Over,
            Verdict::Ask(era, _) => {
                let granted = self.granted[request.lock].last() == Some(&request.token);
                Phase::Asked(era, granted)
            }
            Verdict::Busy | Verdict::Doubtful(_) | Verdict::Full => Phase::Waiting,
        };
    }
}

fn order(bounds: Bounds, without: Option<Rule>, era: Era, token: u64, now: u64) -> Order {
    let settle = Some(Duration::from_secs(SETTLE));
    Order::begin(era, Token(token), settle, Duration::from_secs(now))
        .without(without)
        .with_lanes_max(bounds.lanes)
}

/// Looks at every world that can be reached. Says how many there are, or how a stale effect came
/// about.
fn search(bounds: Bounds, without: Option<Rule>) -> Result<usize, Vec<String>> {
    let mut seen = HashSet::new();
    let mut todo = vec![(World::new(bounds, without), None::<usize>)];
    // What led to each world, for the story.
    let mut history: Vec<(Option<usize>, Event)> = Vec::new();
    while let Some((world, came_by)) = todo.pop() {
        for event in world.events(bounds) {
            let mut next = world.clone();
            history.push((came_by, event));
            let this = history.len() - 1;
            if let Err(stale) = next.step(event, bounds, without) {
                return Err(story(&history, this, stale));
            }
            if next.order.era().0 <= bounds.eras && seen.insert(next.fingerprint()) {
                todo.push((next, Some(this)));
            } else {
                history.pop();
            }
        }
    }
    Ok(seen.len())
}

fn story(history: &[(Option<usize>, Event)], last: usize, stale: String) -> Vec<String> {
    let mut story = vec![stale];
    let mut at = Some(last);
    while let Some(index) = at {
        let (before, event) = history[index];
        story.push(format!("{event:?}"));
        at = before;
    }
    story.reverse();
    story
}

const TAKEOVER: Bounds = Bounds {
    locks: 1,
    tokens: 5,
    requests: 3,
    ticks: 2,
    takeovers: 1,
    lanes: 2,
    eras: 2,
};

const FORGETTING: Bounds = Bounds {
    locks: 2,
    tokens: 4,
    requests: 3,
    ticks: 1,
    takeovers: 0,
    lanes: 1,
    eras: 4,
};

#[test]
fn in_no_order_of_events_does_anything_below_an_admitted_token_take_effect() {
    for bounds in [TAKEOVER, FORGETTING] {
        let worlds = search(bounds, None).unwrap_or_else(|story| panic!("{story:#?}"));
        eprintln!("{worlds} worlds");
        assert!(worlds > 10_000);
    }
}

#[test]
fn each_rule_is_needed() {
    for (rule, bounds) in [
        (Rule::Drain, TAKEOVER),
        (Rule::Doubt, TAKEOVER),
        (Rule::Ask, TAKEOVER),
        (Rule::Rest, TAKEOVER),
        (Rule::Era, FORGETTING),
    ] {
        let story = search(bounds, Some(rule)).expect_err(&format!("{rule:?} is not needed"));
        eprintln!("without {rule:?}: {story:?}");
    }
}
