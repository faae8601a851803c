//! What is done with a request: passed on, admitted first, or refused.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Request, StatusCode, Uri, header};
use lockd_protocol::ticket::Verifier;

use super::exchange::{Exchange, Upload};
use super::head::{self, Forwarding};
use super::lanes::{Lanes, Lease};
use super::not_done::{Answer, NotDone};
use super::rules::{PathRules, Standing};
use super::upstream::Target;
use crate::cell::Cell;
use crate::config::{Config, HttpConfig, Policy};
use crate::fence::refusal::Refusal;
use crate::fence::set::TicketSet;
use crate::tickets;

/// What every request needs.
pub(super) struct Proxy {
    target: Target,
    verifier: Verifier,
    cell: Arc<dyn Cell>,
    lanes: Arc<Lanes>,
    rules: PathRules,
    policy: Policy,
    reads: Vec<String>,
    hosts: Vec<String>,
    forward_tickets: bool,
    needs_precondition: bool,
    answer_timeout: Duration,
    final_statuses: Vec<u16>,
}

impl Proxy {
    pub(super) fn new(
        config: &Config,
        http: &HttpConfig,
        target: Target,
        verifier: Verifier,
        cell: Arc<dyn Cell>,
        lanes: Arc<Lanes>,
    ) -> Proxy {
        Proxy {
            target,
            verifier,
            cell,
            lanes,
            rules: http.rules.clone(),
            policy: config.policy,
            reads: http.reads.clone(),
            hosts: http.hosts.clone(),
            forward_tickets: http.forward_tickets,
            needs_precondition: http.needs_precondition,
            answer_timeout: http.answer_timeout,
            final_statuses: http.final_statuses.clone(),
        }
    }

    pub(super) fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    pub(super) async fn answer(self: Arc<Proxy>, request: Request<Incoming>) -> Answer {
        let done = self.pass(request).await;
        done.unwrap_or_else(|not_done| not_done.answer())
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Answer, NotDone> {
        let (mut parts, body) = request.into_parts();
        let writes = !self.reads.iter().any(|read| parts.method == read.as_str());
        head::check(&parts, writes)?;
        let lease = match self.admitted(&parts, writes).await {
            Err(NotDone::Refused { refusal, .. }) if self.policy == Policy::Observe => {
                tracing::warn!(
                    method = %parts.method,
                    path = parts.uri.path(),
                    %refusal,
                    "would have been refused"
                );
                None
            }
            other => other?,
        };
        let forwarding = Forwarding {
            host: self.target.authority(),
            hosts: &self.hosts,
            tickets: self.forward_tickets,
        };
        forwarding.apply(&mut parts)?;
        parts.uri = origin_form(&parts.uri)?;
        let exchange = Exchange {
            target: self.target.clone(),
            request: Request::from_parts(parts, Upload::new(body)),
            lease,
            answer_timeout: self.answer_timeout,
            final_statuses: self.final_statuses.clone(),
        };
        exchange.begin().await
    }

    /// Admits the request if it shows tickets or writes what is under guard.
    async fn admitted(&self, parts: &Parts, writes: bool) -> Result<Option<Lease>, NotDone> {
        let set = match head::tickets(&parts.headers)? {
            // What is not ASCII is no ticket either; let verification say so.
            Some(value) => tickets::read(&self.verifier, value.to_str().unwrap_or("?"))?,
            None => TicketSet::default(),
        };
        if writes && self.check_cover(parts, &set)? {
            self.check_precondition(parts)?;
        }
        if set.is_empty() {
            return Ok(None);
        }
        let admitted = self.lanes.admit(self.cell.as_ref(), &set, writes).await;
        admitted.map_err(|refusal| {
            let is_open = matches!(refusal, Refusal::Unavailable(_));
            NotDone::Refused {
                refusal,
                retry_after_seconds: is_open
                    .then(|| self.lanes.retry_after_seconds(&set))
                    .flatten(),
            }
        })
    }

    /// Whether the tickets cover everything that is written. Says whether any of it is under guard.
    fn check_cover(&self, parts: &Parts, set: &TicketSet) -> Result<bool, NotDone> {
        let mut is_guarded = false;
        for names in head::written(parts)? {
            let resource = || format!("/{}", names.join("/"));
            match self.rules.standing(parts.method.as_str(), &names) {
                Standing::Free => {}
                Standing::Guarded(guard, id) => {
                    is_guarded = true;
                    let shown = set.tickets().iter();
                    let mut locks = shown.map(|ticket| &ticket.lock);
                    if !locks.any(|lock| guard.is_covered_by(lock, &id)) {
                        return Err(NotDone::from(Refusal::NoTicket {
                            resource: resource(),
                            wanted: guard.wanted(&id),
                        }));
                    }
                }
                Standing::Above(guard) => {
                    return Err(NotDone::from(Refusal::NoTicket {
                        resource: resource(),
                        wanted: format!(
                            "no one lock, since what is below it is under guard ({guard}); list \
                             {:?} under `free` if it does not touch that",
                            format!("{} {}", parts.method, resource())
                        ),
                    }));
                }
            }
        }
        Ok(is_guarded)
    }

    fn check_precondition(&self, parts: &Parts) -> Result<(), NotDone> {
        let has = |name| parts.headers.contains_key(name);
        if self.needs_precondition && !has(header::IF_MATCH) && !has(header::IF_NONE_MATCH) {
            let detail = "writes to this path need If-Match or If-None-Match: read first, and \
                          write only over what was read";
            let status = StatusCode::PRECONDITION_REQUIRED;
            return Err(NotDone::Other(status, detail.to_owned()));
        }
        Ok(())
    }
}

/// The target as a server expects it: path and query.
fn origin_form(uri: &Uri) -> Result<Uri, NotDone> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    target
        .parse()
        .map_err(|_| NotDone::bad_request("the target of the request is no path"))
}
