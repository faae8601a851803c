//! What the gateway asks of the fence in a Redis server, over connections of its own: to make,
//! strip and forget registrations. Decides nothing that the fence's core decides.
//!
//! To close an epoch and to drain it is one step here. The server does one thing at a time: when
//! the transaction has been done, each registration below has lost its writes, and whoever was
//! blocked in one has been unblocked.

use lockd_protocol::types::{LockName, Token};
use tokio::sync::Mutex;

use super::acl::{self, FENCE_KEY, REGISTRATION};
pub use super::hash::LockMark;
use super::hash::{Connected, State, connection_of, locks, mark_field};
use super::link::{Batch, Link, LinkError, refused};
use super::mark::{Mark, Registered};
use super::upstream::Target;
use crate::admission::Fence;
use crate::config::{RedisConfig, RedisUser};
use crate::fence::admission::{Admitted, Era};
use crate::fence::refusal::Refusal;
use crate::fence::set::{Shown, TicketSet};
use crate::fence::{Standing, standing};
use crate::limits::ADMIN_CALL_TIMEOUT;

/// A user that stands for one admission of one connection.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    /// The user's name: `fence:<application>:<connection>:<random>`.
    pub(super) name: String,
    /// Its password, which nobody else knows.
    pub(super) password: String,
    /// The application's user whose rights it has.
    pub(super) app: String,
    /// What it is registered for.
    pub(super) set: TicketSet,
}

/// The gateway's own connections.
pub struct Admin {
    /// For what changes the fence, one after the other.
    link: Mutex<Option<Connected>>,
    /// For looking at it, so that those who are refused hold up nobody who is admitted.
    looking: Mutex<Option<Connected>>,
    target: Target,
    config: RedisConfig,
}

