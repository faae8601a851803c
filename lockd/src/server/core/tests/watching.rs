//! Watches of a cell in memory: listings, events, resumption, gaps, limits.

use lockd_client::core::{Holders, Update, WatchCore};
use lockd_protocol::EventNumber;
use lockd_protocol::client::{Change, News, Refusal, Scope, Value};
use lockd_protocol::limits::WATCHES_PER_CONNECTION_MAX;

use super::*;
use crate::limits::WATCH_OUTBOX_BYTES_MAX;

/// A session that acquires locks of its own.
struct User {
    client: Client,
    session: SessionId,
    last: u64,
}

impl User {
    fn new(cell: &mut Cell, leader: NodeId, nonce: u128) -> User {
        let (client, session) = cell.open(leader, nonce);
        User {
            client,
            session,
            last: 0,
        }
    }

    fn ask(&mut self, cell: &mut Cell, operation: Operation) -> Outcome {
        self.last += 1;
        let ask = request(self.session, self.last, operation);
        let frames = cell.ask(&mut self.client, ask);
        let outcome = frames.into_iter().find_map(|frame| match frame {
            NodeFrame::Reply { outcome, .. } => Some(outcome),
            _ => None,
        });
        outcome.expect("answered")
    }

    /// Number of the acquisition, and the token.
    fn hold(&mut self, cell: &mut Cell, lock: &str, metadata: &[u8]) -> (Sequence, Token) {
        let lock = LockName::new(lock).expect("a name");
        let acquire = Acquire {
            metadata: Value::new(metadata).expect("short"),
            ..Acquire::one(lock, Mode::Shared, Wait::Try)
        };
        let outcome = self.ask(cell, Operation::Acquire(acquire));
        (Sequence(self.last), outcome.granted_token().expect("free"))
    }

    fn release(&mut self, cell: &mut Cell, (acquire, token): (Sequence, Token)) {
        let outcome = self.ask(cell, Operation::Release { acquire, token });
        assert_eq!(outcome, Outcome::Released);
    }
}

fn prefix(text: &str) -> Scope {
    Scope::Prefix(text.to_owned())
}

fn news(frames: Vec<NodeFrame>) -> Vec<(u64, News)> {
    let news = frames.into_iter().filter_map(|frame| match frame {
        NodeFrame::News { watch, news } => Some((watch, news)),
        _ => None,
    });
    news.collect()
}

/// Starts a watch and returns what it is told at once.
fn start(cell: &mut Cell, client: &mut Client, watch: u64, core: &mut WatchCore) -> Vec<Update> {
    let begin = core.start(watch);
    let frames = cell.ask(client, begin);
    take(core, watch, frames)
}

fn take(core: &mut WatchCore, number: u64, frames: Vec<NodeFrame>) -> Vec<Update> {
    let own = news(frames)
        .into_iter()
        .filter(|(watch, _)| *watch == number);
    let updates = own.filter_map(|(_, news)| core.take(news).expect("not refused"));
    updates.collect()
}

/// Of updates that are events: their numbers, what happened, and to which lock.
fn events(updates: &[Update]) -> Vec<(u64, Change, &str)> {
    let events = updates.iter().map(|update| match update {
        Update::Event(event) => {
            let lock = event.holder.lock.as_str();
            (event.number.0, event.change, lock)
        }
        other => panic!("no event: {other:?}"),
    });
    events.collect()
}

