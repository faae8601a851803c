//! Three nodes of etcd, by Debian's package `etcd-server` or whatever `etcd` is on the `PATH`.

use std::ffi::OsString;
use std::net::SocketAddr;

use super::{Cluster, ClusterError, NODES, Start, Timeouts, find};

/// What a node is asked. It answers that it is healthy once it has a leader that answers.
const QUESTION: &str = "GET /health HTTP/1.0\r\n\r\n";
const ANSWER: &str = "\"true\"";

/// Settings that are near to lockd's, milliseconds.
const LIKE_LOCKD: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];

/// Starts a cluster, durable as it comes.
///
/// # Errors
/// [`ClusterError`] says what to install or what went wrong.
pub fn start(timeouts: Timeouts) -> Result<Cluster, ClusterError> {
    let program = find("etcd").ok_or(ClusterError::NotInstalled {
        what: "etcd server",
        package: "etcd-server",
    })?;
    Cluster::start(2 * NODES, |directory, ports| {
        let (clients, peers) = ports.split_at(NODES);
        let name = |node: usize| format!("node-{}", node + 1);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peer = |(node, port): (usize, &u16)| format!("{}={}", name(node), url(*port));
        let members: Vec<String> = peers.iter().enumerate().map(peer).collect();
        let mut nodes = Vec::new();
        for (node, (&client, &peer)) in clients.iter().zip(peers).enumerate() {
            let mut arguments = vec![
                format!("--name={}", name(node)),
                format!("--data-dir={}", directory.join(name(node)).display()),
                format!("--listen-client-urls={}", url(client)),
                format!("--advertise-client-urls={}", url(client)),
                format!("--listen-peer-urls={}", url(peer)),
                format!("--initial-advertise-peer-urls={}", url(peer)),
                format!("--initial-cluster={}", members.join(",")),
                "--initial-cluster-state=new".to_owned(),
                "--logger=zap".to_owned(),
                "--log-level=warn".to_owned(),
            ];
            if timeouts == Timeouts::LikeLockd {
                arguments.extend(LIKE_LOCKD.map(str::to_owned));
            }
            let start = Start {
                program: program.clone(),
                arguments: arguments.into_iter().map(OsString::from).collect(),
                log: directory.join(format!("{}.log", name(node))),
                address: SocketAddr::from(([127, 0, 0, 1], client)),
                question: QUESTION,
                answer: ANSWER,
            };
            nodes.push((start, url(client)));
        }
        Ok(nodes)
    })
}
