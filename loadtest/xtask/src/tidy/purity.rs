//! Pure modules take time, randomness and the results of I/O as inputs. This rule finds those
//! that reach for them.
//!
//! It looks at paths (`a::b::c`, with `use` trees taken apart), so a variable called `rand` or a
//! type of our own that happens to be called like one of the standard library's is no finding.

use super::Finding;
use super::source::Source;

/// A directory of pure modules.
struct Pure {
    directory: &'static str,
    except: &'static [&'static str],
    /// Where randomness alone is allowed, because all of it comes from one seed.
    seeded: &'static [&'static str],
}

const PURE: &[Pure] = &[
    Pure {
        directory: "paxos/src/",
        except: &["paxos/src/store/", "paxos/src/store.rs"],
        seeded: &["paxos/src/sim/", "paxos/src/sim.rs"],
    },
    pure("lockd/src/state/"),
    pure("lockd/src/state.rs"),
    pure("lockd/protocol/src/"),
    pure("lockd/client/src/core/"),
    pure("lockd/client/src/core.rs"),
    pure("gateway/src/fence/"),
    pure("gateway/src/fence.rs"),
];

const fn pure(directory: &'static str) -> Pure {
    Pure {
        directory,
        except: &[],
        seeded: &[],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Impurity {
    Runtime,
    Socket,
    Clock,
    Randomness,
    Environment,
    Thread,
    File,
    HashOrder,
}

impl Impurity {
    fn describe(self) -> &'static str {
        match self {
            Impurity::Runtime => "an async runtime: move the I/O into the shell around this module",
            Impurity::Socket => "sockets: move the I/O into the shell around this module",
            Impurity::Clock => "a clock: take the time as an argument",
            Impurity::Randomness => "randomness: take the drawn value or a seed as an argument",
            Impurity::Environment => "the environment: take the setting as an argument",
            Impurity::Thread => "threads: move them into the shell around this module",
            Impurity::File => "files or processes: move the I/O into the shell around this module",
            Impurity::HashOrder => {
                "a hash table, whose order differs from run to run: use a BTreeMap or BTreeSet"
            }
        }
    }
}

/// Consecutive segments anywhere in a path, and what they reach for. `*` is a glob import.
const FORBIDDEN: &[(&[&str], Impurity)] = &[
    (&["tokio"], Impurity::Runtime),
    (&["async_std"], Impurity::Runtime),
    (&["futures", "executor"], Impurity::Runtime),
    (&["quinn"], Impurity::Socket),
    (&["hyper"], Impurity::Socket),
    (&["mio"], Impurity::Socket),
    (&["socket2"], Impurity::Socket),
    (&["std", "net", "*"], Impurity::Socket),
    (&["TcpStream"], Impurity::Socket),
    (&["TcpListener"], Impurity::Socket),
    (&["UdpSocket"], Impurity::Socket),
    (&["UnixStream"], Impurity::Socket),
    (&["UnixListener"], Impurity::Socket),
    (&["UnixDatagram"], Impurity::Socket),
    (&["ToSocketAddrs"], Impurity::Socket),
    (&["time", "Instant"], Impurity::Clock),
    (&["time", "SystemTime"], Impurity::Clock),
    (&["time", "UNIX_EPOCH"], Impurity::Clock),
    (&["std", "time", "*"], Impurity::Clock),
    (&["Instant", "now"], Impurity::Clock),
    (&["SystemTime"], Impurity::Clock),
    (&["clock_gettime"], Impurity::Clock),
    (&["rustix"], Impurity::Clock),
    (&["libc"], Impurity::Clock),
    (&["rand"], Impurity::Randomness),
    (&["rand_core"], Impurity::Randomness),
    (&["rand_pcg"], Impurity::Randomness),
    (&["rand_chacha"], Impurity::Randomness),
    (&["fastrand"], Impurity::Randomness),
    (&["getrandom"], Impurity::Randomness),
    (&["std", "env"], Impurity::Environment),
    (&["env", "var"], Impurity::Environment),
    (&["env", "var_os"], Impurity::Environment),
    (&["env", "vars"], Impurity::Environment),
    (&["env", "args"], Impurity::Environment),
    (&["std", "thread"], Impurity::Thread),
    (&["thread", "spawn"], Impurity::Thread),
    (&["thread", "sleep"], Impurity::Thread),
    (&["std", "fs"], Impurity::File),
    (&["std", "process"], Impurity::File),
    (&["HashMap"], Impurity::HashOrder),
    (&["HashSet"], Impurity::HashOrder),
    (&["RandomState"], Impurity::HashOrder),
    (&["DashMap"], Impurity::HashOrder),
    (&["std", "collections", "*"], Impurity::HashOrder),
];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let begins = |starts: &[&str]| starts.iter().any(|start| source.path.starts_with(start));
    let Some(pure) = PURE.iter().find(|pure| begins(&[pure.directory])) else {
        return;
    };
    if begins(pure.except) || source.is_test() {
        return;
    }
    let code = source.code_without_tests();
    let mut seen = None;
    for path in paths(&code) {
        let Some((what, impurity)) = reach(&path.segments) else {
            continue;
        };
        let seeded = impurity == Impurity::Randomness && begins(pure.seeded);
        // One finding for a line is enough: `use tokio::{a, b}` is one mistake.
        if seeded || seen.replace((path.line, what)) == Some((path.line, what)) {
            continue;
        }
        findings.push(Finding {
            path: source.path.clone(),
            line: path.line,
            what: format!(
                "`{}` in a pure module: it reaches for {}",
                path.segments.join("::"),
                impurity.describe()
            ),
        });
    }
}

