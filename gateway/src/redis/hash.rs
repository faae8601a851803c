//! The fence's memory in a Redis server: marks, registrations, eras.
//!
//! All of it is one hash, [`FENCE_KEY`]: `run` (which incarnation of the server it was written
//! under), `era`, `horizon`, and a [`Mark`] for each lock. Each change is one transaction that is
//! done only if nobody has changed the hash since it was looked at (WATCH), and that changes the
//! hash itself: so changes have an order, and a late copy of one has no effect.

use std::collections::BTreeSet;

use lockd_protocol::types::{LockName, Token};

use super::acl::{FENCE_KEY, REGISTRATION};
use super::admin::Registration;
use super::link::{Batch, Link, LinkError, field, refused};
use super::mark::{Damaged, Mark};
use super::resp::Value;
use crate::fence::admission::Era;
use crate::fence::set::{Shown, TicketSet};
use crate::limits::SWEEP_AFTER_ADMISSIONS;

/// One lock's mark, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockMark {
    /// The lock.
    pub lock: String,
    /// Highest token admitted.
    pub token: Token,
    /// Connections that carry a ticket with it.
    pub sessions: usize,
}

/// A connection to the server, and the hash by way of it.
pub(super) struct Connected {
    pub(super) link: Link,
    /// Admissions since leftovers were last looked for.
    unswept: u32,
}

/// What the fence's hash says.
pub(super) struct State {
    /// Names this incarnation of the server and of its data.
    pub(super) run: String,
    /// None if the hash is another incarnation's, or none at all.
    pub(super) era: Option<(Era, Token)>,
    pub(super) marks: Vec<Option<Mark>>,
}

impl Connected {
    pub(super) fn new(link: Link) -> Connected {
        Connected {
            link,
            unswept: SWEEP_AFTER_ADMISSIONS,
        }
    }

    /// An admission has been done.
    pub(super) fn admitted(&mut self) {
        self.unswept += 1;
    }

    /// Looks at the hash, and has the server notice if anybody changes it from now on.
    pub(super) async fn look(&mut self, locks: &[&LockName]) -> Result<State, LinkError> {
        let mut fields = vec!["HMGET".to_owned(), FENCE_KEY.to_owned()];
        fields.extend(["run", "era", "horizon"].map(str::to_owned));
        fields.extend(locks.iter().map(|lock| mark_field(lock)));
        let mut batch = Batch::default();
        batch.add(&["UNWATCH"]);
        batch.add(&["WATCH", FENCE_KEY]);
        batch.add(&["INFO", "replication"]);
        batch.add(&fields);
        let replies = self.link.send(&batch).await?;
        for reply in &replies {
            refused(reply)?;
        }
        let info = replies.get(2).and_then(Value::text).unwrap_or_default();
        if field(info, "role") != Some("master") {
            let text = "this server is a replica: let the gateway connect to the primary";
            return Err(LinkError::Server(text.into()));
        }
        // A process that was a replica for a while has another's data, and another of these.
        let run = format!(
            "{} {}",
            self.link.run_id,
            field(info, "master_replid").unwrap_or("")
        );
        let Some(Value::Array(values)) = replies.into_iter().nth(3) else {
            return Err(LinkError::Server(
                "HMGET does not answer with a list".into(),
            ));
        };
        let mut values = values.into_iter();
        let written = values.next();
        let number = |value: Option<Value>| value?.text()?.parse::<i64>().ok();
        let (era, horizon) = (number(values.next()), number(values.next()));
        let era = match (written.as_ref().and_then(Value::text), era, horizon) {
            (Some(written), Some(era), Some(horizon)) if written == run => {
                let horizon = u64::try_from(horizon).unwrap_or(u64::MAX);
                Some((Era(era), Token(horizon)))
            }
            _ => None,
        };
        let damaged = |error: Damaged| LinkError::Server(error.to_string());
        let mark = |value: Value| match value {
            Value::Nil => Ok(None),
            value => Mark::parse(value.text().unwrap_or_default()).map(Some),
        };
        let marks = values
            .map(mark)
            .collect::<Result<Vec<_>, _>>()
            .map_err(damaged)?;
        Ok(State { run, era, marks })
    }

    /// Does these commands as one, unless the hash has changed since it was looked at.
    pub(super) async fn transact(&mut self, commands: &Batch) -> Result<bool, LinkError> {
        let replies = self.link.send(&commands.as_transaction()).await?;
        match replies.last() {
            Some(Value::Nil) => Ok(false),
            Some(Value::Array(done)) => {
                for reply in done {
                    refused(reply)?;
                }
                Ok(true)
            }
            // The first refusal says more than the last, which is that of the whole.
            _ => {
                for reply in &replies {
                    refused(reply)?;
                }
                Err(LinkError::Server("EXEC does not answer with a list".into()))
            }
        }
    }

    pub(super) async fn forget(&mut self, registration: &Registration) -> Result<(), LinkError> {
        let (locks, name) = (locks(&registration.set), registration.name.as_str());
        loop {
            let state = self.look(&locks).await?;
            let mut batch = Batch::default();
            batch.add(&["ACL", "DELUSER", name]);
            for (lock, mark) in locks.iter().zip(state.marks) {
                if let Some(mark) = mark {
                    let text = mark.without(name).text();
                    batch.add(&["HSET", FENCE_KEY, &mark_field(lock), &text]);
                }
            }
            if self.transact(&batch).await? {
                return Ok(());
            }
        }
    }

