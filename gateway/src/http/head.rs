//! The head of a request: what could be read in two ways is refused, what is for one hop only
//! stays here, and what the gateway speaks for is put in its place.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Uri, Version};
use lockd_origin::TICKET_HEADER;

use super::not_done::NotDone;
use super::path;
use crate::fence::refusal::Refusal;

/// Headers for one hop only. What they say is said anew on the next one.
const ONE_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What may stand in `Connection`.
const CONNECTION_OPTIONS: [&str; 6] = [
    "close",
    "keep-alive",
    "http2-settings",
    "te",
    "trailer",
    "upgrade",
];

/// By these, some servers do something else than method and path say.
const REROUTING: [&str; 5] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// Where a request of WebDAV writes besides its own path.
const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// Whose head is the same for every server.
const NO_UNDERSCORE: [&str; 6] = [
    TICKET_HEADER,
    "content-length",
    "destination",
    "host",
    "transfer-encoding",
    "x-http-method-override",
];

/// Checks what holds for every request. `writes` or not, a server must not find another request in
/// it than the gateway does.
pub(super) fn check(head: &Parts, writes: bool) -> Result<(), NotDone> {
    if head.method == Method::CONNECT {
        return Err(NotDone::bad_request("CONNECT is not for this gateway"));
    }
    if head.uri.authority().is_some() || !head.uri.path().starts_with('/') {
        return Err(NotDone::bad_request(
            "write the target as a path, as in /orders/42",
        ));
    }
    let hosts = head.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        return Err(NotDone::bad_request("there has to be one header Host"));
    }
    if writes && head.headers.contains_key(header::UPGRADE) {
        return Err(NotDone::bad_request(
            "a write cannot ask for another protocol",
        ));
    }
    for name in head.headers.keys() {
        let name = name.as_str();
        if REROUTING.contains(&name) {
            return Err(NotDone::bad_request(format!(
                "the header {name} is not taken: it makes another request of this one"
            )));
        }
        if name.contains('_') && NO_UNDERSCORE.contains(&name.replace('_', "-").as_str()) {
            return Err(NotDone::bad_request(format!(
                "the header {name} is not taken: some servers read '_' as '-'"
            )));
        }
    }
    for option in connection_options(&head.headers) {
        if !CONNECTION_OPTIONS.contains(&option.to_ascii_lowercase().as_str()) {
            return Err(NotDone::bad_request(format!(
                "the header Connection names {option:?}, which is not for one hop only"
            )));
        }
    }
    Ok(())
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let options: Vec<_> = text.split(',').map(|o| o.trim().to_owned()).collect();
            options
        })
        .filter(|option| !option.is_empty())
}

/// What the request shows, if it shows anything. There can only be one header: of two, each reader
/// may take another.
pub(super) fn tickets(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut shown = headers.get_all(TICKET_HEADER).iter();
    match (shown.next(), shown.next()) {
        (_, Some(_)) => Err(Refusal::Misplaced("there are two headers Fencing-Token")),
        (value, None) => Ok(value.filter(|value| !value.is_empty())),
    }
}

/// Every path that a write writes to: its own, and the `Destination` of WebDAV.
pub(super) fn written(head: &Parts) -> Result<Vec<Vec<String>>, NotDone> {
    let ambiguous = |what: &str, path: &str, error: path::Ambiguous| {
        NotDone::bad_request(format!(
            "the {what} {path:?} could mean two things: {error}"
        ))
    };
    let own = head.uri.path();
    let mut written = vec![path::segments(own).map_err(|error| ambiguous("path", own, error))?];
    if let Some(destination) = destination(head)? {
        let names = path::segments(&destination);
        written.push(names.map_err(|error| ambiguous("Destination", &destination, error))?);
    }
    Ok(written)
}

/// The path of the `Destination`, which has to be on this same server.
fn destination(head: &Parts) -> Result<Option<String>, NotDone> {
    let mut values = head.headers.get_all(&DESTINATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match head.headers.contains_key(&DESTINATION) {
            true => Err(NotDone::bad_request("there are two headers Destination")),
            false => Ok(None),
        };
    };
    let wrong = || {
        let what = "Destination has to be a path of this server, without '?'";
        NotDone::bad_request(what)
    };
    let text = value.to_str().map_err(|_| wrong())?;
    if text.contains(['?', '#']) {
        return Err(wrong());
    }
    if text.starts_with('/') {
        return Ok(Some(text.to_owned()));
    }
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let here = head.headers.get(header::HOST).map(HeaderValue::as_bytes);
    match uri.authority() {
        Some(authority) if Some(authority.as_str().as_bytes()) == here => {
            Ok(Some(uri.path().to_owned()))
        }
        _ => Err(wrong()),
    }
}

/// What the server is sent.
pub(super) struct Forwarding<'a> {
    /// The server's own name, unless the client's is passed on.
    pub(super) host: &'a HeaderValue,
    /// Names that are passed on as clients wrote them.
    pub(super) hosts: &'a [String],
    /// Whether the server checks tickets itself.
    pub(super) tickets: bool,
}