/// What a path reaches for, if it does.
fn reach(path: &[&str]) -> Option<(&'static [&'static str], Impurity)> {
    let hit = FORBIDDEN.iter().find(|(segments, _)| {
        let found = path
            .windows(segments.len())
            .any(|window| window == *segments);
        // A lone lower-case word is a variable or a module of our own, not a crate.
        let lone_word = path.len() == 1 && path[0].starts_with(|c: char| c.is_lowercase());
        found && !lone_word
    });
    hit.copied()
}

/// A path in the code. A `use` tree gives one for each of its leaves.
struct CodePath<'a> {
    line: usize,
    segments: Vec<&'a str>,
}

fn paths(code: &str) -> Vec<CodePath<'_>> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = use_tree(&tokens, at + 1, &[], &mut paths);
        } else if is_name(tokens[at].text) {
            at = plain_path(&tokens, at, &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads `a::b::c` from `at` on; returns where to go on.
fn plain_path<'a>(tokens: &[Token<'a>], at: usize, paths: &mut Vec<CodePath<'a>>) -> usize {
    let mut segments = vec![tokens[at].text];
    let mut next = at + 1;
    while let Some([colons, name]) = tokens.get(next..next + 2)
        && colons.text == "::"
        && is_name(name.text)
    {
        segments.push(name.text);
        next += 2;
    }
    paths.push(CodePath {
        line: tokens[at].line,
        segments,
    });
    next
}

/// Reads a `use` tree from `at` on, below `prefix`; returns where to go on.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    paths: &mut Vec<CodePath<'a>>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut line = None;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    let before = at;
                    at = use_tree(tokens, at, &segments, paths);
                    // Nothing that compiles gets stuck here; what does not must end too.
                    at = at.max(before + 1);
                }
                return skip(tokens, at + 1, ",");
            }
            "," | ";" | "}" => break,
            // The new name says nothing about what is reached for.
            "as" => at += 1,
            "self" if !segments.is_empty() => line = line.or(Some(token.line)),
            text if is_name(text) || text == "*" => {
                line = line.or(Some(token.line));
                segments.push(text);
            }
            _ => {}
        }
        at += 1;
    }
    if let Some(line) = line {
        // A name imported by itself is the crate of that name.
        if segments.len() == 1 {
            segments.push("self");
        }
        paths.push(CodePath { line, segments });
    }
    skip(tokens, at, ",")
}

fn skip(tokens: &[Token<'_>], at: usize, text: &str) -> usize {
    at + usize::from(tokens.get(at).is_some_and(|token| token.text == text))
}

struct Token<'a> {
    line: usize,
    text: &'a str,
}

