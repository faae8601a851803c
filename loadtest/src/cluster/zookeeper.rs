//! Three servers of ZooKeeper, by the jars of Debian's package `zookeeper` (or `libzookeeper-java`
//! and any Java), which are run by the virtual machine itself: the package's scripts want its user.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use super::{Cluster, ClusterError, NODES, Start, Timeouts, find};

/// The server. Its manifest names everything else that it needs.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// What it logs with.
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";

const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// Memory, as `zkServer.sh` gives it.
const HEAP: &str = "-Xmx1000m";

/// The one question that a server answers as it comes, and what it says once it serves.
const QUESTION: &str = "srvr";
const ANSWER: &str = "Mode: ";

/// The settings of the example that comes with it: a follower gives its leader up after 5 ticks of
/// 2 s, and a session lasts 2 to 20 ticks.
const DEFAULT: &str = "tickTime=2000\ninitLimit=10\nsyncLimit=5\n";

/// Settings that are near to lockd's: 5 ticks of 0.1 s. Sessions may last as long as before.
const LIKE_LOCKD: &str =
    "tickTime=100\ninitLimit=100\nsyncLimit=5\nminSessionTimeout=1000\nmaxSessionTimeout=40000\n";

/// Starts an ensemble, durable as it comes.
///
/// # Errors
/// [`ClusterError`] says what to install or what went wrong.
pub fn start(timeouts: Timeouts) -> Result<Cluster, ClusterError> {
    let java = find("java").filter(|_| Path::new(JAR).is_file());
    let java = java.ok_or(ClusterError::NotInstalled {
        what: "ZooKeeper server",
        package: "zookeeper",
    })?;
    let settings = match timeouts {
        Timeouts::Default => DEFAULT,
        Timeouts::LikeLockd => LIKE_LOCKD,
    };
    Cluster::start(3 * NODES, |directory, ports| {
        let (clients, others) = ports.split_at(NODES);
        let (followers, elections) = others.split_at(NODES);
        let mut members = String::new();
        for (node, (follow, elect)) in followers.iter().zip(elections).enumerate() {
            members += &format!("server.{}=127.0.0.1:{follow}:{elect}\n", node + 1);
        }
        let mut nodes = Vec::new();
        for (node, &client) in clients.iter().enumerate() {
            let number = node + 1;
            let data = directory.join(format!("node-{number}"));
            std::fs::create_dir(&data)?;
            std::fs::write(data.join("myid"), format!("{number}\n"))?;
            let config = directory.join(format!("node-{number}.cfg"));
            let text = format!(
                "{settings}dataDir={}\nclientPort={client}\nclientPortAddress=127.0.0.1\n\
                 maxClientCnxns=0\nadmin.enableServer=false\n{members}",
                data.display()
            );
            std::fs::write(&config, text)?;
            let class_path = format!("{JAR}:{LOGGER}");
            let arguments = [
                HEAP.into(),
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".into(),
                "-cp".into(),
                OsString::from(class_path),
                MAIN.into(),
                config.into_os_string(),
            ];
            let start = Start {
                program: java.clone(),
                arguments: arguments.to_vec(),
                log: directory.join(format!("node-{number}.log")),
                address: SocketAddr::from(([127, 0, 0, 1], client)),
                question: QUESTION,
                answer: ANSWER,
            };
            nodes.push((start, format!("127.0.0.1:{client}")));
        }
        Ok(nodes)
    })
}
