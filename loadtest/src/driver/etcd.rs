//! Locks in etcd, step by step as etcd's own Go package `concurrency` takes them: a key under the
//! lock's name that ends with the session's lease; whoever's key is the oldest holds the lock, and
//! whoever waits watches the key that is the next older one.
//!
//! One thing is different. That package deletes its key by its name, which is the same in all holds
//! of a session: an attempt to delete it that was given up can still arrive, and end a later hold.
//! Since attempts are given up here, a key is deleted only if it is the one that was meant.
//!
//! Its grants have a number that rises: the revision at which the holder's key was created.

mod link;
mod messages;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::Status;

use super::{Driver, Guard, Released, Start, Trouble};
use link::{Link, REQUEST_TIMEOUT, pause};
use messages::{
    ASCENDING, BY_CREATION, CREATION, Compare, DELETE, DESCENDING, DeleteRangeRequest,
    DeleteRangeResponse, EQUAL, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseRequest, Nothing, PutRequest, RangeRequest, RangeResponse, RequestOp, StatusResponse,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};

/// What all keys begin with.
const PREFIX: &str = "lockd_loadtest/";

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// A session is prolonged so many times in its TTL, as by etcd's own client.
const RENEWALS_PER_TTL: u32 = 3;

/// How long a renewal may stay unanswered before another member is asked.
const RENEWAL_TIMEOUT: Duration = Duration::from_millis(500);

/// A client with a session of its own.
pub struct EtcdDriver {
    link: Link,
    ttl: Duration,
    session: Session,
}

/// A lock that is held.
pub struct EtcdGuard {
    key: Vec<u8>,
    create_revision: i64,
    lease: Arc<Lease>,
}

/// A lease that is prolonged for as long as this lives.
struct Session {
    lease: Arc<Lease>,
    renewal: JoinHandle<()>,
}

/// A lease.
struct Lease {
    id: i64,
    /// Until when it surely runs.
    until: Mutex<Instant>,
}

/// Why a lock was not acquired.
enum Failure {
    /// The session has ended: with another one it may be.
    SessionEnded,
    /// Something was in the way that is not any more.
    LeftBehind,
    Other(Trouble),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Other(describe(&status))
    }
}

impl EtcdDriver {
    /// So many clients of the cluster at `urls`, with sessions of this TTL (or of the shortest that
    /// the cluster permits).
    ///
    /// # Errors
    /// [`Trouble`] of the first that cannot connect.
    pub async fn connect_all(
        urls: &[String],
        start: Start,
        clients: usize,
        ttl: Duration,
    ) -> Result<Vec<EtcdDriver>, Trouble> {
        let mut drivers = Vec::new();
        for client in 0..clients {
            let link = Link::new(urls, start.of(client))?;
            check(urls, client).await?;
            let session = Session::open(&link, ttl).await;
            drivers.push(EtcdDriver {
                session: session.map_err(|status| describe(&status))?,
                link,
                ttl,
            });
        }
        Ok(drivers)
    }

    async fn try_acquire(&self, lock: &str) -> Result<EtcdGuard, Failure> {
        let lease = &self.session.lease;
        let prefix = format!("{PREFIX}{lock}/").into_bytes();
        let key = [&prefix[..], format!("{:x}", lease.id).as_bytes()].concat();
        let request = first_step(&prefix, &key, lease.id);
        let answer = self.link.call(TXN, &request).await;
        let answer: TxnResponse = answer.map_err(lease_or_other)?.message;
        let mut kvs = answer.responses.iter().map(|step| {
            let range = step.range.as_ref();
            range.and_then(|range| range.kvs.first())
        });
        let own = kvs.next().flatten();
        let oldest = kvs.next().flatten().map(|key| key.create_revision);
        let create_revision = answer.header.map_or(0, |header| header.revision);
        if let Some(own) = own.filter(|_| !answer.succeeded) {
            // An attempt that was given up has put it there, of this hold or of an earlier one: its
            // number may be lower than what others have been granted since.
            self.delete(&key, own.create_revision).await?;
            return Err(Failure::LeftBehind);
        }
        let guard = EtcdGuard {
            key,
            create_revision,
            lease: Arc::clone(lease),
        };
        if oldest.is_none_or(|oldest| oldest == create_revision) {
            return Ok(guard);
        }
        self.wait_for_older(&prefix, create_revision).await?;
        // The session may have ended while it waited, and its key with it.
        let answer = self.link.call(RANGE, &one_key(&guard.key)).await?;
        let answer: RangeResponse = answer.message;
        match answer.kvs.is_empty() {
            true => Err(Failure::SessionEnded),
            false => Ok(guard),
        }
    }