/// Names, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, mut rest) in code.lines().enumerate() {
        rest = rest.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_name_char(first) {
                rest.find(|c| !is_name_char(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, tail) = rest.split_at(length);
            tokens.push(Token {
                line: index + 1,
                text,
            });
            rest = tail.trim_start();
        }
    }
    tokens
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| is_name_char(c) && !c.is_numeric())
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_in(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source::new(path.into(), text.into()), &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    fn findings(text: &str) -> Vec<String> {
        findings_in("lockd/src/state/locks.rs", text)
    }

    #[test]
    fn every_kind_of_impurity_is_found() {
        for (snippet, expected) in [
            (
                "async fn f() { tokio::time::sleep(d).await }",
                "async runtime",
            ),
            ("use tokio::sync::Mutex;", "async runtime"),
            ("use std::net::UdpSocket;", "sockets"),
            ("use std::{io, net::{SocketAddr, TcpStream}};", "sockets"),
            ("use quinn::Connection;", "sockets"),
            ("use std::time::{Duration, Instant};", "a clock"),
            ("fn f(now: std::time::Instant) {}", "a clock"),
            ("use std::time::*;", "a clock"),
            (
                "use std::time;\nfn f() { time::SystemTime::now(); }",
                "a clock",
            ),
            ("fn f() { rustix::time::clock_gettime(id) }", "a clock"),
            ("let x = rand::random::<u64>();", "randomness"),
            ("use ring::rand::SystemRandom;", "randomness"),
            ("use getrandom;", "randomness"),
            ("let home = std::env::var(name);", "environment"),
            ("use std::{env, fmt};", "environment"),
            ("std::thread::spawn(f);", "threads"),
            ("use std::fs;", "files"),
            ("use std::collections::{BTreeMap, HashMap};", "hash table"),
            ("let seen = HashSet::new();", "hash table"),
            ("use std::collections::*;", "hash table"),
        ] {
            let found = findings(snippet);
            assert_eq!(found.len(), 1, "{snippet}: {found:?}");
            assert!(found[0].contains(expected), "{snippet}: {found:?}");
        }
    }

    #[test]
    fn a_finding_names_file_line_path_and_remedy() {
        assert_eq!(
            findings("//! a\n\nuse std::{\n    fmt,\n    time::Instant,\n};\n"),
            [
                "lockd/src/state/locks.rs:5: `std::time::Instant` in a pure module: it reaches for \
              a clock: take the time as an argument"
            ]
        );
    }

    #[test]
    fn pure_code_has_no_findings() {
        let text = "//! tokio, Instant::now(), HashMap\n\
                    use std::collections::BTreeMap;\nuse std::net::SocketAddr;\n\
                    use std::time::Duration;\nuse crate::Instant;\n\
                    fn f(now: Instant, rand: u64, env: &str) -> u64 { rand + env.len() as u64 }\n\
                    const A: &str = \"std::env::var\";\n\
                    #[cfg(test)]\nmod tests { use std::collections::HashMap; }\n";
        assert_eq!(findings(text), Vec::<String>::new());
    }

    #[test]
    fn every_pure_directory_is_watched_and_no_other() {
        let impure = "use std::collections::HashMap;";
        for path in [
            "paxos/src/replica.rs",
            "paxos/src/sim/network.rs",
            "lockd/src/state/sessions.rs",
            "lockd/src/state.rs",
            "lockd/protocol/src/frame.rs",
            "lockd/client/src/core/lease.rs",
            "gateway/src/fence/decision.rs",
        ] {
            assert_eq!(findings_in(path, impure).len(), 1, "{path}");
        }
        for path in [
            "paxos/src/store/redb.rs",
            "paxos/tests/restart.rs",
            "lockd/src/server/node.rs",
            "lockd/src/state/tests.rs",
            "lockd/client/src/client.rs",
            "gateway/src/postgres/session.rs",
        ] {
            assert_eq!(findings_in(path, impure), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn the_simulator_may_draw_from_its_seed_but_not_look_at_the_clock() {
        let path = "paxos/src/sim/network.rs";
        assert_eq!(findings_in(path, "use rand::Rng;"), Vec::<String>::new());
        assert_eq!(findings_in(path, "use std::time::Instant;").len(), 1);
    }
}
