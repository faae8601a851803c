//! Three nodes and a client as a state machine for `stateright`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockd_protocol::planted::Planted;
use stateright::{Model, Property};

use crate::catalog::{Catalog, Known, KnownClient, Step};
use crate::client::ClientEvent;
use crate::clock::{Clocks, Pace, Tick};
use crate::instance::Instance;
use crate::marks::{Mark, Marks};
use crate::network::Network;
use crate::node::{Event, SetUp, first_membership};
use crate::past::{Fault, Past};

/// A state. All that is large is in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: [u32; 3],
    client: u32,
    /// Messages among nodes.
    network: Network,
    /// The client's requests on their way, as bits: 0 is Open, the others KeepAlives.
    asked: u8,
    /// Their answers.
    told: u8,
    /// For each node and KeepAlive, how often the present leadership has taken it.
    taken: [[u8; 4]; 3],
    clocks: Clocks,
    past: Past,
    ticks: u8,
    opens: u8,
    reads: u8,
    writes: u8,
    crashes: u8,
    heartbeats: u8,
    fault: Option<Fault>,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Node { node: usize, event: Event },
    Client(ClientEvent),
    Pass(Tick),
}

/// The cell of one instance.
pub(crate) struct Cell {
    pub(crate) instance: Instance,
    pub(crate) catalog: Catalog,
    pub(crate) marks: Marks,
    /// A fault was found: the first is told, and nothing is looked for behind it.
    found: AtomicBool,
}

type Nodes = [Arc<Known>; 3];

impl Cell {
    pub(crate) fn new(instance: Instance) -> Cell {
        let set_up = SetUp {
            first: first_membership(),
            removes: instance.removes.clone(),
            slow: instance.slow,
            loud: true,
            bugs: instance.planted(),
            replica_bug: instance.replica_bug,
        };
        Cell {
            catalog: Catalog::new(set_up, instance.renewals),
            instance,
            marks: Marks::default(),
            found: AtomicBool::new(false),
        }
    }

    fn known(&self, state: &State) -> Nodes {
        state.nodes.map(|node| self.catalog.node(node))
    }

    /// What comes to a node of itself, or of others than its peers.
    fn offer(&self, state: &State, node: usize, known: &Known, actions: &mut Vec<Action>) {
        let instance = &self.instance;
        let mut offer = |event| actions.push(Action::Node { node, event });
        let ballots = instance.ballots.get(known.epoch.0 as usize - 1);
        for (owner, round) in ballots.into_iter().flatten().zip(1u64..) {
            if *owner == node as u64 + 1 && round > known.promised.round {
                offer(Event::Campaign { round });
            }
        }
        if known.writing {
            offer(Event::Persisted);
        }
        if state.crashes < instance.crashes {
            offer(Event::Crash { written: false });
            offer(Event::Crash { written: true });
        }
        if known.standing.ballot.is_some() && state.heartbeats < instance.heartbeats {
            offer(Event::Heartbeat);
        }
        let leads = known.standing.leads;
        let leads_or_lies = leads || instance.has(Planted::FollowerAnswers);
        for number in (1..=instance.renewals).filter(|_| leads_or_lies) {
            let taken = state.taken[node][usize::from(number)];
            if state.asked & 1 << number != 0 && taken <= instance.repeats {
                offer(Event::KeepAlive { number });
            }
        }
        if !leads {
            return;
        }
        if known.due {
            offer(Event::Wake);
        }
        if state.asked & 1 != 0 && state.opens <= instance.repeats {
            offer(Event::Open);
        }
        if known.epoch.0 == 1 && !instance.removes.is_empty() {
            offer(Event::Reconfigure);
        }
        if state.reads < instance.reads {
            offer(Event::Read { id: state.reads });
        }
        if state.writes < instance.writes {
            let nonce = state.writes;
            offer(Event::Write { nonce });
        }
    }

    /// Whether nothing that can still happen is of interest.
    fn is_over(&self, state: &State) -> bool {
        let lasting = self.instance.lasting || self.instance.early || self.instance.reads > 0;
        let ticks_max = self.instance.ticks_max;
        (!lasting && self.catalog.client(state.client).is_over) || state.ticks > ticks_max
    }

    /// The state after a step of a node, before it is judged.
    fn advance(&self, state: &State, node: usize, event: Event, step: &Step) -> State {
        let mut next = state.clone();
        next.nodes[node] = step.node;
        for message in &step.sent {
            next.network.insert(*message);
        }
        next.told |= step.told;
        match event {
            Event::Crash { .. } => next.crashes += 1,
            Event::Heartbeat => next.heartbeats += 1,
            Event::Read { .. } => next.reads += 1,
            Event::Write { .. } => next.writes += 1,
            Event::Open => next.opens += 1,
            _ => {}
        }
        if !self.instance.keeps_dead_messages() {
            self.forget_dead(&mut next, node);
        }
        let ballot = |number| self.catalog.node(number).standing.ballot;
        if ballot(step.node) != ballot(state.nodes[node]) {
            next.taken[node] = [0; 4];
        } else if let Event::KeepAlive { number } = event
            && step.node != state.nodes[node]
        {
            next.taken[node][usize::from(number)] += 1;
        }
        next
    }

