//! How a client is set up: settings, their checks, and the first connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{About, InvalidAbout, Labels};
use lockd_protocol::limits::{TTL_MAX_MS, TTL_MIN_MS};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument as _, field};

use crate::background::{Background, Place};
use crate::client::Client;
use crate::clock::Clock;
use crate::config::{ClientConfig, ConfigError};
use crate::core::EndpointCore;
use crate::dialer::Dialer;
use crate::error::ConnectError;
use crate::handle::{Current, Session, Shared};
use crate::link::Link;
use crate::slot::SessionSettings;
use crate::task::{Command, SlotId, Task};
use crate::trace;

const TTL_DEFAULT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A session is renewed this often within its TTL, unless said otherwise.
const RENEWALS_PER_TTL: u32 = 3;

/// Settings of a client and its first session.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `connect`"]
pub struct ClientBuilder {
    config: Option<ClientConfig>,
    session: SessionChoice,
    connect_timeout: Duration,
    request_timeout: Duration,
    open_session: bool,
    place: Place,
}

/// Settings of one session.
#[derive(Clone, Debug)]
pub(crate) struct SessionChoice {
    pub(crate) ttl: Duration,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) description: Option<String>,
    pub(crate) labels: Labels,
}

impl SessionChoice {
    pub(crate) fn new() -> SessionChoice {
        SessionChoice {
            ttl: TTL_DEFAULT,
            keepalive: None,
            description: None,
            labels: Labels::new(),
        }
    }

    /// Checks what was chosen and fills in the rest.
    pub(crate) fn settle(&self) -> Result<SessionSettings, ConnectError> {
        let range = Duration::from_millis(TTL_MIN_MS)..=Duration::from_millis(TTL_MAX_MS);
        if !range.contains(&self.ttl) {
            let problem = format!("is {:?}: it must lie in {range:?}", self.ttl);
            return Err(invalid("ttl", problem));
        }
        let keepalive = self.keepalive.unwrap_or(self.ttl / RENEWALS_PER_TTL);
        if keepalive.is_zero() || keepalive > self.ttl / 2 {
            let ttl = self.ttl;
            let problem =
                format!("are {keepalive:?} and {ttl:?}: renew at least twice within the TTL");
            return Err(invalid("keepalive and ttl", problem));
        }
        let description = self.description.clone();
        let about = About {
            description: description.unwrap_or_else(default_description),
            labels: self.labels.clone(),
        };
        about.check().map_err(|problem| {
            let field = match problem {
                InvalidAbout::Description => "description",
                _ => "label",
            };
            invalid(field, format!("is not allowed: {problem}"))
        })?;
        Ok(SessionSettings {
            ttl: self.ttl,
            keepalive,
            about,
        })
    }
}

impl ClientBuilder {
    pub(crate) fn new() -> ClientBuilder {
        ClientBuilder {
            config: None,
            session: SessionChoice::new(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            open_session: true,
            place: Place::Real(Background::default()),
        }
    }

    /// The cell and this client's identity in it. Required.
    pub fn config(mut self, config: ClientConfig) -> ClientBuilder {
        self.config = Some(config);
        self
    }

    /// The same, read from a `client.toml`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file or the field.
    pub fn config_file(self, path: impl AsRef<Path>) -> Result<ClientBuilder, ConfigError> {
        Ok(self.config(ClientConfig::load(path)?))
    }

    /// How long the session lives without a renewal: 10 s unless set. Whatever it holds is free
    /// for others about this long after the client has died.
    pub fn ttl(mut self, ttl: Duration) -> ClientBuilder {
        self.session.ttl = ttl;
        self
    }

    /// Time between two renewals while all is well: a third of the TTL unless set.
    pub fn keepalive(mut self, keepalive: Duration) -> ClientBuilder {
        self.session.keepalive = Some(keepalive);
        self
    }

    /// Who this is, for operators: the program's name and process id unless set.
    pub fn description(mut self, description: impl Into<String>) -> ClientBuilder {
        self.session.description = Some(description.into());
        self
    }

    /// A label of the session, for operators to tell it by; another call adds another one.
    /// `docs/limits.md` says what may be in it.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> ClientBuilder {
        self.session.labels.insert(key.into(), value.into());
        self
    }

    /// How long [`connect`](ClientBuilder::connect), and the opening of any later session, may
    /// take: 5 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may stay without any answer, beyond the time it was told to wait for
    /// the lock: 10 s unless set.
    pub fn request_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.request_timeout = timeout;
        self
    }

    /// Opens no session until one is needed: for a client that only asks questions.
    pub fn without_session(mut self) -> ClientBuilder {
        self.open_session = false;
        self
    }

    /// Where the client's background task runs, which renews its sessions: on a thread of its own
    /// unless set. See [`Background`] for what either costs and risks.
    pub fn background(mut self, background: Background) -> ClientBuilder {
        self.place = Place::Real(background);
        self
    }

    /// Puts a test kit's clock, network and executor in the place of the real ones.
    #[cfg(feature = "test-kit")]
    pub fn edges(mut self, edges: crate::test_kit::Edges) -> ClientBuilder {
        self.place = Place::Kit(edges);
        self
    }

    /// Connects to the cell and opens a session. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError`] tells a cell that is out of reach from a configuration that is wrong.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let cell = self.config.as_ref().map(|config| config.cell);
        let span = trace::span!("connect", cell = field::Empty, outcome = field::Empty);
        if let Some(cell) = cell {
            span.record("cell", field::display(cell));
        }
        // A handshake is much to carry around for whoever connects once.
        let result = Box::pin(self.begin()).instrument(span.clone()).await;
        trace::outcome(&span, &result, "connected");
        result
    }

    async fn begin(self) -> Result<Client, ConnectError> {
        let settings = self.session.settle()?;
        self.check_timeouts()?;
        let config = self.config.ok_or_else(|| {
            let problem = "is missing: give `config` or `config_file`";
            invalid("config", problem.to_owned())
        })?;
        self.place.check(&config)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let (ttl, within) = (settings.ttl, self.connect_timeout);
        let (clock, place) = (self.place.clock(), self.place.clone());
        let opening = async move {
            let dialer = place.dialer(&config, ttl)?;
            let clock = place.clock();
            let mut endpoints = EndpointCore::new(config.nodes.clone(), rand::random());
            let first = first_link(&dialer, &clock, &mut endpoints, &config, within).await?;
            let task = Task::new(receiver, clock, dialer, endpoints, within);
            Ok((task, first))
        };
        let runtime = self.place.start(Box::pin(opening)).await?;
        let shared = Shared::new(commands, self.request_timeout, within, clock, runtime);
        new_session(Arc::new(shared), settings, self.open_session).await
    }
}

