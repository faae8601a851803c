//! Provides the programs of other projects that the tests start: PostgreSQL's server and tools.
//!
//! Where it may (root, `apt-get`) it installs them; where it may not, it says what to install.
//! It never starts a server and never skips a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

/// The programs that tests start, all of them in [`PACKAGE`] or what it depends on.
const PROGRAMS: [&str; 4] = ["postgres", "initdb", "psql", "pgbench"];

/// The Debian and Ubuntu package that brings all of [`PROGRAMS`].
const PACKAGE: &str = "postgresql";

/// Debian keeps the server's programs out of `PATH`, one directory per major version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";

/// Tells Debian's packaging not to create, and so not to start, a server of its own.
const CLUSTER_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";

/// Makes sure that all [`PROGRAMS`] are there.
pub(crate) fn provide() -> Result<(), Failure> {
    let missing = missing_programs(&search_path());
    if missing.is_empty() {
        println!("xtask: PostgreSQL's programs are installed");
        return Ok(());
    }
    let missing = missing.join(", ");
    if !may_install() {
        return Err(Failure(format!(
            "the tests need {missing}: as root, run `apt-get install {PACKAGE}`, or put \
             PostgreSQL's programs on the PATH, and start this again"
        )));
    }
    println!("xtask: {missing} missing: installing the package {PACKAGE}");
    install()?;
    match missing_programs(&search_path()).as_slice() {
        [] => Ok(()),
        still => Err(Failure(format!(
            "the package {PACKAGE} is installed, yet {} cannot be found on the PATH or under \
             {DEBIAN_VERSIONS}/*/bin",
            still.join(", ")
        ))),
    }
}

fn install() -> Result<(), Failure> {
    if !Path::new(CLUSTER_SETTINGS).exists() {
        println!("xtask: writing {CLUSTER_SETTINGS}, so that the package starts no server");
        let written = std::fs::create_dir_all("/etc/postgresql-common")
            .and_then(|()| std::fs::write(CLUSTER_SETTINGS, "create_main_cluster = false\n"));
        if let Err(error) = written {
            return Err(Failure(format!("cannot write {CLUSTER_SETTINGS}: {error}")));
        }
    }
    let install = ["install", "-y", "--no-install-recommends", PACKAGE];
    // The package index may be missing or out of date: only then is it fetched.
    if apt_get(&install) || (apt_get(&["update"]) && apt_get(&install)) {
        return Ok(());
    }
    Err(Failure(format!(
        "`apt-get {}` failed: see its messages above",
        install.join(" ")
    )))
}

fn apt_get(arguments: &[&str]) -> bool {
    println!("xtask: apt-get {}", arguments.join(" "));
    Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
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

fn missing_programs(directories: &[PathBuf]) -> Vec<&'static str> {
    missing_from(&PROGRAMS, directories)
}

fn missing_from(programs: &[&'static str], directories: &[PathBuf]) -> Vec<&'static str> {
    let is_there = |program: &str| directories.iter().any(|d| d.join(program).is_file());
    let missing = programs.iter().filter(|program| !is_there(program));
    missing.copied().collect()
}

fn search_path() -> Vec<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_VERSIONS).into_iter().flatten();
    let debian = versions.flatten().map(|version| version.path().join("bin"));
    path_directories().into_iter().chain(debian).collect()
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
        let missing = missing_programs(std::slice::from_ref(&directory));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(missing, ["postgres", "initdb", "pgbench"]);
    }
}
