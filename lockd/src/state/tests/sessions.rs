//! Whose sessions are, what they say of themselves, and how they are listed.

use lockd_protocol::client::{Age, Labels, LockDetail, Quota, SessionSummary};

use super::super::listing::Observed;
use super::*;

fn open_as(nonce: u128, identity: &str, labels: &[(&str, &str)]) -> Command {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Command::Open {
        nonce: Nonce(nonce),
        ttl: Millis(10_000),
        identity: identity.to_owned(),
        about: About {
            description: format!("{identity} {nonce}"),
            labels: labels.collect(),
        },
    }
}

fn sessions(state: &State, labels: &Labels) -> Vec<SessionSummary> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let answer = state.list_sessions(after, labels, 100, &Unobserved);
        let Answer::Sessions { sessions, next } = answer else {
            panic!("not a list of sessions")
        };
        all.extend(sessions);
        match next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

#[test]
fn a_session_belongs_to_the_identity_that_opened_it_and_its_nonce_opens_no_other() {
    let mut bench = Bench::new(0);
    bench.apply(open_as(1, "billing", &[]));
    assert_eq!(bench.state.identity_of(SessionId(1)), Some("billing"));
    let again = bench.apply(open_as(1, "billing", &[]));
    let opened = |result| Effect::Opened {
        nonce: Nonce(1),
        result,
    };
    assert_eq!(again, [opened(Ok(SessionId(1)))]);
    let other = bench.apply(open_as(1, "reports", &[]));
    let refusal = Refusal::OtherIdentity {
        session: SessionId(1),
        asks: "reports".to_owned(),
    };
    assert_eq!(other, [opened(Err(refusal))]);
    assert_eq!(bench.state.sessions_of("billing"), 1);
    assert_eq!(bench.state.sessions_of("reports"), 0);
    bench.expire(1);
    assert_eq!(bench.state.identity_of(SessionId(1)), None);
    assert_eq!(bench.state.sessions_of("billing"), 0);
}

#[test]
fn labels_that_are_not_allowed_open_no_session() {
    let mut bench = Bench::new(0);
    let opened = bench.apply(open_as(1, "a", &[("two words", "x")]));
    let [Effect::Opened { result, .. }] = &opened[..] else {
        panic!("{opened:?}")
    };
    let refusal = result.as_ref().expect_err("not allowed").to_string();
    assert!(refusal.contains("two words"), "{refusal}");
    assert_eq!(bench.state.session_count(), 0);
}

#[test]
fn sessions_are_found_by_their_labels_among_more_than_one_question_looks_at() {
    let mut bench = Bench::new(0);
    let all = crate::limits::SESSIONS_SCANNED_MAX as u128 * 2 + 10;
    let mut effects = Vec::new();
    for nonce in 1..=all {
        let zone = if nonce % 10_000 == 0 { "b" } else { "a" };
        bench
            .state
            .apply(open_as(nonce, "x", &[("zone", zone)]), &mut effects);
    }
    let wanted = [("zone".to_owned(), "b".to_owned())].into();
    let found = sessions(&bench.state, &wanted);
    let ids: Vec<u64> = found.iter().map(|session| session.session.0).collect();
    assert_eq!(ids, [10_000, 20_000, 30_000]);
    assert_eq!(found[0].about.labels, wanted);
    let all_found = sessions(&bench.state, &Labels::new());
    assert_eq!(all_found.len() as u128, all);
}

/// A leader's clock that says what it is asked for.
struct Clock;

impl Observed for Clock {
    fn held(&self, token: Token) -> Option<Age> {
        let (span, at_least) = (Millis(token.0 * 100), false);
        Some(Age { span, at_least })
    }

    fn waited(&self, place: u64) -> Option<Age> {
        let (span, at_least) = (Millis(place), true);
        Some(Age { span, at_least })
    }

    fn address(&self, session: SessionId) -> Option<String> {
        Some(format!("host:{session}"))
    }

    fn ttl_left(&self, _: SessionId) -> Option<Millis> {
        Some(Millis(7))
    }
}

#[test]
fn holders_and_waiters_come_with_identity_labels_owner_and_for_how_long() {
    let mut bench = Bench::new(0);
    bench.apply(open_as(1, "billing", &[("host", "a")]));
    bench.apply(open_as(2, "reports", &[("host", "b")]));
    bench.hold(1, "x");
    bench.wait_as(2, owned("worker", 1, exclusive("x", Wait::Forever)));
    let detail = bench.state.describe_lock(&name("x"), (0, 0), 10, &Clock);
    let LockDetail {
        summary,
        holders,
        waiters,
        ..
    } = detail.expect("it is held");
    assert_eq!(summary.identity.as_deref(), Some("billing"));
    assert_eq!(summary.held.map(|age| age.span), Some(Millis(100)));
    assert_eq!(holders[0].identity, "billing");
    assert_eq!(holders[0].about.labels["host"], "a");
    let waiter = &waiters[0];
    assert_eq!(
        (waiter.identity.as_str(), waiter.owner.as_deref()),
        ("reports", Some("worker"))
    );
    assert!(
        waiter
            .age
            .is_some_and(|age| age.at_least && age.span == Millis(1))
    );
    let unobserved = bench
        .state
        .describe_lock(&name("x"), (0, 0), 10, &Unobserved);
    assert_eq!(unobserved.expect("it is held").holders[0].age, None);
}

#[test]
fn what_the_leader_refuses_is_answered_once_and_an_earlier_copy_keeps_its_answer() {
    let mut bench = Bench::new(2);
    let refusal = Refusal::Quota {
        quota: Quota::AcquisitionsPerSession { limit: 1 },
    };
    let refuse = |session, sequence| Command::Refuse {
        session: SessionId(session),
        sequence: Sequence(sequence),
        acknowledged: Sequence(0),
        refusal: refusal.clone(),
    };
    let held = bench.hold(1, "a");
    // A late refusal of what was granted tells of the grant.
    let effects = bench.apply(refuse(1, held.acquire.0));
    assert_eq!(granted_token(&effects, 1, held.acquire), Some(held.token));
    // A late copy of what was refused acquires nothing.
    let refused = Outcome::Refused(refusal.clone());
    let effects = bench.apply(refuse(2, 1));
    assert_eq!(outcomes(&effects), [(2, 1, refused.clone())]);
    let effects = bench.apply(request(2, 1, 0, acquire("b", Wait::Try)));
    assert_eq!(outcomes(&effects), [(2, 1, refused)]);
    assert_eq!(bench.state.lock_count(), 1);
}
