//! The world as a transition system: a cell that grants, clients that show tickets and write, two
//! gateways, the database, and all that can go wrong between them. Any step may be late, and most
//! may never come.

use stateright::{Model, Property};

use crate::database::{Backend, Call, Database, Form, Serving, Statement, Tickets, shown};
use crate::instance::{Bounds, Instance};
use crate::rules::Rule;
use crate::session::{Cell, Phase, Session};

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// A write takes effect after a higher token of its lock was admitted.
    StaleEffect,
    /// A write takes effect after something was done under a higher token, if only a read.
    EffectBehindRead,
    /// A write of the newest admitted holder is refused, with nobody in its way.
    ValidHolderRefused,
    /// The newest holder is told to end.
    ValidHolderEnded,
}

impl Fault {
    pub(crate) const ALL: [Fault; 4] = [
        Fault::StaleEffect,
        Fault::EffectBehindRead,
        Fault::ValidHolderRefused,
        Fault::ValidHolderEnded,
    ];

    pub(crate) fn property(self) -> &'static str {
        match self {
            Fault::StaleEffect => "no write takes effect after a higher token was admitted",
            Fault::EffectBehindRead => "no write takes effect behind a read under a higher token",
            Fault::ValidHolderRefused => "the newest holder is not refused",
            Fault::ValidHolderEnded => "the newest holder is not ended",
        }
    }
}

/// From every state the newest holder can still be admitted, if nothing more goes wrong.
pub(crate) const LIVE: &str = "the newest holder can be admitted";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) cell: Cell,
    pub(crate) database: Database,
    pub(crate) clients: Vec<Client>,
    /// Commands that nobody waits for any more and that may still arrive.
    late: Vec<Call>,
    last_backend: Backend,
    left: Bounds,
    /// The highest token that was admitted, for each lock.
    admitted: Tickets,
    /// The highest token under which anything was done.
    done_under: Tickets,
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// What the cell granted it last.
    holds: Tickets,
    session: Option<Session>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The cell grants a client its locks; whoever held them holds them no more.
    Grant(usize),
    /// The client gives back what it holds, and shows no tickets.
    Return(usize),
    Connect(usize, u8),
    Show(usize),
    /// The gateway does the next step of an admission. `true`: it does not get the answer.
    Step(usize, bool),
    Write(usize),
    Commit(usize),
    /// The client's connection ends.
    HangUp(usize),
    /// The backend does the next statement.
    Execute(Backend),
    /// A backend ends that was told to, or has nothing more to do.
    End(Backend),
    GatewayCrashes(u8),
    /// The gateway's own connection breaks with a command under way.
    LinkBreaks(usize),
    /// A command arrives that nobody waits for.
    Late(usize),
    /// The database restarts, or another takes its place; so many unflushed commits survive.
    Restart(usize),
    RaiseFloor,
}

impl Instance {
    /// Hangs up; the gateway has what was registered taken away, some time.
    fn leave(state: &mut State, client: usize) {
        let Some(session) = state.clients[client].session.take() else {
            return;
        };
        if let Some(serving) = state.database.backends.get_mut(&session.backend) {
            serving.hung_up = true;
        }
        if session.number > 0 && !session.told {
            state.add_late(Call::GiveBack {
                backend: session.backend,
                number: session.number,
            });
        }
    }

    fn step(&self, state: &mut State, client: usize, lost: bool) {
        let Some(mut session) = state.clients[client].session.take() else {
            return;
        };
        match session.call() {
            None => session.ask(&mut state.cell, self.rules),
            Some(call) => {
                if let Some(reply) = self.call(state, call).filter(|_| !lost) {
                    session.answered(reply);
                    if self.synchronous {
                        state.database.flush();
                    }
                }
            }
        }
        // Of a session whose backend has gone only the admission is brought to its end.
        let gone = !state.database.backends.contains_key(&session.backend);
        let over = gone && matches!(session.phase, Phase::Free { .. });
        state.clients[client].session = (!over).then_some(session);
    }

    fn call(&self, state: &mut State, call: Call) -> Option<crate::database::Reply> {
        if let Call::Evict { tickets, .. } = call {
            self.look_at_victims(state, tickets, call);
        }
        let reply = state.database.call(call, self.form, self.rules)?;
        if let (Call::Admit { tickets, .. }, crate::database::Reply::Admitted(answer)) =
            (call, &reply)
            && *answer == gateway::fence::admission::Admitted::Done
        {
            for (lock, token) in shown(tickets) {
                state.admitted[lock] = state.admitted[lock].max(token);
            }
        }
        Some(reply)
    }

