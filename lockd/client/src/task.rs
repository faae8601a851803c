//! The background task: owns the connection and every session on it. Users talk to it by
//! [`Command`]s and get their answers by oneshot channels.
//!
//! One turn takes everything that is ready, encodes what comes of it into one buffer, and
//! writes that buffer at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::EventNumber;
use lockd_protocol::client::{Answer, ClientFrame, NodeFrame, Operation, Query, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::core::{EndpointCore, RequestId, Silence, Time};
use crate::dialer::Dialer;
use crate::handle::Current;
use crate::lease::Grant;
use crate::link::{Link, Received};
use crate::sessions::Sessions;
use crate::slot::{DowngradeReply, MetadataReply, Opener, ReleaseReply, SessionSettings, Waiter};
use crate::watches::{WatchCommand, Watches};

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 512;

/// How long closing sessions are waited for when everybody has gone.
const LINGER: Duration = Duration::from_secs(1);

/// How long a node that knows no leader is given before it is asked again.
const NO_LEADER_WAIT: Duration = Duration::from_millis(40);

/// How often a node that knows no leader is asked before another is tried.
const NO_LEADER_TRIES: u32 = 3;

/// Which session of the task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SlotId(pub(crate) u64);

/// What users ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make a slot; open a session in it if someone waits for that.
    NewSlot {
        slot: SlotId,
        settings: SessionSettings,
        current: Arc<Current>,
        opener: Option<Opener>,
    },
    /// Send a request on behalf of the slot's session.
    Submit {
        slot: SlotId,
        request: RequestId,
        operation: Operation,
        waiter: Waiter,
    },
    /// Nobody waits for this acquisition any more.
    TakeBack { slot: SlotId, request: RequestId },
    /// Give this grant back.
    Release {
        slot: SlotId,
        grant: Arc<Grant>,
        reply: Option<ReleaseReply>,
    },
    /// Hold this grant as shared.
    Downgrade {
        slot: SlotId,
        grant: Arc<Grant>,
        reply: DowngradeReply,
    },
    /// Put other metadata on this grant.
    SetMetadata {
        slot: SlotId,
        grant: Arc<Grant>,
        expect: Option<EventNumber>,
        value: Value,
        reply: MetadataReply,
    },
    /// Begin, go on with or end a watch.
    Watch(WatchCommand),
    /// Ask about the state.
    Query {
        query: Query,
        reply: oneshot::Sender<Answer>,
    },
    /// End the slot and its session.
    Close {
        slot: SlotId,
        reply: Option<oneshot::Sender<()>>,
    },
}

/// The task's state.
pub(crate) struct Task {
    commands: UnboundedReceiver<Command>,
    inbox: Vec<Command>,
    /// Nobody can send commands any more.
    orphaned: bool,
    clock: Clock,
    dialer: Dialer,
    endpoints: EndpointCore,
    sessions: Sessions,
    queries: HashMap<u64, (Query, oneshot::Sender<Answer>)>,
    last_query: u64,
    watches: Watches,
}

/// Why a connection is not used any more.
enum LinkEnd {
    /// Nobody needs it.
    Finished,
    /// It broke, or its node does not answer.
    Lost(String),
    /// Its node named another.
    Redirected(Option<String>),
}

impl Task {
    pub(crate) fn new(
        commands: UnboundedReceiver<Command>,
        clock: Clock,
        dialer: Dialer,
        endpoints: EndpointCore,
        open_timeout: Duration,
    ) -> Task {
        Task {
            commands,
            inbox: Vec::new(),
            orphaned: false,
            dialer,
            endpoints,
            sessions: Sessions::new(clock.clone(), open_timeout),
            clock,
            queries: HashMap::new(),
            last_query: 0,
            watches: Watches::default(),
        }
    }

