//! Which instances are checked.

use paxos::{Membership, NodeId, Planted, Quorums};

use crate::faults::Fault;
use crate::instance::Instance;

/// An instance by its figures: ballots by owner, slots, crashes, confirms, heartbeats, letters, and
/// for a change of the membership the second one and the questions that nobody prompts. Ballots of
/// the second epoch follow a `-`. The letters: `i` instant disks, `s` all but
/// node 1's, `q` quiet, `g` greetings, `1` one entry for each
/// message, `f` four nodes of which three prepare and two accept.
pub(crate) fn parse(spec: &str) -> Option<Instance> {
    let name: &'static str = spec.to_owned().leak();
    let mut parts = name.split('/');
    let nodes = |digits: &str| {
        digits
            .chars()
            .map(|digit| digit.to_digit(10).map(u64::from))
            .collect()
    };
    let ballots = parts
        .next()?
        .split('-')
        .map(nodes)
        .collect::<Option<Vec<Vec<u64>>>>()?;
    let mut figure = || parts.next()?.parse::<u8>().ok();
    let (slots, crashes, confirms, heartbeats) = (figure()?, figure()?, figure()?, figure()?);
    let letters = parts.next().unwrap_or_default();
    let first = match letters.contains('f') {
        true => membership(&[1, 2, 3, 4], true),
        false => membership(&[1, 2, 3], false),
    };
    let next = parts.next().map(nodes).map(|next| Membership {
        epoch: first.epoch.next(),
        ..membership(&next.unwrap_or_default(), false)
    });
    let asks = parts.next().map_or(Some(0), |asks| asks.parse().ok())?;
    Some(Instance {
        slots: slots.into(),
        next,
        asks,
        crashes,
        confirms,
        heartbeats,
        one_entry_per_message: letters.contains('1'),
        instant_disks: letters.contains(['i', 's']),
        first_disk_slow: letters.contains('s'),
        quiet: letters.contains('q'),
        greetings: letters.contains('g'),
        ..Instance::new(name, first, ballots)
    })
}

fn membership(members: &[u64], flexible: bool) -> Membership {
    let members = members.iter().copied().map(NodeId);
    let mut membership = Membership::first(members).expect("they are members");
    if flexible {
        membership.quorums = Quorums {
            prepare: 3,
            accept: 2,
        };
    }
    membership
}

fn all(specs: &[&str]) -> Vec<Instance> {
    let instance = |spec: &&str| parse(spec).expect("the figures are as they should be");
    specs.iter().map(instance).collect()
}

/// One membership: those of every test run.
pub(crate) fn one_membership() -> Vec<Instance> {
    all(&[
        "12/1/0/0/0",
        "12/1/0/1/0/q",
        "12/1/1/0/0/gq",
        "12/2/1/0/0/q",
        "12/2/1/0/0/giq",
        "12/3/1/0/0/iq",
        "12/3/0/0/0/iq1",
        "12/2/1/1/0/iq",
        "11/2/1/0/0/q",
        "121/3/0/0/0/iq",
        "112/3/0/0/0/iq",
        "122/3/0/0/0/iq",
        "123/1/0/0/0/giq",
        "123/2/0/0/0/q",
        "123/3/1/0/0/iq",
    ])
}

/// Two memberships, the second one named: those of every test run.
pub(crate) fn two_memberships() -> Vec<Instance> {
    all(&[
        "12-12/1/0/1/0/iq/12",
        "12-23/1/1/0/0/q/23",
        "12-23/2/1/0/0/iq/23",
        "12-2/1/2/0/0/iq/23",
        "1-2/1/0/1/0/sq/23",
        "1-14/1/1/0/0/iq/124/2",
        "12-2/1/0/0/0/iqf/234",
        "1-24/1/0/0/0/iqf/235/2",
    ])
}

/// Those of long runs.
pub(crate) fn large() -> Vec<Instance> {
    all(&[
        "12/2/0/0/0",
        "12/3/0/0/0/q",
        "12/1/0/1/0",
        "12/3/0/0/0/giq",
        "121/2/1/0/0/q",
        "123/4/0/0/0/iq",
        "12-14/1/0/0/0/iq/124/2",
        "12-24/1/0/0/0/iq/234/2",
        "1-4/1/0/0/0/iq/145/4",
    ])
}

