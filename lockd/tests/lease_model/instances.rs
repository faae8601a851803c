//! Which instances are checked.

use std::sync::Arc;

use lockd_protocol::planted::Planted;
use paxos::Planted as ReplicaBug;

use crate::catalog::Known;
use crate::cell::{Action, Cell};
use crate::clock::Pace;
use crate::instance::Instance;
use crate::node::Event;
use crate::past::Fault;

/// An instance by its figures: `ballots/renewals/ticks/letters/removed`. Ballots by owner, those of
/// the second epoch behind a `-`; KeepAlives; ticks of a TTL by rates (none: time stands still), or
/// `l` or `e` for leads with one clock for all nodes or one for each; letters; the nodes that a
/// leader may remove. The letters: `o` the session is opened on the way, `s` node 1's disk is slow,
/// `d` a KeepAlive is taken twice, `y` early expiry is looked for, `z` runs go on when the client
/// has given up; as often as given: `r` questions, `w` commands of another client, `c` crashes,
/// `h` heartbeats; `n` leaders note who is silent. Digits: nothing is looked at after more ticks
/// than that.
pub(crate) fn parse(spec: &str) -> Option<Instance> {
    let mut parts = spec.split('/');
    let nodes = |digits: &str| -> Option<Vec<u64>> {
        let digit = |digit: char| digit.to_digit(10).map(u64::from);
        digits.chars().map(digit).collect()
    };
    let ballots = parts.next()?.split('-').map(nodes).collect::<Option<_>>()?;
    let renewals = parts
        .next()?
        .parse()
        .ok()
        .filter(|renewals| *renewals < 4)?;
    let (pace, timeless) = match parts.next()? {
        "l" => (Pace::Leads { each: false }, false),
        "e" => (Pace::Leads { each: true }, false),
        ticks => {
            let ticks: u8 = ticks.parse().ok()?;
            (
                Pace::Rates {
                    ticks: ticks.max(1),
                },
                ticks == 0,
            )
        }
    };
    let letters = parts.next().unwrap_or_default();
    let count = |letter: char| letters.chars().filter(|l| *l == letter).count() as u8;
    let digits: String = letters.chars().filter(char::is_ascii_digit).collect();
    if count('r') > 0 && !timeless {
        // An answer counts sessions, which must not end then.
        return None;
    }
    Some(Instance {
        name: spec.to_owned(),
        ballots,
        renewals,
        pace,
        timeless,
        ticks_max: digits.parse().unwrap_or(u8::MAX),
        opening: count('o') > 0,
        slow: count('s') > 0,
        repeats: count('d'),
        early: count('y') > 0,
        lasting: count('z') > 0,
        reads: count('r'),
        writes: count('w'),
        crashes: count('c'),
        heartbeats: count('h'),
        notes: count('n') > 0,
        removes: parts.next().map_or(Some(Vec::new()), nodes)?,
        bugs: &[],
        replica_bug: None,
        only: None,
        steer: None,
    })
}

fn all(specs: &[&str]) -> Vec<Instance> {
    specs.iter().map(|spec| instance(spec)).collect()
}

fn instance(spec: &str) -> Instance {
    parse(spec).expect("the figures are as they should be")
}

/// Those of every test run.
pub(crate) fn ordinary() -> Vec<Instance> {
    all(&[
        "1/3/3",
        "1/1/l",
        "1/1/e",
        "1/1/2/y4",
        "1/1/1/o3",
        "12/1/1/o1",
        "12/1/3",
        "12/1/2/s",
        "12/1/2/c",
        "12/2/1",
        "12/1/l",
        "12/0/1/y2",
        "1/1/2/ny4",
        "12/1/1/n2",
        "121/1/2",
        "112/1/1",
        "123/1/1",
        "12/0/0/rw",
        "121/0/0/rw",
        "1-2/1/1/z1/1",
        "1-2/1/3//1",
        "1-2/1/2/sh/13",
        "12-2/1/1//1",
        "12-2/1/1//3",
    ])
}

/// Those of long runs.
pub(crate) fn large() -> Vec<Instance> {
    all(&[
        "12/2/2",
        "12/1/2/d",
        "1/2/2/y4",
        "12/1/1/y2",
        "123/1/2",
        "112/1/2",
        "12-2/1/2//1",
        "12-2/1/2//3",
        "13-2/1/2//1",
    ])
}

/// An instance with rules of nodes and clients switched off, and as what that is found.
fn off(bugs: &'static [Planted], spec: &str, fault: Fault) -> (Instance, Fault) {
    let instance = Instance {
        bugs,
        only: Some(fault),
        ..instance(spec)
    };
    (instance, fault)
}

