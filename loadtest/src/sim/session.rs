//! What a client's session core wants done, what becomes of guards, and what is asked of the cell
//! and believed.

use lockd_client::core::{Ended, Input, Output};
use lockd_protocol::client::{Answer, ClientFrame, EndReason, Operation, Outcome, Query};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{LockName, Sequence, Token};

use super::client::{Asker, Guard, Lease, Question, Want, new_core};
use super::invariants::belief::Believed;
use super::invariants::{Verdict, Violation};
use super::ledger::Grant;
use super::world::World;

/// A question to the cell.
fn asking(id: u64, query: Query) -> ClientFrame {
    let stale = false;
    ClientFrame::Query { id, query, stale }
}

/// How long a client waits for the answer to a question, microseconds.
const QUESTION_TIMEOUT: u64 = 5_000_000;

impl World {
    /// Hands the core an input, and does what it wants.
    pub(super) fn give(&mut self, client: usize, input: Input<Want>) -> Verdict {
        let it = &mut self.clients[client];
        let now = it.time(self.now);
        it.core.handle(now, input);
        while let Some(output) = self.clients[client].core.poll_output() {
            self.do_for_client(client, output)?;
        }
        if self.clients[client].core.ended().is_some() {
            self.new_session(client)?;
        }
        self.set_client_timer(client);
        Ok(())
    }

