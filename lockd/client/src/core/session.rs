//! One session, from its opening to its loss: what to send, what to believe, whom to tell.
//!
//! A session is believed in while `now < deadline`. The first time that this does not hold, or
//! that the cell says so, it is lost, and nothing revives it: a later acquisition needs a new
//! session. Knows nothing of connections but whether there is one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockd_protocol::client::{ClientFrame, EndReason, Operation, Outcome, Refusal};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{Nonce, Sequence, SessionId, Token};

use super::backoff::Backoff;
use super::interface::{Ended, Input, Output, SessionOptions};
use super::renewal::Renewal;
use super::requests::{Entry, RequestId, Requests, TakenBack};
use super::time::Time;

/// Shortest wait before a request that was refused as busy is sent again.
const BUSY_RETRY_MIN: Duration = Duration::from_millis(5);

/// Longest wait before a request that was refused as busy is sent again.
const BUSY_RETRY_MAX: Duration = Duration::from_millis(500);

/// A connection on which a renewal stays unanswered for this part of the lease is suspect.
const PATIENCE_PART: u32 = 3;

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
enum Phase {
    Opening,
    Open { session: SessionId, believed: bool },
    Over(Ended),
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Held {
    /// The lowest token, which names the grants in a release.
    token: Token,
    /// It is being taken away, and its holder was told.
    taken: bool,
}

/// The state of one session. `W` is whatever the caller wants back with an outcome.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub struct SessionCore<W> {
    options: SessionOptions,
    phase: Phase,
    connected_at: Option<Time>,
    suspected: bool,
    first_open: Option<Time>,
    last_open: Option<Time>,
    open_at: Time,
    renewal: Renewal,
    requests: Requests<W>,
    grants: BTreeMap<Sequence, Held>,
    busy: Backoff,
    outputs: VecDeque<Output<W>>,
}

impl<W> SessionCore<W> {
    /// A session that is about to be opened.
    #[must_use]
    pub fn new(options: SessionOptions) -> SessionCore<W> {
        SessionCore {
            phase: Phase::Opening,
            connected_at: None,
            suspected: false,
            first_open: None,
            last_open: None,
            open_at: Time::default(),
            renewal: Renewal::new(options.ttl, options.keepalive),
            requests: Requests::new(),
            grants: BTreeMap::new(),
            busy: Backoff::new(BUSY_RETRY_MIN, BUSY_RETRY_MAX, options.seed),
            outputs: VecDeque::new(),
            options,
        }
    }

    /// The nonce under which this session is opened.
    #[must_use]
    pub fn nonce(&self) -> Nonce {
        self.options.nonce
    }

    /// Who waits for the outcome of this request.
    #[must_use]
    pub fn waiter(&self, sequence: Sequence) -> Option<&W> {
        self.requests.get(sequence)?.waiter.as_ref()
    }

