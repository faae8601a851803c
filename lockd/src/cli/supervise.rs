//! Watching over the command of `lockd lock`: it must be dead before anyone else can have the
//! lock.

use std::time::Duration;

use clap::ValueEnum;
use lockd_client::protocol::Millis;
use lockd_client::{GuardState, LockGuard, LostReason, Time, now};
use rustix::process::Signal;

use super::child::{Child, ChildState, Signals};
use super::exit::Failure;
use super::lock::held;

/// What to do to the command when the lock is being lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnLost {
    /// SIGTERM to its process group in time, and SIGKILL before anyone else can have the lock
    Term,
    /// SIGKILL to its process group before anyone else can have the lock
    Kill,
    /// Nothing: the data must be fenced
    Ignore,
}

/// Timers stand still during a suspend: look at the boot-time clock this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a supervised command ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// By itself; with this exit code of ours.
    Ended(u8),
    /// The lock was lost while it ran, or would have been.
    Lost(String),
}

/// When to act, counted back from the deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// SIGTERM this long before.
    terminate: Duration,
    /// SIGKILL this long before: dead processes take a moment to be gone.
    kill: Duration,
    /// SIGKILL this long after SIGTERM, if that is earlier.
    grace: Option<Duration>,
}

impl Lease {
    /// For sessions with this TTL. Renewals have failed for a third of the lease, several times,
    /// before the command is bothered, and for half of it if the command gets a time of grace.
    pub(super) fn new(
        ttl: Duration,
        on_lost: OnLost,
        grace: Option<Duration>,
    ) -> Result<Lease, Failure> {
        let millis = Millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let lease = Duration::from(millis.client_lease());
        let kill = (lease / 8).min(KILL_MAX);
        let Some(wanted) = grace else {
            let terminate = lease / 3;
            return Ok(Lease {
                terminate,
                kill,
                grace,
            });
        };
        if on_lost != OnLost::Term {
            let on_lost = match on_lost {
                OnLost::Kill => "kill",
                _ => "ignore",
            };
            return Err(Failure::usage(format!(
                "--grace and --on-lost {on_lost} do not go together: there is no SIGTERM \
                 before SIGKILL"
            )));
        }
        let most = lease / 2 - kill;
        if wanted > most {
            let [wanted, ttl, most, needed] =
                [wanted, ttl, whole_millis(most), ttl_for(wanted)].map(humantime::format_duration);
            return Err(Failure::usage(format!(
                "--grace {wanted} and --ttl {ttl} do not go together: the command would not be \
                 dead before another could have the lock; give --grace {most} at most, or --ttl \
                 {needed} at least"
            )));
        }
        Ok(Lease {
            terminate: kill + wanted,
            kill,
            grace,
        })
    }
}

/// SIGKILL comes this long before the deadline at most.
const KILL_MAX: Duration = Duration::from_secs(2);

/// A TTL, in whole seconds, whose lease leaves so much grace.
fn ttl_for(grace: Duration) -> Duration {
    // Half of the lease, less an eighth of it or less the longest time before the deadline.
    let lease = (grace * 8 / 3).min((grace + KILL_MAX) * 2);
    // A lease is a little more than 98 % of its TTL.
    let seconds = (lease.as_secs_f64() / 0.98 + 0.01).ceil();
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// What is to be done to the command now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing, until then.
    Wait(Time),
    /// It gets the chance to end by itself, until then.
    Terminate(Time),
    /// It ends.
    Kill,
}

/// What is to be done to the command at `now`, if the lock is in this state and the command was
/// asked to end at `asked`, if it was.
fn step(
    state: &GuardState,
    now: Time,
    deadline: Time,
    lease: Lease,
    on_lost: OnLost,
    asked: Option<Time>,
) -> Step {
    let mut kill = deadline.before(lease.kill);
    let grace_ends = asked.zip(lease.grace).map(|(at, grace)| at.after(grace));
    kill = grace_ends.map_or(kill, |ends| kill.min(ends));
    let terminate = match (state, on_lost) {
        (_, OnLost::Ignore) => return Step::Wait(Time::MAX),
        // Nobody else gets it before the deadline: an operator's break leaves that time.
        (GuardState::Lost { reason }, _) if !matches!(reason, LostReason::Broken { .. }) => {
            return Step::Kill;
        }
        (GuardState::Lost { .. }, OnLost::Kill) => return Step::Kill,
        (GuardState::Lost { .. }, OnLost::Term) => Time::default(),
        // A renewal that comes through after all does not take it back.
        (_, OnLost::Term) if grace_ends.is_some() => Time::default(),
        (_, OnLost::Term) => deadline.before(lease.terminate),
        (_, OnLost::Kill) => kill,
    };
    if now >= kill {
        Step::Kill
    } else if now >= terminate {
        Step::Terminate(kill)
    } else {
        Step::Wait(terminate)
    }
}

