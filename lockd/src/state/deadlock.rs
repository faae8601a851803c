//! Waits that would never end.
//!
//! An *agent* is an owner within a session: somebody who does one thing after the other, so that
//! as long as it waits it gives nothing back. An agent that waits can go on when those go on whom
//! it waits for: all who hold an exclusive lock or stand before it in the queue, but only one of
//! those who hold the permits of a semaphore, and only those at one lock of several that would do.
//! Everybody else can go on: whoever does not wait, and whoever holds or waits without an owner, of
//! which nobody knows what it does meanwhile. So no wait is refused that could have ended.
//!
//! Only a new wait can close a circle: a grant, a release or the end of a wait takes away what
//! somebody waits for. So the look is taken when a wait begins, along the waits from there on; most
//! of the time it ends at the first holder, who does not wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockd_protocol::client::{InCircle, Want, Wants};
use lockd_protocol::limits::CIRCLE_TOLD_MAX;
use lockd_protocol::{LockName, Mode, SessionId};

use super::State;
use super::lock::Waiter;
use crate::limits::DEADLOCK_STEPS_MAX;

/// An owner within a session.
type Agent<'a> = (SessionId, &'a str);

/// What has to happen before a want can be had.
#[derive(Debug, Default)]
struct Need<'a> {
    /// All of these have to go on.
    every: Vec<Agent<'a>>,
    /// One of these has to go on, if there are any.
    some: Vec<Agent<'a>>,
}

/// An agent that waits.
#[derive(Debug)]
struct Wait<'a> {
    /// One of the wants is enough.
    any: bool,
    needs: Vec<(&'a LockName, Need<'a>)>,
}

impl State {
    /// The circle that the wait at `place` closes, if it does.
    pub(super) fn circle(&self, place: u64) -> Option<Vec<InCircle>> {
        let waiter = self.waiters.get(&place)?;
        let agent = (waiter.session, waiter.owner()?);
        let waits = self.waits_from(agent)?;
        let stuck = stuck(&waits);
        stuck.contains(&agent).then(|| tell(agent, &waits, &stuck))
    }

    /// Every wait that matters to `agent`. `None`: too many to look at.
    fn waits_from<'a>(&'a self, agent: Agent<'a>) -> Option<BTreeMap<Agent<'a>, Wait<'a>>> {
        let mut waits = BTreeMap::new();
        let mut steps = 0;
        let mut look = vec![agent];
        while let Some(agent) = look.pop() {
            if waits.contains_key(&agent) {
                continue;
            }
            let Some(waiter) = self.only_wait(agent) else {
                continue;
            };
            let wants = &waiter.1.acquire.wants;
            let needs: Vec<_> = wants
                .each()
                .iter()
                .map(|want| (&want.lock, self.need(waiter.0, want)))
                .collect();
            for (_, need) in &needs {
                steps += 1 + need.every.len() + need.some.len();
                look.extend(need.every.iter().chain(&need.some));
            }
            if steps > DEADLOCK_STEPS_MAX {
                return None;
            }
            let any = matches!(wants, Wants::Any(_));
            waits.insert(agent, Wait { any, needs });
        }
        Some(waits)
    }

    /// What an agent waits for. One that waits for several things at a time does not do one thing
    /// after the other, whatever it says.
    fn only_wait(&self, (session, owner): Agent<'_>) -> Option<(u64, &Waiter)> {
        let owned = self.sessions.get(&session)?.owned(owner)?;
        let place = *owned.places.first().filter(|_| owned.places.len() == 1)?;
        Some((place, self.waiters.get(&place)?))
    }

    fn need<'a>(&'a self, place: u64, want: &Want) -> Need<'a> {
        let mut need = Need::default();
        let Some(lock) = self.locks.get(&want.lock) else {
            return need;
        };
        if !lock.has_room(want.mode) && !lock.holds.is_empty() {
            let holders = lock.holds.iter();
            let agents = holders.map(|hold| Some((hold.session, hold.owner()?)));
            let same_mode = lock.holds.iter().all(|hold| hold.mode == want.mode);
            if same_mode && matches!(want.mode, Mode::Permit { .. }) {
                // A holder of whom nothing is known may give its permit back.
                need.some = agents.collect::<Option<Vec<_>>>().unwrap_or_default();
            } else {
                need.every.extend(agents.flatten());
            }
        }
        for (&ahead, &mode) in lock.queue.range(..place).rev() {
            if mode == Mode::Shared && want.mode == Mode::Shared {
                continue;
            }
            let Some(waiter) = self.waiters.get(&ahead) else {
                continue;
            };
            let agent = waiter.owner().map(|owner| (waiter.session, owner));
            need.every.extend(agent);
            // This one waits for everybody before it, and is looked at for itself.
            let stands_for_all = mode == Mode::Exclusive
                && !matches!(waiter.acquire.wants, Wants::Any(_))
                && agent.is_some_and(|agent| self.only_wait(agent).is_some());
            if stands_for_all {
                break;
            }
        }
        need
    }
}

