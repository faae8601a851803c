//! The simulated world: true time, the queue of what will happen, and everybody in it.

use lockd_protocol::SessionId;
use lockd_protocol::client::ClientFrame;
use paxos::sim::{Dice, Queue, Story, TraceHash};
use paxos::{Entry, LoadId, Message, PersistId, Slot};

use super::client::Client;
use super::coverage::Coverage;
use super::database::{Call, Database, Pid};
use super::faults::Kind;
use super::gateway::{Answer, FromApp, Gateway, SessionKey};
use super::history::Histories;
use super::invariants::{Violation, history, live};
use super::judge::{Judge, News};
use super::network::Network;
use super::node::Node;
use super::plan::Plan;
use super::snapshots::FileWork;
use super::stream::Stream;
use super::{Options, Report};

/// More events than any sound run has.
const EVENTS_MAX: u32 = 20_000_000;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Turn {
        node: usize,
        life: u64,
    },
    Message {
        node: usize,
        from: usize,
        message: Message,
    },
    Persisted {
        node: usize,
        life: u64,
        id: PersistId,
    },
    Loaded {
        node: usize,
        life: u64,
        id: LoadId,
        entries: Vec<Entry>,
        damaged: Option<Slot>,
    },
    Files {
        node: usize,
        life: u64,
        work: FileWork,
    },
    Timer {
        node: usize,
        life: u64,
    },
    ToNode {
        stream: usize,
        frame: ClientFrame,
    },
    Left {
        stream: usize,
    },
    NodeWakes {
        node: usize,
    },
    NodeStarts {
        node: usize,
    },
    ToClient {
        stream: usize,
        bytes: Vec<u8>,
    },
    Broken {
        stream: usize,
    },
    Dialled {
        client: usize,
        life: u64,
        dial: u64,
        node: usize,
    },
    ClientTimer {
        client: usize,
        life: u64,
    },
    ClientWakes {
        client: usize,
        late: bool,
    },
    ClientStarts {
        client: usize,
    },
    Task {
        client: usize,
        life: u64,
        task: usize,
        stamp: u64,
    },
    FromDatabase {
        client: usize,
        life: u64,
        task: usize,
        session: SessionKey,
        answer: Answer,
    },
    AtGateway {
        gateway: usize,
        life: u64,
        session: SessionKey,
        message: FromApp,
    },
    Statement {
        pid: Pid,
        gateway: usize,
        session: SessionKey,
        message: FromApp,
    },
    Commit {
        pid: Pid,
        gateway: usize,
        session: SessionKey,
        answer: bool,
    },
    HungUp {
        pid: Pid,
    },
    BackendDies {
        pid: Pid,
    },
    BackendGone {
        gateway: usize,
        session: SessionKey,
    },
    StatementDone {
        gateway: usize,
        session: SessionKey,
        answer: Answer,
    },
    AdminCall {
        gateway: usize,
        life: u64,
        link: u64,
        number: u64,
        call: Call,
        patient_until: u64,
    },
    AdminAnswer {
        gateway: usize,
        life: u64,
        link: u64,
        number: u64,
        answer: super::database::Reply,
    },
    AdminBreaks {
        gateway: usize,
        life: u64,
    },
    CellTimeout {
        gateway: usize,
        life: u64,
        session: SessionKey,
        round: u64,
    },
    GatewayWakes {
        gateway: usize,
    },
    GatewayStarts {
        gateway: usize,
    },
    DatabaseStarts,
    Flush,
    Fault,
    Flap,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    /// True time, microseconds.
    pub(super) now: u64,
    /// When all faults ended.
    pub(super) healed_at: Option<u64>,
    pub(super) nodes: Vec<Node>,
    /// Users first, then one for each gateway.
    pub(super) clients: Vec<Client>,
    pub(super) streams: Vec<Stream>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) database: Database,
    pub(super) database_up: bool,
    pub(super) network: Network,
    pub(super) judge: Judge,
    pub(super) coverage: Coverage,
    pub(super) histories: Histories,
    pub(super) story: Story,
    pub(super) trace: TraceHash,
    queue: Queue<Event>,
    pub(super) last_key: SessionKey,
    /// The newest membership that any node knows, and its number.
    pub(super) members: Vec<usize>,
    pub(super) epoch: u32,
    /// The session of a client that fell silent for ever when the faults ended.
    pub(super) silenced: Option<SessionId>,
    /// When a node last read anything of it.
    pub(super) last_heard: u64,
    /// Since when the present leader leads, after the faults.
    pub(super) led_since: Option<u64>,
}

