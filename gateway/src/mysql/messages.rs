//! What the gateway itself says to clients: refusals in the form of the server's errors.

use super::dialog::Refused;
use super::packet;
use super::session::Unwelcome;
use crate::fence::refusal::Refusal;

/// ER_SIGNAL_EXCEPTION, as the fence's triggers raise it too; the SQLSTATE says which refusal.
const FENCE: u16 = 1644;
/// ER_NOT_SUPPORTED_YET.
const NOT_SUPPORTED: u16 = 1235;
/// ER_ACCESS_DENIED_ERROR.
const DENIED: u16 = 1045;
/// ER_HANDSHAKE_ERROR.
const HANDSHAKE: u16 = 1043;

/// A refusal of the fence.
pub(super) fn refusal(sequence: u8, refusal: &Refusal) -> Vec<u8> {
    let hint = match refusal {
        Refusal::Misplaced(_) => {
            "Send SET @fence_ticket = '...' alone, as a plain statement, outside a transaction."
        }
        other => other.hint(),
    };
    let text = format!("{refusal}. {hint}");
    packet::error(sequence, FENCE, refusal.code(), &text)
}

/// A command that does not go to the server.
pub(super) fn refused(sequence: u8, why: Refused) -> Vec<u8> {
    match why {
        Refused::Misplaced => refusal(sequence, &Refusal::Misplaced("not in this form")),
        Refused::Xa => packet::error(
            sequence,
            NOT_SUPPORTED,
            "0A000",
            "XA transactions are refused on a server under guard: a prepared one outlives the \
             session whose ticket covers it. Commit in one phase.",
        ),
        Refused::Replication => packet::error(
            sequence,
            NOT_SUPPORTED,
            "0A000",
            "replication does not go through the gateway; connect to the server itself",
        ),
    }
}

/// A session that is not served, also in words for the log.
pub(super) fn unwelcome(sequence: u8, why: &Unwelcome) -> (Vec<u8>, String) {
    match why {
        Unwelcome::Superuser => {
            let text = "accounts with global rights are refused here: they could switch the fence \
                        off";
            let message = packet::error(sequence, DENIED, "28000", text);
            (message, text.to_owned())
        }
        Unwelcome::Refusal(why) => (refusal(sequence, why), why.to_string()),
    }
}

/// A login that could not be brought to the server.
pub(super) fn no_login(sequence: u8, text: &str) -> Vec<u8> {
    packet::error(sequence, HANDSHAKE, "08S01", text)
}