    /// Deletes a key if it is still the one that was created then. Returns whether it was.
    async fn delete(&self, key: &[u8], create_revision: i64) -> Result<bool, Status> {
        let delete = RequestOp {
            delete: Some(DeleteRangeRequest {
                key: key.to_vec(),
                range_end: Vec::new(),
            }),
            ..RequestOp::default()
        };
        let request = TxnRequest {
            compare: vec![created(key, create_revision)],
            success: vec![delete],
            failure: Vec::new(),
        };
        let answer = self.link.call(TXN, &request).await?;
        let deleted: TxnResponse = answer.message;
        // An attempt that was not answered may have deleted it.
        Ok(deleted.succeeded || answer.attempts > 1)
    }

    /// Waits until no key of this prefix is older.
    async fn wait_for_older(&self, prefix: &[u8], create_revision: i64) -> Result<(), Status> {
        loop {
            let next_older = RangeRequest {
                limit: 1,
                sort_order: DESCENDING,
                sort_target: BY_CREATION,
                max_create_revision: create_revision - 1,
                ..all_keys(prefix)
            };
            let answer: RangeResponse = self.link.call(RANGE, &next_older).await?.message;
            let Some(older) = answer.kvs.into_iter().next() else {
                return Ok(());
            };
            let revision = answer.header.map_or(0, |header| header.revision);
            // Where the watch broke, whether the key is still there is looked up again.
            if self.wait_for_deletion(older.key, revision).await.is_err() {
                pause().await;
            }
        }
    }

    async fn wait_for_deletion(&self, key: Vec<u8>, start_revision: i64) -> Result<(), Status> {
        let create = Some(WatchCreateRequest {
            key,
            start_revision,
        });
        let opened = self.link.open(WATCH, WatchRequest { create }).await;
        let mut watch: link::Stream<WatchRequest, WatchResponse> = opened?;
        loop {
            let answer = watch.next().await;
            let answer = answer.inspect_err(|_| self.link.give_up(&watch))?;
            if answer.events.iter().any(|event| event.kind == DELETE) {
                return Ok(());
            }
            if answer.canceled {
                return Err(Status::aborted(answer.cancel_reason));
            }
        }
    }
}

impl Driver for EtcdDriver {
    type Guard = EtcdGuard;

    async fn acquire(&mut self, lock: &str) -> Result<EtcdGuard, Trouble> {
        let begun = Instant::now();
        loop {
            match self.try_acquire(lock).await {
                Ok(guard) => return Ok(guard),
                Err(Failure::Other(trouble)) => return Err(trouble),
                Err(_) if begun.elapsed() > REQUEST_TIMEOUT => {
                    return Err(Trouble::new("etcd: the session ended again and again"));
                }
                Err(Failure::LeftBehind) => {}
                Err(Failure::SessionEnded) => {
                    let session = Session::open(&self.link, self.ttl).await;
                    self.session = session.map_err(|status| describe(&status))?;
                }
            }
        }
    }

