//! Where a result was made: figures of two machines are not to be compared without a look at this.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{family_of, kib_of};

/// Longest version of a program that is kept, characters.
const VERSION_MAX: usize = 120;

/// Where a run took place, for whoever compares figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// What the processors are called.
    #[serde(default)]
    pub cpu: String,
    /// Memory, bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The distribution.
    #[serde(default)]
    pub os: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn describe() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model_name(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: kib_of(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default() * 1024,
            os: pretty_name(&read("/etc/os-release")).unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

/// The processor's name out of `/proc/cpuinfo`; not every architecture has it there.
fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// The distribution's name out of `/etc/os-release`.
fn pretty_name(release: &str) -> Option<String> {
    let value = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// What kind of file system a directory is on, and on which device: `ext4 on /dev/vda1`.
#[must_use]
pub fn filesystem_of(directory: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let directory = directory.canonicalize().unwrap_or_default();
    filesystem_in(&mounts, &directory).unwrap_or_else(|| "unknown".to_owned())
}

/// Of several mounts at the same place, the last one is on top.
fn filesystem_in(mounts: &str, directory: &Path) -> Option<String> {
    let mounted = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
        let mut source = source.split(' ');
        let (kind, device) = (source.next()?, source.next()?);
        let depth = point.components().count();
        let holds = directory.starts_with(&point);
        holds.then(|| (depth, format!("{kind} on {device}")))
    };
    let deepest = mounts
        .lines()
        .filter_map(mounted)
        .max_by_key(|(depth, _)| *depth);
    deepest.map(|(_, filesystem)| filesystem)
}

/// The versions of the programs that these processes and those that descend from them run, by the
/// program's name, as each tells when asked with `--version`. This program is not asked.
#[must_use]
pub fn versions_of(pids: &[u32]) -> BTreeMap<String, String> {
    let own = std::env::current_exe().ok();
    let mut versions = BTreeMap::new();
    for pid in pids.iter().flat_map(|pid| family_of(*pid)) {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = name.trim();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        if let Some(program) = program.filter(|program| Some(program) != own.as_ref())
            && !versions.contains_key(name)
            && let Some(version) = version_of(&program, name)
        {
            versions.insert(name.to_owned(), version);
        }
    }
    versions
}

/// `name` is what the program was started as: some are several programs, and go by that.
fn version_of(program: &Path, name: &str) -> Option<String> {
    let output = Command::new(program)
        .arg0(name)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next()?.trim();
    let known = output.status.success() && !line.is_empty();
    known.then(|| line.chars().take(VERSION_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
30 22 0:25 / /tmp rw shared:2 - tmpfs tmpfs rw\n\
31 30 254:2 / /tmp/my\\040disk rw - xfs /dev/vdb rw\n\
32 31 254:3 / /tmp/my\\040disk rw - btrfs /dev/vdc rw\n";

    #[test]
    fn the_deepest_and_last_mount_tells_the_file_system() {
        let of = |path: &str| filesystem_in(MOUNTS, Path::new(path));
        assert_eq!(of("/home/me").as_deref(), Some("ext4 on /dev/vda1"));
        assert_eq!(of("/tmp/x").as_deref(), Some("tmpfs on tmpfs"));
        assert_eq!(of("/tmpx").as_deref(), Some("ext4 on /dev/vda1"));
        assert_eq!(of("/tmp/my disk/x").as_deref(), Some("btrfs on /dev/vdc"));
        assert_eq!(filesystem_in("", Path::new("/")), None);
    }

    #[test]
    fn the_machine_s_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A (TM) CPU: 3 GHz\nmodel name\t: B\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("A (TM) CPU: 3 GHz"));
        assert_eq!(model_name("processor\t: 0\n"), None);
        let release = "ID=x\nPRETTY_NAME=\"X 12\"\n";
        assert_eq!(pretty_name(release).as_deref(), Some("X 12"));
        let machine = Machine::describe();
        assert!(machine.cores > 0 && machine.memory_bytes > 0);
        assert!(!machine.kernel.is_empty() && !machine.cpu.is_empty() && !machine.os.is_empty());
        assert_ne!(filesystem_of(Path::new("/")), "");
    }

    #[test]
    fn a_server_s_program_is_asked_for_its_version() {
        let mut shell = Command::new("bash")
            .args(["-c", "read forever; exit $?"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel lets `spawn` return when the program has taken the place of this one.
        let versions = versions_of(&[shell.id()]);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let [(name, version)] = versions.into_iter().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(name, "bash");
        assert!(version.contains("version"), "{version}");
    }
}