    fn forget_dead(&self, state: &mut State, node: usize) {
        let standings = self.known(state).map(|known| known.standing);
        for number in state.network.clone().messages() {
            let label = self.catalog.message(number).label;
            let (from, to) = (label.from.0 as usize - 1, label.to.0 as usize - 1);
            let concerned = from == node || to == node;
            if concerned && label.is_dead(standings[from], standings[to]) {
                state.network.remove(number);
            }
        }
    }

    /// Forgets requests and answers that cannot move the client's deadline: they could only make
    /// the session last longer, or say what the client knows.
    fn forget_late(&self, state: &mut State) {
        if self.instance.minds_late_answers() {
            return;
        }
        let waits_for = self.catalog.client(state.client).waits_for;
        state.told &= waits_for;
        if !self.instance.early {
            state.asked &= waits_for | 1;
        }
        let asked = state.asked;
        for taken in &mut state.taken {
            let lost = (1..4).filter(|number| asked & 1 << number == 0);
            lost.for_each(|number| taken[number] = 0);
        }
    }

    fn node_step(&self, state: &State, node: usize, event: Event) -> Option<State> {
        let step = self.catalog.step(state.nodes[node], event)?;
        let mut next = self.advance(state, node, event, &step);
        let (before, nodes) = (self.catalog.node(state.nodes[node]), self.known(&next));
        let ticks = self.instance.early.then(|| self.instance.ttl_ticks());
        if let Event::Read { id } = event {
            next.past.ask(id, node, &nodes);
        }
        if let (Event::KeepAlive { number }, Some(_)) = (event, ticks)
            && nodes[node].renewing & !before.renewing & 1 << number != 0
        {
            next.past.receive(node, number);
        }
        let mut fault = next.past.answer(node, &step, ticks);
        let changed = nodes[node].log != before.log || nodes[node].accepted != before.accepted;
        let early = changed && next.past.look(&self.catalog, &nodes, ticks.unwrap_or(0));
        fault = fault.or(early.then_some(Fault::ExpiredEarly));
        next.fault = step.panicked.then_some(Fault::Panicked).or(fault);
        self.mark(state, &next, (node, event), &step, &before);
        Some(next)
    }

    fn pass(&self, state: &State, tick: Tick) -> State {
        let (mut next, pace) = (state.clone(), self.instance.pace);
        next.clocks.pass(tick);
        for node in 0..3 {
            let micros = pace.micros(tick, node + 1);
            let event = Event::Pass { micros };
            let step = (micros > 0).then(|| self.catalog.step(state.nodes[node], event));
            if let Some(step) = step.flatten() {
                next.nodes[node] = step.node;
            }
        }
        let micros = pace.micros(tick, 0);
        if micros > 0 {
            let event = ClientEvent::Pass { micros };
            next.client = self.catalog.client_step(state.client, event).client;
        }
        if self.instance.early {
            next.past.pass(self.instance.ttl_ticks());
        }
        next.ticks += u8::from(self.instance.ticks_max < u8::MAX);
        next
    }

    /// Notes what was reached.
    fn mark(&self, state: &State, next: &State, at: (usize, Event), step: &Step, before: &Known) {
        let (node, event) = at;
        let marks = &self.marks;
        let mark = |mark, reached| {
            if reached {
                marks.reach(mark);
            }
        };
        let nodes = self.known(next);
        let established = nodes.iter().filter(|known| known.established);
        mark(Mark::TwoEstablished, established.count() > 1);
        let ended = next.past.ended && !state.past.ended;
        mark(Mark::Ended, ended);
        mark(
            Mark::EndedInNextEpoch,
            ended && nodes[node].accepted.epoch.0 > 1,
        );
        mark(Mark::StaleExpiry, next.past.stale);
        let crashed = matches!(event, Event::Crash { .. });
        mark(Mark::LeaderCrashed, crashed && before.standing.leads);
        let Some(ballot) = before.standing.ballot else {
            return;
        };
        let later = |known: &&Arc<Known>| {
            let leads = known.standing.ballot.filter(|_| known.standing.leads);
            leads > Some(ballot)
        };
        let deposed = nodes.iter().any(|known| later(&known));
        let read = step.read.iter().any(Option::is_some);
        mark(Mark::Read, read);
        mark(Mark::ReadFromDeposed, read && deposed);
        let adopts = nodes[node].standing.leads && !before.standing.leads;
        let undecided = &nodes[node].log[..];
        mark(
            Mark::ExpiryAdopted,
            adopts && !next.past.ended && self.catalog.fate(undecided).ended,
        );
        let told = step.told & !1;
        if told == 0 {
            return;
        }
        let first_epoch = ballot.epoch.0 == 1;
        mark(Mark::RenewedByFirst, first_epoch && ballot.round == 1);
        mark(Mark::RenewedBySecond, first_epoch && ballot.round == 2);
        mark(Mark::RenewedByThird, first_epoch && ballot.round == 3);
        mark(Mark::RenewedByDeposed, deposed);
        let elsewhere = |other: &usize| *other != node && nodes[*other].renewing & told != 0;
        mark(Mark::RenewedAtTwo, (0..3).any(|other| elsewhere(&other)));
        mark(Mark::RenewedInNextEpoch, !first_epoch);
        mark(
            Mark::RenewedWhileStopping,
            first_epoch && nodes[node].stopping,
        );
    }