    /// Runs until nobody needs it any more.
    pub(crate) async fn run(mut self, first: Link) {
        let mut link = first;
        loop {
            let end = self.use_link(&mut link).await;
            link.close();
            let address = &link.address;
            match end {
                LinkEnd::Finished => break,
                LinkEnd::Lost(reason) => {
                    tracing::debug!(%address, %reason, "connection lost");
                    self.endpoints.lost(address);
                }
                LinkEnd::Redirected(leader) => {
                    self.endpoints.redirected(address, leader.as_deref());
                }
            }
            match self.reconnect().await {
                Some(next) => link = next,
                None => break,
            }
        }
        self.dialer.drain().await;
    }

    /// Uses a connection. A node that knows no leader, because one is being elected, is asked
    /// again a few times before another is tried.
    async fn use_link(&mut self, link: &mut Link) -> LinkEnd {
        self.sessions.out.clear();
        self.endpoints.connected(&link.address);
        for _ in 0..NO_LEADER_TRIES {
            match self.serve(link).await {
                LinkEnd::Redirected(None) => {}
                end => return end,
            }
            if !self.pause(NO_LEADER_WAIT).await {
                return LinkEnd::Finished;
            }
            match link.skim(&self.clock).await {
                Ok(None) => {}
                Ok(Some(leader)) if self.endpoints.is_dead(&leader) => {}
                Ok(leader) => return LinkEnd::Redirected(leader),
                Err(reason) => return LinkEnd::Lost(reason),
            }
        }
        LinkEnd::Redirected(None)
    }

    /// Finds another connection, while commands and timers go on. `None` if nobody needs one.
    async fn reconnect(&mut self) -> Option<Link> {
        loop {
            let plan = self.endpoints.plan();
            if !self.pause(plan.delay).await {
                return None;
            }
            let dial = self.dialer.clone().dial_any(plan.addresses);
            match self.meanwhile(dial).await? {
                Ok(link) => return Some(link),
                Err(errors) => {
                    tracing::debug!(tried = %errors.describe(), "no node could be reached");
                    self.endpoints.all_failed();
                }
            }
        }
    }

    /// Lets time pass, while commands and timers go on. `false` if nobody needs the task.
    async fn pause(&mut self, delay: Duration) -> bool {
        if delay.is_zero() {
            return !self.is_finished();
        }
        let clock = self.clock.clone();
        self.meanwhile(clock.sleep(delay)).await.is_some()
    }