    /// Begins an era: whatever was registered so far is ended, known to the hash or not.
    pub(super) async fn begin_era(&mut self) -> Result<Era, LinkError> {
        loop {
            let state = self.look(&[]).await?;
            if let Some((era, _)) = state.era {
                return Ok(era);
            }
            let fresh = Era(rand::random::<i64>() >> 2);
            let mut batch = Batch::default();
            for name in self.registrations().await? {
                batch.add(&["ACL", "DELUSER", &name]);
            }
            let era = fresh.0.to_string();
            let unknown = i64::MAX.to_string();
            let hset = [
                "HSET", FENCE_KEY, "run", &state.run, "era", &era, "horizon", &unknown,
            ];
            batch.add(&hset);
            if self.transact(&batch).await? {
                return Ok(fresh);
            }
        }
    }

    pub(super) async fn set_horizon(&mut self, era: Era, horizon: Token) -> Result<(), LinkError> {
        loop {
            let state = self.look(&[]).await?;
            let Some((_, before)) = state.era.filter(|(now, _)| *now == era) else {
                return Ok(());
            };
            let mut batch = Batch::default();
            let lower = horizon.0.min(before.0).to_string();
            batch.add(&["HSET", FENCE_KEY, "horizon", &lower]);
            if self.transact(&batch).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn seed(&mut self, era: Era, shown: &Shown) -> Result<(), LinkError> {
        loop {
            let mut state = self.look(&[&shown.lock]).await?;
            if state.era.is_none_or(|(now, _)| now != era) {
                return Ok(());
            }
            let before = state.marks.pop().flatten();
            let seeded = match before {
                // Somebody has been admitted in this era: nothing is forgotten.
                Some(mark) if mark.era == era => return Ok(()),
                before => Mark {
                    token: before.map_or(shown.token, |mark| mark.token.max(shown.token)),
                    era,
                    registered: Vec::new(),
                },
            };
            let mut batch = Batch::default();
            batch.add(&["HSET", FENCE_KEY, &mark_field(&shown.lock), &seeded.text()]);
            if self.transact(&batch).await? {
                return Ok(());
            }
        }
    }

    /// A gateway that ended without a word leaves registrations behind. They go once the server
    /// says that their connections are gone, which it never says too early: it gives no number
    /// twice.
    pub(super) async fn sweep_if_due(&mut self) -> Result<(), LinkError> {
        if self.unswept < SWEEP_AFTER_ADMISSIONS {
            return Ok(());
        }
        self.unswept = 0;
        let names = self.registrations().await?;
        if names.is_empty() {
            return Ok(());
        }
        let numbers: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| connection_of(name))
            .collect();
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let mut list = vec!["CLIENT", "LIST", "ID"];
        list.extend(numbers.iter().map(String::as_str));
        let list = self.link.ask(&list).await?;
        let alive = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
        let alive: BTreeSet<u64> = list
            .text()
            .unwrap_or("")
            .lines()
            .filter_map(alive)
            .collect();
        let mut batch = Batch::default();
        for name in &names {
            if connection_of(name).is_none_or(|number| !alive.contains(&number)) {
                batch.add(&["ACL", "DELUSER", name]);
            }
        }
        self.link.send(&batch).await?.iter().try_for_each(refused)
    }

    /// All registrations that the server knows.
    async fn registrations(&mut self) -> Result<Vec<String>, LinkError> {
        let Value::Array(users) = self.link.ask(&["ACL", "USERS"]).await? else {
            return Err(LinkError::Server(
                "ACL USERS does not answer with a list".into(),
            ));
        };
        let names = users.iter().filter_map(Value::text);
        Ok(names
            .filter(|name| name.starts_with(REGISTRATION))
            .map(str::to_owned)
            .collect())
    }

    pub(super) async fn marks(&mut self, most: usize) -> Result<Vec<LockMark>, LinkError> {
        let (mut marks, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let scan = ["HSCAN", FENCE_KEY, &cursor, "MATCH", "m:*", "COUNT", "1000"];
            let Value::Array(page) = self.link.ask(&scan).await? else {
                return Err(LinkError::Server(
                    "HSCAN does not answer with a list".into(),
                ));
            };
            let Some((Some(next), Some(Value::Array(fields)))) =
                page.first().map(|next| (next.text(), page.get(1)))
            else {
                return Err(LinkError::Server(
                    "HSCAN's answer cannot be understood".into(),
                ));
            };
            for pair in fields.chunks_exact(2) {
                let lock = pair
                    .first()
                    .and_then(Value::text)
                    .and_then(|f| f.strip_prefix("m:"));
                let mark = pair.get(1).and_then(Value::text).map(Mark::parse);
                if let (Some(lock), Some(Ok(mark))) = (lock, mark) {
                    marks.push(LockMark {
                        lock: lock.to_owned(),
                        token: mark.token,
                        sessions: mark.registered.len(),
                    });
                }
            }
            if next == "0" || marks.len() >= most {
                return Ok(marks);
            }
            next.clone_into(&mut cursor);
        }
    }
}

pub(super) fn locks(set: &TicketSet) -> Vec<&LockName> {
    set.tickets().iter().map(|ticket| &ticket.lock).collect()
}

pub(super) fn mark_field(lock: &LockName) -> String {
    format!("m:{lock}")
}

/// The connection in a registration's name.
pub(super) fn connection_of(name: &str) -> Option<u64> {
    name.strip_prefix(REGISTRATION)?
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}
