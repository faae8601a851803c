//! What a statement's text is to the gateway: a ticket being shown, something that is refused,
//! or, nearly always, none of its business. Looks at the beginning of each statement only; the
//! database is what keeps writers out, whatever they write in their SQL.

/// What a text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// Nothing to do with the fence.
    Pass,
    /// `SET fence.ticket = '...'`, alone: the tickets. Empty: they are given back.
    Ticket(&'a str),
    /// A ticket, but not in the one form that is taken.
    Misplaced,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    Prepared,
}

/// How a text begins, for what may be put in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// With BEGIN or START TRANSACTION.
    Transaction {
        /// It says what kind of transaction.
        modes: bool,
        /// Nothing follows it.
        alone: bool,
    },
    /// With a command that does not run behind another one.
    Lone,
    /// With anything else.
    Other,
}

/// Looks at the beginning of a text. What is taken for something else than it is leads to an error
/// of the server, never to a write that it should have refused.
pub(super) fn beginning(text: &[u8]) -> Beginning {
    let mut rest = Scanner(text);
    let first = rest.word().to_ascii_lowercase();
    match first.as_slice() {
        b"begin" | b"start" => {
            let mut inside = rest;
            let noise = |word: &[u8]| {
                word.eq_ignore_ascii_case(b"transaction") || word.eq_ignore_ascii_case(b"work")
            };
            while noise(Scanner(inside.0).word()) {
                inside.word();
            }
            inside.skip_blanks();
            let modes = !matches!(inside.0, [] | [b';', ..]);
            let alone = !inside.skip_statement() || inside.is_at_end();
            Beginning::Transaction { modes, alone }
        }
        b"vacuum" | b"cluster" | b"reindex" | b"discard" => Beginning::Lone,
        b"create" | b"drop" | b"alter" => {
            let second = rest.word().to_ascii_lowercase();
            let of_all = [&b"database"[..], b"tablespace", b"subscription", b"system"];
            let concurrently = text
                .windows(CONCURRENTLY.len())
                .any(|part| part.eq_ignore_ascii_case(CONCURRENTLY));
            if concurrently || of_all.contains(&second.as_slice()) {
                Beginning::Lone
            } else {
                Beginning::Other
            }
        }
        _ => Beginning::Other,
    }
}

const CONCURRENTLY: &[u8] = b"concurrently";

/// The setting that carries tickets.
pub(super) const SETTING: &str = "fence.ticket";

/// Judges the text of a Query or Parse message, or as much of it as is looked at.
pub(super) fn judge(text: &[u8]) -> Verdict<'_> {
    let mut rest = Scanner(text);
    let mut alone = true;
    loop {
        rest.skip_blanks();
        match judge_one(rest.0) {
            Verdict::Pass => {}
            Verdict::Ticket(_) if !alone => return Verdict::Misplaced,
            verdict => return verdict,
        }
        alone = false;
        // Nearly all texts are one statement, and then this is one pass of a fast search.
        if !rest.0.contains(&b';') || !rest.skip_statement() {
            return Verdict::Pass;
        }
    }
}

fn judge_one(text: &[u8]) -> Verdict<'_> {
    let mut rest = Scanner(text);
    let first = rest.word();
    if first.eq_ignore_ascii_case(b"set") || first.eq_ignore_ascii_case(b"reset") {
        return judge_set(first.len() == 5, rest);
    }
    let second_is = |mut rest: Scanner<'_>, word: &[u8]| rest.word().eq_ignore_ascii_case(word);
    let prepared = match first.to_ascii_lowercase().as_slice() {
        b"prepare" => second_is(rest, b"transaction"),
        b"commit" | b"rollback" => second_is(rest, b"prepared"),
        b"select" if second_is(rest, b"set_config") => {
            let (head, _) = text.split_at(text.len().min(200));
            let names = head
                .windows(SETTING.len())
                .any(|w| w.eq_ignore_ascii_case(SETTING.as_bytes()));
            return if names {
                Verdict::Misplaced
            } else {
                Verdict::Pass
            };
        }
        _ => false,
    };
    if prepared {
        Verdict::Prepared
    } else {
        Verdict::Pass
    }
}

