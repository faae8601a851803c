//! A private PgBouncer in transaction mode, in front of a private server.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway::config::{PoolerConfig, UpstreamTls};
use tempfile::TempDir;

/// A running pooler. It lets everybody in whom the tests know.
pub struct PrivatePooler {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl PrivatePooler {
    /// In front of the server at this port, with so many connections to it per database.
    pub fn start(server_port: u16, connections: u32) -> PrivatePooler {
        let dir = tempfile::Builder::new()
            .prefix("lockd-pgbouncer-")
            .tempdir()
            .unwrap();
        // Started by root it becomes somebody else, who has to be able to read this.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let users = dir.path().join("users");
        std::fs::write(&users, "\"app\" \"\"\n\"fence_gateway\" \"\"\n").unwrap();
        // The port was free a moment ago; somebody else may have taken it since.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let settings = format!(
                "[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = {connections}\nmax_client_conn = 500\n\
                 server_round_robin = 1\nserver_login_retry = 0\n",
                users.display()
            );
            let file = dir.path().join("pgbouncer.ini");
            std::fs::write(&file, settings).unwrap();
            if let Some(child) = run(&file, port) {
                return PrivatePooler {
                    child,
                    port,
                    _dir: dir,
                };
            }
        }
        panic!("PgBouncer does not start");
    }

    /// How a gateway finds it.
    pub fn config(&self) -> PoolerConfig {
        PoolerConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            tls: UpstreamTls::Disable,
            ca: None,
        }
    }
}

impl Drop for PrivatePooler {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(file: &Path, port: u16) -> Option<Child> {
    let mut command = Command::new("pgbouncer");
    // Debian keeps it where a user's PATH may not lead.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin"));
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let mut child = command
        .arg("-q")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("PgBouncer is needed: run `apt-get install pgbouncer`");
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Somebody may listen there, and it may be somebody else.
    child.try_wait().unwrap().is_none().then_some(child)
}