/// What can be asked of the fence. Each may be repeated.
#[derive(Clone, Copy)]
enum Request<'a> {
    Look(&'a [&'a LockName]),
    Admit(&'a Registering<'a>, &'a TicketSet),
    Strip(&'a str),
    Forget(&'a Registration),
    BeginEra,
    SetHorizon(Era, Token),
    Seed(Era, &'a Shown),
    Marks(usize),
}

/// What came of it.
enum Answer {
    State(State),
    Admitted(Admitted),
    Done,
    Era(Era),
    Marks(Vec<LockMark>),
}

impl Admin {
    pub(super) fn new(config: &RedisConfig, target: Target) -> Admin {
        Admin {
            link: Mutex::new(None),
            looking: Mutex::new(None),
            target,
            config: config.clone(),
        }
    }

    /// The configured user of this name.
    pub(super) fn user(&self, name: &str) -> Option<&RedisUser> {
        self.config.users.iter().find(|user| user.name == name)
    }

    /// Takes a registration's writes away. Its connection goes on with its application's rights.
    pub(super) async fn strip(&self, registration: &Registration) -> Result<(), LinkError> {
        self.call(Request::Strip(&registration.name))
            .await
            .map(drop)
    }

    /// A registration has ended: its user goes, and a connection that still is that user.
    pub(super) async fn forget(&self, registration: &Registration) -> Result<(), LinkError> {
        self.call(Request::Forget(registration)).await.map(drop)
    }

    /// Why is this connection refused a key: has one of its tickets gone stale?
    pub(super) async fn stale(&self, set: &TicketSet) -> Result<Option<Refusal>, LinkError> {
        let Answer::State(state) = self.call(Request::Look(&locks(set))).await? else {
            return Ok(None);
        };
        let mut tickets = set.tickets().iter().zip(state.marks);
        Ok(tickets.find_map(
            |(ticket, mark)| match standing(Some(mark?.token), ticket.token) {
                Standing::Stale { needed } => Some(Refusal::Stale {
                    lock: ticket.lock.clone(),
                    shown: ticket.token,
                    needed: Some(needed),
                }),
                Standing::Current | Standing::Newer => None,
            },
        ))
    }

    /// The marks, in order of lock.
    ///
    /// # Errors
    /// [`LinkError`] if the server cannot be asked.
    pub async fn marks(&self, most: usize) -> Result<Vec<LockMark>, LinkError> {
        let mut marks = match self.call(Request::Marks(most)).await? {
            Answer::Marks(marks) => marks,
            _ => Vec::new(),
        };
        marks.sort_by(|a, b| a.lock.cmp(&b.lock));
        Ok(marks)
    }

    /// Whether the server can be reached and the fence be used.
    ///
    /// # Errors
    /// [`LinkError`] says why not.
    pub async fn ping(&self) -> Result<(), LinkError> {
        self.call(Request::Look(&[])).await.map(drop)
    }

    /// Has something done over a connection, connecting if need be, and once more if it broke.
    /// Whatever does not come to its end takes the connection with it.
    async fn call(&self, request: Request<'_>) -> Result<Answer, LinkError> {
        let link = match request {
            Request::Look(_) | Request::Marks(_) => &self.looking,
            _ => &self.link,
        };
        let mut place = link.lock().await;
        let mut broken = None;
        for _ in 0..2 {
            let attempt = async {
                let mut connected = match place.take() {
                    Some(connected) => connected,
                    None => self.connect().await?,
                };
                let answer = self.perform(&mut connected, request).await?;
                Ok((answer, connected))
            };
            match tokio::time::timeout(ADMIN_CALL_TIMEOUT, attempt).await {
                Ok(Ok((answer, connected))) => {
                    *place = Some(connected);
                    return Ok(answer);
                }
                Ok(Err(LinkError::Broken(reason))) => broken = Some(reason),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(LinkError::Timeout),
            }
        }
        Err(LinkError::Broken(broken.unwrap_or_default()))
    }

    async fn perform(&self, c: &mut Connected, request: Request<'_>) -> Result<Answer, LinkError> {
        Ok(match request {
            Request::Look(locks) => Answer::State(c.look(locks).await?),
            Request::Admit(registering, set) => {
                Answer::Admitted(registering.admit_over(c, set).await?)
            }
            Request::Strip(name) => {
                let mut batch = Batch::default();
                self.strip_in(&mut batch, name);
                // The first suffices, and cannot fail for what is in the configuration.
                c.link.send(&batch).await?.first().map_or(Ok(()), refused)?;
                Answer::Done
            }
            Request::Forget(registration) => {
                c.forget(registration).await?;
                Answer::Done
            }
            Request::BeginEra => Answer::Era(c.begin_era().await?),
            Request::SetHorizon(era, horizon) => {
                c.set_horizon(era, horizon).await?;
                Answer::Done
            }
            Request::Seed(era, shown) => {
                c.seed(era, shown).await?;
                Answer::Done
            }
            Request::Marks(most) => Answer::Marks(c.marks(most).await?),
        })
    }

    async fn connect(&self) -> Result<Connected, LinkError> {
        let password = Some(self.config.password.as_str());
        let link = Link::connect(&self.target, &self.config.user, password).await?;
        Ok(Connected::new(link))
    }

    /// First what cannot fail and suffices, then what the application may do without a ticket.
    fn strip_in(&self, batch: &mut Batch, name: &str) {
        let bare = ["ACL", "SETUSER", name].into_iter();
        batch.add(
            &bare
                .chain(acl::STRIPPED.iter().copied())
                .collect::<Vec<_>>(),
        );
        if let Some(user) = app_of(name).and_then(|app| self.user(app)) {
            set_user(
                batch,
                name,
                &["on".to_owned()],
                &acl::reader(&self.config, user),
            );
        }
    }
}

/// The fence, for one registration to be made.
pub(super) struct Registering<'a> {
    pub(super) admin: &'a Admin,
    pub(super) new: &'a Registration,
    /// The same connection's last one.
    pub(super) earlier: Option<&'a Registration>,
}

impl Fence for Registering<'_> {
    type Session = ();
    type Error = LinkError;

    async fn admit(&self, (): (), set: &TicketSet, _: i64) -> Result<Admitted, LinkError> {
        match self.admin.call(Request::Admit(self, set)).await? {
            Answer::Admitted(admitted) => Ok(admitted),
            _ => Err(mismatched()),
        }
    }

    /// Nobody is left in the way: see the module's description.
    async fn evict(&self, (): (), _: &TicketSet) -> Result<i32, LinkError> {
        Ok(0)
    }

    async fn begin_era(&self, (): ()) -> Result<Era, LinkError> {
        match self.admin.call(Request::BeginEra).await? {
            Answer::Era(era) => Ok(era),
            _ => Err(mismatched()),
        }
    }

    async fn set_horizon(&self, (): (), era: Era, horizon: Token) -> Result<(), LinkError> {
        self.admin
            .call(Request::SetHorizon(era, horizon))
            .await
            .map(drop)
    }

    async fn seed(&self, (): (), era: Era, shown: &Shown) -> Result<(), LinkError> {
        self.admin.call(Request::Seed(era, shown)).await.map(drop)
    }
}

impl Registering<'_> {
    async fn admit_over(&self, c: &mut Connected, set: &TicketSet) -> Result<Admitted, LinkError> {
        c.sweep_if_due().await?;
        let mut all = locks(set);
        let earlier = self
            .earlier
            .map(|earlier| locks(&earlier.set))
            .unwrap_or_default();
        all.extend(
            earlier
                .into_iter()
                .filter(|lock| !locks(set).contains(lock)),
        );
        loop {
            let state = c.look(&all).await?;
            let Some((era, horizon)) = state.era else {
                return Ok(Admitted::Unseeded);
            };
            // The whole set is checked before anything is closed.
            if let Some(answer) = unfit(set, &state, era, horizon) {
                return Ok(answer);
            }
            if c.transact(&self.transaction(set, &all, state.marks, era)?)
                .await?
            {
                c.admitted();
                return Ok(Admitted::Done);
            }
        }
    }

    /// Closes, drains and registers.
    fn transaction(
        &self,
        set: &TicketSet,
        all: &[&LockName],
        marks: Vec<Option<Mark>>,
        era: Era,
    ) -> Result<Batch, LinkError> {
        let name = self.new.name.as_str();
        let earlier = self.earlier.map(|earlier| earlier.name.as_str());
        let (mut fields, mut below) = (Vec::new(), Vec::new());
        let mut marks = marks.into_iter();
        for ticket in set.tickets() {
            let before = marks.next().flatten();
            let admitted = Mark::admit(before, ticket.token, era, name, earlier);
            let (mark, lower) = admitted.map_err(|full| LinkError::Server(full.to_string()))?;
            fields.push((&ticket.lock, mark));
            below.extend(lower);
        }
        for (lock, mark) in all.iter().copied().skip(set.tickets().len()).zip(marks) {
            if let (Some(mark), Some(earlier)) = (mark, earlier) {
                fields.push((lock, mark.without(earlier)));
            }
        }
        let mut batch = Batch::default();
        for Registered { name, .. } in &below {
            self.admin.strip_in(&mut batch, name);
            if let Some(connection) = connection_of(name) {
                batch.add(&["CLIENT", "UNBLOCK", &connection.to_string(), "ERROR"]);
            }
        }
        if let Some(earlier) = earlier {
            self.admin.strip_in(&mut batch, earlier);
        }
        for (lock, mark) in fields {
            batch.add(&["HSET", FENCE_KEY, &mark_field(lock), &mark.text()]);
        }
        let Some(user) = self.admin.user(&self.new.app) else {
            return Err(LinkError::Server(
                "the application's user is not configured".into(),
            ));
        };
        let rights = acl::writer(&self.admin.config, user, set);
        let password = format!(">{}", self.new.password);
        set_user(
            &mut batch,
            name,
            &["reset".into(), "on".into(), password],
            &rights,
        );
        Ok(batch)
    }
}