    /// Waits for something, while commands and timers go on without a connection.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut alarm = Alarm::new(&self.clock);
        loop {
            if self.is_finished() {
                return None;
            }
            alarm.set(self.sessions.next_timeout());
            tokio::select! {
                done = &mut work => return Some(done),
                n = self.commands.recv_many(&mut self.inbox, COMMANDS_PER_TURN),
                    if !self.orphaned => self.take_commands(n),
                () = alarm.rings() => self.sessions.tick(),
            }
        }
    }

    /// Nobody can ask for anything any more, and there is nothing left to say.
    fn is_finished(&self) -> bool {
        self.orphaned && self.sessions.is_empty()
    }

    /// Uses a connection for as long as it is of use.
    async fn serve(&mut self, link: &mut Link) -> LinkEnd {
        self.sessions.connection_up();
        self.resend_queries();
        self.watches.start_all(&mut self.sessions);
        let end = self.converse(link).await;
        self.sessions.connection_down();
        end
    }

    async fn converse(&mut self, link: &mut Link) -> LinkEnd {
        let mut alarm = Alarm::new(&self.clock);
        let mut silence = Silence::default();
        loop {
            if self.sessions.out.is_empty() && self.is_finished() {
                return LinkEnd::Finished;
            }
            if self.sessions.suspect {
                return LinkEnd::Lost("the node does not answer".to_owned());
            }
            let due = self
                .sessions
                .next_timeout()
                .min(self.watches.next_timeout());
            alarm.set(due.min(silence.due()));
            // Counted only when it is about to be noted.
            let notes = silence.due() == Time::MAX && !self.sessions.out.is_empty();
            let packets = if notes { link.packets() } else { 0 };
            let (send, receiver) = link.split();
            tokio::select! {
                biased;
                sent = send.write(&self.sessions.out), if !self.sessions.out.is_empty() => {
                    match sent {
                        // Usually all of it, so that nothing has to be moved.
                        Ok(bytes) => {
                            self.sessions.out.drain(..bytes);
                            silence.sent(self.clock.now(), packets);
                        }
                        Err(error) => return LinkEnd::Lost(error.to_string()),
                    }
                }
                n = self.commands.recv_many(&mut self.inbox, COMMANDS_PER_TURN),
                    if !self.orphaned => self.take_commands(n),
                received = receiver.receive() => {
                    if let Received::Gone(gone) = received {
                        return LinkEnd::Lost(gone.to_string());
                    }
                    silence.heard();
                    if let Some(end) = self.take_frames(link) {
                        return end;
                    }
                }
                () = alarm.rings() => {
                    self.sessions.tick();
                    self.watches.tick(&mut self.sessions);
                    if silence.is_too_long(self.clock.now(), link.packets()) {
                        return LinkEnd::Lost("the node has fallen silent".to_owned());
                    }
                }
            }
        }
    }

    fn take_frames(&mut self, link: &mut Link) -> Option<LinkEnd> {
        let now = self.clock.now();
        loop {
            match link.next_frame() {
                Ok(Some(NodeFrame::Redirect { leader })) => {
                    let news = |a: &String| *a != link.address && !self.endpoints.is_dead(a);
                    let leader = leader.map(|(_, address)| address).filter(news);
                    return Some(LinkEnd::Redirected(leader));
                }
                Ok(Some(NodeFrame::Bye { reason })) => return Some(LinkEnd::Lost(reason)),
                Ok(Some(NodeFrame::Answer { id, answer, .. })) => {
                    if let Some((_, reply)) = self.queries.remove(&id) {
                        // Whoever asked may have gone.
                        let _ = reply.send(answer);
                    }
                }
                Ok(Some(NodeFrame::News { watch, news })) => {
                    self.endpoints.served(&link.address);
                    self.watches.take(watch, news, &mut self.sessions);
                }
                Ok(Some(NodeFrame::Members { epoch, members })) => {
                    let addresses = members.into_iter().map(|(_, address)| address);
                    self.endpoints.learned(epoch, addresses);
                }
                Ok(Some(frame)) => {
                    if self.sessions.take_frame(now, frame) {
                        self.endpoints.served(&link.address);
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(LinkEnd::Lost(error.to_string())),
            }
        }
    }

    fn take_commands(&mut self, count: usize) {
        if count == 0 {
            self.orphaned = true;
            self.sessions.end_by(self.clock.now().after(LINGER));
            return;
        }
        let now = self.clock.now();
        let mut inbox = std::mem::take(&mut self.inbox);
        for command in inbox.drain(..) {
            match command {
                Command::Query { query, reply } => self.ask(query, reply),
                Command::Watch(command) => self.watches.command(command, &mut self.sessions),
                command => self.sessions.take_command(now, command),
            }
        }
        self.inbox = inbox;
    }

    fn ask(&mut self, query: Query, reply: oneshot::Sender<Answer>) {
        self.last_query += 1;
        let id = self.last_query;
        if self.sessions.is_up() {
            let query = query.clone();
            self.sessions.send(&query_frame(id, query));
        }
        self.queries.insert(id, (query, reply));
    }

    /// Questions change nothing, so that asking again is safe; and a change of the membership names
    /// the epoch that it is for, so that it happens once.
    fn resend_queries(&mut self) {
        self.queries.retain(|_, (_, reply)| !reply.is_closed());
        for (id, (query, _)) in &self.queries {
            let (id, query) = (*id, query.clone());
            self.sessions.send(&query_frame(id, query));
        }
    }
}

/// A question to the cell, not to the connected node alone.
fn query_frame(id: u64, query: Query) -> ClientFrame {
    let stale = false;
    ClientFrame::Query { id, query, stale }
}