    fn do_for_client(&mut self, client: usize, output: Output<Want>) -> Verdict {
        match output {
            Output::Send(frame) => self.send(client, frame),
            Output::Queued { .. } => {}
            Output::Opened { deadline, .. } => {
                self.coverage.hit("session opened");
                let it = &mut self.clients[client];
                // Whoever has closed it before it was open holds nothing under it.
                let lost = it.closing;
                it.lease = Some(Lease { deadline, lost });
            }
            Output::Deadline(deadline) => {
                let it = &mut self.clients[client];
                let now = it.time(self.now);
                match &mut it.lease {
                    Some(lease) if !lease.lost => lease.deadline = lease.deadline.max(deadline),
                    // It is being closed; that goes on.
                    _ if it.closing => {}
                    _ => it.core.handle(now, Input::Abandon(Ended::LeaseRanOut)),
                }
                self.look_at_belief(client)?;
            }
            Output::Done {
                waiter,
                sequence,
                outcome,
                tickets,
            } => self.done(client, waiter, sequence, &outcome, &tickets)?,
            Output::Failed { waiter, .. } => self.failed(client, waiter)?,
            Output::GrantLost { acquire, .. } => self.grant_lost(client, acquire),
            Output::Suspect => return self.lose_link(client),
            Output::Ended(ended) => {
                self.story.landmark(self.now, || {
                    format!("client {client} loses its session: {ended:?}")
                });
                match ended {
                    Ended::LeaseRanOut => self.coverage.hit("session lost by its client"),
                    Ended::Closed | Ended::ByCell(EndReason::Closed) => {
                        self.coverage.hit("session closed");
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn grant_lost(&mut self, client: usize, acquire: Sequence) {
        let Some(guard) = self.clients[client].guards.get_mut(&acquire) else {
            return;
        };
        guard.told = true;
        let books = &self.judge.books;
        let mut grants = guard.grants.iter();
        let still = grants.all(|(token, grant)| books.holds(&grant.lock, *token));
        self.coverage.hit("broken, holder told");
        if still {
            self.coverage.hit("lost told before the next grant");
        }
        self.wake_holder(client, acquire);
    }

    fn done(
        &mut self,
        client: usize,
        want: Want,
        sequence: Sequence,
        outcome: &Outcome,
        tickets: &[TicketText],
    ) -> Verdict {
        match want {
            Want::Acquire { task } => {
                self.acquired(client, task, sequence, outcome, tickets)?;
                self.look_at_belief(client)
            }
            Want::Release { task, acquire } => {
                self.coverage.hit("release");
                self.histories.gave_back(self.now, client, acquire, outcome);
                self.released(client, task);
                Ok(())
            }
            Want::Break { at_once } => {
                if at_once && matches!(outcome, Outcome::Broken { .. }) {
                    self.coverage.hit("broken at once");
                }
                Ok(())
            }
            Want::Draw { session, round } => {
                let token = outcome.granted_token();
                let drawn = token.ok_or_else(|| format!("{outcome:?}"));
                if drawn.is_ok() {
                    let waiter = Want::Drawn;
                    let acquire = sequence;
                    self.give(client, Input::Release { acquire, waiter })?;
                }
                self.token_drawn(client, session, round, drawn)
            }
            Want::Downgrade => {
                if *outcome == Outcome::Downgraded {
                    self.coverage.hit("downgraded");
                }
                Ok(())
            }
            Want::PutMetadata => {
                self.metadata_put(client, outcome);
                Ok(())
            }
            Want::Close | Want::Drawn => Ok(()),
        }
    }

    fn failed(&mut self, client: usize, want: Want) -> Verdict {
        match want {
            Want::Acquire { task } => self.not_acquired(client, task),
            Want::Release { task, .. } => {
                self.released(client, task);
                Ok(())
            }
            Want::Draw { session, round } => {
                let lost = Err("the session was lost".to_owned());
                self.token_drawn(client, session, round, lost)
            }
            Want::Break { .. }
            | Want::Close
            | Want::Downgrade
            | Want::Drawn
            | Want::PutMetadata => Ok(()),
        }
    }

    /// A guard comes to be.
    pub(super) fn take_guard(
        &mut self,
        client: usize,
        acquire: Sequence,
        grants: Vec<(Token, Grant)>,
    ) {
        let told = false;
        let guard = Guard { grants, told };
        self.clients[client].guards.insert(acquire, guard);
    }

    /// A guard is given back: nobody believes in it from here on.
    pub(super) fn give_back(
        &mut self,
        client: usize,
        session: u64,
        acquire: Sequence,
        task: usize,
    ) -> Result<bool, Violation> {
        let it = &mut self.clients[client];
        if it.sessions != session || it.guards.remove(&acquire).is_none() {
            return Ok(false);
        }
        self.histories
            .gives_back(self.now, client, session, acquire);
        let waiter = Want::Release { task, acquire };
        self.give(client, Input::Release { acquire, waiter })?;
        Ok(true)
    }

    /// Sends a request on behalf of somebody, under the name of [`Client::next_request`].
    pub(super) fn submit(&mut self, client: usize, operation: Operation, waiter: Want) -> Verdict {
        let it = &mut self.clients[client];
        let request = it.next_request();
        it.requests += 1;
        if matches!(operation, Operation::Break { .. }) {
            self.histories.end_here();
        }
        if operation == Operation::Close {
            self.histories.may_end(self.now, client, it.sessions);
            // Whoever closes a session has given up its guards, and those yet to come.
            it.guards.clear();
            it.closing = true;
            if let Some(lease) = &mut it.lease {
                lease.lost = true;
            }
        }
        self.give(
            client,
            Input::Submit {
                request,
                operation,
                waiter,
            },
        )
    }

    pub(super) fn new_session(&mut self, client: usize) -> Verdict {
        self.session_may_end(client);
        let it = &mut self.clients[client];
        it.sessions += 1;
        it.lease = None;
        it.closing = false;
        it.guards.clear();
        it.renewed_by = None;
        it.core = new_core(client, it.sessions, &self.plan, it.seed);
        if it.link.is_some() && it.welcomed {
            self.give(client, Input::Connected)?;
        }
        Ok(())
    }

    /// Everything that a client believes in has to be so, at this very instant.
    pub(super) fn look_at_belief(&mut self, client: usize) -> Verdict {
        let it = &self.clients[client];
        if !it.believes(self.now) || it.core.id().is_none() {
            return Ok(());
        }
        for guard in it.guards.values().filter(|guard| !guard.told) {
            for (token, grant) in &guard.grants {
                let believed = Believed {
                    client: client as u64,
                    token: *token,
                    grant: grant.clone(),
                };
                self.judge.belief.check(&believed, &self.judge.books)?;
            }
        }
        Ok(())
    }

    /// Asks the cell something.
    pub(super) fn ask(&mut self, client: usize, query: Query, asker: Asker) {
        let slot = self.judge.slot;
        let it = &mut self.clients[client];
        it.last_question += 1;
        let id = it.last_question;
        let (now, ready) = (self.now, it.link.is_some() && it.welcomed);
        let question = Question {
            asker,
            query: query.clone(),
            at: now,
            slot,
        };
        it.questions
            .retain(|_, question| question.at + QUESTION_TIMEOUT > now);
        it.questions.insert(id, question);
        if ready {
            self.send(client, asking(id, query));
        }
    }

    /// Questions change nothing, so that asking again is safe.
    pub(super) fn ask_again(&mut self, client: usize) {
        let questions = self.clients[client].questions.iter();
        let all: Vec<(u64, Query)> = questions.map(|(id, q)| (*id, q.query.clone())).collect();
        for (id, query) in all {
            self.send(client, asking(id, query));
        }
    }

    pub(super) fn answered(&mut self, client: usize, id: u64, answer: Answer) -> Verdict {
        let Some(question) = self.clients[client].questions.remove(&id) else {
            return Ok(());
        };
        let said: Vec<(LockName, Option<Token>)> = match (&question.query, answer) {
            (Query::Lock { lock, .. }, Answer::Lock(detail)) => {
                self.coverage.hit("who answered");
                let token = detail.and_then(|detail| detail.summary.token);
                vec![(lock.clone(), token)]
            }
            (Query::Locks { .. }, Answer::Locks { locks, .. }) => {
                self.coverage.hit("ls answered");
                let held = locks.into_iter();
                held.map(|held| (held.lock, held.token)).collect()
            }
            _ => return Ok(()),
        };
        let now = self.judge.slot;
        self.judge.reads.on_answer(&said, question.slot, now)?;
        if let Asker::Gateway {
            session,
            round,
            token,
        } = question.asker
        {
            let granted = said.first().is_some_and(|(_, held)| *held == Some(token));
            return self.cell_answered(client, session, round, granted);
        }
        Ok(())
    }
}
