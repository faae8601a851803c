//! How far the server's answer to one command has come: which packet is its last, and what the
//! server says of the session there. Looks at the first bytes of packets only. No I/O.

use super::packet::{EOF, ERR, Fields, Header, OK};

/// How much of a packet's payload is looked at, bytes.
pub(super) const LOOK_BYTES: usize = 32;

/// A transaction is open.
pub(super) const IN_TRANSACTION: u16 = 0x0001;
const MORE_RESULTS: u16 = 0x0008;
const CURSOR_EXISTS: u16 = 0x0040;

/// Code of a "packet of error" that only tells of progress.
const PROGRESS: u16 = 0xffff;

/// What of the session's capabilities decides how answers are framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    /// Columns and rows end with an OK packet, and columns alone with nothing.
    pub(super) no_eof: bool,
    /// The number of columns is followed by whether they are described.
    pub(super) may_omit_columns: bool,
    /// The text of a query comes behind its attributes.
    pub(super) query_attributes: bool,
}

/// An answer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// OK, an error, a result set, or the request for a file.
    Result,
    /// So many column descriptions.
    Columns(u64),
    /// The EOF behind the columns.
    ColumnsEnd,
    /// Rows, or column descriptions without a number, and their end.
    Rows,
    /// The answer to a prepare.
    Prepared,
    /// So many packets, of any kind.
    Count(u64),
    /// Of a change of user: a login.
    Login,
}

/// What a packet was to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The answer goes on.
    More,
    /// It is over, and well. The session's status, if the packet tells it.
    Done(Option<u16>),
    /// It is over with an error.
    Failed,
    /// The client has to send a file.
    File,
    /// The client has to answer.
    Ask,
}