impl ClientBuilder {
    /// Where the background task is to run, if that is not up to a test kit.
    pub(crate) fn background_chosen(&self) -> Option<Background> {
        match self.place {
            Place::Real(background) => Some(background),
            #[cfg(feature = "test-kit")]
            Place::Kit(_) => None,
        }
    }

    fn check_timeouts(&self) -> Result<(), ConnectError> {
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
        ];
        for (field, timeout) in timeouts {
            if timeout.is_zero() {
                let problem = "is zero: everything would be given up before it began";
                return Err(invalid(field, problem.to_owned()));
            }
        }
        Ok(())
    }
}

/// Makes a slot in the background task and, if asked for, waits for its session.
pub(crate) async fn new_session(
    shared: Arc<Shared>,
    settings: SessionSettings,
    open: bool,
) -> Result<Client, ConnectError> {
    let span = trace::span!(
        "session",
        ttl = ?settings.ttl,
        description = %trace::bounded(&settings.about.description),
        outcome = field::Empty,
    );
    let result = begin_session(shared, settings, open)
        .instrument(span.clone())
        .await;
    trace::outcome(&span, &result, if open { "open" } else { "not needed yet" });
    result
}

async fn begin_session(
    shared: Arc<Shared>,
    settings: SessionSettings,
    open: bool,
) -> Result<Client, ConnectError> {
    let slot = SlotId(shared.next_id());
    let current = Arc::new(Current::default());
    let within = shared.open_timeout;
    let session = Session::new(slot, Arc::clone(&shared), Arc::clone(&current));
    let (opener, opened) = oneshot::channel();
    let command = Command::NewSlot {
        slot,
        settings,
        current,
        opener: open.then_some(opener),
    };
    let no_leader = ConnectError::NoLeader { within };
    if shared.send(command).is_err() {
        return Err(no_leader);
    }
    if open {
        opened.await.unwrap_or(Err(no_leader))?;
    }
    Ok(Client::new(session))
}

/// The first connection. What no retry can mend ends it at once.
async fn first_link(
    dialer: &Dialer,
    clock: &Clock,
    endpoints: &mut EndpointCore,
    config: &ClientConfig,
    within: Duration,
) -> Result<Link, ConnectError> {
    let until = clock.now().after(within);
    let mut tried = String::from("no answer from any address");
    loop {
        let plan = endpoints.plan();
        let round = async {
            clock.sleep(plan.delay).await;
            dialer.clone().dial_any(plan.addresses).await
        };
        match clock.timeout(until.since(clock.now()), round).await {
            Some(Ok(link)) => return Ok(link),
            Some(Err(mut errors)) => {
                tried = errors.describe();
                if let Some(lasting) = errors.lasting(config.cell) {
                    return Err(lasting);
                }
                endpoints.all_failed();
            }
            None => return Err(ConnectError::Unreachable { within, tried }),
        }
    }
}

fn default_description() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name);
    let name = name.and_then(|name| name.to_str()).unwrap_or("client");
    let short: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    format!("{short}[{}]", std::process::id())
}

fn invalid(field: &'static str, problem: String) -> ConnectError {
    ConnectError::Invalid { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut SessionChoice)) -> String {
        let mut choice = SessionChoice::new();
        change(&mut choice);
        choice.settle().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_allowed() {
        let settings = SessionChoice::new().settle().unwrap();
        assert_eq!(settings.ttl, TTL_DEFAULT);
        assert!(settings.keepalive < TTL_DEFAULT / 2);
        assert!(!settings.about.description.is_empty());
    }

    #[test]
    fn settings_that_are_not_allowed_are_named() {
        assert!(problem(|c| c.ttl = Duration::from_millis(499)).contains("`ttl`"));
        assert!(problem(|c| c.ttl = Duration::from_secs(86_401)).contains("`ttl`"));
        let rare = problem(|c| c.keepalive = Some(Duration::from_secs(6)));
        assert!(rare.contains("`keepalive and ttl`"), "{rare}");
        let described = |text: String| problem(|c| c.description = Some(text));
        assert!(described("a\nb".into()).contains("`description`"));
        assert!(described("x".repeat(257)).contains("`description`"));
        let labelled =
            |key: &str, value: String| problem(|c| drop(c.labels.insert(key.to_owned(), value)));
        assert!(labelled("a b", String::new()).contains("`label` is not allowed: label \"a b\""));
        assert!(labelled("host", "x".repeat(200)).contains("label \"host\""));
    }
}
