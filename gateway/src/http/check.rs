//! What can be known of an HTTP server beforehand: whether it answers, and what the operator has
//! to see to, because nobody here can.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;

use super::upstream::{DialError, Target};
use crate::config::HttpConfig;
use crate::findings::Finding;
use crate::tls::TlsError;

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached.
    #[error(transparent)]
    Server(#[from] DialError),
}

/// Asks the server for its options, and lists what the guarantee rests on.
///
/// # Errors
/// [`CheckError`] if the server cannot be reached.
pub async fn check(config: &HttpConfig) -> Result<Vec<Finding>, CheckError> {
    let target = Target::new(config)?;
    let mut findings = Vec::new();
    if let Err(error) = options(&target).await? {
        findings.push(Finding::problem(
            format!("the server does not answer as HTTP/1.1 does: {error}"),
            "point http.url at an HTTP server; write https:// if it speaks TLS",
        ));
    }
    findings.push(Finding::note(
        "the server compares no tokens: whoever reaches it without the gateway gets around the \
         order of writes",
        Some("let only the gateways' addresses through to it".into()),
    ));
    findings.push(match config.settle {
        Some(settle) => Finding::note(
            format!(
                "you vouch that no write takes effect {} or more after its sender gave up on it",
                humantime::format_duration(settle)
            ),
            Some("see docs/gateway-http.md for what this depends on".into()),
        ),
        None => Finding::note(
            "after each start and each lost answer newer tokens wait until an operator vouches",
            Some("gateway settle --config FILE".into()),
        ),
    });
    Ok(findings)
}

async fn options(target: &Target) -> Result<Result<(), hyper::Error>, DialError> {
    let stream = target.dial().await?;
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = hyper::Method::OPTIONS;
        let host = target.authority().clone();
        request.headers_mut().insert(header::HOST, host);
        let answer = sender.send_request(request);
        tokio::select! {
            answer = answer => answer.map(drop),
            end = connection => end,
        }
    };
    Ok(asked.await)
}