/// An instance with a rule of the replica switched off.
fn replica_off(bug: ReplicaBug, spec: &str, fault: Fault) -> (Instance, Fault) {
    let instance = Instance {
        replica_bug: Some(bug),
        only: Some(fault),
        ..instance(spec)
    };
    (instance, fault)
}

/// For each rule an instance that breaks without it.
pub(crate) fn broken() -> Vec<(Instance, Fault)> {
    use Fault::{ExpiredEarly, StaleRead, TwoHolders};
    let old_echo = replica_off(ReplicaBug::EchoOfOlderBallot, "112/0/0/rrw", StaleRead);
    let old_echo = Instance {
        steer: Some(towards_an_old_echo),
        ..old_echo.0
    };
    let outlives = [
        Planted::QueueOutlivesLeadership,
        Planted::ExpiryOfAnyLeadership,
    ];
    vec![
        off(&[Planted::RenewalNumberReused], "1/1/3", TwoHolders),
        off(&[Planted::LeaseFromReceipt], "1/1/3", TwoHolders),
        off(&[Planted::MarginOfOneClock], "1/1/3", TwoHolders),
        off(&[Planted::MarginOfOneClock], "1/1/l", TwoHolders),
        off(&[Planted::LeaseFromOpened], "1/1/1/o3", TwoHolders),
        replica_off(ReplicaBug::EchoBelowPromise, "12/1/2", TwoHolders),
        replica_off(ReplicaBug::ConfirmAfterStop, "1-2/1/2/sh/13", TwoHolders),
        off(&[Planted::TimersNotRestarted], "12/1/3", TwoHolders),
        off(&[Planted::RenewedWhileExpiring], "1/1/1/o3", TwoHolders),
        off(&[Planted::TimerFromAnswer], "1/1/1/o3", TwoHolders),
        replica_off(ReplicaBug::OldEchoes, "12/0/0/rrw", StaleRead),
        replica_off(ReplicaBug::ConfirmBeforeNewLeader, "12/1/1/o1", TwoHolders),
        replica_off(ReplicaBug::ConfirmBeforeNewLeader, "12/0/0/rw", StaleRead),
        off(&[Planted::RenewedAfterTheEnd], "1/1/1/o3", TwoHolders),
        off(&[Planted::NoConfirmRound], "12/1/3", TwoHolders),
        off(&[Planted::AnsweredUnconfirmed], "12/0/0/rw", StaleRead),
        (old_echo, StaleRead),
        off(&[Planted::ExpiredTooSoon], "1/1/3", TwoHolders),
        off(&[Planted::ExpiredTooSoon], "1/1/3/y5", ExpiredEarly),
        off(outlives.to_vec().leak(), "11/1/1/os1", TwoHolders),
        off(&[Planted::FollowerAnswers], "1/1/3", TwoHolders),
        off(&[Planted::TimersNotRestarted], "1-2/1/3//1", TwoHolders),
    ]
}

/// Those that take long.
pub(crate) fn broken_late() -> Vec<(Instance, Fault)> {
    let fault = Fault::TwoHolders;
    vec![
        replica_off(ReplicaBug::OldEchoes, "12/2/2", fault),
        replica_off(ReplicaBug::EpochOnUndecidedStop, "13-2/1/2/sc/13", fault),
    ]
}

/// Rules without which everything holds all the same, because another rule prevents the same.
pub(crate) fn second_lines() -> Vec<Instance> {
    let fault = Fault::TwoHolders;
    let (asked, echoed) = (ReplicaBug::AskedAfterStop, ReplicaBug::EchoAfterStop);
    let instances = [
        replica_off(asked, "1-2/1/2/sh/13", fault),
        replica_off(echoed, "1-2/1/2/sh/13", fault),
        off(&[Planted::ExpiryOfAnyLeadership], "11/1/1/os1", fault),
        off(&[Planted::QueueOutlivesLeadership], "11/1/1/os1", fault),
    ];
    instances.map(|(instance, _)| instance).into()
}

/// Node 1 leads, asks node 2 to confirm it, and leads again with the help of node 3; node 2 is
/// elected by node 3, too, and only then does node 2's echo come.
fn towards_an_old_echo(cell: &Cell, nodes: &[Arc<Known>; 3], action: &Action) -> bool {
    let Action::Node { node, event } = action else {
        return false;
    };
    let first = nodes[0].standing.ballot.map_or(0, |ballot| ballot.round);
    match event {
        Event::Deliver(message) => {
            let label = cell.catalog.message(*message).label;
            match (label.from.0, label.to.0) {
                (1, 2) | (2, 1) => label.ballot.round == 1,
                (1, 3) => label.ballot.round == 2,
                _ => true,
            }
        }
        Event::Read { id } => *node == 0 && first == u64::from(*id) + 1,
        Event::Write { .. } => *node == 1,
        _ => true,
    }
}
