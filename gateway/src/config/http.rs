//! `[http]`: an HTTP server that cannot compare tokens, and the guard rules for its paths.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use lockd_protocol::types::LockName;
use serde::Deserialize;

use super::server::{Section, UpstreamTls};
use super::{RawGuard, Wrong, wrong};
use crate::http::rules::{Free, PathGuard, PathRules};
use crate::limits::ANSWER_TIMEOUT_DEFAULT;

/// Methods that write nothing, unless the configuration says otherwise.
const READS_DEFAULT: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

/// Where distributions keep the authorities that the system trusts.
const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// An HTTP server, and what is under guard there.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The server's name in the header `Host`.
    pub authority: HeaderValue,
    /// Whether connections to the server are encrypted.
    pub tls: UpstreamTls,
    /// Certificate authorities of the server, a PEM file.
    pub ca: Option<PathBuf>,
    /// The lock that the active gateway holds; the same in every gateway of this server.
    pub lock: LockName,
    /// How long after its sender has given up on it a write may still take effect. None: only an
    /// operator can tell.
    pub settle: Option<Duration>,
    /// How long a write under guard may take, answer included.
    pub answer_timeout: Duration,
    /// Methods that write nothing.
    pub reads: Vec<String>,
    /// Values of `Host` that are passed on to the server.
    pub hosts: Vec<String>,
    /// Whether the server gets to see the tickets.
    pub forward_tickets: bool,
    /// Whether a write under guard has to carry `If-Match` or `If-None-Match`.
    pub needs_precondition: bool,
    /// Statuses that are final although they need not be.
    pub final_statuses: Vec<u16>,
    /// The control socket.
    pub control: Option<PathBuf>,
    /// Which locks cover which paths.
    pub rules: PathRules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    url: String,
    ca: Option<PathBuf>,
    lock: String,
    settle: String,
    answer_timeout: Option<String>,
    reads: Option<Vec<String>>,
    #[serde(default)]
    free: Vec<String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    forward_tickets: bool,
    #[serde(default)]
    preconditions: Preconditions,
    #[serde(default)]
    final_statuses: Vec<u16>,
    control: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preconditions {
    #[default]
    Optional,
    Required,
}

const SECTION: Section = Section("http");

impl Raw {
    pub(super) fn check(self, dir: &Path, guards: &[RawGuard]) -> Result<HttpConfig, Wrong> {
        let server = server(&self.url)?;
        let lock = LockName::new(&self.lock);
        let lock = lock.or_else(|error| SECTION.wrong("lock", error.to_string()))?;
        let settle = match self.settle.as_str() {
            "never" => None,
            text => Some(duration("settle", text)?),
        };
        let answer_timeout = match self.answer_timeout.as_deref() {
            Some(text) => duration("answer_timeout", text)?,
            None => ANSWER_TIMEOUT_DEFAULT,
        };
        let defaults = || READS_DEFAULT.map(str::to_owned).to_vec();
        let reads = self.reads.unwrap_or_else(defaults);
        let is_method = |method: &String| {
            !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        if !reads.iter().all(is_method) {
            return SECTION.wrong("reads", "methods are capital letters, as in [\"GET\"]");
        }
        if let Some(bad) = self
            .final_statuses
            .iter()
            .find(|s| !(200..600).contains(*s))
        {
            return SECTION.wrong("final_statuses", format!("{bad} is no final status"));
        }
        Ok(HttpConfig {
            ca: match server.tls {
                UpstreamTls::Disable => None,
                _ => Some(authorities(dir, self.ca)?),
            },
            host: server.host,
            port: server.port,
            authority: server.authority,
            tls: server.tls,
            lock,
            settle,
            answer_timeout,
            reads,
            hosts: self.hosts,
            forward_tickets: self.forward_tickets,
            needs_precondition: self.preconditions == Preconditions::Required,
            final_statuses: self.final_statuses,
            control: self.control.map(|path| dir.join(path)),
            rules: path_rules(guards, &self.free)?,
        })
    }
}

struct Server {
    host: String,
    port: u16,
    authority: HeaderValue,
    tls: UpstreamTls,
}

fn server(url: &str) -> Result<Server, Wrong> {
    let reason = "write http://host:port or https://host, without user, path or query";
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(_) => return SECTION.wrong("url", reason),
    };
    let tls = match uri.scheme_str() {
        Some("http") => UpstreamTls::Disable,
        Some("https") => UpstreamTls::VerifyFull,
        _ => return SECTION.wrong("url", reason),
    };
    let is_bare = uri.path_and_query().is_none_or(|target| target == "/");
    let Some(authority) = uri
        .authority()
        .filter(|a| is_bare && !a.as_str().contains('@'))
    else {
        return SECTION.wrong("url", reason);
    };
    let Ok(in_header) = HeaderValue::from_str(authority.as_str()) else {
        return SECTION.wrong("url", reason);
    };
    let default = if tls == UpstreamTls::Disable { 80 } else { 443 };
    Ok(Server {
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port: authority.port_u16().unwrap_or(default),
        authority: in_header,
        tls,
    })
}