    /// The session's id, once it is known.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Open { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        match &self.phase {
            Phase::Over(ended) => Some(ended),
            _ => None,
        }
    }

    /// Whether the session is open and believed in.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.phase, Phase::Open { believed: true, .. })
    }

    /// What this client counts on after a renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.renewal.lease()
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output<W>> {
        self.outputs.pop_front()
    }

    /// When to call [`SessionCore::handle`] with [`Input::Tick`], if nothing comes before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let connected = self.connected_at.is_some();
        let due = match self.phase {
            Phase::Over(_) => None,
            Phase::Opening => (connected && self.last_open.is_none()).then_some(self.open_at),
            Phase::Open { believed, .. } => {
                let deadline = believed.then_some(self.renewal.deadline());
                let renewal = connected.then_some(self.renewal.next_send());
                let retry = self.requests.next_retry().filter(|_| connected);
                [deadline, renewal, retry].into_iter().flatten().min()
            }
        };
        [due, self.suspect_at()].into_iter().flatten().min()
    }

    /// Takes one input at `now`, which must not go back.
    pub fn handle(&mut self, now: Time, input: Input<W>) {
        self.look_at_deadline(now);
        if let Phase::Over(ended) = &self.phase {
            if let Input::Submit { waiter, .. }
            | Input::Release { waiter, .. }
            | Input::Downgrade { waiter, .. } = input
            {
                let ended = ended.clone();
                self.outputs.push_back(Output::Failed { waiter, ended });
            }
            return;
        }
        match input {
            Input::Connected => self.connected(now),
            Input::Disconnected => self.connected_at = None,
            Input::Tick => {}
            Input::Submit {
                request,
                operation,
                waiter,
            } => self.submit(request, operation, waiter),
            Input::TakeBack { request } => self.take_back(request),
            Input::Release { acquire, waiter } => self.release(acquire, waiter),
            Input::Downgrade {
                acquire,
                ticket,
                waiter,
            } => self.downgrade(acquire, ticket, waiter),
            Input::Opened { result } => self.opened(now, result),
            Input::KeptAlive { number } => self.kept_alive(now, number),
            Input::SessionEnded { reason } => self.end(by_cell(reason)),
            Input::Reply {
                sequence,
                outcome,
                tickets,
            } => self.reply(now, sequence, outcome, tickets),
            Input::Abandon(ended) => self.end(ended),
            Input::Lost { acquire, reason } => self.lost(acquire, reason),
        }
        self.send_what_is_due(now);
    }

    fn look_at_deadline(&mut self, now: Time) {
        let believed = matches!(self.phase, Phase::Open { believed: true, .. });
        if believed && now >= self.renewal.deadline() {
            self.end(Ended::LeaseRanOut);
        }
    }

    /// Begins to believe in the session once its deadline lies ahead. An answer to Open that
    /// took longer than the lease leaves that to the first renewal.
    fn look_at_belief(&mut self, now: Time) {
        if let Phase::Open { session, believed } = &mut self.phase
            && !*believed
            && now < self.renewal.deadline()
        {
            *believed = true;
            let (session, deadline) = (*session, self.renewal.deadline());
            self.outputs.push_back(Output::Opened { session, deadline });
        }
    }

    fn connected(&mut self, now: Time) {
        self.connected_at = Some(now);
        self.suspected = false;
        self.last_open = None;
        self.open_at = now;
        self.renewal.next_send_now(now);
        if let Phase::Open { session, .. } = self.phase {
            self.keep_alive(now, session);
            for sequence in self.requests.resend_order() {
                self.transmit(sequence);
            }
        }
    }

    fn submit(&mut self, request: RequestId, operation: Operation, waiter: W) {
        let never_sent = matches!(self.phase, Phase::Opening) && self.first_open.is_none();
        if never_sent && operation == Operation::Close {
            self.finish(Sequence(0), Some(waiter), Outcome::Closed, Vec::new());
            return self.end(Ended::Closed);
        }
        let mut entry = Entry::new(operation, Some(waiter));
        if matches!(entry.operation, Operation::Acquire(_)) {
            entry.request = Some(request);
        }
        self.requests.push(entry);
    }

    fn take_back(&mut self, request: RequestId) {
        if let TakenBack::Sent(acquire) = self.requests.take_back(request) {
            let cancel = Operation::Cancel { acquire };
            self.requests.push(Entry::new(cancel, None));
        }
    }

    fn release(&mut self, acquire: Sequence, waiter: W) {
        match self.grants.remove(&acquire) {
            Some(Held { token, .. }) => {
                let release = Operation::Release { acquire, token };
                self.requests.push(Entry::new(release, Some(waiter)));
            }
            None => self.finish(acquire, Some(waiter), Outcome::NotHeld, Vec::new()),
        }
    }

    fn downgrade(&mut self, acquire: Sequence, ticket: bool, waiter: W) {
        match self.grants.get(&acquire) {
            Some(Held { token, .. }) => {
                let downgrade = Operation::Downgrade {
                    acquire,
                    token: *token,
                    ticket,
                };
                self.requests.push(Entry::new(downgrade, Some(waiter)));
            }
            None => self.finish(acquire, Some(waiter), Outcome::NotHeld, Vec::new()),
        }
    }

    fn opened(&mut self, now: Time, result: Result<SessionId, Refusal>) {
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        match (result, self.first_open) {
            (Ok(session), Some(first_open)) => {
                self.busy.reset();
                let late = planted::has(Planted::LeaseFromOpened);
                self.renewal.opened(if late { now } else { first_open });
                let believed = false;
                self.phase = Phase::Open { session, believed };
                self.look_at_belief(now);
            }
            (Err(refusal), _) if refusal.is_momentary() => {
                self.last_open = None;
                self.open_at = now.after(self.busy.next_delay());
            }
            (Err(refusal), _) => self.end(Ended::NotOpened(refusal)),
            // An answer to what was never asked.
            (Ok(_), None) => {}
        }
    }

    fn kept_alive(&mut self, now: Time, number: u64) {
        let moved = self.renewal.answered(number);
        if planted::has(Planted::LeaseFromReceipt) {
            self.renewal.opened(now);
        }
        if moved && self.is_usable() {
            let deadline = self.renewal.deadline();
            self.outputs.push_back(Output::Deadline(deadline));
        }
        self.look_at_belief(now);
    }

    fn reply(&mut self, now: Time, sequence: Sequence, outcome: Outcome, tickets: Vec<TicketText>) {
        let Some(entry) = self.requests.get_mut(sequence) else {
            return;
        };
        match outcome {
            Outcome::Queued { ahead } => {
                self.requests.queue(sequence);
                self.outputs.push_back(Output::Queued { sequence, ahead });
            }
            Outcome::Refused(Refusal::NoSession) => self.end(by_cell(EndReason::Unknown)),
            Outcome::Refused(refusal) if refusal.is_momentary() && !entry.cancelled => {
                let delay = self.busy.next_delay();
                self.requests.retry_at(sequence, now.after(delay));
            }
            outcome => {
                self.busy.reset();
                if let Some(entry) = self.requests.remove(sequence) {
                    self.answered(sequence, entry, outcome, tickets);
                }
            }
        }
    }

    fn answered(
        &mut self,
        sequence: Sequence,
        entry: Entry<W>,
        outcome: Outcome,
        tickets: Vec<TicketText>,
    ) {
        match (entry.operation, outcome.granted_token()) {
            // Its Cancel gives the grant back.
            (Operation::Acquire(_), _) if entry.cancelled => {}
            (Operation::Acquire(_), Some(token)) if entry.taken => {
                let acquire = sequence;
                let release = Operation::Release { acquire, token };
                self.requests.push(Entry::new(release, None));
                self.finish(sequence, entry.waiter, Outcome::Over, Vec::new());
            }
            (Operation::Acquire(_), Some(token)) => {
                let taken = false;
                self.grants.insert(sequence, Held { token, taken });
                self.finish(sequence, entry.waiter, outcome, tickets);
            }
            (Operation::Cancel { acquire }, _) => {
                self.requests.remove(acquire);
            }
            (Operation::Close, _) => {
                self.finish(sequence, entry.waiter, outcome, Vec::new());
                self.end(Ended::Closed);
            }
            _ => self.finish(sequence, entry.waiter, outcome, tickets),
        }
    }

    fn finish(
        &mut self,
        sequence: Sequence,
        waiter: Option<W>,
        outcome: Outcome,
        tickets: Vec<TicketText>,
    ) {
        if let Some(waiter) = waiter {
            self.outputs.push_back(Output::Done {
                waiter,
                sequence,
                outcome,
                tickets,
            });
        }
    }

    fn lost(&mut self, acquire: Sequence, reason: String) {
        if let Some(held) = self.grants.get_mut(&acquire) {
            // The cell repeats it with every renewal.
            if !std::mem::replace(&mut held.taken, true) {
                let lost = Output::GrantLost { acquire, reason };
                self.outputs.push_back(lost);
            }
        } else if let Some(entry) = self.requests.get_mut(acquire) {
            entry.taken = true;
        }
    }

    fn end(&mut self, ended: Ended) {
        self.phase = Phase::Over(ended.clone());
        self.grants.clear();
        self.outputs.push_back(Output::Ended(ended.clone()));
        for waiter in self.requests.drain() {
            let ended = ended.clone();
            self.outputs.push_back(Output::Failed { waiter, ended });
        }
    }

    fn send_what_is_due(&mut self, now: Time) {
        if self.connected_at.is_none() {
            return;
        }
        match self.phase {
            Phase::Over(_) => return,
            Phase::Opening => {
                if self.last_open.is_none() && now >= self.open_at {
                    self.open(now);
                }
            }
            Phase::Open { session, believed } => {
                if now >= self.renewal.next_send() {
                    self.keep_alive(now, session);
                }
                while let Some(sequence) = self.requests.take_due(now) {
                    self.transmit(sequence);
                }
                while believed && let Some(sequence) = self.requests.number_next() {
                    self.transmit(sequence);
                }
            }
        }
        if self.suspect_at().is_some_and(|at| now >= at) {
            self.suspected = true;
            self.outputs.push_back(Output::Suspect);
        }
    }

    fn open(&mut self, now: Time) {
        self.first_open.get_or_insert(now);
        self.last_open = Some(now);
        self.outputs.push_back(Output::Send(ClientFrame::Open {
            nonce: self.options.nonce,
            ttl: self.options.ttl,
            about: self.options.about.clone(),
        }));
    }

    fn keep_alive(&mut self, now: Time, session: SessionId) {
        let number = self.renewal.send(now);
        let frame = ClientFrame::KeepAlive { session, number };
        self.outputs.push_back(Output::Send(frame));
    }

    fn transmit(&mut self, sequence: Sequence) {
        let acknowledged = self.requests.acknowledged();
        if let Phase::Open { session, .. } = self.phase
            && let Some(entry) = self.requests.get_mut(sequence)
        {
            self.outputs.push_back(Output::Send(ClientFrame::Request {
                session,
                sequence,
                acknowledged,
                operation: entry.operation.clone(),
            }));
        }
    }

    /// When this connection will have kept a renewal, or the opening, waiting for too long.
    fn suspect_at(&self) -> Option<Time> {
        let connected_at = self.connected_at.filter(|_| !self.suspected)?;
        let waiting_since = match self.phase {
            Phase::Over(_) => None,
            Phase::Opening => self.last_open,
            Phase::Open { .. } => self.renewal.waiting_since(),
        }?;
        let since = waiting_since.max(connected_at);
        Some(since.after(self.renewal.lease() / PATIENCE_PART))
    }
}

fn by_cell(reason: EndReason) -> Ended {
    match reason {
        EndReason::Closed => Ended::Closed,
        reason => Ended::ByCell(reason),
    }
}

#[cfg(test)]
mod contract;
#[cfg(feature = "model")]
mod model;
#[cfg(test)]
mod tests;
