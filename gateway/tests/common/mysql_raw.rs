//! A MariaDB client that sends what it is told to and gives back the bytes of the answers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG_PASSWORD: u32 = 1;
const CONNECT_WITH_DB: u32 = 1 << 3;
const LOCAL_FILES: u32 = 1 << 7;
const PROTOCOL_41: u32 = 1 << 9;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const MULTI_STATEMENTS: u32 = 1 << 16;
const MULTI_RESULTS: u32 = 1 << 17;
const PS_MULTI_RESULTS: u32 = 1 << 18;
const PLUGIN_AUTH: u32 = 1 << 19;
pub const DEPRECATE_EOF: u32 = 1 << 24;

/// What this client always can.
const CAPABILITIES: u32 = LONG_PASSWORD
    | CONNECT_WITH_DB
    | LOCAL_FILES
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | MULTI_STATEMENTS
    | MULTI_RESULTS
    | PS_MULTI_RESULTS
    | PLUGIN_AUTH;

pub fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, ..] = payload.len().to_le_bytes();
    [&[a, b, c, sequence], payload].concat()
}

/// A command, in as many packets as it needs.
pub fn command(code: u8, body: &[u8]) -> Vec<u8> {
    let payload = [&[code], body].concat();
    let mut bytes = Vec::new();
    let mut sequence = 0;
    let mut rest = payload.as_slice();
    loop {
        let (part, after) = rest.split_at(rest.len().min(0xff_ff_ff));
        bytes.extend(packet(sequence, part));
        sequence += 1;
        rest = after;
        if part.len() < 0xff_ff_ff {
            return bytes;
        }
    }
}

pub fn query(sql: &str) -> Vec<u8> {
    command(3, sql.as_bytes())
}

pub struct RawMysql {
    pub stream: TcpStream,
    /// What the server greeted with.
    pub greeting: Vec<u8>,
    marks: u32,
}

impl RawMysql {
    /// Logs in as the application, which has no password.
    pub async fn connect(address: SocketAddr, database: &str, further: u32) -> RawMysql {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let greeting = read_packet(&mut stream).await;
        let mut answer = (CAPABILITIES | further).to_le_bytes().to_vec();
        answer.extend_from_slice(&[0, 0, 0, 4, 45]);
        answer.extend_from_slice(&[0; 23]);
        answer.extend_from_slice(b"app\0\0");
        answer.extend_from_slice(database.as_bytes());
        answer.extend_from_slice(b"\0mysql_native_password\0");
        stream.write_all(&packet(1, &answer)).await.unwrap();
        let done = read_packet(&mut stream).await;
        assert_eq!(done.first(), Some(&0), "{}", String::from_utf8_lossy(&done));
        RawMysql {
            stream,
            greeting,
            marks: 0,
        }
    }

    /// Sends bytes and a command whose answer is known, and gives what comes before that answer.
    pub async fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.marks += 1;
        let mark = format!("end of answer {}", self.marks);
        let signal = query(&format!(
            "signal sqlstate '45000' set message_text = '{mark}'"
        ));
        // 0xff, code, '#' and state come before the text, and the header before that.
        let tail = 4 + 3 + 6 + mark.len();
        let (mut reader, mut writer) = self.stream.split();
        let sending = async {
            writer.write_all(bytes).await.unwrap();
            writer.write_all(&signal).await.unwrap();
        };
        let reading = async {
            let mut read = Vec::new();
            while !read.ends_with(mark.as_bytes()) {
                assert_ne!(
                    reader.read_buf(&mut read).await.unwrap(),
                    0,
                    "closed: {read:?}"
                );
            }
            read.truncate(read.len() - tail);
            read
        };
        tokio::join!(sending, reading).1
    }

    /// Sends bytes and reads one packet.
    pub async fn one(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.stream.write_all(bytes).await.unwrap();
        read_packet(&mut self.stream).await
    }
}

/// One packet's payload.
pub async fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.unwrap();
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.unwrap();
    payload
}
