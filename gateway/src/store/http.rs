//! HTTP in front of the store: connections, limits, routes. Decides nothing about tokens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use lockd_origin::TICKET_HEADER;
use lockd_protocol::ticket::Verifier;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::engine::{Action, Store};
use super::key;
use super::problem::NotDone;
use crate::fence::refusal::Refusal;
use crate::fence::set::TicketSet;
use crate::limits::{HTTP_BODY_TIMEOUT, VALUE_BYTES_MAX};
use crate::net::{accept, h1};
use crate::rules::KeyRules;
use crate::tickets;

type Answer = Response<Full<Bytes>>;

/// What every request needs.
#[derive(Debug)]
pub struct Service {
    /// The values and the marks.
    pub store: Store,
    /// Checks tickets.
    pub verifier: Verifier,
    /// Which locks cover which keys.
    pub rules: KeyRules,
    /// Most connections served at once.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
}

/// Serves until the future that runs it is dropped.
pub async fn serve(listener: TcpListener, service: Arc<Service>, tls: Option<Arc<ServerConfig>>) {
    let acceptor = tls.map(TlsAcceptor::from);
    let most = service.connections;
    accept::serve(listener, most, |stream, _| {
        let (service, acceptor) = (Arc::clone(&service), acceptor.clone());
        async move {
            let Some(acceptor) = acceptor else {
                return converse(stream, service).await;
            };
            let handshake = acceptor.accept(stream);
            match tokio::time::timeout(service.handshake_timeout, handshake).await {
                Ok(Ok(stream)) => converse(stream, service).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        }
    })
    .await;
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, service: Arc<Service>) {
    h1::serve(stream, |request| {
        let service = Arc::clone(&service);
        async move { service.answer(request).await }
    })
    .await;
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let outcome = match request.uri().path().strip_prefix("/kv/").map(str::to_owned) {
            Some(encoded) => self.key_value(&encoded, request).await,
            None if request.uri().path() == "/fences" && request.method() == Method::GET => {
                self.fences()
            }
            None => {
                let what = "there is /kv/<key> and /fences";
                Err(NotDone::Request(StatusCode::NOT_FOUND, what.into()))
            }
        };
        outcome.unwrap_or_else(|not_done| not_done.response())
    }

    async fn key_value(
        &self,
        encoded: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, NotDone> {
        let key = key::decode(encoded)
            .map_err(|error| NotDone::Request(StatusCode::BAD_REQUEST, error.to_string()))?;
        let shown = self.shown(&request)?;
        match *request.method() {
            Method::GET => self.get(&key, shown).await,
            Method::PUT => {
                self.check_cover(&key, &shown)?;
                let value = body(request.into_body()).await?;
                self.write(shown, Action::Put(key, value)).await
            }
            Method::DELETE => {
                self.check_cover(&key, &shown)?;
                self.write(shown, Action::Delete(key)).await
            }
            _ => {
                let what = "a key takes GET, PUT and DELETE";
                let not_done = NotDone::Request(StatusCode::METHOD_NOT_ALLOWED, what.into());
                let mut answer = not_done.response();
                let allowed = header::HeaderValue::from_static("GET, PUT, DELETE");
                answer.headers_mut().insert(header::ALLOW, allowed);
                Ok(answer)
            }
        }
    }

    fn shown(&self, request: &Request<Incoming>) -> Result<TicketSet, Refusal> {
        let mut text = String::new();
        for value in request.headers().get_all(TICKET_HEADER) {
            text.push(' ');
            // What is not ASCII is no ticket either; let verification say so.
            text.push_str(value.to_str().unwrap_or("?"));
        }
        tickets::read(&self.verifier, &text)
    }

    fn check_cover(&self, key: &str, shown: &TicketSet) -> Result<(), Refusal> {
        if shown
            .tickets()
            .iter()
            .any(|ticket| self.rules.covers(key, &ticket.lock))
        {
            return Ok(());
        }
        Err(Refusal::NoTicket {
            resource: format!("key {key:?}"),
            wanted: self.rules.wanted(key),
        })
    }

    async fn get(&self, key: &str, shown: TicketSet) -> Result<Answer, NotDone> {
        match self.store.get(shown, key).await? {
            Some(value) => {
                let mut answer = Response::new(Full::new(value));
                let octets = header::HeaderValue::from_static("application/octet-stream");
                answer.headers_mut().insert(header::CONTENT_TYPE, octets);
                Ok(answer)
            }
            None => Err(NotDone::Request(
                StatusCode::NOT_FOUND,
                format!("no key {key:?}"),
            )),
        }
    }

    async fn write(&self, shown: TicketSet, action: Action) -> Result<Answer, NotDone> {
        let removes = matches!(action, Action::Delete(_));
        let existed = self.store.perform(shown, action).await?;
        if removes && !existed {
            let what = "there was no such key";
            return Err(NotDone::Request(StatusCode::NOT_FOUND, what.into()));
        }
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }

    fn fences(&self) -> Result<Answer, NotDone> {
        let marks = self.store.marks()?;
        let fences: Vec<_> = marks
            .into_iter()
            .map(|(lock, token)| json!({ "lock": lock, "token": token.to_string() }))
            .collect();
        let text = json!({ "fences": fences }).to_string();
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        let kind = header::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(answer)
    }
}

async fn body(body: Incoming) -> Result<Bytes, NotDone> {
    let too_large = || {
        let what = format!("a value has at most {VALUE_BYTES_MAX} bytes");
        NotDone::Request(StatusCode::PAYLOAD_TOO_LARGE, what)
    };
    if body.size_hint().lower() > VALUE_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(body, VALUE_BYTES_MAX).collect();
    match tokio::time::timeout(HTTP_BODY_TIMEOUT, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(NotDone::Request(StatusCode::BAD_REQUEST, error.to_string())),
        Err(_) => Err(NotDone::Request(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the body did not arrive within {} s",
                HTTP_BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}