/// What follows `SET` or `RESET`.
fn judge_set(reset: bool, mut rest: Scanner<'_>) -> Verdict<'_> {
    let mut name = rest.word();
    let local = name.eq_ignore_ascii_case(b"local");
    if local || name.eq_ignore_ascii_case(b"session") {
        name = rest.word();
    }
    if !name.eq_ignore_ascii_case(SETTING.as_bytes()) {
        return Verdict::Pass;
    }
    if local {
        return Verdict::Misplaced;
    }
    let tickets = if reset {
        Some("")
    } else {
        rest.assigned_text()
    };
    match tickets {
        Some(tickets) if rest.is_at_end() => Verdict::Ticket(tickets),
        _ => Verdict::Misplaced,
    }
}

/// Reads words of SQL. Where the text is cut off or not understood, it says that there is none.
#[derive(Clone, Copy)]
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn skip(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }

    /// White space and comments.
    fn skip_blanks(&mut self) {
        loop {
            self.0 = self.0.trim_ascii_start();
            if self.0.starts_with(b"--") {
                let end = self.0.iter().position(|&b| b == b'\n');
                self.skip(end.unwrap_or(self.0.len()));
            } else if self.0.starts_with(b"/*") {
                self.skip_comment();
            } else {
                return;
            }
        }
    }

    /// `/* .. */`, which nests.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.0 {
                [b'/', b'*', ..] => {
                    depth += 1;
                    self.skip(2);
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                [] => return,
                _ => self.skip(1),
            }
        }
    }

    /// The next word, dots included; empty if something else is next.
    fn word(&mut self) -> &'a [u8] {
        self.skip_blanks();
        let part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'.' || *b >= 0x80;
        let end = self.0.iter().position(|b| !part(b)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// `= '...'`, `TO '...'`, or DEFAULT in place of the text.
    fn assigned_text(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        if self.0.first() == Some(&b'=') {
            self.skip(1);
        } else if !self.word().eq_ignore_ascii_case(b"to") {
            return None;
        }
        self.skip_blanks();
        if self.0.first() != Some(&b'\'') {
            return self.word().eq_ignore_ascii_case(b"default").then_some("");
        }
        self.skip(1);
        let end = self.0.iter().position(|&b| b == b'\'')?;
        let text = std::str::from_utf8(self.0.get(..end)?).ok()?;
        self.skip(end + 1);
        // A doubled quote is a quote within the text, and no ticket has one.
        (self.0.first() != Some(&b'\'')).then_some(text)
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        while self.0.first() == Some(&b';') {
            self.skip(1);
            self.skip_blanks();
        }
        self.0.is_empty()
    }

    /// Up to behind the next `;` that is not quoted. `false` if there is none.
    fn skip_statement(&mut self) -> bool {
        loop {
            self.skip_blanks();
            match self.0 {
                [] => return false,
                [b';', ..] => {
                    self.skip(1);
                    return true;
                }
                [b'\'', ..] => self.skip_quoted(b'\'', false),
                [b'"', ..] => self.skip_quoted(b'"', false),
                [b'e' | b'E', b'\'', ..] => {
                    self.skip(1);
                    self.skip_quoted(b'\'', true);
                }
                [b'$', ..] => self.skip_dollar_quoted(),
                _ => {
                    // A word whole, so that the E of an identifier does not begin a string.
                    if self.word().is_empty() {
                        self.skip(1);
                    }
                }
            }
        }
    }

    fn skip_quoted(&mut self, quote: u8, escapes: bool) {
        self.skip(1);
        while let Some(&byte) = self.0.first() {
            self.skip(if escapes && byte == b'\\' { 2 } else { 1 });
            if byte == quote {
                return;
            }
        }
    }

    /// `$tag$ .. $tag$`; anything else that begins with a dollar is one character.
    fn skip_dollar_quoted(&mut self) {
        let tag_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
        let inner = self
            .0
            .iter()
            .skip(1)
            .position(|b| !tag_part(b))
            .unwrap_or(0);
        if self.0.get(inner + 1) != Some(&b'$') {
            return self.skip(1);
        }
        let (tag, _) = self.0.split_at(inner + 2);
        self.skip(tag.len());
        let end = self.0.windows(tag.len()).position(|window| window == tag);
        self.skip(end.map_or(self.0.len(), |end| end + tag.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_taken_in_each_form_of_set() {
        for (text, tickets) in [
            ("SET fence.ticket = 'lk1.a lk1.b'", "lk1.a lk1.b"),
            ("set Fence.Ticket to 'lk1.a';", "lk1.a"),
            (
                " -- why\n /* a /* nested */ one */ set session fence.ticket='x' ; ",
                "x",
            ),
            ("set fence.ticket = ''", ""),
            ("set fence.ticket = default", ""),
            ("RESET fence.ticket;", ""),
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Ticket(tickets), "{text}");
        }
    }

    #[test]
    fn a_ticket_in_any_other_form_is_misplaced_and_not_overlooked() {
        for text in [
            "set fence.ticket = 'a'; update t set a = 1",
            "update t set a = 1; set fence.ticket = 'a'",
            "set local fence.ticket = 'a'",
            "set fence.ticket = $1",
            "set fence.ticket = a",
            "set fence.ticket = 'it''s'",
            "set fence.ticket = 'open",
            "select set_config('fence.ticket', $1, false)",
            "select 'a;b', \"c;d\", $x$ ; $x$, e'\\';' ; set fence.ticket = 'a'",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Misplaced, "{text}");
        }
    }

    #[test]
    fn prepared_transactions_are_found_in_any_place() {
        for text in [
            "PREPARE TRANSACTION 'x'",
            "commit /* now */ prepared 'x'",
            "select 1; rollback prepared 'x'",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Prepared, "{text}");
        }
    }

    #[test]
    fn everything_else_passes() {
        for text in [
            "",
            ";",
            "select 1",
            "prepare p as select 1",
            "commit; select 2",
            "insert into log values ('set fence.ticket = ''a''; prepare transaction')",
            "select $a$; prepare transaction 'x'$a$",
            "select 1 as e;update t set note = 'prepare transaction'",
            "set search_path = x",
            "show fence.ticket",
            "select current_setting('fence.ticket')",
            "select $1; select $2",
            "/* open",
            "select 'open ; prepare transaction",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Pass, "{text}");
        }
    }
}
