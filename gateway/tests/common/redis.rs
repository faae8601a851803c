//! A private Redis server under guard, gateways in front of it, and a client that sends exactly
//! the bytes it is told to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway::cell::StaticCell;
use gateway::config::{Config, RedisConfig, Upstream};
use gateway::redis::private_server::PrivateServer;
use gateway::redis::{Gateway, install};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{GatewayProcess, Running, start_gateway, verifier, write_client_config};

/// How long a reply may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keys `orders:*` (guarded by `orders/%`), `stock:*` (by `stock/%`), `item:{id}` and
/// `item:{id}:*` (by `items/{id}`), and free ones `free:*`.
pub struct RedisBed {
    pub server: PrivateServer,
    pub dir: TempDir,
    pub cell: StaticCell,
}

impl RedisBed {
    /// A fresh server with the fence installed, an administrator `root` and an application `app`.
    pub async fn new() -> RedisBed {
        RedisBed::with(&[]).await
    }

    pub async fn with(settings: &[&str]) -> RedisBed {
        let bed = RedisBed {
            server: PrivateServer::start(settings).unwrap_or_else(|error| panic!("{error}")),
            dir: tempfile::tempdir().unwrap(),
            cell: StaticCell::default(),
        };
        write_client_config(&bed.dir.path().join("client.toml"));
        bed.make_users().await;
        bed
    }

    /// After a restart of a server that does not keep its users.
    pub async fn make_users(&self) {
        let mut anybody = Client::connect(self.direct()).await;
        let made = anybody
            .ask(&["ACL", "SETUSER", "root", "on", ">root", "~*", "&*", "+@all"])
            .await;
        assert_eq!(made, "+OK");
        install::install(&self.redis(), Some("redis://root:root@127.0.0.1"))
            .await
            .unwrap();
    }

    pub fn direct(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port()))
    }

    pub fn config_text(&self) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\nhandshake_timeout = \"5s\"\n\
             [redis]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"lockd-gateway\"\n\
             password = \"gateway's\"\nfree = [\"free:*\"]\n\
             [[redis.app]]\nname = \"app\"\npassword = \"app\"\n\
             [[guard]]\nkeys = \"orders:*\"\nlock = \"orders/%\"\n\
             [[guard]]\nkeys = \"stock:*\"\nlock = \"stock/%\"\n\
             [[guard]]\nkeys = [\"item:{{id}}\", \"item:{{id}}:*\"]\nlock = \"items/{{id}}\"\n\
             [cell]\nclient_config = \"client.toml\"\n",
            self.server.port()
        )
    }

    pub fn redis(&self) -> RedisConfig {
        self.redis_of(&self.config_text())
    }

    pub fn redis_of(&self, text: &str) -> RedisConfig {
        match self.config_of(text).upstream {
            Upstream::Redis(redis) => redis,
            _ => panic!("not Redis"),
        }
    }

    fn config_of(&self, text: &str) -> Config {
        Config::parse(&self.dir.path().join("gateway.toml"), text).unwrap()
    }

    /// A gateway in this process.
    pub async fn gateway(&self) -> Running {
        self.gateway_of(&self.config_text(), |_| {}).await
    }

    pub async fn gateway_of(&self, text: &str, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = self.config_of(text);
        change(&mut config);
        let Upstream::Redis(redis) = &config.upstream else {
            panic!("not Redis")
        };
        let cell = Arc::new(self.cell.clone());
        let gateway = Gateway::new(&config, redis, verifier(), cell).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Running {
            address,
            task: tokio::spawn(Arc::new(gateway).serve(listener)),
        }
    }

    /// A gateway in a process of its own. Its lock service cannot be reached.
    pub fn gateway_process(&self) -> GatewayProcess {
        start_gateway(&self.config_file())
    }

    pub fn config_file(&self) -> PathBuf {
        let file = self.dir.path().join("gateway.toml");
        std::fs::write(&file, self.config_text()).unwrap();
        file
    }

    /// The administrator, straight to the server.
    pub async fn root(&self) -> Client {
        Client::log_in(self.direct(), "root", "root").await
    }

    /// The application, by way of a gateway.
    pub async fn app(&self, address: SocketAddr) -> Client {
        Client::log_in(address, "app", "app").await
    }

    /// The application with these tickets.
    pub async fn holder(&self, address: SocketAddr, tickets: &[(&str, u64)]) -> Client {
        let mut client = self.app(address).await;
        assert_eq!(client.show(tickets).await, "+OK", "{tickets:?}");
        client
    }
}

/// A command in the protocol's own form.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    bytes
}

/// The command that shows tickets.
pub fn show(tickets: &[(&str, u64)]) -> Vec<u8> {
    let texts: Vec<_> = tickets
        .iter()
        .map(|(lock, token)| super::ticket(lock, *token))
        .collect();
    let mut words = vec!["FENCE", "TICKET"];
    words.extend(texts.iter().map(String::as_str));
    command(&words)
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    pub received: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        Client {
            stream: TcpStream::connect(address).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub async fn log_in(address: SocketAddr, user: &str, password: &str) -> Client {
        let mut client = Client::connect(address).await;
        assert_eq!(client.ask(&["AUTH", user, password]).await, "+OK");
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// One reply in the words of a person: `+OK`, `:1`, `$text`, `nil`, `[+OK :1]`, `closed`.
    pub async fn reply(&mut self) -> String {
        loop {
            if let Some((text, used)) = read(&self.received) {
                self.received.drain(..used);
                return text;
            }
            if !self.receive().await {
                return "closed".into();
            }
        }
    }

    /// `false`: the connection has ended.
    pub async fn receive(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.received);
        let read = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("no reply in time");
        read.is_ok_and(|count| count > 0)
    }

    pub async fn ask(&mut self, words: &[&str]) -> String {
        self.send(&command(words)).await;
        self.reply().await
    }

    pub async fn show(&mut self, tickets: &[(&str, u64)]) -> String {
        self.send(&show(tickets)).await;
        self.reply().await
    }

    /// Everything until the server has echoed a marker, as it came.
    pub async fn until(&mut self, marker: &str) -> Vec<u8> {
        let end = format!("${}\r\n{marker}\r\n", marker.len()).into_bytes();
        while !self.received.ends_with(&end) {
            if !self.receive().await {
                break;
            }
        }
        std::mem::take(&mut self.received)
    }
}

/// Reads one reply; None if it is not all there.
fn read(bytes: &[u8]) -> Option<(String, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let at = end + 2;
    let number = || line[1..].parse::<i64>().unwrap();
    match line.as_bytes()[0] {
        b'$' | b'=' if number() < 0 => Some(("nil".into(), at)),
        b'$' | b'=' => {
            let length = number() as usize;
            let text = bytes.get(at..at + length + 2)?;
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            Some((format!("${text}"), at + length + 2))
        }
        b'*' if number() < 0 => Some(("nil".into(), at)),
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let (mut parts, mut at) = (Vec::new(), at);
            for _ in 0..number() * if kind == b'%' { 2 } else { 1 } {
                let (part, used) = read(bytes.get(at..)?)?;
                parts.push(part);
                at += used;
            }
            Some((format!("[{}]", parts.join(" ")), at))
        }
        b'_' => Some(("nil".into(), at)),
        _ => Some((line, at)),
    }
}
