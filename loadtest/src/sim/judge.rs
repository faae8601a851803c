//! Follows the log as it is decided, keeps the books, and has every invariant look at each step.
//!
//! The first node that applies a slot is the witness: the entry is applied once more here, command
//! by command, and what comes of it is checked. What other nodes make of it is compared.

use lockd::state::command::{Command, decode};
use lockd::state::listing::Unobserved;
use lockd::state::{Effect, State};
use lockd_protocol::client::{Acquire, Change, EndReason, LockDetail, Operation, Outcome};
use lockd_protocol::limits::PAGE_ITEMS_MAX;
use lockd_protocol::{LockName, SessionId, Token};
use paxos::{Entry, EntryKind};

use super::coverage::Coverage;
use super::invariants::{
    Verdict, Violation, belief, changes, expiry, fence, fifo, identity, limits, metadata, once,
    one_holder, reads, release, same_state, sessions, tokens, valid_holder, watches,
};
use super::ledger::{Happening, Ledger};

/// The books and the invariants.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) books: Ledger,
    pub(super) state: State,
    /// The last slot that any node has applied.
    pub(super) slot: u64,
    pub(super) belief: belief::BeliefEnds,
    pub(super) expiry: expiry::Expiry,
    pub(super) reads: reads::ReadsAreLinearizable,
    pub(super) fence: fence::NoStaleWrite,
    pub(super) valid_holder: valid_holder::NoValidHolderRefused,
    same_state: same_state::SameState,
    tokens: tokens::TokensRise,
    one_holder: one_holder::OneHolder,
    sessions: sessions::NoGrantAfterTheEnd,
    once: once::TakesEffectOnce,
    release: release::ReleaseNamesItsToken,
    fifo: fifo::FirstInFirstOut,
    pub(super) identity: identity::OwnSessionsOnly,
    limits: limits::WithinLimits,
    pub(super) changes: changes::Changes,
    pub(super) watches: watches::WatchesAreComplete,
    metadata: metadata::MetadataOfItsHolder,
    effects: Vec<Effect>,
}

/// What a step of the log means for those who hold locks.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Locks that were granted.
    pub(super) granted: Vec<(LockName, Token)>,
    /// How often an owner entered again what it held.
    pub(super) entered_again: u64,
    /// How many locks were closed for a while.
    pub(super) closed: u64,
    /// Sessions that were opened, or whose opening was repeated.
    pub(super) opened: Vec<SessionId>,
    /// Sessions that ended because they were silent.
    pub(super) expired: Vec<SessionId>,
}

impl Judge {
    /// A node has applied these entries and has this state now.
    pub(super) fn on_applied(
        &mut self,
        now: u64,
        node: u64,
        entries: &[Entry],
        state: &State,
    ) -> Result<News, Violation> {
        let mut news = News::default();
        for entry in entries {
            if entry.slot.0 > self.slot {
                self.witness(now, entry, &mut news)?;
            } else {
                self.same_state.again(node, entry)?;
            }
        }
        if let Some(last) = entries.last() {
            self.same_state.at(node, last.slot.0, state)?;
        }
        Ok(news)
    }

    /// Which of these entries are not what was decided, in words.
    pub(super) fn undecided(&self, entries: &[Entry]) -> String {
        let other = |entry: &&Entry| !self.same_state.is_decided(entry);
        let others: Vec<&Entry> = entries.iter().filter(other).collect();
        format!("on the disk, but not decided: {others:?}")
    }

    fn witness(&mut self, now: u64, entry: &Entry, news: &mut News) -> Verdict {
        self.slot = entry.slot.0;
        if entry.kind == EntryKind::NewLeader {
            self.state.begin_leadership(entry.origin);
        } else if entry.kind == EntryKind::Command {
            let commands = decode(&entry.payload).map_err(|error| {
                let detail = format!("{entry:?} cannot be decoded: {error}");
                Violation::new(same_state::NAME, detail)
            })?;
            for command in commands {
                self.identity.on_command(&command)?;
                self.execute(now, command, news)?;
            }
        }
        let (digest, bytes) = self.same_state.digest(&self.state);
        self.same_state.first(entry, digest);
        self.limits
            .on_applied(entry, &self.state, bytes, &self.books)
    }

    /// Token of the newest grant of a lock.
    fn newest(&self, lock: &LockName) -> Option<Token> {
        self.state
            .describe_lock(lock, (0, 0), 1, &Unobserved)?
            .summary
            .token
    }