    /// Whether somebody is about to be ended whose tickets are the newest.
    fn look_at_victims(&self, state: &mut State, _tickets: Tickets, call: Call) {
        let mut trial = state.database.clone();
        trial.call(call, self.form, self.rules);
        let victims = trial.backends.iter().filter(|(backend, serving)| {
            serving.killed
                && state
                    .database
                    .backends
                    .get(backend)
                    .is_some_and(|it| !it.killed)
        });
        for (backend, _) in victims {
            if state.is_newest_holder(*backend) {
                state.fault = Some(Fault::ValidHolderEnded);
            }
        }
    }

    fn execute(&self, state: &mut State, backend: Backend) {
        let newest = state.is_newest_holder(backend);
        state.note_statement(backend);
        match state.database.execute(backend, self.form, self.rules) {
            Ok(None) => {}
            Ok(Some(tickets)) => {
                if self.synchronous {
                    state.database.flush();
                }
                let beyond =
                    |reached: Tickets| shown(tickets).any(|(lock, token)| reached[lock] > token);
                if beyond(state.done_under) {
                    state.fault = Some(Fault::EffectBehindRead);
                }
                if beyond(state.admitted) {
                    state.fault = Some(Fault::StaleEffect);
                }
            }
            Err(tickets) => {
                let same = |session: &Session| session.shown == tickets;
                if newest && state.session_of(backend).is_some_and(same) {
                    state.fault = Some(Fault::ValidHolderRefused);
                }
            }
        }
    }

    /// Whether the newest holder is admitted in the end if from here on nothing goes wrong.
    fn is_live(&self, state: &State) -> bool {
        let newest = |client: &Client| {
            client.holds != Tickets::default()
                && shown(client.holds).all(|(lock, token)| state.cell.granted[lock] == token)
        };
        let Some(newest) = state.clients.iter().position(newest) else {
            return true;
        };
        let mut state = state.clone();
        state.late.clear();
        for _ in 0..STEPS_TO_THE_END {
            self.settle_backends(&mut state);
            match state.clients[newest].session.as_ref() {
                None => self.connect(&mut state, newest, 0),
                Some(session) => match session.phase {
                    Phase::Free { admitted: true }
                        if session.shown == state.clients[newest].holds =>
                    {
                        return true;
                    }
                    Phase::Free { .. } if !state.is_idle(session.backend) => {
                        let backend = session.backend;
                        if let Some(serving) = state.database.backends.get_mut(&backend) {
                            serving.queue.push(Statement::Commit);
                        }
                    }
                    Phase::Free { .. } if session.shown == state.clients[newest].holds => {
                        Instance::leave(&mut state, newest);
                        state.late.clear();
                    }
                    Phase::Free { .. } => self.show(&mut state, newest),
                    _ => self.step(&mut state, newest, false),
                },
            }
        }
        false
    }

    fn settle_backends(&self, state: &mut State) {
        let backends: Vec<Backend> = state.database.backends.keys().copied().collect();
        for backend in backends {
            while !state.database.backends[&backend].queue.is_empty() {
                self.execute(state, backend);
            }
            if state.database.backends[&backend].is_ending() {
                state.end(backend);
            }
        }
    }

    fn connect(&self, state: &mut State, client: usize, gateway: u8) {
        state.last_backend += 1;
        let (backend, told) = (state.last_backend, gateway >= self.told_from);
        let serving = Serving {
            told,
            ..Serving::default()
        };
        state.database.backends.insert(backend, serving);
        state.clients[client].session = Some(Session::new(gateway, backend, told));
    }

    fn show(&self, state: &mut State, client: usize) {
        let (holds, cell) = (state.clients[client].holds, state.cell);
        if let Some(session) = &mut state.clients[client].session {
            session.show(holds, cell, self.rules);
        }
    }