/// Waits for the end of the command, passes signals on to it, and ends it in time if the lock is
/// being lost.
pub(super) async fn supervise(
    child: &mut Child,
    guard: &LockGuard,
    lease: Lease,
    on_lost: OnLost,
    signals: &mut Signals,
) -> Result<Outcome, Failure> {
    let mut watch = Watch {
        asked: None,
        why: None,
    };
    loop {
        match child.look()? {
            ChildState::Running => {}
            ChildState::Stopped => {
                child.stop_with_it();
                // If the lock was lost meanwhile, the command must not run on.
                if !watch.is_over(guard, on_lost) {
                    child.go_on();
                }
            }
            ChildState::Ended(code) => {
                child.clean_up();
                watch.note(guard);
                return Ok(match watch.why {
                    Some(why) if on_lost != OnLost::Ignore => Outcome::Lost(why),
                    _ => Outcome::Ended(code),
                });
            }
        }
        let next = watch.act(child, guard, lease, on_lost);
        let wait = next.since(now()).min(LOOK_EVERY);
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::CHILD => {}
                Signal::CONT => child.go_on(),
                signal => child.signal(signal),
            },
            _ = guard.lost(), if watch.why.is_none() => watch.note(guard),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What was done and seen so far.
struct Watch {
    /// When the command was asked to end.
    asked: Option<Time>,
    why: Option<String>,
}

impl Watch {
    /// Does what is due. Says when to look again.
    fn act(&mut self, child: &Child, guard: &LockGuard, lease: Lease, on_lost: OnLost) -> Time {
        let (state, now, deadline) = (guard.state(), now(), guard.deadline());
        match step(&state, now, deadline, lease, on_lost, self.asked) {
            Step::Wait(until) => until,
            Step::Terminate(until) => {
                self.note_doubt(guard);
                if self.asked.is_none() {
                    self.asked = Some(now);
                    child.signal(Signal::TERM);
                    // A stopped command could not end by itself.
                    child.signal(Signal::CONT);
                }
                let grace_ends = lease.grace.map(|grace| now.after(grace));
                grace_ends.map_or(until, |ends| until.min(ends))
            }
            Step::Kill => {
                self.note_doubt(guard);
                child.signal(Signal::KILL);
                Time::MAX
            }
        }
    }

    /// Remembers and reports a loss, once.
    fn note(&mut self, guard: &LockGuard) {
        if let GuardState::Lost { reason } = guard.state() {
            self.report(guard, reason.to_string());
        }
    }

    fn note_doubt(&mut self, guard: &LockGuard) {
        self.note(guard);
        self.report(guard, "it could not be renewed in time".to_owned());
    }

    fn report(&mut self, guard: &LockGuard, why: String) {
        if self.why.is_none() {
            eprintln!("lockd: {} is being lost: {why}", held(guard));
            self.why = Some(why);
        }
    }

    fn is_over(&mut self, guard: &LockGuard, on_lost: OnLost) -> bool {
        self.note(guard);
        self.why.is_some() && on_lost != OnLost::Ignore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn lease() -> Lease {
        Lease::new(TTL, OnLost::Term, None).expect("no grace is asked for")
    }

    fn with_grace(grace: Duration) -> Lease {
        Lease::new(TTL, OnLost::Term, Some(grace)).expect("it fits")
    }

    const TTL: Duration = Duration::from_secs(10);

    const DEADLINE_MS: u64 = 20_000;

    fn held(now_ms: u64, on_lost: OnLost) -> Step {
        step(
            &GuardState::Held,
            at(now_ms),
            at(DEADLINE_MS),
            lease(),
            on_lost,
            None,
        )
    }

    fn lost(reason: LostReason, now_ms: u64, on_lost: OnLost) -> Step {
        let state = GuardState::Lost { reason };
        step(&state, at(now_ms), at(DEADLINE_MS), lease(), on_lost, None)
    }

    #[test]
    fn a_command_is_asked_to_end_and_then_killed_before_the_deadline() {
        let terminate = at(DEADLINE_MS).before(lease().terminate);
        let kill = at(DEADLINE_MS).before(lease().kill);
        assert!(terminate < kill && kill < at(DEADLINE_MS));
        assert_eq!(held(10_300, OnLost::Term), Step::Wait(terminate));
        assert_eq!(held(17_000, OnLost::Term), Step::Terminate(kill));
        assert_eq!(held(19_000, OnLost::Term), Step::Kill);
        assert_eq!(held(17_000, OnLost::Kill), Step::Wait(kill));
        assert_eq!(held(19_000, OnLost::Kill), Step::Kill);
    }

    #[test]
    fn grace_is_what_lies_between_the_two_signals_and_ends_before_the_deadline() {
        let lease = with_grace(Duration::from_secs(1));
        let asked = at(DEADLINE_MS).before(lease.terminate);
        let kill = asked.after(Duration::from_secs(1));
        assert!(kill < at(DEADLINE_MS));
        let on_time = |state: &GuardState, now, asked| {
            step(state, now, at(DEADLINE_MS), lease, OnLost::Term, asked)
        };
        assert_eq!(
            on_time(&GuardState::Held, asked, None),
            Step::Terminate(kill)
        );
        assert_eq!(on_time(&GuardState::Held, kill, Some(asked)), Step::Kill);

        // After a break the lease would leave more.
        let reason = "maintenance".to_owned();
        let broken = GuardState::Lost {
            reason: LostReason::Broken { reason },
        };
        let (early, over) = (at(11_000), at(12_000));
        assert_eq!(on_time(&broken, early, Some(early)), Step::Terminate(over));
        assert_eq!(on_time(&broken, over, Some(early)), Step::Kill);

        // A renewal that comes through after SIGTERM does not take it back.
        let renewed = |now| {
            let deadline = at(2 * DEADLINE_MS);
            step(
                &GuardState::Held,
                now,
                deadline,
                lease,
                OnLost::Term,
                Some(early),
            )
        };
        assert_eq!(renewed(early), Step::Terminate(over));
        assert_eq!(renewed(over), Step::Kill);
    }

    #[test]
    fn grace_that_does_not_fit_the_lease_is_refused_with_both_values_and_the_remedy() {
        for seconds in [1, 3, 6, 7, 60, 600] {
            let grace = Duration::from_secs(seconds);
            let needed = ttl_for(grace);
            Lease::new(needed, OnLost::Term, Some(grace)).expect("what is named as enough is");
            let less = needed * 9 / 10 - Duration::from_secs(1);
            let refused = Lease::new(less, OnLost::Term, Some(grace)).expect_err("too short");
            assert_eq!(refused.code, super::super::exit::USAGE);
        }
        let grace = Some(Duration::from_secs(9));
        let refused = Lease::new(TTL, OnLost::Term, grace).expect_err("too long");
        for part in ["--grace 9s", "--ttl 10s", "--grace 3s", "--ttl 23s"] {
            assert!(
                refused.message.contains(part),
                "{part} in {}",
                refused.message
            );
        }
        let refused = Lease::new(TTL, OnLost::Kill, grace).expect_err("no SIGTERM");
        assert!(
            refused.message.contains("--on-lost kill"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn a_command_is_left_alone_if_so_asked() {
        assert_eq!(held(19_999, OnLost::Ignore), Step::Wait(Time::MAX));
        let gone = lost(LostReason::LeaseRanOut, 21_000, OnLost::Ignore);
        assert_eq!(gone, Step::Wait(Time::MAX));
    }

    #[test]
    fn after_a_loss_the_command_is_killed_at_once() {
        assert_eq!(
            lost(LostReason::LeaseRanOut, 20_000, OnLost::Term),
            Step::Kill
        );
        assert_eq!(lost(LostReason::Closed, 11_000, OnLost::Term), Step::Kill);
    }

    #[test]
    fn a_break_leaves_the_command_the_rest_of_the_lease() {
        let reason = || LostReason::Broken {
            reason: "maintenance".to_owned(),
        };
        let kill = at(DEADLINE_MS).before(lease().kill);
        assert_eq!(lost(reason(), 11_000, OnLost::Term), Step::Terminate(kill));
        assert_eq!(lost(reason(), 19_000, OnLost::Term), Step::Kill);
        assert_eq!(lost(reason(), 11_000, OnLost::Kill), Step::Kill);
    }
}
