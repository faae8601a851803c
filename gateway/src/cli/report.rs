//! `gateway check` and `gateway fences`: what is printed.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{CHECK_FAILED, CONFIG, Failure, UNREACHABLE, nothing_to_install, runtime};
use crate::cell::StaticCell;
use crate::config::{Config, HttpConfig, PostgresConfig, RedisConfig, Upstream};
use crate::findings::Severity;
use crate::http::control::{Question, Reply};
use crate::limits::FENCES_LISTED_MAX;
use crate::postgres::Gateway;
use crate::server::ServeError;
use crate::store::engine::Store;
use crate::tickets;
use crate::{http, mysql, postgres, redis};

/// Prints what is missing and what mends it.
pub(super) fn check(file: &Path) -> Result<(), Failure> {
    let (findings, rules) = match Config::load(file)?.upstream {
        Upstream::Postgres(config) => {
            let findings = runtime()?.block_on(postgres::check::check(&config));
            (findings.map_err(ServeError::from)?, config.guards.len())
        }
        Upstream::Mysql(config) => {
            let findings = runtime()?.block_on(mysql::check::check(&config));
            (findings.map_err(ServeError::from)?, config.guards.len())
        }
        Upstream::Redis(config) => {
            let findings = runtime()?.block_on(redis::check::check(&config));
            (findings.map_err(ServeError::from)?, config.guards.len())
        }
        Upstream::Http(config) => {
            let findings = runtime()?.block_on(http::check::check(&config));
            (findings.map_err(ServeError::from)?, config.rules.count())
        }
        Upstream::Store(_) => return Err(nothing_to_install(file)),
    };
    let mut problems = 0;
    for finding in &findings {
        let word = match finding.severity {
            Severity::Problem => "problem",
            Severity::Note => "note",
        };
        problems += usize::from(finding.severity == Severity::Problem);
        println!("{word}: {}", finding.what);
        for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
            println!("    {line}");
        }
    }
    match problems {
        0 => {
            println!("the fence holds for {rules} guard rules");
            Ok(())
        }
        count => Err(Failure {
            code: CHECK_FAILED,
            message: format!("the fence does not hold: {count} problems"),
        }),
    }
}

/// One lock's mark, in the words of whatever keeps it.
struct Fence {
    lock: String,
    token: String,
    drained: Option<bool>,
    sessions: Option<(i64, i64)>,
}

/// Prints the highest token admitted for each lock.
pub(super) fn fences(file: &Path, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let fences = match &config.upstream {
        Upstream::Postgres(server) => of_postgres(&config, server)?,
        Upstream::Mysql(server) => {
            let admin = mysql::admin::Admin::new(server);
            let marks = runtime()?.block_on(admin.marks(marks_max()));
            let marks = marks.map_err(ServeError::Mysql)?;
            marks.into_iter().map(Fence::from).collect()
        }
        Upstream::Redis(server) => of_redis(&config, server)?,
        Upstream::Http(server) => of_http(file, server)?,
        Upstream::Store(store) => {
            let (store, _writer) = Store::open(&store.data).map_err(ServeError::Store)?;
            let marks = store.marks().map_err(unreachable)?;
            let fence = |(lock, token): (String, _)| Fence {
                lock,
                token: format!("{token}"),
                drained: None,
                sessions: None,
            };
            marks.into_iter().map(fence).collect()
        }
    };
    let mut out = std::io::stdout().lock();
    let written = if as_json {
        print_json(&mut out, &fences)
    } else {
        print_text(&mut out, &fences)
    };
    written.map_err(unreachable)
}

fn of_postgres(config: &Config, server: &PostgresConfig) -> Result<Vec<Fence>, Failure> {
    let verifier = tickets::verifier(&config.cell)?;
    let cell = Arc::new(StaticCell::default());
    let gateway = Gateway::new(config, server, verifier, cell).map_err(ServeError::Tls)?;
    let marks = runtime()?
        .block_on(gateway.admin().marks(marks_max()))
        .map_err(ServeError::Upstream)?;
    Ok(marks.into_iter().map(Fence::from).collect())
}

fn marks_max() -> i32 {
    i32::try_from(FENCES_LISTED_MAX).unwrap_or(i32::MAX)
}