    async fn release(&mut self, guard: EtcdGuard) -> Result<Released, Trouble> {
        let deleted = self.delete(&guard.key, guard.create_revision).await;
        match deleted.map_err(|status| describe(&status))? {
            true => Ok(Released::Yes),
            false => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {
        let id = self.session.lease.id;
        // A lease that is not revoked ends with its TTL.
        let _: Result<Nothing, Status> = self.link.ask(LEASE_REVOKE, LeaseRequest { id }).await;
    }
}

impl Guard for EtcdGuard {
    fn token(&self) -> Option<u64> {
        u64::try_from(self.create_revision).ok()
    }

    fn valid_for(&self) -> Duration {
        let until = self.lease.until();
        until.saturating_duration_since(Instant::now())
    }
}

impl Session {
    async fn open(link: &Link, ttl: Duration) -> Result<Session, Status> {
        let sent = Instant::now();
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = LeaseGrantRequest { ttl: seconds };
        let granted: LeaseGrantResponse = link.call(LEASE_GRANT, &request).await?.message;
        let ttl = duration(granted.ttl);
        let lease = Arc::new(Lease {
            id: granted.id,
            until: Mutex::new(sent + ttl),
        });
        let renewal = renew(link.clone(), Arc::clone(&lease), ttl / RENEWALS_PER_TTL);
        Ok(Session {
            lease,
            renewal: tokio::spawn(renewal),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Lease {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Prolongs a lease until it has ended.
async fn renew(link: Link, lease: Arc<Lease>, interval: Duration) {
    tokio::time::sleep(interval).await;
    loop {
        let sent = Instant::now();
        let request = LeaseRequest { id: lease.id };
        let opened = link.open(LEASE_KEEP_ALIVE, request).await;
        let Ok(mut renewals): Result<link::Stream<LeaseRequest, _>, Status> = opened else {
            pause().await;
            continue;
        };
        if !keep_renewing(&mut renewals, &lease, sent, interval).await {
            return;
        }
        link.give_up(&renewals);
        pause().await;
    }
}

/// Prolongs a lease, for which a request was sent, until that fails; returns whether it may still
/// run.
async fn keep_renewing(
    renewals: &mut link::Stream<LeaseRequest, LeaseKeepAliveResponse>,
    lease: &Lease,
    mut sent: Instant,
    interval: Duration,
) -> bool {
    loop {
        match tokio::time::timeout(RENEWAL_TIMEOUT, renewals.next()).await {
            Ok(Ok(answer)) if answer.ttl > 0 => lease.set(sent + duration(answer.ttl)),
            Ok(Ok(_)) => {
                // It has ended, whatever was known of it.
                lease.set(Instant::now());
                return false;
            }
            Ok(Err(_)) | Err(_) => return true,
        }
        tokio::time::sleep(interval).await;
        sent = Instant::now();
        if renewals.send(LeaseRequest { id: lease.id }).await.is_err() {
            return true;
        }
    }
}

/// Which of these members leads; nobody, if none of them knows.
pub async fn leader(urls: &[String]) -> Option<usize> {
    for (index, status) in statuses(urls).await.into_iter().enumerate() {
        let leads = |status: StatusResponse| {
            let own = status.header.map_or(0, |header| header.member_id);
            own != 0 && own == status.leader
        };
        if status.is_some_and(leads) {
            return Some(index);
        }
    }
    None
}

/// Whether all members are there, and name the same leader.
pub async fn is_whole(urls: &[String]) -> bool {
    let statuses = statuses(urls).await;
    let leaders = statuses
        .iter()
        .map(|status| status.as_ref().map(|it| it.leader));
    let mut leaders: Vec<Option<u64>> = leaders.collect();
    leaders.dedup();
    matches!(leaders.as_slice(), [Some(leader)] if *leader != 0)
}

async fn statuses(urls: &[String]) -> Vec<Option<StatusResponse>> {
    let mut statuses = Vec::new();
    for url in urls {
        let status = match Link::new(std::slice::from_ref(url), 0) {
            Ok(link) => link.ask(STATUS, Nothing {}).await.ok(),
            Err(_) => None,
        };
        statuses.push(status);
    }
    statuses
}

/// Removes what the drivers have made at a cluster.
///
/// # Errors
/// [`Trouble`], if something may be left behind.
pub async fn clean(urls: &[String]) -> Result<(), Trouble> {
    let link = Link::new(urls, 0)?;
    let RangeRequest { key, range_end, .. } = all_keys(PREFIX.as_bytes());
    let request = DeleteRangeRequest { key, range_end };
    let answer = link.call(DELETE_RANGE, &request).await;
    let answer = answer.map_err(|status| describe(&status))?;
    let _: DeleteRangeResponse = answer.message;
    Ok(())
}

/// The first client says quickly that nobody is there: all later requests are patient.
async fn check(urls: &[String], client: usize) -> Result<(), Trouble> {
    if client > 0 || statuses(urls).await.iter().any(Option::is_some) {
        return Ok(());
    }
    Err(Trouble::new(format!(
        "cannot connect: no member of etcd answers at {}",
        urls.join(", ")
    )))
}

/// Puts the key there unless it is, and tells whose key is the oldest.
fn first_step(prefix: &[u8], key: &[u8], lease: i64) -> TxnRequest {
    let put = RequestOp {
        put: Some(PutRequest {
            key: key.to_vec(),
            lease,
        }),
        ..RequestOp::default()
    };
    let read = |range| RequestOp {
        range: Some(range),
        ..RequestOp::default()
    };
    let oldest = read(RangeRequest {
        limit: 1,
        sort_order: ASCENDING,
        sort_target: BY_CREATION,
        ..all_keys(prefix)
    });
    TxnRequest {
        compare: vec![created(key, 0)],
        success: vec![put, oldest.clone()],
        failure: vec![read(one_key(key)), oldest],
    }
}

/// That a key was created at this revision; 0 for one that is not there.
fn created(key: &[u8], revision: i64) -> Compare {
    Compare {
        result: EQUAL,
        target: CREATION,
        key: key.to_vec(),
        create_revision: Some(revision),
    }
}

fn one_key(key: &[u8]) -> RangeRequest {
    RangeRequest {
        key: key.to_vec(),
        ..RangeRequest::default()
    }
}

/// All keys that begin so. The prefix ends with a slash, so its end is the same with the next byte.
fn all_keys(prefix: &[u8]) -> RangeRequest {
    let mut range_end = prefix.to_vec();
    if let Some(last) = range_end.last_mut() {
        *last = last.saturating_add(1);
    }
    RangeRequest {
        key: prefix.to_vec(),
        range_end,
        ..RangeRequest::default()
    }
}

fn duration(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// A lease that the cluster does not know has ended.
fn lease_or_other(status: Status) -> Failure {
    match status.code() {
        tonic::Code::NotFound => Failure::SessionEnded,
        _ => status.into(),
    }
}

fn describe(status: &Status) -> Trouble {
    Trouble::new(format!("etcd: {}", status.message()))
}