/// Those that can never go on: what is left when everybody goes on who can.
fn stuck<'a>(waits: &BTreeMap<Agent<'a>, Wait<'a>>) -> BTreeSet<Agent<'a>> {
    let mut waited_for: BTreeMap<Agent<'_>, Vec<Agent<'_>>> = BTreeMap::new();
    for (agent, wait) in waits {
        for other in wait.agents() {
            waited_for.entry(other).or_default().push(*agent);
        }
    }
    let mut stuck: BTreeSet<Agent<'_>> = waits.keys().copied().collect();
    let mut look: Vec<Agent<'_>> = waits.keys().copied().collect();
    while let Some(agent) = look.pop() {
        let ends = waits.get(&agent).is_some_and(|wait| wait.can_end(&stuck));
        if ends && stuck.remove(&agent) {
            look.extend(waited_for.get(&agent).into_iter().flatten());
        }
    }
    stuck
}

impl<'a> Wait<'a> {
    /// Everybody it waits for.
    fn agents(&self) -> impl Iterator<Item = Agent<'a>> {
        let needs = self.needs.iter().map(|(_, need)| need);
        needs.flat_map(|need| need.every.iter().chain(&need.some).copied())
    }

    fn can_end(&self, stuck: &BTreeSet<Agent<'a>>) -> bool {
        let mut needs = self.needs.iter().map(|(_, need)| need.can_be_met(stuck));
        match self.any {
            true => needs.any(|met| met),
            false => needs.all(|met| met),
        }
    }
}

impl<'a> Need<'a> {
    fn can_be_met(&self, stuck: &BTreeSet<Agent<'a>>) -> bool {
        let some = self.some.is_empty() || self.some.iter().any(|agent| !stuck.contains(agent));
        some && self.every.iter().all(|agent| !stuck.contains(agent))
    }
}

/// The shortest way from `start` back to itself, over those that are stuck.
fn tell<'a>(
    start: Agent<'a>,
    waits: &BTreeMap<Agent<'a>, Wait<'a>>,
    stuck: &BTreeSet<Agent<'a>>,
) -> Vec<InCircle> {
    let mut came_from: BTreeMap<Agent<'_>, (Agent<'_>, &LockName)> = BTreeMap::new();
    let mut look = VecDeque::from([start]);
    while let Some(agent) = look.pop_front() {
        let Some(wait) = waits.get(&agent) else {
            continue;
        };
        for (lock, need) in &wait.needs {
            let next = need.every.iter().chain(&need.some);
            for next in next.filter(|next| stuck.contains(next)) {
                if !came_from.contains_key(next) {
                    came_from.insert(*next, (agent, lock));
                    look.push_back(*next);
                }
            }
        }
    }
    let mut circle = VecDeque::new();
    let mut at = start;
    while let Some((agent, lock)) = came_from.get(&at) {
        circle.push_front(InCircle {
            session: agent.0,
            owner: agent.1.to_owned(),
            waits_for: (*lock).clone(),
        });
        at = *agent;
        if at == start {
            break;
        }
    }
    circle.truncate(CIRCLE_TOLD_MAX);
    circle.into()
}