    fn offer_client(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let client = &state.clients[at];
        if state.left.grants > 0 {
            actions.push(Action::Grant(at));
        }
        let Some(session) = &client.session else {
            if state.left.connections > 0 {
                actions.extend((0..self.gateways).map(|gateway| Action::Connect(at, gateway)));
            }
            return;
        };
        let serving = state.database.backends.get(&session.backend);
        let Phase::Free { admitted } = session.phase else {
            let waits = session.call().is_some_and(|call| {
                state
                    .database
                    .clone()
                    .call(call, self.form, self.rules)
                    .is_none()
            });
            if !waits {
                actions.push(Action::Step(at, false));
                if state.left.losses > 0 {
                    actions.push(Action::Step(at, true));
                }
            }
            let spared = self.spares_admissions && session.phase != Phase::GivingBack;
            let breaks = state.left.losses > 0 && session.call().is_some() && !spared;
            if breaks && !self.rules.on(Rule::BrokenLinksAreEnded) {
                actions.push(Action::LinkBreaks(at));
            }
            if let Some(serving) = serving.filter(|_| !self.rules.on(Rule::HeldUntilAdmitted)) {
                self.offer_statements(state, at, serving, actions);
            }
            return;
        };
        let Some(serving) = serving else { return };
        let idle = state.is_idle(session.backend) || !self.rules.on(Rule::ShownWhenIdle);
        if idle && session.shown != client.holds && client.holds != Tickets::default() {
            actions.push(Action::Show(at));
        }
        if idle && admitted && state.left.returns > 0 {
            actions.push(Action::Return(at));
        }
        if session.shown != Tickets::default() {
            self.offer_statements(state, at, serving, actions);
        }
        if state.left.hang_ups > 0 {
            actions.push(Action::HangUp(at));
        }
    }

    fn offer_statements(
        &self,
        state: &State,
        at: usize,
        serving: &Serving,
        actions: &mut Vec<Action>,
    ) {
        let room = serving.queue.len() < 2 && !serving.hung_up;
        if room && state.left.writes > 0 {
            actions.push(Action::Write(at));
        }
        let writing = serving.open.is_some() || !serving.queue.is_empty();
        let commits = serving.queue.contains(&Statement::Commit);
        if room && writing && !commits && self.form == Form::Rows {
            actions.push(Action::Commit(at));
        }
    }
}

/// More than the longest way to an admission.
const STEPS_TO_THE_END: usize = 60;

impl Serving {
    fn is_ending(&self) -> bool {
        self.killed || self.hung_up && self.queue.is_empty()
    }
}

impl State {
    fn add_late(&mut self, call: Call) {
        if let Err(at) = self.late.binary_search(&call) {
            self.late.insert(at, call);
        }
    }

    /// So that states which differ only in what has no effect any more are one.
    fn forget_what_cannot_matter(&mut self) {
        if self.left.restarts == 0 {
            self.database.flush();
        }
        let database = &self.database;
        self.late.retain(|call| database.can_matter(*call));
    }

    fn end(&mut self, backend: Backend) {
        self.database.end(backend);
        for client in &mut self.clients {
            let free = |session: &Session| matches!(session.phase, Phase::Free { .. });
            let ended = |session: &Session| session.backend == backend && free(session);
            if client.session.as_ref().is_some_and(ended) {
                client.session = None;
            }
        }
    }

    fn session_of(&self, backend: Backend) -> Option<&Session> {
        let sessions = self
            .clients
            .iter()
            .filter_map(|client| client.session.as_ref());
        sessions
            .into_iter()
            .find(|session| session.backend == backend)
    }

    /// Whatever a statement writes, it also reads: under the tickets that its sender has shown,
    /// unless it was told that they are refused.
    fn note_statement(&mut self, backend: Backend) {
        let Some(session) = self.session_of(backend) else {
            return;
        };
        let refused = matches!(
            session.phase,
            Phase::Free { admitted: false } | Phase::GivingBack
        );
        let serving = self.database.backends.get(&backend);
        if let Some(Statement::Write(tickets)) = serving.and_then(|it| it.queue.first())
            && *tickets == session.shown
            && !refused
        {
            for (lock, token) in shown(*tickets) {
                self.done_under[lock] = self.done_under[lock].max(token);
            }
        }
    }

    /// Whether this is the connection of an admitted client whose tokens nobody has closed.
    fn is_newest_holder(&self, backend: Backend) -> bool {
        self.session_of(backend).is_some_and(|session| {
            session.phase == Phase::Free { admitted: true }
                && self.database.are_newest(session.shown, session.told)
                && shown(session.shown).all(|(lock, token)| self.admitted[lock] <= token)
        })
    }

    /// Whether everything that was sent has been answered, and no transaction is open.
    fn is_idle(&self, backend: Backend) -> bool {
        let serving = self.database.backends.get(&backend);
        serving.is_some_and(|serving| serving.queue.is_empty() && serving.open.is_none())
    }

    fn send(&mut self, client: usize, statement: impl FnOnce(Tickets) -> Statement) {
        if let Some(session) = &self.clients[client].session
            && let Some(serving) = self.database.backends.get_mut(&session.backend)
        {
            serving.queue.push(statement(session.shown));
        }
    }
}