fn find(planted: Planted, spec: &str, fault: Fault) -> (Instance, Fault) {
    let instance = Instance {
        planted: Some(planted),
        // Else a ballot that is used again could only propose the same again.
        values: 1 + u8::from(planted == Planted::BallotReused),
        outcomes_only: fault.is_outcome(),
        ..parse(spec).expect("the figures are as they should be")
    };
    (instance, fault)
}

/// A planted bug that only a long run finds: of four nodes two have accepted the end of the epoch,
/// and another one still echoes.
pub(crate) fn found_late() -> Vec<(Instance, Fault)> {
    let fault = Fault::StaleConfirm;
    vec![find(Planted::AskedAfterStop, "1-2/1/0/2/0/sqf/2", fault)]
}

/// For each planted bug an instance that finds it, and as what.
pub(crate) fn found() -> Vec<(Instance, Fault)> {
    vec![
        find(Planted::PromiseNotSynced, "12/1/1/0/0/q", Fault::TwoValues),
        find(
            Planted::AcceptWithoutPromise,
            "121/1/1/0/0/q",
            Fault::TwoValues,
        ),
        find(Planted::AckOfOlderBallot, "11/1/1/0/0/q", Fault::NotDurable),
        find(
            Planted::EchoOfOlderBallot,
            "112/1/0/2/0/iq",
            Fault::StaleConfirm,
        ),
        find(Planted::AckNotSynced, "12/1/1/0/0/q", Fault::TwoValues),
        find(Planted::LongestLog, "123/3/0/0/0/iq", Fault::TwoValues),
        find(
            Planted::ConfirmBeforeNewLeader,
            "12/1/0/1/0/iq",
            Fault::StaleConfirm,
        ),
        // A lost entry shows two ballots later; that is too far for three messages an entry.
        find(
            Planted::PartialFirstAccept,
            "12/2/1/0/0/iq1",
            Fault::NotDurable,
        ),
        find(Planted::BallotReused, "1/2/1/0/2/sq", Fault::TwoValues),
        find(
            Planted::AcceptQuorumTooSmall,
            "12/1/0/0/0/iq",
            Fault::NotDurable,
        ),
        find(
            Planted::PrepareQuorumTooSmall,
            "12/1/0/0/0/giq",
            Fault::TwoValues,
        ),
        find(Planted::MessagesCounted, "12/1/0/0/0/iqf", Fault::TwoValues),
        find(Planted::DecidedUnmatched, "12/2/0/1/0/iq", Fault::TwoValues),
        find(
            Planted::BallotApart,
            "12/2/1/0/0/iq",
            Fault::AcceptanceNotDurable,
        ),
        find(
            Planted::MembershipForgotten,
            "1-2/1/1/0/0/iq/23",
            Fault::Panicked,
        ),
        find(Planted::OldEchoes, "12/1/0/2/0/iq", Fault::StaleConfirm),
        find(
            Planted::ConfirmAfterStop,
            "1-2/1/0/2/0/sq/2",
            Fault::StaleConfirm,
        ),
        find(
            Planted::ProposalAfterStop,
            "12-2/3/0/0/0/iq/23",
            Fault::NotDurable,
        ),
        find(
            Planted::EpochOnUndecidedStop,
            "13-2/1/1/0/0/sq/2",
            Fault::TwoValues,
        ),
    ]
}

/// Rules without which the protocol holds all the same, and instances that say so.
pub(crate) fn second_lines() -> Vec<Instance> {
    let holds = |planted, spec: &str| Instance {
        planted: Some(planted),
        ..parse(spec).expect("the figures are as they should be")
    };
    vec![
        holds(Planted::AskedAfterStop, "1-2/1/0/2/0/sq/2"),
        holds(Planted::EchoAfterStop, "1-2/1/0/2/0/sq/2"),
        holds(Planted::EpochNotDurable, "12-2/1/1/0/0/q/23"),
    ]
}