    /// Applies a command, and has everybody look at what came of it.
    fn execute(&mut self, now: u64, command: Command, news: &mut News) -> Verdict {
        self.books.ask(&command);
        let mut locks = self.locks_of(&command);
        let before = held_tokens(&self.state, &locks);
        let mut effects = std::mem::take(&mut self.effects);
        self.state.apply(command.clone(), &mut effects);
        let after = held_tokens(&self.state, &locks);
        if let Command::Request {
            session,
            operation: Operation::Release { acquire, token },
            ..
        } = &command
        {
            let ended = before.iter().filter(|token| !after.contains(token));
            let ended: Vec<Token> = ended.copied().collect();
            let of = (*session, *acquire);
            self.release.on_release(of, *token, &ended, &self.books)?;
        }
        self.look_at_changes(&command, &effects)?;
        let held = |_: &LockName, token: Token| after.contains(&token);
        let mut happened = self.books.end(&command, &effects, held);
        let tokens = &self.tokens;
        let repeated = |token, to| tokens.is_repeated(token, to);
        happened.extend(self.books.happenings(&effects, repeated));
        let closed = |effect: &&Effect| matches!(effect, Effect::Closed { .. });
        news.closed += effects.iter().filter(closed).count() as u64;
        effects.clear();
        self.effects = effects;
        for happening in &happened {
            self.look_at(now, happening, news)?;
            self.books.note(happening);
        }
        locks.extend(news.granted.iter().map(|(lock, _)| lock.clone()));
        let ended = |happening: &Happening| matches!(happening, Happening::SessionEnded { .. });
        if happened.iter().any(ended) {
            locks.extend(self.reads.locks().cloned());
        }
        locks.sort_unstable();
        locks.dedup();
        self.changes.compare(&self.books)?;
        for lock in locks {
            let holders = all_of(&self.state, &lock).into_iter();
            for holder in holders.flat_map(|detail| detail.holders) {
                self.metadata.compare(&holder)?;
            }
            self.one_holder.compare(&lock, &self.state, &self.books)?;
            self.reads.on_holder(self.slot, &lock, self.newest(&lock));
        }
        Ok(())
    }

    /// What a command has changed, and what it has put where. The books are of before.
    fn look_at_changes(&mut self, command: &Command, effects: &[Effect]) -> Verdict {
        let events = effects.iter().filter_map(|effect| match effect {
            Effect::Changed(event) => Some(event),
            _ => None,
        });
        for event in events.clone() {
            self.changes.on_event(event, command)?;
        }
        if let Command::Request {
            session,
            sequence,
            operation:
                Operation::SetMetadata {
                    acquire,
                    token,
                    expect,
                    value,
                },
            ..
        } = command
        {
            let asked = metadata::Asked {
                by: (*session, *sequence),
                acquire: *acquire,
                token: *token,
                expect: *expect,
                value,
            };
            let outcome = effects.iter().find_map(|effect| match effect {
                Effect::Reply { outcome, .. } => Some(outcome),
                _ => None,
            });
            let Some(outcome) = outcome else {
                return Ok(());
            };
            let event = events.clone().next();
            return self.metadata.on_asked(&asked, outcome, event, &self.books);
        }
        let replies = effects.iter().filter_map(|effect| match effect {
            Effect::Reply {
                session,
                sequence,
                outcome,
                ..
            } => Some((outcome, self.books.acquisition(*session, *sequence))),
            _ => None,
        });
        let replies: Vec<_> = replies.collect();
        for event in events {
            let token = event.holder.token;
            let got = |outcome: &Outcome| match outcome {
                Outcome::Granted(grants) => grants.iter().any(|grant| grant.token == token),
                _ => false,
            };
            match event.change {
                Change::Granted | Change::MetadataSet => {
                    let by = replies.iter().find(|(outcome, _)| got(outcome));
                    let about = by.and_then(|(_, about)| *about);
                    self.metadata.on_acquired(event, about)?;
                }
                _ => self.metadata.on_other(event)?,
            }
        }
        Ok(())
    }