    /// What the client's answers have moved.
    fn mark_client(&self, before: &KnownClient, after: &KnownClient) {
        if before.believes && after.believes && before.left < after.left && !after.is_fresh {
            self.marks.reach(Mark::LateAnswer);
        }
    }

    /// False for the first state with this fault, so that the way to it is the one that is told.
    fn holds(&self, state: &State, fault: Fault) -> bool {
        state.fault != Some(fault) || self.found.swap(true, Ordering::Relaxed)
    }
}

impl Model for Cell {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (nodes, client) = self.catalog.start(!self.instance.opening);
        vec![State {
            nodes,
            client,
            network: Network::default(),
            asked: 0,
            told: 0,
            taken: [[0; 4]; 3],
            clocks: Clocks::default(),
            past: Past::default(),
            ticks: 0,
            opens: 0,
            reads: 0,
            writes: 0,
            crashes: 0,
            heartbeats: 0,
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.is_over(state) {
            return;
        }
        let nodes = self.known(state);
        for message in state.network.messages() {
            let node = self.catalog.message(message).label.to.0 as usize - 1;
            let event = Event::Deliver(message);
            actions.push(Action::Node { node, event });
        }
        for (node, known) in nodes.iter().enumerate().filter(|(_, known)| !known.removed) {
            self.offer(state, node, known, actions);
        }
        if self.instance.renewals > 0 || self.instance.opening {
            actions.push(Action::Client(ClientEvent::Connect));
        }
        if state.told & 1 != 0 {
            actions.push(Action::Client(ClientEvent::Opened));
        }
        for number in (1..=self.instance.renewals).filter(|n| state.told & 1 << n != 0) {
            actions.push(Action::Client(ClientEvent::KeptAlive { number }));
        }
        let mut offer = |tick| actions.push(Action::Pass(tick));
        if !self.instance.timeless {
            self.instance.pace.offer(&state.clocks, &mut offer);
        }
        if let Some(steer) = self.instance.steer {
            actions.retain(|action| steer(self, &nodes, action));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = match action {
            Action::Node { node, event } => self.node_step(state, node, event)?,
            Action::Client(event) => {
                let step = self.catalog.client_step(state.client, event);
                let mut next = state.clone();
                next.client = step.client;
                next.asked |= step.sent;
                let client = |number| self.catalog.client(number);
                self.mark_client(&client(state.client), &client(step.client));
                next
            }
            Action::Pass(tick) => self.pass(state, tick),
        };
        self.forget_late(&mut next);
        if next.past.ended && self.catalog.client(next.client).believes {
            next.fault = next.fault.or(Some(Fault::TwoHolders));
        }
        next.fault = next.fault.filter(|fault| self.instance.minds(*fault));
        (next != *state).then_some(next)
    }

    fn format_action(&self, action: &Action) -> String {
        match action {
            Action::Node { node, event } => {
                format!("node {} {}", node + 1, self.catalog.tell(*event))
            }
            Action::Client(event) => format!("client {event:?}"),
            Action::Pass(Tick::All) => "time passes".to_owned(),
            Action::Pass(Tick::Short { clocks: 1 }) => "the client's clock ticks".to_owned(),
            Action::Pass(Tick::Short { clocks }) => format!("clocks {clocks:04b} tick"),
        }
    }

    fn properties(&self) -> Vec<Property<Cell>> {
        macro_rules! holds {
            ($($fault:ident),*) => {
                vec![$(Property::always(Fault::$fault.property(), |cell: &Cell, state: &State| {
                    cell.holds(state, Fault::$fault)
                })),*]
            };
        }
        holds![TwoHolders, ExpiredEarly, StaleRead, Panicked]
    }
}

/// The pace must be one whose ticks are all alike.
impl Instance {
    pub(crate) fn ttl_ticks(&self) -> u8 {
        match self.pace {
            Pace::Rates { ticks } => ticks,
            Pace::Leads { .. } => unreachable!("ages are counted in ticks that are all alike"),
        }
    }
}
