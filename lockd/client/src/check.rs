//! Whether an acquisition keeps to the limits, said before anything is sent and in the words of the
//! builder's methods. The cell looks as well, and is the one that decides.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use lockd_protocol::Mode;
use lockd_protocol::client::{Acquire, Want, Wants};
use lockd_protocol::limits::{
    LOCK_DELAY_MAX_MS, PERMITS_MAX, REENTRIES_MAX, SEMAPHORE_NAME_BYTES_MAX, TEXT_BYTES_MAX,
    WANTS_MAX,
};

use crate::error::AcquireError;

/// Looks at an acquisition that is about to be asked for.
pub(crate) fn check(acquire: &Acquire) -> Result<(), AcquireError> {
    check_wants(&acquire.wants)?;
    let delay = acquire.delay.0;
    if delay > LOCK_DELAY_MAX_MS {
        let problem = format!("is {delay} ms, and at most {LOCK_DELAY_MAX_MS} ms");
        return Err(invalid("delay_after_expiry", problem));
    }
    let Some(owner) = &acquire.owner else {
        return Ok(());
    };
    if owner.name.is_empty()
        || owner.name.len() > TEXT_BYTES_MAX
        || owner.name.chars().any(char::is_control)
    {
        let problem =
            format!("must have a name of 1 to {TEXT_BYTES_MAX} bytes without control characters");
        return Err(invalid("owner", problem));
    }
    in_range("reentrant", owner.reentries, 1..=REENTRIES_MAX)
}

fn check_wants(wants: &Wants) -> Result<(), AcquireError> {
    let (field, several) = match wants {
        Wants::One(_) => ("lock", false),
        Wants::All(_) => ("all_of", true),
        Wants::Any(_) => ("any_of", true),
    };
    let count = wants.each().len();
    if !(1..=WANTS_MAX).contains(&count) {
        let problem = format!("names {count} locks: name 1 to {WANTS_MAX}");
        return Err(invalid(field, problem));
    }
    let mut names = BTreeSet::new();
    for Want { lock, mode } in wants.each() {
        if several && !names.insert(lock) {
            let problem = format!("names {lock:?} twice: name each lock once");
            return Err(invalid(field, problem));
        }
        let Mode::Permit { of } = *mode else {
            continue;
        };
        in_range("permits", of, 1..=PERMITS_MAX)?;
        if lock.as_str().len() > SEMAPHORE_NAME_BYTES_MAX {
            let problem = format!(
                "has a name of {} bytes: at most {SEMAPHORE_NAME_BYTES_MAX}, since the number of a \
                 permit goes behind it",
                lock.as_str().len()
            );
            return Err(invalid("semaphore", problem));
        }
    }
    Ok(())
}

fn in_range<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), AcquireError> {
    if range.contains(&value) {
        return Ok(());
    }
    let problem = format!(
        "is {value}: it must lie between {} and {}",
        range.start(),
        range.end()
    );
    Err(invalid(field, problem))
}

pub(crate) fn invalid(field: &'static str, problem: String) -> AcquireError {
    AcquireError::Invalid { field, problem }
}

#[cfg(test)]
mod tests {
    use lockd_protocol::client::{Owner, Value, Wait};
    use lockd_protocol::{LockName, Millis};

    use super::*;

    fn want(name: &str, mode: Mode) -> Want {
        let lock = LockName::new(name).expect("a good name");
        Want { lock, mode }
    }

    fn problem(wants: Wants, change: impl FnOnce(&mut Acquire)) -> String {
        let mut acquire = Acquire {
            wants,
            wait: Wait::Forever,
            ticket: true,
            owner: None,
            barge: false,
            delay: Millis(0),
            metadata: Value::default(),
        };
        change(&mut acquire);
        check(&acquire).map_or_else(|error| error.to_string(), |()| String::new())
    }

    fn one(mode: Mode) -> Wants {
        Wants::One(want("a", mode))
    }

    #[test]
    fn what_is_allowed_is_allowed_at_its_limits() {
        assert_eq!(problem(one(Mode::Permit { of: PERMITS_MAX }), |_| {}), "");
        let longest = |a: &mut Acquire| a.delay = Millis(LOCK_DELAY_MAX_MS);
        assert_eq!(problem(one(Mode::Exclusive), longest), "");
    }

    #[test]
    fn numbers_outside_their_range_are_named_with_the_range() {
        for of in [0, PERMITS_MAX + 1] {
            let text = problem(one(Mode::Permit { of }), |_| {});
            assert!(
                text.contains("`permits`") && text.contains(&of.to_string()),
                "{text}"
            );
        }
        for reentries in [0, REENTRIES_MAX + 1] {
            let name = "worker".to_owned();
            let text = problem(one(Mode::Exclusive), |a| {
                a.owner = Some(Owner { name, reentries });
            });
            assert!(
                text.contains("`reentrant`") && text.contains("10000"),
                "{text}"
            );
        }
        let late = |a: &mut Acquire| a.delay = Millis(LOCK_DELAY_MAX_MS + 1);
        let text = problem(one(Mode::Exclusive), late);
        assert!(text.contains("`delay_after_expiry`"), "{text}");
    }

    #[test]
    fn a_lock_that_is_named_twice_is_named_with_the_builder() {
        let twice = || vec![want("gpu/0", Mode::Exclusive), want("gpu/0", Mode::Shared)];
        for (wants, field) in [
            (Wants::All(twice()), "`all_of`"),
            (Wants::Any(twice()), "`any_of`"),
        ] {
            let text = problem(wants, |_| {});
            assert!(text.contains(field) && text.contains("gpu/0"), "{text}");
        }
        let none = problem(Wants::Any(Vec::new()), |_| {});
        assert!(none.contains("`any_of` names 0 locks"), "{none}");
    }

    #[test]
    fn an_owner_without_a_usable_name_and_a_long_semaphore_are_named() {
        for name in [
            String::new(),
            "x".repeat(TEXT_BYTES_MAX + 1),
            "a\tb".to_owned(),
        ] {
            let reentries = 1;
            let text = problem(one(Mode::Exclusive), |a| {
                a.owner = Some(Owner { name, reentries });
            });
            assert!(text.contains("`owner`"), "{text}");
        }
        let long = want(
            &"x".repeat(SEMAPHORE_NAME_BYTES_MAX + 1),
            Mode::Permit { of: 2 },
        );
        let text = problem(Wants::One(long), |_| {});
        assert!(text.contains("`semaphore`"), "{text}");
    }
}