#[test]
fn a_watch_is_told_who_holds_what_and_then_each_change_that_concerns_it() {
    let (mut cell, leader) = Cell::led();
    let mut user = User::new(&mut cell, leader, 1);
    let first = user.hold(&mut cell, "s/1", b"one");
    user.hold(&mut cell, "t/1", b"");
    let mut watcher = cell.connect(leader);
    let mut all = WatchCore::new(prefix("s/"));
    let mut one = WatchCore::new(Scope::Lock(LockName::new("t/1").expect("a name")));
    let listed = start(&mut cell, &mut watcher, 1, &mut all);
    let [Update::Snapshot(snapshot)] = &listed[..] else {
        panic!("{listed:?}");
    };
    let holder = &snapshot.holders[0];
    assert_eq!((snapshot.at, snapshot.holders.len()), (EventNumber(2), 1));
    assert_eq!((holder.token, holder.session), (first.1, user.session));
    let metadata = holder.metadata.clone().expect("it was given");
    assert_eq!(
        (metadata.version.0, metadata.value.as_bytes()),
        (1, &b"one"[..])
    );
    start(&mut cell, &mut watcher, 2, &mut one);

    user.hold(&mut cell, "s/2", b"");
    user.hold(&mut cell, "t/1", b"");
    user.release(&mut cell, first);
    let frames = cell.received(&mut watcher);
    let told = take(&mut all, 1, frames.clone());
    let expected = [(3, Change::Granted, "s/2"), (5, Change::Released, "s/1")];
    assert_eq!(events(&told), expected);
    assert_eq!(
        events(&take(&mut one, 2, frames)),
        [(4, Change::Granted, "t/1")]
    );

    cell.send(&watcher, ClientFrame::Unwatch { watch: 1 });
    user.hold(&mut cell, "s/3", b"");
    assert_eq!(news(cell.received(&mut watcher)), []);
}

#[test]
fn after_a_change_of_leader_a_watch_goes_on_where_it_was_at_any_node() {
    let (mut cell, leader) = Cell::led();
    let mut user = User::new(&mut cell, leader, 1);
    let mut watcher = cell.connect(leader);
    let mut core = WatchCore::new(prefix(""));
    start(&mut cell, &mut watcher, 1, &mut core);
    user.hold(&mut cell, "a", b"");
    let told = cell.received(&mut watcher);
    assert_eq!(events(&take(&mut core, 1, told)).len(), 1);
    // This one it does not get to know of.
    let second = user.hold(&mut cell, "b", b"x");
    cell.run(200);
    cell.paused.push(leader);
    let next = cell.elect();
    let mut watcher = cell.connect(next);
    let told = start(&mut cell, &mut watcher, 1, &mut core);
    assert_eq!(events(&told), [(2, Change::Granted, "b")]);
    let Update::Event(event) = &told[0] else {
        panic!("{told:?}");
    };
    assert_eq!(event.holder.token, second.1);
    assert!(event.holder.metadata.is_some());
}

#[test]
fn a_node_that_loses_its_leadership_sends_its_watches_elsewhere() {
    let (mut cell, leader) = Cell::led();
    let mut watcher = cell.connect(leader);
    let mut core = WatchCore::new(prefix(""));
    start(&mut cell, &mut watcher, 1, &mut core);
    cell.paused.push(leader);
    cell.elect();
    cell.paused.clear();
    cell.run(500);
    let frames = cell.received(&mut watcher);
    assert!(
        frames
            .iter()
            .any(|f| matches!(f, NodeFrame::Redirect { .. }))
    );
    let follower = cell.cores.get(&leader).expect("a member");
    assert!(follower.leading.is_none() && !follower.watching.is_busy());
    let begin = core.start(2);
    let frames = cell.ask(&mut watcher, begin);
    assert!(
        matches!(frames[..], [NodeFrame::Redirect { .. }]),
        "{frames:?}"
    );
}

fn little(events: usize) -> HistoryBounds {
    let bytes = 1 << 20;
    HistoryBounds { events, bytes }
}