/// A packet that cannot be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer cannot be understood ({0})")]
pub(super) struct Violation(pub(super) &'static str);

impl Response {
    /// Takes the next packet: its header, and its payload or at least [`LOOK_BYTES`] of it.
    pub(super) fn take(
        &mut self,
        header: Header,
        payload: &[u8],
        dialect: Dialect,
    ) -> Result<Taken, Violation> {
        let first = payload.first().copied();
        match *self {
            Response::Result => self.result(header, payload, dialect),
            Response::Columns(left) => {
                *self = match left {
                    2.. => Response::Columns(left - 1),
                    _ if dialect.no_eof => Response::Rows,
                    _ => Response::ColumnsEnd,
                };
                Ok(Taken::More)
            }
            Response::ColumnsEnd => match first {
                Some(EOF) => {
                    let status = eof_status(payload)?;
                    if status & CURSOR_EXISTS != 0 {
                        return Ok(Taken::Done(Some(status)));
                    }
                    *self = Response::Rows;
                    Ok(Taken::More)
                }
                Some(ERR) => Ok(Taken::Failed),
                _ => Err(Violation("no end of the columns")),
            },
            Response::Rows => self.row(header, payload, dialect),
            Response::Prepared => self.prepared(payload, dialect),
            Response::Count(left) => {
                *self = Response::Count(left.saturating_sub(1));
                let over = left <= 1;
                Ok(if over { Taken::Done(None) } else { Taken::More })
            }
            Response::Login => match first {
                Some(OK) => Ok(Taken::Done(ok_status(payload))),
                Some(ERR) => Ok(Taken::Failed),
                _ => Ok(Taken::Ask),
            },
        }
    }

    fn result(
        &mut self,
        header: Header,
        payload: &[u8],
        dialect: Dialect,
    ) -> Result<Taken, Violation> {
        match payload.first() {
            Some(&OK) => {
                let status = ok_status(payload).ok_or(Violation("a short OK"))?;
                Ok(self.over(status))
            }
            Some(&ERR) if is_progress(payload) => Ok(Taken::More),
            Some(&ERR) => Ok(Taken::Failed),
            Some(0xfb) => Ok(Taken::File),
            Some(&EOF) if header.payload < 9 => {
                let status = if header.payload < 5 {
                    0
                } else {
                    eof_status(payload)?
                };
                Ok(self.over(status))
            }
            _ => {
                let mut fields = Fields(payload);
                let columns = fields.number().ok_or(Violation("no number of columns"))?;
                let described = !dialect.may_omit_columns || fields.u8() != Some(0);
                *self = match (described && columns > 0, dialect.no_eof) {
                    (true, _) => Response::Columns(columns),
                    (false, true) => Response::Rows,
                    (false, false) => Response::ColumnsEnd,
                };
                Ok(Taken::More)
            }
        }
    }

    fn row(
        &mut self,
        header: Header,
        payload: &[u8],
        dialect: Dialect,
    ) -> Result<Taken, Violation> {
        // A row may begin with the same byte if its first value has 16 MiB or more.
        let longest_end = if dialect.no_eof {
            super::packet::PAYLOAD_MAX
        } else {
            9
        };
        match payload.first() {
            Some(&ERR) if is_progress(payload) => Ok(Taken::More),
            Some(&ERR) => Ok(Taken::Failed),
            Some(&EOF) if header.payload < longest_end => {
                let status = if dialect.no_eof && header.payload != 5 {
                    ok_status(payload).ok_or(Violation("a short end of rows"))?
                } else {
                    eof_or_short_ok_status(payload, dialect)?
                };
                Ok(self.over(status))
            }
            _ => Ok(Taken::More),
        }
    }

    fn prepared(&mut self, payload: &[u8], dialect: Dialect) -> Result<Taken, Violation> {
        if payload.first() != Some(&OK) {
            return Ok(Taken::Failed);
        }
        let mut fields = Fields(payload.get(5..).unwrap_or_default());
        let (Some(columns), Some(parameters)) = (fields.u16(), fields.u16()) else {
            return Err(Violation("a short answer to a prepare"));
        };
        let packets = |descriptions: u16| match descriptions {
            0 => 0,
            count => u64::from(count) + u64::from(!dialect.no_eof),
        };
        match packets(columns) + packets(parameters) {
            0 => Ok(Taken::Done(None)),
            count => {
                *self = Response::Count(count);
                Ok(Taken::More)
            }
        }
    }

    /// A result is over: the answer with it, unless another one follows.
    fn over(&mut self, status: u16) -> Taken {
        if status & MORE_RESULTS != 0 {
            *self = Response::Result;
            return Taken::More;
        }
        Taken::Done(Some(status))
    }
}

fn is_progress(payload: &[u8]) -> bool {
    payload.get(1..3) == Some(&PROGRESS.to_le_bytes())
}

/// Of an OK packet: behind the numbers of rows and of the last id.
fn ok_status(payload: &[u8]) -> Option<u16> {
    let mut fields = Fields(payload.get(1..)?);
    fields.number()?;
    fields.number()?;
    fields.u16()
}

fn eof_status(payload: &[u8]) -> Result<u16, Violation> {
    let mut fields = Fields(payload.get(3..).unwrap_or_default());
    fields.u16().ok_or(Violation("a short EOF"))
}

/// Five bytes are too few for an OK packet, which servers send nevertheless where columns end
/// with a cursor.
fn eof_or_short_ok_status(payload: &[u8], dialect: Dialect) -> Result<u16, Violation> {
    match (dialect.no_eof, ok_status(payload)) {
        (true, Some(status)) => Ok(status),
        _ => eof_status(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::PAYLOAD_MAX;
    use super::*;

    const OLD: Dialect = Dialect {
        no_eof: false,
        may_omit_columns: false,
        query_attributes: false,
    };
    const NEW: Dialect = Dialect {
        no_eof: true,
        may_omit_columns: true,
        query_attributes: false,
    };

    fn all(mut response: Response, dialect: Dialect, packets: &[&[u8]]) -> Vec<Taken> {
        packets
            .iter()
            .map(|payload| {
                let header = Header {
                    payload: payload.len(),
                    sequence: 0,
                };
                response.take(header, payload, dialect).unwrap()
            })
            .collect()
    }

    fn last(response: Response, dialect: Dialect, packets: &[&[u8]]) -> Taken {
        let taken = all(response, dialect, packets);
        let (last, before) = taken.split_last().unwrap();
        assert!(
            before.iter().all(|taken| *taken == Taken::More),
            "{taken:?}"
        );
        *last
    }

    const OK_AUTOCOMMIT: &[u8] = &[0, 1, 0, 2, 0, 0, 0];
    const COLUMN: &[u8] = b"\x03def";
    const ROW: &[u8] = b"\x01x";

    #[test]
    fn the_status_stands_behind_two_numbers_of_variable_length() {
        assert_eq!(
            last(Response::Result, OLD, &[OK_AUTOCOMMIT]),
            Taken::Done(Some(2))
        );
        let long = [0, 0xfc, 1, 1, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 3, 0, 0, 0];
        assert_eq!(last(Response::Result, OLD, &[&long]), Taken::Done(Some(3)));
        assert_eq!(
            last(Response::Result, OLD, &[b"\xff\x48\x04#42000no"]),
            Taken::Failed
        );
    }

    #[test]
    fn a_result_set_ends_with_its_second_eof_or_with_an_ok() {
        let eof: &[u8] = &[0xfe, 0, 0, 3, 0];
        let rows: &[&[u8]] = &[&[2], COLUMN, COLUMN, eof, ROW, ROW, eof];
        assert_eq!(last(Response::Result, OLD, rows), Taken::Done(Some(3)));
        let end: &[u8] = &[0xfe, 0, 0, 2, 0, 0, 0];
        let rows: &[&[u8]] = &[&[1, 1], COLUMN, ROW, end];
        assert_eq!(last(Response::Result, NEW, rows), Taken::Done(Some(2)));
        let omitted: &[&[u8]] = &[&[1, 0], ROW, end];
        assert_eq!(last(Response::Result, NEW, omitted), Taken::Done(Some(2)));
        let failed: &[&[u8]] = &[&[1], COLUMN, eof, ROW, b"\xff\x00\x04#70100"];
        assert_eq!(last(Response::Result, OLD, failed), Taken::Failed);
    }

    #[test]
    fn further_results_belong_to_the_same_answer() {
        let more: &[u8] = &[0, 0, 0, 0x0a, 0, 0, 0];
        let packets = &[more, more, OK_AUTOCOMMIT];
        assert_eq!(last(Response::Result, OLD, packets), Taken::Done(Some(2)));
        let eof_more: &[u8] = &[0xfe, 0, 0, 0x0a, 0];
        let packets: &[&[u8]] = &[&[1], COLUMN, eof_more, ROW, eof_more, OK_AUTOCOMMIT];
        assert_eq!(last(Response::Result, OLD, packets), Taken::Done(Some(2)));
    }

    #[test]
    fn with_a_cursor_the_columns_are_all() {
        let cursor: &[u8] = &[0xfe, 0, 0, 0x42, 0];
        let packets: &[&[u8]] = &[&[1], COLUMN, cursor];
        assert_eq!(
            last(Response::Result, OLD, packets),
            Taken::Done(Some(0x42))
        );
        assert_eq!(
            last(Response::Rows, OLD, &[ROW, &[0xfe, 0, 0, 0x82, 0]]),
            Taken::Done(Some(0x82))
        );
    }

    #[test]
    fn a_row_that_begins_with_a_value_of_16_mib_is_no_end() {
        let mut response = Response::Rows;
        let mut start = vec![0xfe];
        start.extend_from_slice(&(1_u64 << 24).to_le_bytes());
        start.resize(LOOK_BYTES, b'x');
        for dialect in [OLD, NEW] {
            let header = Header {
                payload: PAYLOAD_MAX,
                sequence: 0,
            };
            assert_eq!(response.take(header, &start, dialect), Ok(Taken::More));
        }
    }

    #[test]
    fn a_prepare_is_followed_by_its_parameters_and_columns() {
        let prepared: &[u8] = &[0, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0];
        let eof: &[u8] = &[0xfe, 0, 0, 2, 0];
        let packets = &[prepared, COLUMN, COLUMN, eof, COLUMN, eof];
        assert_eq!(last(Response::Prepared, OLD, packets), Taken::Done(None));
        let packets = &[prepared, COLUMN, COLUMN, COLUMN];
        assert_eq!(last(Response::Prepared, NEW, packets), Taken::Done(None));
        let nothing: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(last(Response::Prepared, OLD, &[nothing]), Taken::Done(None));
    }

    #[test]
    fn progress_reports_end_nothing_and_files_and_logins_ask_the_client() {
        let packets: &[&[u8]] = &[b"\xff\xff\xff\x01\x01\x02\0\0\0", OK_AUTOCOMMIT];
        assert_eq!(last(Response::Result, OLD, packets), Taken::Done(Some(2)));
        assert_eq!(last(Response::Result, OLD, &[b"\xfbfile.csv"]), Taken::File);
        assert_eq!(
            last(Response::Login, OLD, &[b"\xfemysql_native_password\0"]),
            Taken::Ask
        );
        assert_eq!(
            last(Response::Login, OLD, &[OK_AUTOCOMMIT]),
            Taken::Done(Some(2))
        );
        assert_eq!(
            last(Response::Count(1), OLD, &[b"Uptime: 5"]),
            Taken::Done(None)
        );
    }

    #[test]
    fn no_packet_makes_it_fail_but_by_an_error() {
        let states = [
            Response::Result,
            Response::Columns(1),
            Response::ColumnsEnd,
            Response::Rows,
            Response::Prepared,
            Response::Count(1),
            Response::Login,
        ];
        for state in states {
            for first in 0..=255_u8 {
                for length in 0..12 {
                    for dialect in [OLD, NEW] {
                        let payload = vec![first; length];
                        let header = Header {
                            payload: length,
                            sequence: 0,
                        };
                        // Whatever it says, it says it.
                        let _ = state.clone().take(header, &payload, dialect);
                    }
                }
            }
        }
    }
}
