//! What the machine and its processes spend, as the kernel tells it (Linux), and how fast the
//! disk syncs.

pub mod environment;

pub use environment::Machine;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::ClockId;

/// Appends and syncs that the disk's latency is taken from.
const SYNC_SAMPLES: usize = 200;

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Bytes of each append: about a small log record.
const SYNC_BYTES: usize = 128;

/// CPU time of this process so far, user and system.
#[must_use]
pub fn own_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

/// CPU time of a process and of all that descend from it so far, user and system, also of those
/// that have ended; zero if it is no more.
#[must_use]
pub fn cpu_of(pid: u32) -> Duration {
    let spent = |pid: &u32| {
        let ended_children = ended_children_ticks(&stat_of(*pid)).unwrap_or_default();
        own_cpu_of(*pid).unwrap_or_default() + ticks(ended_children)
    };
    family_of(pid).iter().map(spent).sum()
}

/// CPU time of a process and its threads alone. Its clock is asked, since `/proc` rounds down to
/// ticks: of a server with a process for each client, most would be lost.
fn own_cpu_of(pid: u32) -> Option<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    let clock = nix::time::clock_getcpuclockid(pid).ok()?;
    nix::time::clock_gettime(clock).ok().map(Duration::from)
}

/// A process, its children, their children and so on, as they are now.
fn family_of(pid: u32) -> Vec<u32> {
    let parents = parents();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(child, _)| child));
        next += 1;
    }
    family
}

/// Every process of this machine with its parent.
fn parents() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(&stat_of(pid))?)))
        .collect()
}

fn stat_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

/// The parent's id out of `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    stat_fields(stat)?.nth(1)?.parse().ok()
}

/// User plus system ticks of the process's children that have ended, with theirs, out of
/// `/proc/PID/stat`.
fn ended_children_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat_fields(stat)?.skip(13);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// The fields of `/proc/PID/stat` from the third on. The program's name may contain anything, so
/// they are counted behind its closing parenthesis.
fn stat_fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace())
}

/// CPU time that all processors together have spent on anything but idling.
#[must_use]
pub fn machine_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    ticks(busy_ticks(&stat).unwrap_or_default())
}

/// Busy ticks out of the first line of `/proc/stat`: user, nice, system, irq and softirq.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|&at| fields.get(at));
    (fields.len() > 6).then(|| busy.sum())
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs_f64(count as f64 / per_second as f64)
}

/// Memory of a process and of all that descend from it, bytes: their own and their share of what
/// they share. Zero if it is no more.
#[must_use]
pub fn memory_of(pid: u32) -> u64 {
    family_of(pid).into_iter().map(own_memory_of).sum()
}

/// Memory of a process without those that descend from it, bytes.
#[must_use]
pub fn own_memory_of(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    proportional_bytes(&rollup.unwrap_or_default()).unwrap_or_default()
}

fn proportional_bytes(rollup: &str) -> Option<u64> {
    Some(kib_of(rollup, "Pss:")? * 1024)
}

/// The most memory that a process has had, bytes. Zero if it is no more.
#[must_use]
pub fn peak_memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib_of(&status, "VmHWM:").unwrap_or_default() * 1024
}

fn kib_of(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// How fast the disk under a directory makes small appends durable.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SyncLatency {
    /// Median, microseconds.
    pub p50: f64,
    /// 99th percentile, microseconds.
    pub p99: f64,
    /// What kind of file system that is, and on which device.
    #[serde(default)]
    pub filesystem: String,
}

/// Measures the latency of an append and `fdatasync` in `directory`.
///
/// # Errors
/// When the file cannot be written there.
pub fn sync_latency(directory: &Path) -> std::io::Result<SyncLatency> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut histogram = latencies();
    for _ in 0..SYNC_SAMPLES {
        let start = Instant::now();
        file.write_all(&[b'.'; SYNC_BYTES])?;
        file.sync_data()?;
        histogram.saturating_record(nanoseconds(start.elapsed()));
    }
    let microseconds = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(SyncLatency {
        p50: microseconds(0.5),
        p99: microseconds(0.99),
        filesystem: environment::filesystem_of(directory),
    })
}

/// An empty histogram of latencies, in nanoseconds: three digits between a microsecond and an hour.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    // These bounds are sound, so this cannot fail.
    Histogram::new_with_bounds(1000, nanoseconds(LATENCY_MAX), 3)
        .unwrap_or_else(|error| panic!("the histogram's bounds are wrong: {error}"))
}

/// A duration as histograms take it.
#[must_use]
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;

    #[test]
    fn the_kernel_s_line_is_read_behind_any_program_name() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194560 100 0 0 0 20 10 31 11 20 0 1 0 5 1 1";
        assert_eq!(ended_children_ticks(stat), Some(42));
        assert_eq!(parent(stat), Some(3));
        assert_eq!(ended_children_ticks(""), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn what_a_process_spends_is_told_however_little_it_is() {
        let own = std::process::id();
        let before = cpu_of(own);
        assert!(before > Duration::ZERO);
        // Looking costs far less than a tick.
        assert!(cpu_of(own) > before);
        assert_eq!(own_cpu_of(u32::MAX), None);
    }

    #[test]
    fn a_process_is_counted_with_its_children_and_their_children() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "(read forever; exit $forever); exit $?"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let own = std::process::id();
        // The shell makes its child in its own time.
        let child = loop {
            let family = family_of(shell.id());
            if let [_, child] = family[..] {
                break child;
            }
            assert_eq!(shell.try_wait().unwrap(), None);
            std::thread::yield_now();
        };
        let family = family_of(own);
        assert_eq!(family[0], own);
        assert!(family.contains(&shell.id()) && family.contains(&child));
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(!family_of(own).contains(&child));
    }

    #[test]
    fn what_an_ended_child_has_spent_stays_with_its_parent() {
        let count = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &format!("({count}); echo counted; read forever")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "counted\n");
        assert_eq!(family_of(shell.id()), [shell.id()]);
        assert!(cpu_of(shell.id()) > Duration::ZERO);
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        assert_eq!(
            busy_ticks("cpu  1 2 4 100 100 8 16 0 0 0\ncpu0 1 1"),
            Some(31)
        );
        assert_eq!(busy_ticks("cpu  1 2"), None);
    }

    #[test]
    fn memory_is_the_proportional_share() {
        let rollup = "5581-7ffc ---p 0 [rollup]\nRss:  1 kB\nPss:    12 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(proportional_bytes(rollup), Some(12 * 1024));
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let memory = memory_of(std::process::id());
        assert!(memory > 0 && peak_memory_of(std::process::id()) >= memory);
        assert!(own_cpu() > Duration::ZERO);
        assert!(machine_cpu() > Duration::ZERO);
    }

    #[test]
    fn the_disk_s_latency_can_be_measured() {
        let directory = tempfile::tempdir().unwrap();
        let latency = sync_latency(directory.path()).unwrap();
        assert!(latency.p50 > 1.0 && latency.p99 >= latency.p50);
    }
}
