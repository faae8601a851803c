//! A lock service for one scene, made for it and ended with it, and what can happen to it.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::forwarder::{TcpForwarder, UdpForwarder};
use super::system::{Accident, System};
use crate::cell::{CellOptions, OwnCell};
use crate::cluster::NODES;
use crate::compare::bench::reason;
use crate::compare::peer::{Peer, Service as Kind};
use crate::driver::{etcd, zookeeper};
use crate::keeper::{Fate, KeepOptions, Keeper, Kept, REDLOCK_INSTANCES};

/// How long a node that was killed stays away.
const AWAY: Duration = Duration::from_secs(1);

/// Instances of Redlock that are killed: most of them.
const REDLOCK_KILLED: usize = REDLOCK_INSTANCES / 2 + 1;

/// A wall clock that can be moved, for whatever runs with its environment.
pub(super) struct WallClock {
    file: PathBuf,
    library: String,
    _directory: TempDir,
}

/// The servers.
pub(super) struct Service {
    servers: Servers,
    clock: Option<WallClock>,
}

enum Servers {
    Cell {
        cell: Box<OwnCell>,
        forwarders: Vec<UdpForwarder>,
    },
    Kept {
        kept: Kept,
        keeper: Keeper,
    },
}

impl Service {
    /// Starts the servers that this accident of the system needs.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub(super) async fn start(
        program: &Path,
        directory: &Path,
        system: System,
        accident: Accident,
    ) -> Result<Service, String> {
        let clock = match accident {
            Accident::ServerClock => Some(WallClock::new("+0")?),
            _ => None,
        };
        let environment = clock.as_ref().map_or_else(Vec::new, WallClock::environment);
        let servers = match system.peer.service() {
            Kind::Cell => start_cell(program, directory, accident, environment).await?,
            Kind::Kept(kept) => {
                let options = KeepOptions {
                    environment,
                    ..KeepOptions::default()
                };
                let keeper = Keeper::start(program, directory, kept, &options).await;
                let keeper = keeper.map_err(reason)?;
                Servers::Kept { kept, keeper }
            }
        };
        Ok(Service { servers, clock })
    }

    /// Where clients find it.
    pub(super) fn urls(&self) -> Vec<String> {
        match &self.servers {
            Servers::Cell { cell, .. } => vec![cell.client_config().display().to_string()],
            Servers::Kept { keeper, .. } => keeper.urls().to_vec(),
        }
    }

    /// The cell, if it is one.
    pub(super) fn cell(&self) -> Option<&OwnCell> {
        match &self.servers {
            Servers::Cell { cell, .. } => Some(cell),
            Servers::Kept { .. } => None,
        }
    }

    /// Forwards nothing more of clients on these UDP ports.
    pub(super) fn cut(&self, ports: &[u16]) {
        if let Servers::Cell { forwarders, .. } = &self.servers {
            forwarders.iter().for_each(|forwarder| forwarder.cut(ports));
        }
    }

    /// Forwards everything again.
    pub(super) fn heal(&self) {
        if let Servers::Cell { forwarders, .. } = &self.servers {
            forwarders.iter().for_each(UdpForwarder::heal);
        }
    }

    /// Its wall clocks are an hour ahead from now on.
    pub(super) fn jump_ahead(&self) -> Result<(), String> {
        self.clock
            .as_ref()
            .map_or(Ok(()), |clock| clock.set("+3600"))
    }

    /// Kills the leader or the only server, and starts it again after a while.
    pub(super) async fn fail_over(&mut self) -> Result<(), String> {
        match &mut self.servers {
            Servers::Cell { cell, .. } => {
                let leader = cell.leader().await.map_err(|error| error.to_string())?;
                cell.kill(leader);
                tokio::time::sleep(AWAY).await;
                cell.restart().map_err(|error| error.to_string())
            }
            Servers::Kept { kept, keeper } => {
                let urls = keeper.urls().to_vec();
                let killed = match kept {
                    Kept::Etcd => vec![etcd::leader(&urls).await.ok_or("etcd has no leader")?],
                    Kept::Zookeeper => {
                        let leader = zookeeper::leader(&urls).await;
                        vec![leader.ok_or("ZooKeeper has no leader")?]
                    }
                    Kept::Redlock => (0..REDLOCK_KILLED).collect(),
                    _ => vec![0],
                };
                for server in killed {
                    order(keeper, Fate::Kill, server).await?;
                    if matches!(kept, Kept::Etcd | Kept::Zookeeper) {
                        tokio::time::sleep(AWAY).await;
                    }
                    order(keeper, Fate::Run, server).await?;
                }
                Ok(())
            }
        }
    }
}