/// Why this set cannot be admitted as things stand.
fn unfit(set: &TicketSet, state: &State, era: Era, horizon: Token) -> Option<Admitted> {
    set.tickets()
        .iter()
        .zip(&state.marks)
        .find_map(|(ticket, mark)| {
            let mark = mark.as_ref();
            let stale = standing(mark.map(|mark| mark.token), ticket.token);
            if let Standing::Stale { needed } = stale {
                return Some(Admitted::Stale {
                    lock: ticket.lock.clone(),
                    shown: ticket.token,
                    needed,
                });
            }
            let whole = mark.is_some_and(|mark| mark.era == era);
            (!whole && ticket.token <= horizon).then(|| Admitted::Unknown(era, ticket.clone()))
        })
}

/// Each request has one kind of answer.
fn mismatched() -> LinkError {
    LinkError::Server("an answer to something else".into())
}

fn set_user(batch: &mut Batch, name: &str, first: &[String], rights: &[String]) {
    let command = ["ACL", "SETUSER", name].map(str::to_owned);
    let arguments: Vec<_> = command.iter().chain(first).chain(rights).collect();
    batch.add(&arguments);
}

/// The application in a registration's name.
fn app_of(name: &str) -> Option<&str> {
    name.strip_prefix(REGISTRATION)?.split(':').next()
}