impl Model for Instance {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            cell: Cell::default(),
            database: Database::new(self.forgetful),
            clients: vec![Client::default(); self.wants.len()],
            late: Vec::new(),
            last_backend: 0,
            left: self.bounds,
            admitted: Tickets::default(),
            done_under: Tickets::default(),
            fault: None,
        };
        for (client, gateway) in (0..self.wants.len()).zip((0..self.gateways).cycle()) {
            self.connect(&mut state, client, gateway);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        for client in 0..state.clients.len() {
            self.offer_client(state, client, actions);
        }
        for (backend, serving) in &state.database.backends {
            if !serving.queue.is_empty() {
                actions.push(Action::Execute(*backend));
            }
            if serving.is_ending() {
                actions.push(Action::End(*backend));
            }
        }
        if state.left.crashes > 0 {
            actions.extend((0..self.gateways).map(Action::GatewayCrashes));
        }
        actions.extend((0..state.late.len()).map(Action::Late));
        if state.left.restarts > 0 {
            actions.extend((0..=state.database.volatile()).map(Action::Restart));
        }
        if state.left.floors > 0 {
            actions.push(Action::RaiseFloor);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Grant(client) => {
                next.left.grants -= 1;
                let mut holds = Tickets::default();
                for lock in self.wants[client] {
                    next.cell.last += 1;
                    holds[*lock] = next.cell.last;
                    next.cell.granted[*lock] = next.cell.last;
                }
                next.clients[client].holds = holds;
            }
            Action::Return(client) => {
                next.left.returns -= 1;
                let none = Tickets::default();
                for (lock, token) in shown(next.clients[client].holds) {
                    if next.cell.granted[lock] == token {
                        next.cell.granted[lock] = 0;
                    }
                }
                next.clients[client].holds = none;
                if let Some(session) = &mut next.clients[client].session {
                    session.show(none, Cell::default(), self.rules);
                }
            }
            Action::Connect(client, gateway) => {
                next.left.connections -= 1;
                self.connect(&mut next, client, gateway);
            }
            Action::Show(client) => self.show(&mut next, client),
            Action::Step(client, lost) => {
                next.left.losses -= u8::from(lost);
                self.step(&mut next, client, lost);
            }
            Action::Write(client) => {
                next.left.writes -= 1;
                next.send(client, Statement::Write);
            }
            Action::Commit(client) => next.send(client, |_| Statement::Commit),
            Action::HangUp(client) => {
                next.left.hang_ups -= 1;
                Instance::leave(&mut next, client);
            }
            Action::Execute(backend) => self.execute(&mut next, backend),
            Action::End(backend) => next.end(backend),
            Action::GatewayCrashes(gateway) => {
                next.left.crashes -= 1;
                for client in 0..next.clients.len() {
                    let session = next.clients[client].session.clone();
                    if let Some(session) = session.filter(|it| it.gateway == gateway) {
                        Instance::leave(&mut next, client);
                        next.late.retain(|call| {
                            !matches!(call, Call::GiveBack { backend, .. }
                                if *backend == session.backend)
                        });
                        session
                            .call()
                            .into_iter()
                            .for_each(|call| next.add_late(call));
                    }
                }
            }
            Action::LinkBreaks(client) => {
                next.left.losses -= 1;
                let session = next.clients[client].session.as_ref();
                if let Some(call) = session.and_then(Session::call) {
                    next.add_late(call);
                }
            }
            Action::Late(at) => {
                let call = next.late.remove(at);
                self.call(&mut next, call)?;
            }
            Action::Restart(keep) => {
                next.left.restarts -= 1;
                next.database.crash(keep, self.rules);
                next.late.clear();
                for client in &mut next.clients {
                    // An admission under way goes on, over new connections of the gateway's own.
                    client.session = client
                        .session
                        .take()
                        .filter(|session| matches!(session.phase, Phase::Admitting { .. }));
                }
            }
            Action::RaiseFloor => {
                next.left.floors -= 1;
                let granted = next.cell.granted.into_iter().filter(|token| *token > 0);
                let to = granted.min().unwrap_or(next.cell.last + 1);
                next.database.raise_floor(to, self.rules);
            }
        }
        next.forget_what_cannot_matter();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Instance>> {
        macro_rules! holds {
            ($($fault:ident),*) => {
                vec![
                    $(Property::always(Fault::$fault.property(), |_: &Instance, state: &State| {
                        state.fault != Some(Fault::$fault)
                    }),)*
                    Property::always(LIVE, |world: &Instance, state: &State| {
                        !world.lively || state.fault.is_some() || world.is_live(state)
                    }),
                ]
            };
        }
        holds![
            StaleEffect,
            EffectBehindRead,
            ValidHolderRefused,
            ValidHolderEnded
        ]
    }
}