impl Forwarding<'_> {
    /// Makes a client's head into the gateway's.
    pub(super) fn apply(&self, head: &mut Parts) -> Result<(), NotDone> {
        if let Some(destination) = destination(head)? {
            // By path alone: the server's name for itself may be another one.
            let value = HeaderValue::try_from(destination);
            let value = value.map_err(|_| NotDone::bad_request("the Destination is no path"))?;
            head.headers.insert(DESTINATION, value);
        }
        for name in ONE_HOP {
            head.headers.remove(name);
        }
        if !self.tickets {
            head.headers.remove(TICKET_HEADER);
        }
        let host = head.headers.get(header::HOST);
        let is_passed = |host: &HeaderValue| self.hosts.iter().any(|name| host == name.as_str());
        if !host.is_some_and(is_passed) {
            head.headers.insert(header::HOST, self.host.clone());
        }
        head.version = Version::HTTP_11;
        Ok(())
    }
}

/// Takes what is for one hop only out of an answer.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    let named: Vec<_> = connection_options(headers).collect();
    for name in named {
        if !name.eq_ignore_ascii_case("content-length") {
            headers.remove(name.as_str());
        }
    }
    for name in ONE_HOP {
        if name != "content-length" {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn is_taken(method: &str, target: &str, headers: &[(&str, &str)]) -> bool {
        check(&head(method, target, headers), method != "GET").is_ok()
    }

    #[test]
    fn a_head_that_could_be_another_request_is_refused() {
        let host = ("host", "g");
        assert!(is_taken("PUT", "/a", &[host, ("connection", "close, TE")]));
        assert!(!is_taken("PUT", "/a", &[]));
        assert!(!is_taken("PUT", "/a", &[host, host]));
        assert!(!is_taken("PUT", "http://g/a", &[host]));
        assert!(!is_taken("CONNECT", "g:80", &[host]));
        assert!(!is_taken("OPTIONS", "*", &[host]));
        for (name, value) in [
            ("connection", "fencing-token"),
            ("connection", "close, Fencing-Token"),
            ("connection", "if-match"),
            ("upgrade", "h2c"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/orders/42"),
            ("fencing_token", "lk1.x"),
            ("transfer_encoding", "chunked"),
        ] {
            assert!(
                !is_taken("PUT", "/a", &[host, (name, value)]),
                "{name}: {value}"
            );
        }
        // Whoever reads may ask for another protocol; nobody hears it.
        assert!(is_taken("GET", "/a", &[host, ("upgrade", "h2c")]));
    }

    #[test]
    fn two_headers_of_tickets_are_none() {
        let one = head("PUT", "/a", &[("fencing-token", "a b")]);
        assert_eq!(tickets(&one.headers).unwrap().unwrap(), "a b");
        let two = head(
            "PUT",
            "/a",
            &[("fencing-token", "a"), ("Fencing-Token", "b")],
        );
        assert_eq!(tickets(&two.headers).unwrap_err().code(), "FN005");
        assert_eq!(
            tickets(&head("PUT", "/a", &[("fencing-token", "")]).headers),
            Ok(None)
        );
    }

    #[test]
    fn a_destination_is_written_as_well_and_is_on_this_server() {
        let to = |destination: &str| {
            let headers = [("host", "g:80"), ("destination", destination)];
            written(&head("MOVE", "/a", &headers))
        };
        assert_eq!(to("/b/c").unwrap(), [vec!["a"], vec!["b", "c"]]);
        assert_eq!(to("http://g:80/b").unwrap(), [vec!["a"], vec!["b"]]);
        for other in [
            "http://h/b",
            "/x/../b",
            "b",
            "/b?c",
            "//b",
            "http://g:80/b#c",
            "/\u{e9}",
        ] {
            assert!(to(other).is_err(), "{other}");
        }
        let twice = [("host", "g"), ("destination", "/b"), ("destination", "/c")];
        assert!(written(&head("COPY", "/a", &twice)).is_err());
    }

    #[test]
    fn what_is_for_one_hop_and_the_ticket_stay_here() {
        let headers = [
            ("host", "g"),
            ("connection", "close, te"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("fencing-token", "lk1.x"),
            ("if-match", "\"1\""),
            ("destination", "http://g/b"),
        ];
        let server = HeaderValue::from_static("server:9000");
        let apply = |hosts: &[String], tickets| {
            let mut head = head("COPY", "/a?x=1", &headers);
            let forwarding = Forwarding {
                host: &server,
                hosts,
                tickets,
            };
            forwarding.apply(&mut head).unwrap();
            head.headers
        };
        let sent = apply(&[], false);
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert_eq!(sent["host"], "server:9000");
        assert_eq!(
            (&sent["if-match"], &sent["destination"]),
            (
                &HeaderValue::from_static("\"1\""),
                &HeaderValue::from_static("/b"),
            )
        );
        let sent = apply(&["g".into()], true);
        assert_eq!((sent["host"].as_bytes(), sent.len()), (&b"g"[..], 4));
    }

    #[test]
    fn an_answer_loses_what_is_for_one_hop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-internal, content-length"),
            ("x-internal", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("etag", "\"1\""),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        clean_answer(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "etag"]);
    }
}
