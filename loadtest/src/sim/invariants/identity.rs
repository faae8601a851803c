//! 19: nobody renews, uses or closes the session of another client.
//!
//! Clients try that, with numbers that no session ever reaches: none of them may get into the log or
//! be answered as if it was one's own.

use lockd::state::command::Command;
use lockd_protocol::Sequence;
use lockd_protocol::client::{NodeFrame, Outcome};

use super::{Verdict, must};

pub(crate) const NAME: &str = "19 nobody uses another client's session";

/// The number of whatever is asked for in another client's session.
pub(crate) const STRANGE: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(crate) struct OwnSessionsOnly {
    pub(crate) checked: u64,
}

impl OwnSessionsOnly {
    pub(crate) fn on_command(&mut self, command: &Command) -> Verdict {
        let strange = match command {
            Command::Request { sequence, .. } | Command::Refuse { sequence, .. } => {
                *sequence == Sequence(STRANGE)
            }
            _ => false,
        };
        must(!strange, NAME, || format!("in the log: {command:?}"))
    }

    /// A node has said something to a client.
    pub(crate) fn on_told(&mut self, frame: &NodeFrame) -> Verdict {
        let (strange, refused) = match frame {
            NodeFrame::KeptAlive { number, .. } => (*number == STRANGE, false),
            NodeFrame::Reply {
                sequence, outcome, ..
            } => {
                let refused = matches!(outcome, Outcome::Refused(_));
                (*sequence == Sequence(STRANGE), refused)
            }
            _ => return Ok(()),
        };
        self.checked += u64::from(strange);
        must(!strange || refused, NAME, || format!("said: {frame:?}"))
    }
}
