//! A client of PostgreSQL's protocol that sends exactly the bytes it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub fn msg(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub fn query(sql: &str) -> Vec<u8> {
    msg(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    msg(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

pub fn bind(name: &str) -> Vec<u8> {
    msg(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
}

pub fn execute() -> Vec<u8> {
    msg(b'E', b"\0\0\0\0\0")
}

pub fn sync() -> Vec<u8> {
    msg(b'S', b"")
}

/// Parse, Bind and Execute of a statement, without a Sync.
pub fn pbe(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), execute()].concat()
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub pid: i32,
    pub key: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr, parameters: &[(&str, &str)]) -> Raw {
        Raw::try_connect(address, parameters)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error is what the server said.
    pub async fn try_connect(
        address: SocketAddr,
        parameters: &[(&str, &str)],
    ) -> Result<Raw, String> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
        packet.extend_from_slice(&body);
        stream.write_all(&packet).await.unwrap();
        let mut raw = Raw {
            stream,
            buffer: Vec::new(),
            pid: 0,
            key: Vec::new(),
        };
        loop {
            match raw.receive().await {
                Some((b'K', body)) => {
                    raw.pid = i32::from_be_bytes(body[..4].try_into().unwrap());
                    raw.key = body;
                }
                Some((b'E', body)) => return Err(error_text(&body)),
                Some((b'Z', _)) => return Ok(raw),
                Some(_) => {}
                None => return Err("closed".into()),
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends as long as the other side takes it.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next message; `None` once the other side has closed.
    pub async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let work = async {
            loop {
                if self.buffer.len() >= 5 {
                    let length = u32::from_be_bytes(self.buffer[1..5].try_into().unwrap());
                    let total = length as usize + 1;
                    if self.buffer.len() >= total {
                        let message = self.buffer[5..total].to_vec();
                        let kind = self.buffer[0];
                        self.buffer.drain(..total);
                        return Some((kind, message));
                    }
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), work)
            .await
            .expect("no message in 30 s")
    }

    /// What is said until so many ReadyForQuery, in words.
    pub async fn until(&mut self, ready: usize) -> Vec<String> {
        let mut said = Vec::new();
        let mut count = 0;
        while count < ready {
            let Some((kind, body)) = self.receive().await else {
                said.push("closed".into());
                break;
            };
            count += usize::from(kind == b'Z');
            said.push(in_words(kind, &body));
        }
        said
    }

    pub async fn ask(&mut self, sql: &str) -> Vec<String> {
        self.send(&query(sql)).await;
        self.until(1).await
    }

    /// What is said to this, errors and command tags only.
    pub async fn outcome(&mut self, bytes: &[u8], ready: usize) -> Vec<String> {
        self.send(bytes).await;
        let mut said = self.until(ready).await;
        said.retain(|word| {
            word.starts_with("FN")
                || word.starts_with("error")
                || word.starts_with("done")
                || word == "closed"
        });
        said
    }

    /// The bare connection.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

fn error_text(body: &[u8]) -> String {
    let field = |wanted: u8| {
        body.split(|&b| b == 0)
            .find(|field| field.first() == Some(&wanted))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    };
    let code = field(b'C');
    if code.starts_with("FN") {
        format!("{code} {}", field(b'M'))
    } else {
        format!("error {code} {}", field(b'M'))
    }
}

fn in_words(kind: u8, body: &[u8]) -> String {
    let text = || String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned();
    match kind {
        b'Z' => format!("ready {}", text()),
        b'C' => format!("done {}", text()),
        b'E' => error_text(body),
        b'D' => format!("row {}", text()),
        other => char::from(other).to_string(),
    }
}