fn authorities(dir: &Path, given: Option<PathBuf>) -> Result<PathBuf, Wrong> {
    if let Some(given) = given {
        return Ok(dir.join(given));
    }
    let mut known = SYSTEM_AUTHORITIES.iter().map(Path::new);
    match known.find(|file| file.is_file()) {
        Some(file) => Ok(file.to_path_buf()),
        None => SECTION.wrong(
            "ca",
            "this system's authorities are not where they usually are: name a PEM file",
        ),
    }
}

fn duration(field: &str, text: &str) -> Result<Duration, Wrong> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => SECTION.wrong(field, "has to be longer than nothing"),
        Err(error) => SECTION.wrong(field, format!("{error}; write for example \"30s\"")),
    }
}

fn path_rules(guards: &[RawGuard], free: &[String]) -> Result<PathRules, Wrong> {
    if guards.is_empty() {
        let reason = "no path is under guard: add [[guard]] with `path` and `lock`";
        return wrong("guard", reason);
    }
    let in_field = |field: &'static str| {
        move |reason| Wrong {
            field: field.into(),
            reason,
        }
    };
    let guard = |guard: &RawGuard| match (&guard.path, &guard.key, &guard.keys, &guard.table) {
        (Some(path), None, None, None) => {
            PathGuard::parse(path, &guard.lock).map_err(in_field("guard.path"))
        }
        _ => wrong("guard", "with [http], each rule has `path` and `lock`"),
    };
    let guards = guards.iter().map(guard).collect::<Result<Vec<_>, _>>()?;
    let free = free
        .iter()
        .map(|text| Free::parse(text))
        .collect::<Result<Vec<_>, _>>();
    PathRules::new(guards, free.map_err(in_field("http.free"))?).map_err(in_field("guard.path"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::super::{Policy, Upstream};
    use super::*;

    const HTTP: &str = r#"
        listen = "127.0.0.1:0"
        [http]
        url = "http://files.example:9000"
        lock = "gateways/files"
        settle = "30s"
        free = ["POST /orders"]
        [[guard]]
        path = "/orders/{id}"
        lock = "orders/{id}"
        [cell]
        client_config = "client.toml"
    "#;

    fn http(text: &str) -> HttpConfig {
        match parse(text).unwrap().upstream {
            Upstream::Http(http) => http,
            _ => panic!("not HTTP"),
        }
    }

    #[test]
    fn a_server_has_a_lock_of_its_gateways_a_settle_time_and_rules() {
        let config = http(HTTP);
        assert_eq!((config.host.as_str(), config.port), ("files.example", 9000));
        assert_eq!(config.authority, "files.example:9000");
        assert_eq!(config.settle, Some(Duration::from_secs(30)));
        assert_eq!(config.rules.count(), 1);
        assert!(!config.needs_precondition && !config.forward_tickets);
        let never = HTTP.replace("\"30s\"", "\"never\"\npreconditions = \"required\"");
        assert_eq!(
            (http(&never).settle, http(&never).needs_precondition),
            (None, true)
        );
        let ipv6 = http(&HTTP.replace("files.example:9000", "[::1]"));
        assert_eq!((ipv6.host.as_str(), ipv6.port), ("::1", 80));
        let tls = HTTP.replace(
            "http://files.example:9000\"",
            "https://files.example\"\nca = \"ca\"",
        );
        let tls = http(&tls);
        assert_eq!((tls.port, tls.tls), (443, UpstreamTls::VerifyFull));
        assert_eq!(tls.ca, Some(PathBuf::from("/etc/gateway/ca")));
        let observe = format!("policy = \"observe\"\n{HTTP}");
        assert_eq!(parse(&observe).unwrap().policy, Policy::Observe);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (from, to, named) in [
            ("http://files", "ftp://files", "http.url"),
            ("http://files", "http://user@files", "http.url"),
            (":9000", ":9000/base", "http.url"),
            ("lock = \"gateways/files\"", "lock = \"\"", "http.lock"),
            ("lock = \"gateways/files\"", "", "lock"),
            ("settle = \"30s\"", "", "settle"),
            ("\"30s\"", "\"soon\"", "http.settle"),
            ("\"30s\"", "\"0s\"", "http.settle"),
            (
                "settle",
                "answer_timeout = \"x\"\nsettle",
                "http.answer_timeout",
            ),
            ("settle", "reads = [\"get\"]\nsettle", "http.reads"),
            (
                "settle",
                "final_statuses = [99]\nsettle",
                "http.final_statuses",
            ),
            ("POST /orders", "/orders", "http.free"),
            ("path = ", "key = ", "guard"),
            ("/orders/{id}\"", "/orders/*\"", "guard.path"),
        ] {
            assert!(HTTP.contains(from), "{from}");
            let error = parse(&HTTP.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        let rule = "[[guard]]\npath = \"/orders/7\"\nlock = \"a\"\n";
        let twice = parse(&format!("{HTTP}{rule}")).unwrap_err().to_string();
        assert!(twice.contains("may name one path"), "{twice}");
    }
}
