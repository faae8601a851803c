//! One source file: its text, and the same text with everything blanked that is not code.
//!
//! The scanner knows just enough of Rust's lexis (comments, strings, characters, lifetimes) not to
//! mistake words for code. It does not parse.

/// A source file.
pub(super) struct Source {
    /// Path relative to the workspace, with `/`.
    pub(super) path: String,
    /// The file as it is.
    pub(super) text: String,
    /// The file with comments, strings and characters blanked; lines stay where they are.
    pub(super) code: String,
}

impl Source {
    pub(super) fn new(path: String, text: String) -> Source {
        let code = blank_what_is_not_code(&text);
        Source { path, text, code }
    }

    /// The code without items under `#[cfg(test)]`.
    pub(super) fn code_without_tests(&self) -> String {
        let mut bytes = self.code.clone().into_bytes();
        let mut from = 0;
        while let Some(at) = self.code[from..].find(TEST_ATTRIBUTE) {
            let start = from + at;
            let end = end_of_item(&self.code, start + TEST_ATTRIBUTE.len());
            blank(&mut bytes[start..end]);
            from = end;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the whole file is tests.
    pub(super) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
    }
}

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// Where the item that begins after `start` ends: behind its body, or behind its semicolon.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b';' if depth == 0 => return at + 1,
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn blank_what_is_not_code(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let after_word = at > 0 && is_word(bytes[at - 1]);
        let rest = &text.as_bytes()[at..];
        match length_of_blank(rest, after_word) {
            Some(length) => {
                blank(&mut bytes[at..at + length]);
                at += length;
            }
            None => at += 1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How long the comment, string or character is that `rest` begins with, if it does.
fn length_of_blank(rest: &[u8], after_word: bool) -> Option<usize> {
    match rest {
        [b'/', b'/', ..] => Some(find(rest, b"\n").unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment(rest)),
        [b'"', ..] => Some(string(rest)),
        [b'\'', ..] => character(rest),
        [b'r', b'"' | b'#', ..] if !after_word => raw_string(rest, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !after_word => raw_string(rest, 2),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A raw string whose hashes begin at `prefix`; a raw identifier (`r#type`) is none.
fn raw_string(rest: &[u8], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let body = open + 1;
    Some(find(&rest[body..], &close).map_or(rest.len(), |at| body + at + close.len()))
}

/// A character literal; a lifetime is none.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        // Behind the backslash comes at least one character, which may itself be a quote.
        return find(rest.get(3..)?, b"'").map(|at| at + 4);
    }
    // A character has one to four bytes, and the quote follows at once.
    let first = std::str::from_utf8(&rest[1..rest.len().min(5)])
        .map_or_else(|error| error.valid_up_to(), str::len);
    let text = std::str::from_utf8(&rest[1..1 + first]).ok()?;
    let length = text.chars().next()?.len_utf8();
    (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let blanked = Source::new("a.rs".into(), text.into()).code;
        let words: Vec<&str> = blanked.split_whitespace().collect();
        words.join(" ")
    }

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        assert_eq!(code("a // tokio\nb"), "a b");
        assert_eq!(code("a /* x /* tokio */ y */ b"), "a b");
        assert_eq!(code(r#"f("tokio \" {", 1)"#), "f( , 1)");
        assert_eq!(code(r###"f(r#"tokio " {"#, br"x\", 1)"###), "f( , , 1)");
        assert_eq!(code(r"f('{', '\'', '\u{7b}', 'é', b'}')"), "f( , , , , b )");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_stay() {
        assert_eq!(
            code("fn f<'a>(x: &'a str, r#type: u8)"),
            "fn f<'a>(x: &'a str, r#type: u8)"
        );
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "/* a\nb */ c\n\"d\ne\" f\n";
        let blanked = Source::new("a.rs".into(), text.into()).code;
        assert_eq!(blanked.lines().count(), text.lines().count());
        assert_eq!(blanked.lines().nth(3).map(str::trim), Some("f"));
    }

    #[test]
    fn items_under_cfg_test_are_left_out_and_what_follows_stays() {
        let text = "a();\n#[cfg(test)]\nmod tests { fn f() { x(); } }\n\
                    #[cfg(test)]\nuse y;\nb();\n#[cfg(test)]\nfn g([a]: [u8; 1]) -> u8 { z }\nc();";
        let kept = Source::new("a.rs".into(), text.into()).code_without_tests();
        let kept: Vec<&str> = kept.split_whitespace().collect();
        assert_eq!(kept, ["a();", "b();", "c();"]);
    }

    #[test]
    fn test_files_are_known_by_their_path() {
        let is_test = |path: &str| Source::new(path.into(), String::new()).is_test();
        assert!(is_test("lockd/src/state/tests.rs"));
        assert!(is_test("lockd/src/state/tests/grants.rs"));
        assert!(!is_test("lockd/src/state/contests.rs"));
    }
}
