//! A gateway's connection of its own to the database: one call at a time, in order; when it breaks,
//! nobody knows whether its call was done, so the old backend is ended and the call repeated, once.

use gateway::fence::admission::Event as Came;

use super::database::{Call, Reply};
use super::gateway::{Current, SessionKey};
use super::invariants::Verdict;
use super::world::{Event, World};

/// How long an admission waits for writers before it closes and says so, microseconds.
const PATIENCE: u64 = 200_000;

impl World {
    /// Puts a call on the admin link: one at a time, in order.
    pub(super) fn call(&mut self, gateway: usize, session: SessionKey, call: Call) {
        self.gateways[gateway].calls.push_back((session, call));
        self.next_call(gateway);
    }

    fn next_call(&mut self, gateway: usize) {
        let it = &mut self.gateways[gateway];
        if it.current.is_some() {
            return;
        }
        let Some((session, call)) = it.calls.pop_front() else {
            return;
        };
        it.last_number += 1;
        it.current = Some(Current {
            number: it.last_number,
            session,
            call,
            tries: 1,
        });
        self.send_call(gateway);
    }

    fn send_call(&mut self, gateway: usize) {
        let it = &self.gateways[gateway];
        let Some(current) = &it.current else {
            return;
        };
        let (life, link, number) = (it.life, it.link, current.number);
        let call = current.call.clone();
        let delay = 50 + self.dice.around(self.plan.delay / 2);
        if std::mem::take(&mut self.gateways[gateway].breaks_in_a_call) {
            let breaks = self.dice.between(1, 3 * delay);
            self.after(breaks, Event::AdminBreaks { gateway, life });
        }
        let patient_until = self.now + delay + PATIENCE;
        self.after(
            delay,
            Event::AdminCall {
                gateway,
                life,
                link,
                number,
                call,
                patient_until,
            },
        );
    }

    pub(super) fn admin_answered(
        &mut self,
        gateway: usize,
        link: u64,
        number: u64,
        answer: Reply,
    ) -> Verdict {
        let it = &mut self.gateways[gateway];
        let expected = it.current.as_ref().is_some_and(|c| c.number == number);
        if it.link != link || !expected {
            return Ok(());
        }
        let Some(current) = it.current.take() else {
            return Ok(());
        };
        let event = match answer {
            Reply::Admit(admitted) => Came::Admit(admitted),
            Reply::Era(era) => Came::EraBegun(era),
            Reply::Evicting(_) => Came::Evicted,
            Reply::Done | Reply::Wait => Came::Noted,
        };
        let about = matches!(current.call, Call::Forget { .. });
        self.next_call(gateway);
        match about {
            true => Ok(()),
            false => self.came(gateway, current.session, event),
        }
    }

    /// The admin link breaks; nobody knows whether its call was done. A new link ends the old one's
    /// backend first, then the call is repeated; once.
    pub(super) fn break_admin_link(&mut self, gateway: usize) -> Verdict {
        let it = &mut self.gateways[gateway];
        if !it.up {
            return Ok(());
        }
        it.link += 1;
        self.story.landmark(self.now, || {
            format!("the admin link of gateway {gateway} breaks")
        });
        let Some(current) = &mut self.gateways[gateway].current else {
            return Ok(());
        };
        current.tries += 1;
        if current.tries > 2 || !self.database_up {
            let Some(failed) = self.gateways[gateway].current.take() else {
                return Ok(());
            };
            self.next_call(gateway);
            if matches!(failed.call, Call::Forget { .. }) {
                return Ok(());
            }
            let broken = Came::Failed("the connection to the server broke".to_owned());
            return self.came(gateway, failed.session, broken);
        }
        self.coverage.hit("admin call repeated on a new link");
        self.gateways[gateway].retired = self.gateways[gateway].link;
        self.send_call(gateway);
        Ok(())
    }
}
