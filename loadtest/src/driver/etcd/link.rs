//! A client's connection to a cluster of etcd: to one member at a time, and to the next one when
//! that one does not answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::driver::Trouble;

/// How long all attempts of one request may take together. Longer than any failover: a client that
/// gave up early would hide how long one takes.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one attempt may take, milliseconds; drawn from these bounds, so that clients do not try
/// again in step. A member without a leader keeps a request for seconds before it refuses it.
const ATTEMPT_MS: std::ops::RangeInclusive<u64> = 150..=350;

/// Pause after a member that did not answer, milliseconds, drawn from these bounds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=50;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a silent connection is asked whether it lives: the shortest that etcd permits as it
/// comes.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long it may take to answer that.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests of a stream that may wait to be sent.
const STREAM_BUFFER: usize = 4;

/// A client's connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    members: Vec<Endpoint>,
    current: Mutex<Current>,
}

/// The member that is spoken with.
struct Current {
    /// How often it was changed.
    change: u64,
    channel: Channel,
}

/// What came of a request, and after how many attempts.
pub(super) struct Answer<A> {
    pub(super) message: A,
    pub(super) attempts: u32,
}

/// A stream of requests and answers.
pub(super) struct Stream<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
    change: u64,
}

impl Link {
    /// A connection to the cluster at these URLs, to `first` of them at first.
    pub(super) fn new(urls: &[String], first: usize) -> Result<Link, Trouble> {
        let mut members = Vec::new();
        for url in urls {
            let endpoint = Endpoint::from_shared(url.clone());
            let endpoint = endpoint
                .map_err(|error| Trouble::new(format!("cannot connect: {url}: {error}")))?;
            let endpoint = endpoint
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            members.push(endpoint);
        }
        let count = members.len().max(1);
        members.rotate_left(first % count);
        let member = members.first();
        let channel = member.ok_or_else(|| Trouble::new("cannot connect: there is no URL"))?;
        let current = Current {
            change: 0,
            channel: channel.connect_lazy(),
        };
        Ok(Link(Arc::new(Shared {
            current: Mutex::new(current),
            members,
        })))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing panics while it is locked.
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, to one member after the other until one answers.
    pub(super) async fn call<Q, A>(
        &self,
        path: &'static str,
        request: &Q,
    ) -> Result<Answer<A>, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let begun = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (change, channel) = {
                let current = self.current();
                (current.change, current.channel.clone())
            };
            let within = Duration::from_millis(rand::random_range(ATTEMPT_MS));
            let attempt = unary(channel, path, request.clone());
            let status = match tokio::time::timeout(within, attempt).await {
                Ok(Ok(message)) => return Ok(Answer { message, attempts }),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the member did not answer"),
            };
            if !may_pass(&status) || begun.elapsed() > REQUEST_TIMEOUT {
                return Err(status);
            }
            self.move_on(change);
            pause().await;
        }
    }

    /// Sends a request once, to the member that is spoken with.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let channel = self.current().channel.clone();
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, unary(channel, path, request)).await;
        answer.map_err(|_| Status::deadline_exceeded("the member did not answer"))?
    }

    /// Opens a stream to the member that is spoken with. Where that fails, the next one is spoken
    /// with.
    pub(super) async fn open<Q, A>(
        &self,
        path: &'static str,
        first: Q,
    ) -> Result<Stream<Q, A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (change, channel) = {
            let current = self.current();
            (current.change, current.channel.clone())
        };
        let opened = tokio::time::timeout(PING_TIMEOUT, stream(channel, path, first, change)).await;
        let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no stream")));
        if opened.is_err() {
            self.move_on(change);
        }
        opened
    }

    /// The stream has ended or is silent: its member is not spoken with any more.
    pub(super) fn give_up<Q, A>(&self, stream: &Stream<Q, A>) {
        self.move_on(stream.change);
    }

    /// Speaks with the next member, unless somebody has gone on to it already.
    fn move_on(&self, change: u64) {
        let mut current = self.current();
        if current.change != change {
            return;
        }
        let next = change.wrapping_add(1);
        let index = usize::try_from(next).unwrap_or_default() % self.0.members.len().max(1);
        if let Some(member) = self.0.members.get(index) {
            *current = Current {
                change: next,
                channel: member.connect_lazy(),
            };
        }
    }
}

impl<Q, A> Stream<Q, A> {
    pub(super) async fn send(&self, request: Q) -> Result<(), Status> {
        let sent = self.requests.send(request).await;
        sent.map_err(|_| Status::unavailable("the stream has ended"))
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Result<A, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::unavailable("the stream has ended"))
    }
}

/// Waits a moment, so that a cluster that is down is not hammered.
pub(super) async fn pause() {
    let time = Duration::from_millis(rand::random_range(PAUSE_MS));
    tokio::time::sleep(time).await;
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = ready(channel).await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(request), path, codec).await?;
    Ok(answer.into_inner())
}

async fn stream<Q, A>(
    channel: Channel,
    path: &'static str,
    first: Q,
    change: u64,
) -> Result<Stream<Q, A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = ready(channel).await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    let (requests, receiver) = mpsc::channel(STREAM_BUFFER);
    // There is room in a new stream.
    let _ = requests.try_send(first);
    let request = Request::new(ReceiverStream::new(receiver));
    let answers = grpc.streaming(request, path, codec).await?.into_inner();
    Ok(Stream {
        requests,
        answers,
        change,
    })
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel);
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(describe(&error)))?;
    Ok(grpc)
}

/// The library says that the transport failed, and why it did only in the causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Whether another attempt, or another member, may do what this one did not.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}
