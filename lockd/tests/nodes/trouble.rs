//! Real trouble for a real process: calls to the kernel that fail or never come back, and a file
//! system that is full.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::cli_support::pid;

/// The thread of a node that writes its log.
pub(crate) const DISK_THREAD: &str = "lockd-disk";

/// A fault in the syncs of one thread of a process, until this is ended.
pub(crate) struct SyncFault(Child);

impl SyncFault {
    /// What strace calls an injection, like `error=EIO:when=3`.
    pub(crate) fn inject(process: u32, thread: &str, fault: &str) -> SyncFault {
        let thread = thread_of(process, thread);
        let inject = format!("inject=fdatasync:{fault}");
        let mut strace = Command::new("strace");
        strace.args(["-e", "trace=fdatasync", "-e", &inject, "-p", &thread]);
        strace.stdin(Stdio::null()).stdout(Stdio::null());
        let started = strace.stderr(Stdio::piped()).spawn();
        let mut strace = started.expect("strace is installed: `apt-get install strace`");
        let mut said = BufReader::new(strace.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("readable");
        assert!(
            line.contains("attached"),
            "strace must be allowed to trace (in a container: CAP_SYS_PTRACE): {line}"
        );
        // What it goes on to say is of no use, but must not block it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        SyncFault(strace)
    }

    /// The disk works again.
    pub(crate) fn end(mut self) {
        kill_process(pid(self.0.id()), Signal::TERM).expect("it runs");
        self.0.wait().expect("our child");
    }
}

impl Drop for SyncFault {
    fn drop(&mut self) {
        // Fails if it has ended already, with the process that it traced.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a command meet such a fault in all of its threads, from its start on.
pub(crate) fn with_sync_fault(command: &Command, fault: &str) -> Command {
    let inject = format!("inject=fdatasync:{fault}");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        &inject,
    ]);
    wrap(strace, command)
}

/// A command that runs another one, with its environment.
fn wrap(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

fn thread_of(process: u32, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let named = tasks.filter_map(Result::ok).find(|task| {
        let command = std::fs::read_to_string(task.path().join("comm"));
        command.is_ok_and(|command| command.trim_end() == name)
    });
    let named = named.unwrap_or_else(|| panic!("there is no thread {name}"));
    named.file_name().into_string().expect("a number")
}

/// A file system in memory in the place of a directory, with what was in it, seen only by this
/// process and those that join it. It is gone when this is dropped.
pub(crate) struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    pub(crate) fn over(at: &Path, bytes: u64) -> SmallDisk {
        let script = "cp -a \"$0\" \"$0.original\" && mount -t tmpfs -o size=$1 lockd \"$0\" \
                      && cp -a \"$0.original/.\" \"$0\" && echo mounted && read -r _";
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["--mount", "sh", "-c", script]).arg(at);
        unshare.arg(bytes.to_string());
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let holder = unshare.stderr(Stdio::piped()).spawn();
        let mut holder = holder.expect("unshare is installed (util-linux)");
        let mut line = String::new();
        let mut out = BufReader::new(holder.stdout.as_mut().expect("piped"));
        out.read_line(&mut line).expect("readable");
        if line != "mounted\n" {
            let mut why = String::new();
            let mut said = holder.stderr.take().expect("piped");
            let _ = said.read_to_string(&mut why);
            panic!(
                "this test mounts a tmpfs in a mount namespace of its own: run it as root (in a \
                 container: CAP_SYS_ADMIN), or where user namespaces are allowed: {why}"
            );
        }
        let at = at.to_owned();
        SmallDisk { holder, at }
    }

    /// Has a command see this disk.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--mount", "--target", &self.holder.id().to_string()]);
        if !rustix::process::geteuid().is_root() {
            entered.args(["--user", "--preserve-credentials"]);
        }
        wrap(entered, command)
    }

    /// Uses up all the room that is left.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("created");
        for bytes in [&[1; 4096][..], &[1]] {
            while file.write_all(bytes).is_ok() {}
        }
    }

    /// Gives it back.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let inside = self.at.strip_prefix("/").expect("absolute");
        root.join(inside).join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
