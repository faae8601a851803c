//! Gateways in front of an HTTP server, clients that send exactly the bytes they are told to, and a
//! server that records exactly what reaches it and does what its test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway::cell::StaticCell;
use gateway::config::{Config, Upstream};
use gateway::fence::order::Rule;
use gateway::http::Gateway;
use lockd_protocol::types::Token;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Running, verifier, write_client_config};

/// How long an answer may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tokens up to this one are granted by nobody, unless a test says so.
pub const HORIZON: u64 = 50;

/// A configuration in front of some server: `/orders/{id}` and what is below is guarded by
/// `orders/{id}`, `/stock` by `stock/%`.
pub struct HttpBed {
    pub server: SocketAddr,
    pub dir: TempDir,
    pub cell: StaticCell,
    /// Further lines of `[http]`.
    pub settings: String,
    /// Lines before it.
    pub policy: String,
}

impl HttpBed {
    pub fn before(server: SocketAddr) -> HttpBed {
        let dir = tempfile::tempdir().unwrap();
        write_client_config(&dir.path().join("client.toml"));
        HttpBed {
            server,
            dir,
            cell: StaticCell {
                newest: Token(HORIZON),
                ..StaticCell::default()
            },
            settings: "settle = \"1ms\"".into(),
            policy: String::new(),
        }
    }

    pub fn with(mut self, settings: &str) -> HttpBed {
        settings.clone_into(&mut self.settings);
        self
    }

    pub fn config_text(&self) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\nhandshake_timeout = \"5s\"\n{}\n\
             [http]\nurl = \"http://{}\"\nlock = \"gateways/test\"\n\
             control = \"gateway.sock\"\n{}\n\
             [[guard]]\npath = \"/orders/{{id}}\"\nlock = \"orders/{{id}}\"\n\
             [[guard]]\npath = \"/stock\"\nlock = \"stock/%\"\n\
             [cell]\nclient_config = \"client.toml\"\n",
            self.policy, self.server, self.settings
        )
    }

    pub fn config_file(&self) -> PathBuf {
        let file = self.dir.path().join("gateway.toml");
        std::fs::write(&file, self.config_text()).unwrap();
        file
    }

    pub async fn gateway(&self) -> Running {
        self.gateway_without(None).await
    }

    /// A gateway in this process that leaves out a rule.
    pub async fn gateway_without(&self, rule: Option<Rule>) -> Running {
        let config = Config::load(&self.config_file()).unwrap();
        let Upstream::Http(http) = &config.upstream else {
            panic!("not HTTP")
        };
        let cell = Arc::new(self.cell.clone());
        let gateway = Gateway::without(&config, http, verifier(), cell, rule).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(Arc::new(gateway).serve(listener));
        Running { address, task }
    }
}

/// A client's connection.
pub struct Raw {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, taken apart.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends, if the other side still listens.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer; none if the connection ends first.
    pub async fn reply(&mut self) -> Option<Reply> {
        let read = tokio::time::timeout(PATIENCE, self.read_reply());
        read.await.expect("no answer came")
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                // An invitation to go on is none.
                if reply.status != 100 {
                    return Some(reply);
                }
                continue;
            }
            let mut piece = vec![0; 16 * 1024];
            match self.stream.read(&mut piece).await {
                Ok(count @ 1..) => self.buffer.extend_from_slice(&piece[..count]),
                _ => return None,
            }
        }
    }

    /// Whether the gateway closes the connection, without another answer.
    pub async fn is_closed(&mut self) -> bool {
        self.reply().await.is_none()
    }
}

/// An answer with a length, or without a body, and how many bytes it takes.
fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
    let body = String::from_utf8_lossy(bytes.get(end..end + length)?).into_owned();
    Some((Reply { status, head, body }, end + length))
}

/// The value of a header.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

/// A request with a body of known length.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "DELETE" | "MOVE" | "COPY") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text + "\r\n" + body
}

/// One request on a connection of its own.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    ticket: Option<&str>,
    body: &str,
) -> Reply {
    let headers: Vec<_> = ticket
        .map(|text| ("Fencing-Token", text))
        .into_iter()
        .collect();
    let mut raw = Raw::connect(address).await;
    raw.send(request(method, path, &headers, body)).await;
    raw.reply()
        .await
        .expect("the gateway closed the connection")
}