async fn order(keeper: &mut Keeper, fate: Fate, server: usize) -> Result<(), String> {
    let done = keeper.order(fate, server).await;
    done.map_err(|error| error.to_string())
}

async fn start_cell(
    program: &Path,
    directory: &Path,
    accident: Accident,
    environment: Vec<(String, String)>,
) -> Result<Servers, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut sockets = Vec::new();
    let mut behind = Vec::new();
    if accident == Accident::Partition {
        // Clients are told where each node is, so whatever stands between them has to be there.
        for _ in 0..NODES {
            let known = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
            let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
            behind.push((
                known.local_addr().map_err(text)?,
                own.local_addr().map_err(text)?,
            ));
            sockets.push((known, own));
        }
    }
    // `lockd init` wants to see that the addresses are free.
    drop(sockets);
    let options = CellOptions {
        environment,
        behind: behind.clone(),
    };
    let cell = OwnCell::start_in(program, directory, &options);
    let mut cell = cell.map_err(|error| error.to_string())?;
    let mut forwarders = Vec::new();
    for (known, own) in behind {
        let socket = UdpSocket::bind(known).map_err(text)?;
        forwarders.push(UdpForwarder::start(socket, own).map_err(text)?);
    }
    cell.leader().await.map_err(|error| error.to_string())?;
    let cell = Box::new(cell);
    Ok(Servers::Cell { cell, forwarders })
}

impl WallClock {
    /// A clock that is off by so many seconds, as libfaketime writes it.
    ///
    /// # Errors
    /// What to install.
    pub(super) fn new(offset: &str) -> Result<WallClock, String> {
        // Servers of databases run as somebody else, and read it too.
        let directory = tempfile::Builder::new()
            .prefix("loadtest-clock-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .map_err(|error| format!("cannot make a temporary directory: {error}"))?;
        let clock = WallClock {
            file: directory.path().join("clock"),
            library: library()?,
            _directory: directory,
        };
        clock.set(offset)?;
        Ok(clock)
    }

    fn set(&self, offset: &str) -> Result<(), String> {
        let set = std::fs::write(&self.file, offset);
        set.map_err(|error| format!("cannot write {}: {error}", self.file.display()))
    }

    /// Clocks that count from the boot of the machine go on as they are.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let file = self.file.display().to_string();
        // A program with an allocator of its own, as Redis, may ask for the time in its very first
        // allocation, which the library cannot bear: it is given the C library's instead.
        let libraries = format!("{}:libc.so.6", self.library);
        let variables = [
            ("LD_PRELOAD", libraries.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        variables.map(owned).to_vec()
    }
}

/// Where the package keeps the library.
fn library() -> Result<String, String> {
    let places = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let mut files = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    let found = files.find(|file| file.exists());
    let found = found.ok_or("libfaketime is not installed: run `apt-get install faketime`")?;
    Ok(found.display().to_string())
}

/// Where the server of this URL listens, which is one that was started here.
pub(super) fn address(url: &str) -> Result<SocketAddr, String> {
    const HOST: &str = "127.0.0.1:";
    let port = url.split_once(HOST).map(|(_, rest)| rest);
    let port = port.and_then(|rest| rest.split('/').next()?.parse().ok());
    let port: u16 = port.ok_or_else(|| format!("{url} has no port of this machine"))?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// The same servers by way of a forwarder in front of them.
pub(super) async fn forwarded(urls: &[String]) -> Result<(TcpForwarder, Vec<String>), String> {
    let servers: Result<Vec<SocketAddr>, String> = urls.iter().map(|url| address(url)).collect();
    let servers = servers?;
    let forwarder = TcpForwarder::start(&servers).await;
    let forwarder = forwarder.map_err(|error| error.to_string())?;
    let mut by_way = Vec::new();
    for ((url, server), forwarder) in urls.iter().zip(&servers).zip(forwarder.addresses()) {
        by_way.push(url.replace(&server.to_string(), &forwarder.to_string()));
    }
    Ok((forwarder, by_way))
}

/// Whether its clients connect by TCP, so that a forwarder of connections can stand between.
pub(super) fn speaks_tcp(system: System) -> bool {
    system.peer != Peer::Lockd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_server_is_in_its_url() {
        for url in [
            "http://127.0.0.1:2379",
            "127.0.0.1:2379",
            "postgres://postgres@127.0.0.1:2379/postgres",
        ] {
            assert_eq!(address(url), Ok(SocketAddr::from(([127, 0, 0, 1], 2379))));
        }
        assert!(address("/tmp/client.toml").is_err());
    }
}
