//! The kinds of all errors, beside what the guide says of them.

use std::fmt::Debug;
use std::time::Duration;

use super::*;

/// What the guide says of a variant: its row, and the column of its kind.
fn is_in_the_guide(error: &str, variant: &str, kind: ErrorKind) -> bool {
    let guide = include_str!("../../../../docs/client.md");
    let begins = format!("| `{error}`");
    let row = guide.lines().find(|line| line.starts_with(&begins));
    let cells: Vec<&str> = row.map_or_else(Vec::new, |row| row.split('|').collect());
    let column = match kind {
        ErrorKind::Definite => 2,
        ErrorKind::Retry => 3,
        ErrorKind::Unknown => 4,
    };
    let cell = cells.get(column).copied().unwrap_or_default();
    cell.split(", ")
        .any(|word| word.trim() == format!("`{variant}`"))
}

fn check(error: &str, value: &impl Debug, kind: ErrorKind) {
    let text = format!("{value:?}");
    let name = text.split(['(', ' ', '{']).next().unwrap_or_default();
    let variant = match text.contains("(Busy)") || text.contains("(InProgress)") {
        true => text.clone(),
        false => name.to_owned(),
    };
    assert!(
        is_in_the_guide(error, &variant, kind),
        "{error}::{variant} is {kind:?}"
    );
}

const WITHIN: Duration = Duration::from_secs(1);

fn name() -> InvalidName {
    LockName::new("").expect_err("it is empty")
}

#[test]
fn the_guide_has_the_kind_of_every_error_of_a_connection() {
    let (field, problem) = ("ttl", String::new);
    let address = String::new;
    let (ours, theirs) = (CellId([1; 16]), CellId([2; 16]));
    let io = || std::io::Error::other("x");
    let config = || ConfigError::Field {
        field,
        problem: problem(),
    };
    check("ConfigError", &config(), config().kind());
    let all = [
        ConnectError::Invalid {
            field,
            problem: problem(),
        },
        ConnectError::Config(config()),
        ConnectError::Socket(io()),
        ConnectError::Thread(io()),
        ConnectError::Unreachable {
            within: WITHIN,
            tried: problem(),
        },
        ConnectError::CertificateRefused {
            address: address(),
            detail: problem(),
        },
        ConnectError::NodeNotTrusted {
            address: address(),
            detail: problem(),
        },
        ConnectError::OtherCell {
            address: address(),
            ours,
            theirs,
        },
        ConnectError::Version {
            address: address(),
            detail: problem(),
        },
        ConnectError::Rejected {
            address: address(),
            reason: problem(),
        },
        ConnectError::NoLeader { within: WITHIN },
        ConnectError::Refused(Refusal::NoSession),
        ConnectError::Refused(Refusal::Busy),
        ConnectError::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("ConnectError", error, error.kind()));
    let lost = [
        LostReason::LeaseRanOut,
        LostReason::SessionEnded(EndReason::Expired),
        LostReason::Broken {
            reason: String::new(),
        },
        LostReason::Closed,
    ];
    lost.iter()
        .for_each(|error| check("LostReason", error, error.kind()));
    for error in [CannotBlock::InsideRuntime, CannotBlock::WithoutRuntime] {
        check("CannotBlock", &error, error.kind());
    }
}

#[test]
fn the_guide_has_the_kind_of_every_error_of_an_acquisition_and_its_end() {
    let lock = LockName::new("a").expect("a good name");
    let all = [
        AcquireError::Name(name()),
        AcquireError::Invalid {
            field: "owner",
            problem: String::new(),
        },
        AcquireError::NotAvailable { lock, holder: None },
        AcquireError::TimedOut,
        AcquireError::Over,
        AcquireError::SessionLost(LostReason::Closed),
        AcquireError::Deadlock(Vec::new()),
        AcquireError::Refused(Refusal::NoSession),
        AcquireError::Refused(Refusal::Busy),
        AcquireError::Unavailable { within: WITHIN },
        AcquireError::Closed,
        AcquireError::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("AcquireError", error, error.kind()));
    let all = [
        ReleaseError::SessionLost(LostReason::Closed),
        ReleaseError::Closed,
        ReleaseError::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("ReleaseError", error, error.kind()));
    let all = [
        DowngradeProblem::Lost(LostReason::Closed),
        DowngradeProblem::Refused(Refusal::NoSession),
        DowngradeProblem::Refused(Refusal::Busy),
        DowngradeProblem::Closed,
        DowngradeProblem::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("DowngradeProblem", error, error.kind()));
}

#[test]
fn the_guide_has_the_kind_of_every_other_error() {
    let all = [
        QueryError::Name(name()),
        QueryError::Refused(Refusal::NoSession),
        QueryError::Refused(Refusal::Busy),
        QueryError::Unavailable { within: WITHIN },
        QueryError::Unexpected,
        QueryError::Closed,
        QueryError::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("QueryError", error, error.kind()));
    let all = [
        BreakError::Name(name()),
        BreakError::NothingToBreak,
        BreakError::Refused(Refusal::NoSession),
        BreakError::Refused(Refusal::Busy),
        BreakError::Unavailable { within: WITHIN },
        BreakError::SessionLost(LostReason::Closed),
        BreakError::Closed,
        BreakError::CannotBlock(CannotBlock::InsideRuntime),
    ];
    all.iter()
        .for_each(|error| check("BreakError", error, error.kind()));
    let all = [
        ReconfigureError::Refused(ReconfigureRefusal::NotOperator),
        ReconfigureError::Refused(ReconfigureRefusal::InProgress),
        ReconfigureError::Query(QueryError::Closed),
    ];
    all.iter()
        .for_each(|error| check("ReconfigureError", error, error.kind()));
}