/// The same, again and again while the fence cannot decide.
pub async fn call_until_ready(
    address: SocketAddr,
    method: &str,
    path: &str,
    ticket: &str,
    body: &str,
) -> Reply {
    loop {
        let reply = call(address, method, path, Some(ticket), body).await;
        if reply.status != 503 {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the recording server does with a request.
#[derive(Clone)]
pub enum Act {
    /// Takes effect, and answers with this status.
    Answer(u16),
    /// Answers with these bytes, and closes the connection.
    Say(&'static str),
    /// Takes effect and answers 204 once it is told to go on.
    AnswerLate(Arc<Notify>),
    /// Closes the connection, and takes effect once it is told to.
    CutAndActLate(Arc<Notify>),
}

/// A server that records exactly what reaches it. A write takes effect when its body stands behind
/// those of others.
pub struct Origin {
    pub address: SocketAddr,
    record: Arc<Record>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<String>>,
    effects: Mutex<Vec<String>>,
    bytes: std::sync::atomic::AtomicU64,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Does with each request what is said of its first line.
    pub async fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (record, act) = (Arc::new(Record::default()), Arc::new(act));
        let of_task = Arc::clone(&record);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(converse(stream, Arc::clone(&of_task), Arc::clone(&act)));
            }
        });
        Origin {
            address,
            record,
            task,
        }
    }

    /// Everything that has come, connection by connection.
    pub fn requests(&self) -> Vec<String> {
        self.record.requests.lock().unwrap().clone()
    }

    /// The bodies of the writes that have taken effect, in order.
    pub fn effects(&self) -> Vec<String> {
        self.record.effects.lock().unwrap().clone()
    }

    /// Bytes of bodies, of whatever length.
    pub fn bytes(&self) -> u64 {
        self.record.bytes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

async fn converse<F: Fn(&str) -> Act>(mut stream: TcpStream, record: Arc<Record>, act: Arc<F>) {
    let Some((text, body)) = read_request(&mut stream, &record).await else {
        return;
    };
    let first = text.lines().next().unwrap_or_default().to_owned();
    record.requests.lock().unwrap().push(text);
    let take_effect = || {
        if !first.starts_with("GET ") {
            record.effects.lock().unwrap().push(body.clone());
        }
    };
    let act = act(&first);
    let closes = matches!(act, Act::Say(_));
    let say = match act {
        Act::Answer(status) => {
            take_effect();
            format!("HTTP/1.1 {status} Done\r\nContent-Length: 2\r\n\r\nok")
        }
        Act::Say(bytes) => bytes.to_owned(),
        Act::AnswerLate(go_on) => {
            go_on.notified().await;
            take_effect();
            "HTTP/1.1 204 Done\r\n\r\n".to_owned()
        }
        Act::CutAndActLate(go_on) => {
            drop(stream);
            go_on.notified().await;
            return take_effect();
        }
    };
    // A gateway that has given up is not there any more.
    let _ = stream.write_all(say.as_bytes()).await;
    if closes {
        return;
    }
    let mut rest = String::new();
    if let Ok(1..) = stream.read_to_string(&mut rest).await {
        record
            .requests
            .lock()
            .unwrap()
            .push(format!("behind it: {rest}"));
    }
}

/// One request, byte for byte, and its body; of a long body only the length.
async fn read_request(stream: &mut TcpStream, record: &Record) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let mut long = 0;
    loop {
        let count = stream
            .read(&mut piece)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        record
            .bytes
            .fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        if bytes.len() < 64 * 1024 {
            bytes.extend_from_slice(&piece[..count]);
        } else {
            long += count;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
        let body = &bytes[end + 4..];
        let is_whole = match header(&head, "content-length") {
            Some(length) => body.len() + long >= length.parse::<usize>().unwrap(),
            None if header(&head, "transfer-encoding").is_some() => {
                body.ends_with(b"0\r\n\r\n") || piece[..count].ends_with(b"0\r\n\r\n")
            }
            None => true,
        };
        if is_whole {
            let body = String::from_utf8_lossy(body).into_owned();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Some((text, body));
        }
    }
}

/// A gateway that is ready, in front of a server that does everything it is told.
pub async fn plain() -> (Origin, HttpBed, Running) {
    plain_with("settle = \"1ms\"", "").await
}

pub async fn plain_with(settings: &str, policy: &str) -> (Origin, HttpBed, Running) {
    let origin = Origin::start(|_| Act::Answer(200)).await;
    let mut bed = HttpBed::before(origin.address).with(settings);
    policy.clone_into(&mut bed.policy);
    let gateway = bed.gateway().await;
    ready(&gateway).await;
    (origin, bed, gateway)
}

/// Waits until the gateway is active and at rest.
pub async fn ready(gateway: &Running) {
    let ticket = super::ticket("ready", 1000);
    call_until_ready(gateway.address, "GET", "/ready", &ticket, "").await;
}

pub fn is_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert!(reply.head.contains("application/problem+json"), "{reply:?}");
    assert!(reply.body.contains(code), "{reply:?}");
}
