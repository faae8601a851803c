//! The instances of the ordinary run, and those that break when a rule is off.

use crate::database::Form;
use crate::instance::{Bounds, Instance};
use crate::rules::{Rule, Rules};
use crate::world::Fault;

const BOUNDS: Bounds = Bounds {
    grants: 2,
    writes: 2,
    returns: 0,
    connections: 0,
    hang_ups: 0,
    crashes: 0,
    losses: 0,
    restarts: 0,
    floors: 0,
};

const TWO: &[&[usize]] = &[&[0], &[0]];
const THREE: &[&[usize]] = &[&[0], &[0], &[0]];
/// One holder of both locks, and one of each.
const CROSSED: &[&[usize]] = &[&[0, 1], &[0]];

fn instance(name: &'static str, wants: &'static [&'static [usize]], bounds: Bounds) -> Instance {
    Instance {
        name,
        form: Form::Rows,
        gateways: 2,
        told_from: u8::MAX,
        wants,
        bounds,
        synchronous: true,
        forgetful: false,
        spares_admissions: false,
        lively: true,
        rules: Rules::default(),
    }
}

fn atomic(name: &'static str, wants: &'static [&'static [usize]], bounds: Bounds) -> Instance {
    Instance {
        form: Form::Atomic,
        ..instance(name, wants, bounds)
    }
}

/// Every gateway, or the second one only, is in transaction mode.
fn told(every: bool, instance: Instance) -> Instance {
    Instance {
        told_from: u8::from(!every),
        ..instance
    }
}

fn lagging(instance: Instance) -> Instance {
    Instance {
        synchronous: false,
        ..instance
    }
}

pub(crate) fn sound() -> Vec<Instance> {
    let crash = Bounds {
        crashes: 1,
        connections: 1,
        losses: 1,
        ..BOUNDS
    };
    let restart = Bounds {
        restarts: 1,
        connections: 2,
        losses: 1,
        ..BOUNDS
    };
    vec![
        instance(
            "two holders",
            TWO,
            Bounds {
                writes: 4,
                ..BOUNDS
            },
        ),
        instance("two holders, a gateway crashes", TWO, crash),
        three("three holders and gateways", 0),
        instance(
            "a second grant on the same connection",
            TWO,
            Bounds { grants: 3, ..crash },
        ),
        instance("the server restarts", TWO, restart),
        lagging(instance("a replica that lags takes over", TWO, restart)),
        instance(
            "tickets are given back",
            TWO,
            Bounds {
                returns: 1,
                ..crash
            },
        ),
        instance(
            "the floor is raised",
            TWO,
            Bounds {
                returns: 1,
                floors: 1,
                ..crash
            },
        ),
        instance(
            "connections end and begin",
            TWO,
            Bounds {
                hang_ups: 2,
                connections: 2,
                ..BOUNDS
            },
        ),
        instance(
            "two locks",
            CROSSED,
            Bounds {
                grants: 3,
                ..BOUNDS
            },
        ),
        told(true, instance("told: a gateway crashes", TWO, crash)),
        told(true, instance("told: the server restarts", TWO, restart)),
        told(
            true,
            lagging(instance(
                "told: a replica that lags takes over",
                TWO,
                restart,
            )),
        ),
        told(
            true,
            instance(
                "told: two locks",
                CROSSED,
                Bounds {
                    grants: 3,
                    ..BOUNDS
                },
            ),
        ),
        told(
            true,
            instance(
                "told: the floor is raised",
                TWO,
                Bounds {
                    returns: 1,
                    floors: 1,
                    ..crash
                },
            ),
        ),
        told(
            false,
            instance(
                "both modes: a second grant on the same connection",
                TWO,
                Bounds { grants: 3, ..crash },
            ),
        ),
        told(
            false,
            instance("both modes: the server restarts", TWO, restart),
        ),
        told(
            false,
            instance(
                "both modes: two locks",
                CROSSED,
                Bounds {
                    grants: 3,
                    ..BOUNDS
                },
            ),
        ),
        told(false, three("both modes: three holders and gateways", 0)),
        atomic("atomic: two holders", TWO, crash),
        atomic("atomic: the server restarts", TWO, restart),
        lagging(atomic(
            "atomic: a replica that lags takes over",
            TWO,
            restart,
        )),
        atomic("atomic: two locks", CROSSED, Bounds { grants: 3, ..crash }),
    ]
}

/// Takes some minutes and gigabytes.
pub(crate) fn large() -> Vec<Instance> {
    vec![three("three holders and gateways, one crashes", 1)]
}

fn three(name: &'static str, crashes: u8) -> Instance {
    let bounds = Bounds {
        grants: 3,
        crashes,
        connections: crashes,
        ..BOUNDS
    };
    Instance {
        gateways: 3,
        ..instance(name, THREE, bounds)
    }
}

pub(crate) fn broken() -> Vec<(Instance, &'static str)> {
    let stale = Fault::StaleEffect.property();
    let refused = Fault::ValidHolderRefused.property();
    let behind = Fault::EffectBehindRead.property();
    let two = || instance("two holders", TWO, BOUNDS);
    let again = || {
        instance(
            "granted again",
            TWO,
            Bounds {
                grants: 3,
                ..BOUNDS
            },
        )
    };
    let broken_links = Bounds {
        grants: 3,
        losses: 1,
        returns: 1,
        ..BOUNDS
    };
    let restart = || {
        lagging(instance(
            "a replica that lags",
            TWO,
            Bounds {
                restarts: 1,
                connections: 2,
                writes: 1,
                ..BOUNDS
            },
        ))
    };
    let holders = |bounds| instance("two holders", TWO, bounds);
    let told = || told(true, instance("told: two holders", TWO, BOUNDS));
    vec![
        (told().without(&[Rule::WritesLockTheirRows]), stale),
        (told().without(&[Rule::AdvanceWaitsForWriters]), stale),
        (told().without(&[Rule::AdvanceTakesRights]), stale),
        (told().without(&[Rule::LowerTokensAreStale]), stale),
        (two().without(&[Rule::WritesLockTheirRows]), stale),
        (two().without(&[Rule::AdvanceWaitsForWriters]), stale),
        (two().without(&[Rule::AdvanceTakesRights]), stale),
        (two().without(&[Rule::LowerTokensAreStale]), stale),
        (
            instance("two locks", CROSSED, BOUNDS).without(&[Rule::WhatIsStaleIsStaleAsAWhole]),
            stale,
        ),
        (again().without(&[Rule::ShownWhenIdle]), stale),
        (two().without(&[Rule::HeldUntilAdmitted]), behind),
        (
            holders(broken_links).without(&[Rule::BrokenLinksAreEnded]),
            refused,
        ),
        (given_back().without(SECOND_LINE_GIVING_BACK), refused),
        (restart().without(&[Rule::EraEndsWithTheServer]), stale),
        (
            Instance {
                forgetful: true,
                ..restart()
            }
            .without(&[Rule::AnswersAreOfTheEra]),
            stale,
        ),
        (restart().without(&[Rule::TheCellIsAskedAfterwards]), stale),
        (
            holders(Bounds {
                floors: 1,
                returns: 1,
                ..BOUNDS
            })
            .without(&[Rule::MarksAreRemovedBelowTheFloor]),
            stale,
        ),
    ]
}

const SECOND_LINE_GIVING_BACK: &[Rule] = &[
    Rule::BrokenLinksAreEnded,
    Rule::GivingBackNamesTheRegistration,
];

/// Without these rules another one prevents the same.
pub(crate) fn second_lines() -> Vec<Instance> {
    vec![
        given_back().without(&[Rule::GivingBackNamesTheRegistration]),
        given_back().without(&[Rule::BrokenLinksAreEnded]),
        instance(
            "granted again",
            TWO,
            Bounds {
                grants: 3,
                ..BOUNDS
            },
        )
        .without(&[Rule::OnlyTheClosedAreEvicted]),
    ]
}

fn given_back() -> Instance {
    Instance {
        spares_admissions: true,
        ..instance(
            "tickets are given back over connections that break",
            TWO,
            Bounds {
                grants: 3,
                losses: 1,
                returns: 1,
                ..BOUNDS
            },
        )
    }
}
