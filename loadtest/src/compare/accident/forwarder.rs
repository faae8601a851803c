//! Forwarders on loopback between a client and its servers, which can stop forwarding: then neither
//! side hears the other, and neither is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest piece that is forwarded at once, bytes. No datagram is longer.
const PIECE_BYTES: usize = 64 * 1024;

/// Pause after a server could not be reached.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// What a forwarder of connections does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It forwards.
    Open,
    /// It holds everything back.
    Cut,
    /// It still does, and the server has given its clients up.
    GivenUp,
    /// It forwards again; clients of connections that the server has given up are told.
    Healed,
}

/// Forwards connections to some servers, for one client. Dropping it ends them.
pub struct TcpForwarder {
    phase: watch::Sender<Phase>,
    addresses: Vec<SocketAddr>,
    _listeners: JoinSet<()>,
}

impl TcpForwarder {
    /// Listens in front of each of these servers.
    ///
    /// # Errors
    /// If the machine gives no port.
    pub async fn start(servers: &[SocketAddr]) -> io::Result<TcpForwarder> {
        let (phase, watched) = watch::channel(Phase::Open);
        let mut addresses = Vec::new();
        let mut listeners = JoinSet::new();
        for &server in servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr()?);
            listeners.spawn(accept(listener, server, watched.clone()));
        }
        Ok(TcpForwarder {
            phase,
            addresses,
            _listeners: listeners,
        })
    }

    /// Where it listens, in the order of the servers.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops forwarding.
    pub fn cut(&self) {
        self.phase.send_replace(Phase::Cut);
    }

    /// The servers' ends of all connections are closed, as by a server that gives up a client that
    /// does not answer any more. The client is not told.
    pub fn give_up(&self) {
        self.phase.send_replace(Phase::GivenUp);
    }

    /// Forwards again. Where the server has given up, the client learns it now.
    pub fn heal(&self) {
        self.phase.send_replace(Phase::Healed);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, phase: watch::Receiver<Phase>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, server, phase.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Forwards one connection until it ends.
async fn forward(mut client: TcpStream, server: SocketAddr, mut phase: watch::Receiver<Phase>) {
    // One that is made while nothing passes is made, as far as its client can tell, and hears
    // nothing.
    if phase.wait_for(|phase| passes(*phase)).await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut up = vec![0; PIECE_BYTES];
    let mut down = vec![0; PIECE_BYTES];
    loop {
        let now = *phase.borrow_and_update();
        let forwarded = match now {
            Phase::Open | Phase::Healed => tokio::select! {
                changed = phase.changed() => changed.map_err(|_| io::ErrorKind::Other.into()),
                read = client.read(&mut up) => pass_on(read, &up, &mut server).await,
                read = server.read(&mut down) => pass_on(read, &down, &mut client).await,
            },
            Phase::Cut => phase
                .changed()
                .await
                .map_err(|_| io::ErrorKind::Other.into()),
            Phase::GivenUp => {
                drop(server);
                // What comes first, the end of the forwarder or of the cut, closes the client's
                // end.
                let _ = phase.wait_for(|phase| passes(*phase)).await;
                return;
            }
        };
        if forwarded.is_err() {
            return;
        }
    }
}

async fn pass_on(read: io::Result<usize>, piece: &[u8], to: &mut TcpStream) -> io::Result<()> {
    match piece.get(..read?) {
        Some(read) if !read.is_empty() => to.write_all(read).await,
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn passes(phase: Phase) -> bool {
    matches!(phase, Phase::Open | Phase::Healed)
}

/// Forwards datagrams to one server, for all of its clients and peers. Dropping it ends that.
pub struct UdpForwarder {
    cut: Arc<Mutex<BTreeSet<u16>>>,
    _flows: JoinSet<()>,
}

impl UdpForwarder {
    /// Forwards what comes to `socket`.
    ///
    /// # Errors
    /// If the machine refuses.
    pub fn start(socket: std::net::UdpSocket, server: SocketAddr) -> io::Result<UdpForwarder> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let cut = Arc::default();
        let mut flows = JoinSet::new();
        flows.spawn(datagrams(socket, server, Arc::clone(&cut)));
        Ok(UdpForwarder { cut, _flows: flows })
    }

    /// Forwards nothing more to or from clients on these ports.
    pub fn cut(&self, ports: &[u16]) {
        locked(&self.cut).extend(ports);
    }

    /// Forwards everything again.
    pub fn heal(&self) {
        locked(&self.cut).clear();
    }
}

fn locked(cut: &Mutex<BTreeSet<u16>>) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
    // Nothing panics while it is locked.
    cut.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each client has a socket of its own towards the server, by which the server tells them apart.
async fn datagrams(socket: Arc<UdpSocket>, server: SocketAddr, cut: Arc<Mutex<BTreeSet<u16>>>) {
    let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut answers = JoinSet::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // An error is of one client that is gone.
        let Ok((length, client)) = socket.recv_from(&mut piece).await else {
            continue;
        };
        let towards_server = match clients.get(&client) {
            Some(known) => Arc::clone(known),
            None => {
                let Ok(new) = connected(server).await else {
                    continue;
                };
                let new = Arc::new(new);
                clients.insert(client, Arc::clone(&new));
                let back = answer(
                    Arc::clone(&new),
                    Arc::clone(&socket),
                    client,
                    Arc::clone(&cut),
                );
                answers.spawn(back);
                new
            }
        };
        if let Some(piece) = piece.get(..length)
            && !locked(&cut).contains(&client.port())
        {
            // What cannot be sent is lost, as datagrams are.
            let _ = towards_server.send(piece).await;
        }
    }
}

async fn answer(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    client: SocketAddr,
    cut: Arc<Mutex<BTreeSet<u16>>>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // An error is of a server that is not there at the moment.
        let Ok(length) = from.recv(&mut piece).await else {
            tokio::time::sleep(AFTER_ERROR).await;
            continue;
        };
        if let Some(piece) = piece.get(..length)
            && !locked(&cut).contains(&client.port())
        {
            let _ = to.send_to(piece, client).await;
        }
    }
}

async fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                clients.spawn(async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn what_is_cut_hears_nothing_until_it_is_healed() {
        let (server, _tasks) = echo().await;
        let forwarder = TcpForwarder::start(&[server]).await.unwrap();
        let mut client = TcpStream::connect(forwarder.addresses()[0]).await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');
        forwarder.cut();
        client.write_all(b"b").await.unwrap();
        let mut later = TcpStream::connect(forwarder.addresses()[0]).await.unwrap();
        later.write_all(b"c").await.unwrap();
        let silence = tokio::time::timeout(AFTER_ERROR, client.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
        forwarder.heal();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
        assert_eq!(later.read_u8().await.unwrap(), b'c');
    }

    #[tokio::test]
    async fn a_client_that_was_given_up_learns_it_when_it_can_be_told() {
        let (server, _tasks) = echo().await;
        let forwarder = TcpForwarder::start(&[server]).await.unwrap();
        let mut client = TcpStream::connect(forwarder.addresses()[0]).await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');
        forwarder.cut();
        forwarder.give_up();
        let silence = tokio::time::timeout(AFTER_ERROR, client.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
        forwarder.heal();
        assert!(client.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn datagrams_of_a_port_that_is_cut_are_lost_and_those_of_others_are_not() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let public = socket.local_addr().unwrap();
        let forwarder = UdpForwarder::start(socket, server.local_addr().unwrap()).unwrap();
        let (cut_off, other) = (
            connected(public).await.unwrap(),
            connected(public).await.unwrap(),
        );
        forwarder.cut(&[cut_off.local_addr().unwrap().port()]);
        cut_off.send(b"lost").await.unwrap();
        other.send(b"heard").await.unwrap();
        let mut piece = [0; 16];
        let (length, _) = server.recv_from(&mut piece).await.unwrap();
        assert_eq!(&piece[..length], b"heard");
        forwarder.heal();
        cut_off.send(b"again").await.unwrap();
        let (length, from) = server.recv_from(&mut piece).await.unwrap();
        assert_eq!(&piece[..length], b"again");
        server.send_to(b"yes", from).await.unwrap();
        let length = cut_off.recv(&mut piece).await.unwrap();
        assert_eq!(&piece[..length], b"yes");
    }
}