#[test]
fn what_is_not_remembered_any_more_is_told_as_a_gap_and_listed_anew() {
    let mut cell = Cell::remembering(little(8));
    let leader = cell.elect();
    let mut user = User::new(&mut cell, leader, 1);
    let mut watcher = cell.connect(leader);
    let mut core = WatchCore::new(prefix("a"));
    start(&mut cell, &mut watcher, 1, &mut core);
    let first = user.hold(&mut cell, "a", b"");
    let frames = cell.received(&mut watcher);
    take(&mut core, 1, frames);
    cell.cores
        .get_mut(&leader)
        .expect("a member")
        .client_left(watcher.connection);
    user.release(&mut cell, first);
    for n in 0..8 {
        user.hold(&mut cell, &format!("a{n}"), b"");
    }
    let mut watcher = cell.connect(leader);
    let begin = core.start(1);
    let frames = cell.ask(&mut watcher, begin);
    let after = EventNumber(1);
    assert_eq!(news(frames.clone())[0], (1, News::Missed { after }));
    let told = take(&mut core, 1, frames);
    let [Update::Resync(snapshot)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((snapshot.at, snapshot.holders.len()), (EventNumber(10), 8));
    user.hold(&mut cell, "a9", b"");
    let frames = cell.received(&mut watcher);
    assert_eq!(
        events(&take(&mut core, 1, frames)),
        [(11, Change::Granted, "a9")]
    );
}

#[test]
fn a_watch_that_hears_nothing_for_long_gets_to_know_how_far_it_is() {
    let mut cell = Cell::remembering(little(8));
    let leader = cell.elect();
    let mut user = User::new(&mut cell, leader, 1);
    let mut watcher = cell.connect(leader);
    let mut core = WatchCore::new(prefix("quiet/"));
    start(&mut cell, &mut watcher, 1, &mut core);
    for n in 0..100 {
        user.hold(&mut cell, &format!("loud/{n}"), b"");
    }
    let frames = cell.received(&mut watcher);
    assert!(take(&mut core, 1, frames).is_empty());
    let mut again = cell.connect(leader);
    assert_eq!(start(&mut cell, &mut again, 1, &mut core), [], "no gap");
    user.hold(&mut cell, "quiet/1", b"");
    let frames = cell.received(&mut again);
    assert_eq!(events(&take(&mut core, 1, frames)).len(), 1);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_goes_on_when_it_reads() {
    let (mut cell, leader) = Cell::led();
    let mut user = User::new(&mut cell, leader, 1);
    let (mut slow, mut quick) = (cell.connect(leader), cell.connect(leader));
    let mut core = WatchCore::new(prefix(""));
    let (begin, mut other) = (core.start(1), core.clone());
    cell.send(&slow, begin.clone());
    cell.ask(&mut quick, begin);
    other.take(News::Listing).expect("not refused");
    let mut seen = 0;
    let large = [7; 4096];
    for n in 0..3 * WATCH_OUTBOX_BYTES_MAX / large.len() {
        user.hold(&mut cell, &format!("{n}"), &large);
        seen += news(cell.received(&mut quick)).len();
    }
    let all = 3 * WATCH_OUTBOX_BYTES_MAX / large.len();
    assert_eq!(seen, all, "whoever reads is told at once");
    let mut holders = Holders::default();
    let mut rounds = 0;
    loop {
        let frames = cell.received(&mut slow);
        let most = (WATCH_OUTBOX_BYTES_MAX + 2 * 65_536) / large.len();
        assert!(frames.len() < most, "{} frames wait", frames.len());
        let updates = take(&mut core, 1, frames);
        if updates.is_empty() && rounds > 0 {
            break;
        }
        assert!(
            !matches!(updates[..], [Update::Resync(_)]),
            "all is remembered"
        );
        updates.iter().for_each(|update| holders.apply(update));
        rounds += 1;
    }
    assert_eq!((holders.len(), rounds > 2), (all, true));
}

#[test]
fn a_slow_client_for_which_too_much_happens_is_told_a_gap_and_gets_the_present_state() {
    let mut cell = Cell::remembering(little(16));
    let leader = cell.elect();
    let mut user = User::new(&mut cell, leader, 1);
    let mut slow = cell.connect(leader);
    let mut core = WatchCore::new(prefix(""));
    cell.send(&slow, core.start(1));
    let large = [7; 4096];
    let mut last = None;
    for n in 0..2 * WATCH_OUTBOX_BYTES_MAX / large.len() {
        let held = user.hold(&mut cell, &format!("{n}"), &large);
        if let Some(before) = last.replace(held) {
            user.release(&mut cell, before);
        }
    }
    let mut holders = Holders::default();
    let mut gaps = 0;
    for _ in 0..40 {
        let frames = cell.received(&mut slow);
        for update in take(&mut core, 1, frames) {
            gaps += usize::from(matches!(update, Update::Resync(_)));
            holders.apply(&update);
        }
    }
    let left: Vec<Token> = holders.iter().map(|holder| holder.token).collect();
    assert_eq!((gaps, left), (1, vec![last.expect("held").1]));
}

#[test]
fn a_listing_of_many_pages_is_true_at_its_end() {
    let (mut cell, leader) = Cell::led();
    let mut user = User::new(&mut cell, leader, 1);
    let large = [7; 4096];
    let mut held: Vec<_> = (0..200)
        .map(|n| user.hold(&mut cell, &format!("{n:03}"), &large))
        .collect();
    let mut slow = cell.connect(leader);
    let mut core = WatchCore::new(prefix(""));
    let begin = core.start(1);
    cell.send(&slow, begin);
    cell.settle();
    // Some that were listed, and some that were not.
    for at in [199, 100, 0] {
        user.release(&mut cell, held.remove(at));
    }
    user.hold(&mut cell, "000", b"");
    user.hold(&mut cell, "zzz", b"");
    let mut updates = Vec::new();
    for _ in 0..40 {
        let frames = cell.received(&mut slow);
        updates.extend(take(&mut core, 1, frames));
    }
    let mut holders = Holders::default();
    updates.iter().for_each(|update| holders.apply(update));
    let mut tokens: Vec<Token> = holders.iter().map(|holder| holder.token).collect();
    tokens.sort_unstable();
    let mut expected: Vec<Token> = held.iter().map(|(_, token)| *token).collect();
    expected.extend([Token(201), Token(202)]);
    assert_eq!(tokens, expected);
    assert!(matches!(updates[0], Update::Snapshot(_)));
}

#[test]
fn more_watches_than_a_connection_may_have_are_refused_by_name() {
    let (mut cell, leader) = Cell::led();
    let mut client = cell.connect(leader);
    let watch = |watch| ClientFrame::Watch {
        watch,
        scope: prefix("x"),
        after: None,
    };
    let most = WATCHES_PER_CONNECTION_MAX as u64;
    for n in 0..most {
        let told = news(cell.ask(&mut client, watch(n)));
        assert!(told.contains(&(n, News::Listing)), "{told:?}");
    }
    let told = news(cell.ask(&mut client, watch(most)));
    assert_eq!(told, [(most, News::Refused(Refusal::TooManyWatches(most)))]);
    cell.send(&client, ClientFrame::Unwatch { watch: 0 });
    let told = news(cell.ask(&mut client, watch(most + 1)));
    assert!(told.contains(&(most + 1, News::Listing)), "{told:?}");
    let long = ClientFrame::Watch {
        watch: most + 2,
        scope: prefix(&"x".repeat(257)),
        after: None,
    };
    let told = news(cell.ask(&mut client, long));
    assert!(
        matches!(told[..], [(_, News::Refused(Refusal::BadText { .. }))]),
        "{told:?}"
    );
}

#[test]
fn a_watch_that_is_given_up_before_it_began_does_not_begin() {
    let (mut cell, leader) = Cell::led();
    let mut user = User::new(&mut cell, leader, 1);
    let mut client = cell.connect(leader);
    cell.send(
        &client,
        ClientFrame::Watch {
            watch: 1,
            scope: prefix(""),
            after: None,
        },
    );
    cell.send(&client, ClientFrame::Unwatch { watch: 1 });
    user.hold(&mut cell, "a", b"");
    let events = news(cell.received(&mut client));
    assert!(
        !events
            .iter()
            .any(|(_, news)| matches!(news, News::Event(_))),
        "{events:?}"
    );
}

#[test]
fn a_connection_that_goes_takes_its_watches_along() {
    let (mut cell, leader) = Cell::led();
    let mut client = cell.connect(leader);
    let begin = |watch, scope| ClientFrame::Watch {
        watch,
        scope,
        after: None,
    };
    let lock = Scope::Lock(LockName::new("a").expect("a name"));
    cell.ask(&mut client, begin(1, prefix("a")));
    cell.ask(&mut client, begin(2, lock));
    // This one waits for its confirmation.
    cell.send(&client, begin(3, prefix("b")));
    let core = cell.cores.get_mut(&leader).expect("a member");
    core.client_left(client.connection);
    cell.settle();
    let core = cell.cores.get(&leader).expect("a member");
    assert!(core.watching.is_empty(), "{:?}", core.watching);
}
