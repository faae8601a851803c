//! Provides the programs of other projects that the tests start: servers of databases and tools.
//!
//! Where it may (root, `apt-get`) it installs them; where it may not, it says what to install.
//! It never starts a server and never skips a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

/// Packages of Debian and Ubuntu, and the programs that tests start from them or from what they
/// depend on.
const PACKAGES: &[(&str, &[&str])] = &[
    ("postgresql", &["postgres", "initdb", "psql", "pgbench"]),
    (
        "mariadb-server",
        &["mariadbd", "mariadb-install-db", "mariadb"],
    ),
    // With it the tests have sessions share connections to PostgreSQL.
    ("pgbouncer", &["pgbouncer"]),
    ("redis-server", &["redis-server", "redis-cli"]),
    ("etcd-server", &["etcd"]),
    // ZooKeeper is its jars and a virtual machine; its own package would bring a desktop's as well.
    ("default-jre-headless", &["java"]),
    ("libzookeeper-java", &["zookeeper.jar"]),
    // A server that knows nothing of tokens, with WebDAV.
    ("nginx", &["nginx"]),
    // With it the tests have a running node's calls to the kernel fail or hang.
    ("strace", &["strace"]),
    // With it the tests move a node's wall clock.
    ("faketime", &["faketime"]),
];

/// Debian keeps PostgreSQL's programs out of `PATH`, one directory per major version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";

/// Tells Debian's packaging not to create, and so not to start, a server of its own.
const CLUSTER_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";

/// A link to nowhere in these places tells systemd not to start the packages' servers.
const UNITS: [&str; 5] = [
    "/etc/systemd/system/pgbouncer.service",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/nginx.service",
    "/etc/systemd/system/redis-server.service",
    "/etc/systemd/system/mariadb.service",
];

/// Makes sure that all programs of [`PACKAGES`] are there.
pub(crate) fn provide() -> Result<(), Failure> {
    for (package, programs) in PACKAGES {
        let missing = missing_from(programs, &search_path());
        if missing.is_empty() {
            println!("xtask: the programs of {package} are installed");
            continue;
        }
        let missing = missing.join(", ");
        if !may_install() {
            return Err(Failure(format!(
                "the tests need {missing}: as root, run `apt-get install {package}`, or put them \
                 on the PATH, and start this again"
            )));
        }
        println!("xtask: {missing} missing: installing the package {package}");
        install(package)?;
        let still = missing_from(programs, &search_path());
        if !still.is_empty() {
            return Err(Failure(format!(
                "the package {package} is installed, yet {} cannot be found on the PATH or under \
                 {DEBIAN_VERSIONS}/*/bin",
                still.join(", ")
            )));
        }
    }
    Ok(())
}

fn install(package: &str) -> Result<(), Failure> {
    keep_servers_from_starting()?;
    let install = ["install", "-y", "--no-install-recommends", package];
    // The package index may be missing or out of date: only then is it fetched.
    if apt_get(&install) || (apt_get(&["update"]) && apt_get(&install)) {
        return Ok(());
    }
    Err(Failure(format!(
        "`apt-get {}` failed: see its messages above",
        install.join(" ")
    )))
}

fn keep_servers_from_starting() -> Result<(), Failure> {
    let failed = |file: &str, error| Failure(format!("cannot write {file}: {error}"));
    if !Path::new(CLUSTER_SETTINGS).exists() {
        println!(
            "xtask: writing {CLUSTER_SETTINGS}, so that PostgreSQL's package starts no server"
        );
        std::fs::create_dir_all("/etc/postgresql-common")
            .and_then(|()| std::fs::write(CLUSTER_SETTINGS, "create_main_cluster = false\n"))
            .map_err(|error| failed(CLUSTER_SETTINGS, error))?;
    }
    for unit in UNITS {
        if std::fs::symlink_metadata(unit).is_err() {
            println!("xtask: masking {unit}, so that its package starts no server");
            std::fs::create_dir_all("/etc/systemd/system")
                .and_then(|()| std::os::unix::fs::symlink("/dev/null", unit))
                .map_err(|error| failed(unit, error))?;
        }
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> bool {
    println!("xtask: apt-get {}", arguments.join(" "));
    Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The same for machines without systemd.
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn may_install() -> bool {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    is_root && !missing_from(&["apt-get"], &path_directories()).contains(&"apt-get")
}

fn missing_from(programs: &[&'static str], directories: &[PathBuf]) -> Vec<&'static str> {
    let is_there = |program: &str| directories.iter().any(|d| d.join(program).is_file());
    let missing = programs.iter().filter(|program| !is_there(program));
    missing.copied().collect()
}

fn search_path() -> Vec<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_VERSIONS).into_iter().flatten();
    let debian = versions.flatten().map(|version| version.path().join("bin"));
    // Servers are there, where a user's PATH may not lead, and Java's programs.
    let others = ["/usr/sbin", "/usr/share/java"].map(PathBuf::from);
    let path = path_directories().into_iter();
    path.chain(others).chain(debian).collect()
}

fn path_directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_that_no_directory_has_are_missing() {
        let directory = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("psql"), "").unwrap();
        let programs = &["postgres", "psql"];
        let missing = missing_from(programs, std::slice::from_ref(&directory));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(missing, ["postgres"]);
    }
}