    /// Every lock that may have other holders after a command than before, but for what ends with
    /// a session.
    fn locks_of(&self, command: &Command) -> Vec<LockName> {
        match command {
            Command::FinishBreak { lock, .. } => self.locks_with(lock),
            Command::Reopen { lock, .. } => vec![lock.clone()],
            Command::Request {
                session, operation, ..
            } => match operation {
                Operation::Acquire(acquire) => locks_in(acquire),
                Operation::Break { lock, .. } => self.locks_with(lock),
                Operation::Cancel { acquire }
                | Operation::Release { acquire, .. }
                | Operation::Downgrade { acquire, .. }
                | Operation::SetMetadata { acquire, .. } => {
                    let about = self.books.acquisition(*session, *acquire);
                    about.map_or_else(Vec::new, locks_in)
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// A lock, and what its holders have beside it.
    fn locks_with(&self, lock: &LockName) -> Vec<LockName> {
        let mut all = vec![lock.clone()];
        for (_, grant) in self.books.holders(lock) {
            for acquire in &grant.acquires {
                let about = self.books.acquisition(grant.session, *acquire);
                all.extend(about.into_iter().flat_map(locks_in));
            }
        }
        all
    }

    fn look_at(&mut self, now: u64, happening: &Happening, news: &mut News) -> Verdict {
        match happening {
            Happening::Opened { session, nonce } => {
                let books = &self.books;
                let lives = |session| books.sessions.contains_key(&session);
                self.once.on_opened(*nonce, *session, lives)?;
                self.expiry.on_opened(now, *session);
                news.opened.push(*session);
            }
            Happening::Granted {
                session,
                acquire,
                grants,
            } => {
                for (token, grant) in grants {
                    self.tokens.on_granted(*token, (*session, *acquire))?;
                    self.sessions.on_granted(grant, &self.books)?;
                    self.one_holder.on_granted(grant, &self.books)?;
                    self.fifo.on_granted(grant, *acquire, &self.books)?;
                    news.granted.push((grant.lock.clone(), *token));
                }
            }
            Happening::EnteredAgain { token, acquire } => {
                let books = &self.books;
                self.one_holder.on_entered_again(*token, *acquire, books)?;
                news.entered_again += 1;
            }
            Happening::Replied {
                session,
                sequence,
                outcome,
            } => self.once.on_replied(*session, *sequence, outcome)?,
            Happening::SessionEnded {
                session,
                reason,
                ttl_ms,
            } => {
                let silent = *reason == EndReason::Expired;
                self.expiry
                    .on_ended(now, *session, silent.then_some(*ttl_ms))?;
                if silent {
                    news.expired.push(*session);
                }
            }
            Happening::Forfeited { token } => self.belief.forfeit(*token),
        }
        Ok(())
    }

    /// How often each invariant was checked.
    pub(super) fn count(&self, coverage: &mut Coverage) {
        coverage.checked(same_state::NAME, self.same_state.checked);
        coverage.checked(tokens::NAME, self.tokens.checked);
        coverage.checked(one_holder::NAME, self.one_holder.checked);
        coverage.checked(sessions::NAME, self.sessions.checked);
        coverage.checked(belief::NAME, self.belief.checked);
        coverage.checked(expiry::NAME, self.expiry.checked);
        coverage.checked(once::NAME, self.once.checked);
        coverage.checked(release::NAME, self.release.checked);
        coverage.checked(fifo::NAME, self.fifo.checked);
        coverage.checked(identity::NAME, self.identity.checked);
        coverage.checked(reads::NAME, self.reads.checked);
        coverage.checked(fence::NAME, self.fence.checked);
        coverage.checked(valid_holder::NAME, self.valid_holder.checked);
        coverage.checked(limits::NAME, self.limits.checked);
        coverage.checked(changes::NAME, self.changes.checked);
        coverage.checked(watches::NAME, self.watches.checked);
        coverage.checked(metadata::NAME, self.metadata.checked);
        coverage.add("request answered again", self.once.repeated);
    }
}

fn locks_in(acquire: &Acquire) -> Vec<LockName> {
    let wants = acquire.wants.each().iter();
    wants.map(|want| want.lock.clone()).collect()
}

/// Every token under which one of these locks is held.
fn held_tokens(state: &State, locks: &[LockName]) -> Vec<Token> {
    let details = locks.iter().filter_map(|lock| all_of(state, lock));
    details
        .flat_map(|detail| detail.holders)
        .map(|holder| holder.token)
        .collect()
}

/// A lock with all who hold it; there are never many in a simulation.
pub(super) fn all_of(state: &State, lock: &LockName) -> Option<LockDetail> {
    state.describe_lock(lock, (0, 0), PAGE_ITEMS_MAX, &Unobserved)
}
