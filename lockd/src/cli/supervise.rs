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
}

impl Lease {
    /// For sessions with this TTL. Renewals have failed for a third of the lease, several times,
    /// before the command is bothered.
    pub(super) fn new(ttl: Duration) -> Lease {
        let millis = Millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let lease = Duration::from(millis.client_lease());
        Lease {
            terminate: lease / 3,
            kill: (lease / 8).min(Duration::from_secs(2)),
        }
    }
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

/// What is to be done to the command at `now`, if the lock is in this state.
fn step(state: &GuardState, now: Time, deadline: Time, lease: Lease, on_lost: OnLost) -> Step {
    let kill = deadline.before(lease.kill);
    let terminate = match (state, on_lost) {
        (_, OnLost::Ignore) => return Step::Wait(Time::MAX),
        // Nobody else gets it before the deadline: an operator's break leaves that time.
        (GuardState::Lost { reason }, _) if !matches!(reason, LostReason::Broken { .. }) => {
            return Step::Kill;
        }
        (GuardState::Lost { .. }, OnLost::Kill) => return Step::Kill,
        (GuardState::Lost { .. }, OnLost::Term) => Time::default(),
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
        terminated: false,
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
    terminated: bool,
    why: Option<String>,
}

impl Watch {
    /// Does what is due. Says when to look again.
    fn act(&mut self, child: &Child, guard: &LockGuard, lease: Lease, on_lost: OnLost) -> Time {
        let state = guard.state();
        match step(&state, now(), guard.deadline(), lease, on_lost) {
            Step::Wait(until) => until,
            Step::Terminate(until) => {
                self.note_doubt(guard);
                if !std::mem::replace(&mut self.terminated, true) {
                    child.signal(Signal::TERM);
                    // A stopped command could not end by itself.
                    child.signal(Signal::CONT);
                }
                until
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
        Lease::new(Duration::from_secs(10))
    }

    const DEADLINE_MS: u64 = 20_000;

    fn held(now_ms: u64, on_lost: OnLost) -> Step {
        step(
            &GuardState::Held,
            at(now_ms),
            at(DEADLINE_MS),
            lease(),
            on_lost,
        )
    }

    fn lost(reason: LostReason, now_ms: u64, on_lost: OnLost) -> Step {
        let state = GuardState::Lost { reason };
        step(&state, at(now_ms), at(DEADLINE_MS), lease(), on_lost)
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
