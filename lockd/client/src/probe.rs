//! Asking one node how it is, whoever leads. Opens no session and follows no redirect.

use std::time::Duration;

use lockd_protocol::client::{Answer, ClientFrame, NodeFrame, Query, Status};
use lockd_protocol::frame;

use crate::config::ClientConfig;
use crate::dial_error::{DialError, classify_gone, classify_write};
use crate::dialer::Dialer;
use crate::error::ConnectError;
use crate::link::{Link, Received};

/// Number of the one question.
const QUESTION: u64 = 1;

/// How the node at `address` is, by its own account. It need not be among `config.nodes`.
///
/// # Errors
/// [`ConnectError`], [`ConnectError::Unreachable`] if there is no answer within `within`.
pub async fn probe(
    config: &ClientConfig,
    address: &str,
    within: Duration,
) -> Result<Status, ConnectError> {
    let dialer = Dialer::new(config, within)?;
    let asked = tokio::time::timeout(within, async {
        let mut link = dialer.dial(address).await?;
        let status = ask(&mut link).await;
        link.close();
        status
    });
    let error = match asked.await {
        Ok(Ok(status)) => {
            dialer.drain().await;
            return Ok(status);
        }
        Ok(Err(error)) => error,
        Err(_) => DialError::Unreachable("no answer".to_owned()),
    };
    Err(error.at(address, config.cell, within))
}

async fn ask(link: &mut Link) -> Result<Status, DialError> {
    let query = Query::Status;
    let mut bytes = Vec::new();
    let question = ClientFrame::Query {
        id: QUESTION,
        query,
    };
    frame::encode(&question, &mut bytes).map_err(|e| DialError::Rejected(e.to_string()))?;
    let (send, _) = link.split();
    send.write_all(&bytes).await.map_err(classify_write)?;
    loop {
        let frame = link
            .next_frame()
            .map_err(|error| DialError::Version(error.to_string()))?;
        match frame {
            Some(NodeFrame::Answer {
                answer: Answer::Status(status),
                ..
            }) => return Ok(status),
            Some(NodeFrame::Bye { reason }) => return Err(DialError::Rejected(reason)),
            Some(_) => {}
            None => {
                let (_, receiver) = link.split();
                if let Received::Gone(gone) = receiver.receive().await {
                    return Err(classify_gone(gone));
                }
            }
        }
    }
}