impl From<postgres::admin::Mark> for Fence {
    fn from(mark: postgres::admin::Mark) -> Fence {
        Fence {
            lock: mark.lock,
            token: mark.token.to_string(),
            drained: Some(mark.drained == mark.token),
            sessions: Some((mark.sessions, mark.stale_sessions)),
        }
    }
}

fn of_redis(config: &Config, server: &RedisConfig) -> Result<Vec<Fence>, Failure> {
    let verifier = tickets::verifier(&config.cell)?;
    let cell = Arc::new(StaticCell::default());
    let gateway = redis::Gateway::new(config, server, verifier, cell).map_err(ServeError::Tls)?;
    let marks = runtime()?
        .block_on(gateway.admin().marks(FENCES_LISTED_MAX))
        .map_err(ServeError::Redis)?;
    let fence = |mark: redis::admin::LockMark| Fence {
        lock: mark.lock,
        token: mark.token.to_string(),
        drained: Some(true),
        sessions: Some((i64::try_from(mark.sessions).unwrap_or(i64::MAX), 0)),
    };
    Ok(marks.into_iter().map(fence).collect())
}

fn of_http(file: &Path, server: &HttpConfig) -> Result<Vec<Fence>, Failure> {
    let reply = ask_http(file, server, &Question::Fences)?;
    let Reply::Fences(lanes) = reply else {
        return Err(unexpected(reply));
    };
    let fence = |lane: http::control::Lane| Fence {
        lock: lane.lock,
        token: lane.token,
        drained: Some(lane.doubts == 0),
        sessions: Some((
            i64::from(lane.unanswered),
            i64::try_from(lane.doubts).unwrap_or(0),
        )),
    };
    Ok(lanes.into_iter().map(fence).collect())
}

/// Tells a gateway that nothing in doubt will take effect any more.
pub(super) fn settle(file: &Path, lock: Option<String>) -> Result<(), Failure> {
    let Upstream::Http(server) = Config::load(file)?.upstream else {
        return Err(Failure {
            code: CONFIG,
            message: format!("{}: only a gateway with [http] has doubts", file.display()),
        });
    };
    match ask_http(file, &server, &Question::Settle(lock))? {
        Reply::Settled(ended) => {
            println!("{ended} doubts ended");
            Ok(())
        }
        other => Err(unexpected(other)),
    }
}

fn ask_http(file: &Path, server: &HttpConfig, question: &Question) -> Result<Reply, Failure> {
    let Some(control) = &server.control else {
        return Err(Failure {
            code: CONFIG,
            message: format!(
                "{}: set http.control to a path for a socket: only the gateway that runs knows",
                file.display()
            ),
        });
    };
    let asked = runtime()?.block_on(http::control::ask(control, question));
    asked.map_err(unreachable)
}

fn unexpected(reply: Reply) -> Failure {
    unreachable(match reply {
        Reply::Standby => "that gateway is not the active one: ask the one that is".to_owned(),
        Reply::Wrong(what) => what,
        Reply::Fences(_) | Reply::Settled(_) => "the gateway is of another version".to_owned(),
    })
}

fn print_json(out: &mut impl Write, fences: &[Fence]) -> std::io::Result<()> {
    let fences: Vec<_> = fences
        .iter()
        .map(|fence| {
            let mut object = json!({ "lock": fence.lock, "token": fence.token });
            if let (Some(drained), Some((sessions, stale))) = (fence.drained, fence.sessions) {
                object["drained"] = json!(drained);
                object["sessions"] = json!(sessions);
                object["stale_sessions"] = json!(stale);
            }
            object
        })
        .collect();
    writeln!(out, "{}", json!({ "schema": 1, "fences": fences }))
}

fn print_text(out: &mut impl Write, fences: &[Fence]) -> std::io::Result<()> {
    writeln!(
        out,
        "{:>20}  {:>8}  {:>5}  LOCK",
        "TOKEN", "SESSIONS", "STALE"
    )?;
    for fence in fences {
        let (sessions, stale) = fence
            .sessions
            .map_or((String::new(), String::new()), |(s, t)| {
                (s.to_string(), t.to_string())
            });
        let closing = if fence.drained == Some(false) {
            "  (closing)"
        } else {
            ""
        };
        writeln!(
            out,
            "{:>20}  {sessions:>8}  {stale:>5}  {}{closing}",
            fence.token, fence.lock
        )?;
    }
    Ok(())
}

fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure {
        code: UNREACHABLE,
        message: error.to_string(),
    }
}