impl World {
    pub(super) fn new(options: Options, story: Story) -> World {
        let mut dice = Dice::new(options.seed);
        let mut plan = Plan::draw(&mut dice);
        plan.draw_watches(&mut Dice::new(!options.seed));
        story.landmark(0, || format!("{plan:?}"));
        let nodes = (0..plan.nodes)
            .map(|node| Node::new(node, plan.nodes, super::draw_clock(&mut dice, &plan, 1)))
            .collect();
        let clients = (0..plan.users + plan.gateways)
            .map(|client| {
                let clock = super::draw_clock(&mut dice, &plan, -1);
                let user = client < plan.users;
                Client::new(client, user, clock, &plan, dice.any())
            })
            .collect();
        let members = (0..plan.nodes).collect();
        let gateways = (0..plan.gateways)
            .map(|gateway| Gateway::new(plan.users + gateway))
            .collect();
        World {
            plan,
            dice,
            now: 0,
            healed_at: None,
            nodes,
            clients,
            streams: Vec::new(),
            gateways,
            database: Database::installed(),
            database_up: true,
            network: Network::default(),
            judge: Judge::default(),
            coverage: Coverage::default(),
            histories: Histories::default(),
            story,
            trace: TraceHash::default(),
            queue: Queue::default(),
            last_key: 0,
            members,
            epoch: 1,
            silenced: None,
            last_heard: 0,
            led_since: None,
        }
    }

    /// Faults first; then health, in which everybody has to be served.
    pub(super) fn run(mut self) -> Result<Report, Violation> {
        for node in 0..self.nodes.len() {
            self.start_node(node);
        }
        for client in 0..self.clients.len() {
            self.start_client(client)?;
        }
        if self.plan.fault_every > 0 {
            self.schedule_fault();
        }
        if self.plan.flap_every > 0 {
            self.schedule(self.plan.flap_every, Event::Flap);
        }
        let faulty = self.plan.faulty;
        self.run_until(faulty, |_| false)?;
        self.heal()?;
        self.recover()?;
        self.report()
    }

    fn recover(&mut self) -> Result<(), Violation> {
        let waiters = (self.plan.users * self.plan.tasks) as u64;
        let bound = live::bound(self.plan.ttl(), self.plan.hold, waiters);
        let end = self.now + bound;
        if !self.run_until(end, World::all_are_served)? {
            return Err(live::too_late(self.who_waits(), bound));
        }
        self.coverage.hit("clients served after the faults");
        Ok(())
    }

    fn report(mut self) -> Result<Report, Violation> {
        for client in 0..self.clients.len() {
            self.session_may_end(client);
        }
        let judged = history::judge(&self.histories)?;
        self.coverage.checked(history::NAME, judged);
        self.judge.count(&mut self.coverage);
        let idle = ["grant", "write", "admission", "renewal acknowledged"]
            .into_iter()
            .find(|event| self.coverage.count(event) == 0);
        if let Some(event) = idle {
            let detail = format!("there was no {event} in the whole run");
            return Err(Violation::new("a run does something", detail));
        }
        Ok(Report {
            trace_hash: self.trace.value(),
            simulated_micros: self.now,
            events: self.queue.pushed().into(),
            coverage: self.coverage,
        })
    }

