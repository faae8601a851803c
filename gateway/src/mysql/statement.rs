//! What a statement's text is to the gateway: a ticket being shown, something that is refused,
//! or, nearly always, none of its business. Looks at the beginning of each statement only; the
//! database is what keeps writers out, whatever they write in their SQL.

/// What a text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// Nothing to do with the fence.
    Pass,
    /// `SET @fence_ticket = '...'`, alone: the tickets. Empty: they are given back.
    Ticket(&'a str),
    /// A ticket, but not in the one form that is taken.
    Misplaced,
    /// An XA transaction.
    Xa,
}

/// The user variable that carries tickets, without its `@`.
pub(super) const VARIABLE: &str = "fence_ticket";

/// Judges the text of a statement, or as much of it as is looked at.
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
    if first.eq_ignore_ascii_case(b"xa") {
        return Verdict::Xa;
    }
    if !first.eq_ignore_ascii_case(b"set") {
        return Verdict::Pass;
    }
    if rest.carrier() {
        return match rest.assigned_text() {
            Some(tickets) if rest.is_at_end() => Verdict::Ticket(tickets),
            _ => Verdict::Misplaced,
        };
    }
    // SET takes a list: the carrier may come later in it.
    while rest.skip_to_comma() {
        if rest.carrier() {
            return Verdict::Misplaced;
        }
    }
    Verdict::Pass
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
            match self.0 {
                [b'#', ..] | [b'-', b'-', b' ' | b'\t' | b'\n', ..] => {
                    let end = self.0.iter().position(|&b| b == b'\n');
                    self.skip(end.unwrap_or(self.0.len()));
                }
                [b'/', b'*', ..] => {
                    let end = self.0.windows(2).skip(2).position(|pair| pair == b"*/");
                    self.skip(end.map_or(self.0.len(), |end| end + 4));
                }
                _ => return,
            }
        }
    }

    /// The next word; empty if something else is next.
    fn word(&mut self) -> &'a [u8] {
        self.skip_blanks();
        let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(*b, b'_' | b'$' | 0x80..);
        let end = self.0.iter().position(|b| !part(b)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// Whether the user variable of the tickets is next. If so, goes behind it.
    fn carrier(&mut self) -> bool {
        let mut ahead = *self;
        ahead.skip_blanks();
        if ahead.0.first() != Some(&b'@') {
            return false;
        }
        ahead.skip(1);
        let quote = ahead.0.first().copied().filter(|b| b"`'\"".contains(b));
        ahead.skip(usize::from(quote.is_some()));
        let name = ahead.word();
        if let Some(quote) = quote {
            if ahead.0.first() != Some(&quote) {
                return false;
            }
            ahead.skip(1);
        }
        let found = name.eq_ignore_ascii_case(VARIABLE.as_bytes());
        if found {
            *self = ahead;
        }
        found
    }

    /// `= '...'`, `:= "..."`, or NULL in place of the text.
    fn assigned_text(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        self.skip(usize::from(self.0.first() == Some(&b':')));
        if self.0.first() != Some(&b'=') {
            return None;
        }
        self.skip(1);
        self.skip_blanks();
        let quote = match self.0.first() {
            Some(quote @ (b'\'' | b'"')) => *quote,
            _ => return self.word().eq_ignore_ascii_case(b"null").then_some(""),
        };
        self.skip(1);
        let end = self.0.iter().position(|&b| b == quote)?;
        let text = std::str::from_utf8(self.0.get(..end)?).ok()?;
        self.skip(end + 1);
        // A doubled or escaped quote is one within the text, and no ticket has one.
        (self.0.first() != Some(&quote) && !text.contains('\\')).then_some(text)
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
        while !self.0.is_empty() {
            if self.skip_one() == Some(b';') {
                return true;
            }
        }
        false
    }

    /// Up to behind the next comma within this statement. `false` if there is none.
    fn skip_to_comma(&mut self) -> bool {
        while !self.0.is_empty() {
            match self.skip_one() {
                Some(b',') => return true,
                Some(b';') => return false,
                _ => {}
            }
        }
        false
    }

    /// Goes behind one thing: a comment, a word, something quoted, or the character told.
    fn skip_one(&mut self) -> Option<u8> {
        self.skip_blanks();
        let first = *self.0.first()?;
        if matches!(first, b'\'' | b'"' | b'`') {
            self.skip(1);
            self.skip_quoted(first);
        } else if self.word().is_empty() {
            self.skip(1);
            return Some(first);
        }
        None
    }

    fn skip_quoted(&mut self, quote: u8) {
        while let Some((&first, rest)) = self.0.split_first() {
            self.0 = rest;
            if first == quote {
                return;
            }
            if first == b'\\' && quote != b'`' {
                self.skip(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_alone_is_taken_however_it_is_written() {
        for text in [
            "SET @fence_ticket = 'lk1.a lk1.b'",
            "set @Fence_Ticket='lk1.a lk1.b';",
            " /* orm */ set\n@`fence_ticket` := \"lk1.a lk1.b\" -- done",
            "# first\nset @'fence_ticket' = 'lk1.a lk1.b' ; ;",
        ] {
            assert_eq!(
                judge(text.as_bytes()),
                Verdict::Ticket("lk1.a lk1.b"),
                "{text}"
            );
        }
        for text in ["set @fence_ticket = ''", "set @fence_ticket = null"] {
            assert_eq!(judge(text.as_bytes()), Verdict::Ticket(""), "{text}");
        }
    }

    #[test]
    fn a_ticket_in_any_other_form_is_misplaced() {
        for text in [
            "set @fence_ticket = concat('lk1', '.a')",
            "set @fence_ticket = ?",
            "set @a = 1, @fence_ticket = 'lk1.a'",
            "set @fence_ticket = 'lk1.a', @a = 1",
            "set @fence_ticket = 'lk1.a'; update t set v = 1",
            "select ';'; set @fence_ticket = 'lk1.a'",
            "set @fence_ticket = 'it''s'",
            "set @fence_ticket = 'lk1.",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Misplaced, "{text}");
        }
    }

    #[test]
    fn what_only_speaks_of_tickets_passes() {
        for text in [
            "select @fence_ticket",
            "set @a = @fence_ticket",
            "set @a = 'x, @fence_ticket = 1'",
            "insert into notes values ('set @fence_ticket = 1; set @fence_ticket = 2')",
            "set names utf8mb4",
            "set @fence_tickets = 'x'",
            "update t set v = 'xa start'",
            "",
            "/* never closed",
            "'",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Pass, "{text}");
        }
    }

    #[test]
    fn xa_is_seen_at_the_beginning_of_a_statement_only() {
        assert_eq!(judge(b"XA START 'x'"), Verdict::Xa);
        assert_eq!(judge(b"select 1; /* */ xa prepare 'x'"), Verdict::Xa);
        assert_eq!(judge(b"select xa from t"), Verdict::Pass);
        assert_eq!(judge(b"xation"), Verdict::Pass);
    }

    #[test]
    fn no_text_makes_the_scanner_fail() {
        let pieces = [
            "set ",
            "@fence_ticket",
            "=",
            "'",
            "\\",
            "`",
            ";",
            ",",
            "/*",
            "*/",
            "--",
            "#",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    judge(format!("set {a}{b}{c}{a}").as_bytes());
                    judge(format!("{a}{b}{c}").as_bytes());
                }
            }
        }
    }
}
