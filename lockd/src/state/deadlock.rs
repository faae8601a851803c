//! Waits that would never end.
//!
//! A wait can end when those go on whom it waits for: all who hold an exclusive lock or stand
//! before it in the queue, but only one of those who hold the permits of a semaphore, and only
//! those at one lock of several that would do.
//!
//! Whoever *stands in a queue* goes on when its own wait ends. Whoever *holds* something may give
//! it back at any time, and so can go on, with one exception: an *owner* within a session does one
//! thing after the other, so as long as it waits it gives nothing back. Of a holder without an
//! owner nobody knows what it does meanwhile. So no wait is refused that could have ended.
//!
//! Only a new wait of an owner can close a circle: a grant, a release or the end of a wait takes
//! away what somebody waits for, and for a wait without an owner nobody waits yet. So the look is
//! taken when an owner's wait begins, along the waits from there on; most of the time it ends at
//! the first holder, who does not wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockd_protocol::client::{InCircle, Want, Wants};
use lockd_protocol::limits::CIRCLE_TOLD_MAX;
use lockd_protocol::{LockName, Mode};

use super::State;
use super::lock::{Hold, Waiter};
use crate::limits::DEADLOCK_STEPS_MAX;

/// What stands for a wait here: its place in the queues.
type Place = u64;

/// What has to happen before a want can be had.
#[derive(Debug, Default)]
struct Need {
    /// All of these waits have to end.
    every: Vec<Place>,
    /// One of these waits has to end, if there are any.
    some: Vec<Place>,
}

/// Somebody's wait, and what it needs.
#[derive(Debug)]
struct Wait<'a> {
    waiter: &'a Waiter,
    needs: Vec<(&'a LockName, Need)>,
}

impl State {
    /// The circle that the wait at `place` closes, if it does.
    pub(super) fn circle(&self, place: Place) -> Option<Vec<InCircle>> {
        self.waiters.get(&place)?.owner()?;
        let waits = self.waits_from(place)?;
        let stuck = stuck(&waits);
        stuck.contains(&place).then(|| tell(place, &waits, &stuck))
    }

    /// Every wait that matters to the one at `place`. `None`: too many to look at.
    fn waits_from(&self, place: Place) -> Option<BTreeMap<Place, Wait<'_>>> {
        let mut waits = BTreeMap::new();
        let mut steps = 0;
        let mut look = vec![place];
        while let Some(place) = look.pop() {
            if waits.contains_key(&place) {
                continue;
            }
            let Some(waiter) = self.waiters.get(&place) else {
                continue;
            };
            let wants = waiter.acquire.wants.each().iter();
            let needs: Vec<_> = wants
                .map(|want| (&want.lock, self.need(place, want)))
                .collect();
            for (_, need) in &needs {
                steps += 1 + need.every.len() + need.some.len();
                look.extend(need.every.iter().chain(&need.some));
            }
            if steps > DEADLOCK_STEPS_MAX {
                return None;
            }
            waits.insert(place, Wait { waiter, needs });
        }
        Some(waits)
    }

    fn need(&self, place: Place, want: &Want) -> Need {
        let mut need = Need::default();
        let Some(lock) = self.locks.get(&want.lock) else {
            return need;
        };
        if !lock.has_room(want.mode) && !lock.holds.is_empty() {
            let waits = lock.holds.iter().map(|hold| self.waits_meanwhile(hold));
            let same_mode = lock.holds.iter().all(|hold| hold.mode == want.mode);
            if same_mode && matches!(want.mode, Mode::Permit { .. }) {
                // One that does not wait may give its permit back.
                need.some = waits.collect::<Option<Vec<_>>>().unwrap_or_default();
            } else {
                need.every.extend(waits.flatten());
            }
        }
        for (&ahead, &mode) in lock.queue.range(..place).rev() {
            if mode == Mode::Shared && want.mode == Mode::Shared {
                continue;
            }
            let Some(waiter) = self.waiters.get(&ahead) else {
                continue;
            };
            need.every.push(ahead);
            // This one waits for everybody before it.
            if mode == Mode::Exclusive && !matches!(waiter.acquire.wants, Wants::Any(_)) {
                break;
            }
        }
        need
    }

    /// What the holder has to wait for before it can give anything back. An owner that waits for
    /// several things at a time does not do one thing after the other, whatever it says.
    fn waits_meanwhile(&self, hold: &Hold) -> Option<Place> {
        let owned = self.sessions.get(&hold.session)?.owned(hold.owner()?)?;
        let place = *owned.places.first()?;
        (owned.places.len() == 1).then_some(place)
    }
}

/// Those that can never end: what is left when all end that can.
fn stuck(waits: &BTreeMap<Place, Wait<'_>>) -> BTreeSet<Place> {
    let mut waited_for: BTreeMap<Place, Vec<Place>> = BTreeMap::new();
    for (place, wait) in waits {
        for other in wait.others() {
            waited_for.entry(other).or_default().push(*place);
        }
    }
    let mut stuck: BTreeSet<Place> = waits.keys().copied().collect();
    let mut look: Vec<Place> = waits.keys().copied().collect();
    while let Some(place) = look.pop() {
        let ends = waits.get(&place).is_some_and(|wait| wait.can_end(&stuck));
        if ends && stuck.remove(&place) {
            look.extend(waited_for.get(&place).into_iter().flatten());
        }
    }
    stuck
}

impl Wait<'_> {
    /// Every wait that it waits for.
    fn others(&self) -> impl Iterator<Item = Place> {
        let needs = self.needs.iter().map(|(_, need)| need);
        needs.flat_map(|need| need.every.iter().chain(&need.some).copied())
    }

    fn can_end(&self, stuck: &BTreeSet<Place>) -> bool {
        let mut needs = self.needs.iter().map(|(_, need)| need.can_be_met(stuck));
        match self.waiter.acquire.wants {
            Wants::Any(_) => needs.any(|met| met),
            _ => needs.all(|met| met),
        }
    }

    fn step(&self, lock: &LockName) -> InCircle {
        InCircle {
            session: self.waiter.session,
            owner: self.waiter.owner().map(str::to_owned),
            waits_for: lock.clone(),
        }
    }
}

impl Need {
    fn can_be_met(&self, stuck: &BTreeSet<Place>) -> bool {
        let some = self.some.is_empty() || self.some.iter().any(|place| !stuck.contains(place));
        some && self.every.iter().all(|place| !stuck.contains(place))
    }
}

/// The shortest way from `start` back to itself, over those that are stuck.
fn tell(start: Place, waits: &BTreeMap<Place, Wait<'_>>, stuck: &BTreeSet<Place>) -> Vec<InCircle> {
    let mut came_from: BTreeMap<Place, (Place, InCircle)> = BTreeMap::new();
    let mut look = VecDeque::from([start]);
    while let Some(place) = look.pop_front() {
        let Some(wait) = waits.get(&place) else {
            continue;
        };
        for (lock, need) in &wait.needs {
            let next = need.every.iter().chain(&need.some);
            for next in next.filter(|next| stuck.contains(next)) {
                if !came_from.contains_key(next) {
                    came_from.insert(*next, (place, wait.step(lock)));
                    look.push_back(*next);
                }
            }
        }
    }
    let mut circle = VecDeque::new();
    let mut at = start;
    while let Some((place, step)) = came_from.get(&at) {
        circle.push_front(step.clone());
        at = *place;
        if at == start {
            break;
        }
    }
    circle.truncate(CIRCLE_TOLD_MAX);
    circle.into()
}