    /// Runs until `done` or the time `end`; whether it was done.
    fn run_until(&mut self, end: u64, done: impl Fn(&World) -> bool) -> Result<bool, Violation> {
        loop {
            match self.queue.next_at() {
                Some(at) if at <= end => {}
                _ => {
                    self.now = end.max(self.now);
                    return Ok(done(self));
                }
            }
            let Some((at, event)) = self.queue.pop() else {
                return Ok(false);
            };
            self.now = at.max(self.now);
            if self.queue.pushed() > EVENTS_MAX {
                let detail = format!("{EVENTS_MAX} events and no end");
                return Err(Violation::new("work is bounded", detail));
            }
            self.trace
                .add(self.now << 5 ^ u64::from(self.queue.pushed()));
            let looks = matches!(event, Event::Task { .. } | Event::Turn { .. });
            self.happen(event)?;
            if looks && done(self) {
                return Ok(true);
            }
        }
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.queue.push(at, event);
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.schedule(self.now + delay, event);
    }

    /// Forgets what is scheduled and not wanted any more.
    pub(super) fn forget(&mut self, unwanted: impl Fn(&Event) -> bool) {
        self.queue.forget(unwanted);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Turn { .. }
            | Event::Message { .. }
            | Event::Persisted { .. }
            | Event::Loaded { .. }
            | Event::Files { .. }
            | Event::Timer { .. }
            | Event::ToNode { .. }
            | Event::Left { .. } => self.at_node(event),
            Event::NodeWakes { node } => self.wake_node(node),
            Event::NodeStarts { node } => {
                self.start_node(node);
                Ok(())
            }
            Event::ToClient { .. }
            | Event::Broken { .. }
            | Event::Dialled { .. }
            | Event::ClientTimer { .. }
            | Event::Task { .. }
            | Event::FromDatabase { .. } => self.at_client(event),
            Event::ClientWakes { client, late } => self.wake_client(client, late),
            Event::ClientStarts { client } => self.start_client(client),
            Event::AtGateway { .. }
            | Event::BackendGone { .. }
            | Event::StatementDone { .. }
            | Event::AdminAnswer { .. }
            | Event::AdminBreaks { .. }
            | Event::CellTimeout { .. } => self.at_gateway(event),
            Event::GatewayWakes { gateway } => self.wake_gateway(gateway),
            Event::GatewayStarts { gateway } => self.start_gateway(gateway),
            Event::Statement { .. }
            | Event::Commit { .. }
            | Event::HungUp { .. }
            | Event::BackendDies { .. }
            | Event::AdminCall { .. }
            | Event::DatabaseStarts
            | Event::Flush => self.at_database(event),
            Event::Fault => self.inject_fault(),
            Event::Flap => {
                self.flap();
                Ok(())
            }
        }
    }

    /// What the log has brought: whoever believed in a lock that somebody else has now was wrong.
    pub(super) fn take_news(&mut self, news: &News) -> Result<(), Violation> {
        for (lock, token) in &news.granted {
            self.story.landmark(self.now, || {
                format!("{lock} is granted under token {token}")
            });
            self.coverage.hit("grant");
        }
        self.coverage.add("entered again", news.entered_again);
        self.coverage.add("closed after an expiry", news.closed);
        for session in &news.opened {
            if self.silenced == Some(*session) {
                // A late copy of its opening renews it, too.
                self.last_heard = self.now;
            }
            self.story
                .landmark(self.now, || format!("session {session} is open"));
        }
        for session in &news.expired {
            self.story
                .landmark(self.now, || format!("session {session} has expired"));
            self.coverage.hit("session expired");
            let client = self
                .clients
                .iter()
                .find(|client| client.session() == Some(*session));
            let stream = client.and_then(|client| client.stream());
            if stream.is_some_and(|stream| self.streams[stream].last_up > self.now) {
                self.coverage
                    .hit("session expired under its client's KeepAlive");
            }
        }
        if news.granted.is_empty() {
            return Ok(());
        }
        for client in 0..self.clients.len() {
            self.look_at_belief(client)?;
        }
        Ok(())
    }

    pub(super) fn kind_happened(&mut self, kind: Kind) {
        self.coverage.fault(kind.name());
    }
}
