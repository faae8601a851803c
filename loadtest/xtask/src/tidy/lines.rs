//! Rules about any source file: its header, its size, the width of its lines, and macros that
//! mark unfinished work.

use super::Finding;
use super::source::Source;

/// Most lines of a file.
const LINES_MAX: usize = 900;

/// Most characters of a line.
const COLUMNS_MAX: usize = 100;

/// A word this long (a key, an address) cannot be broken, and excuses its line.
const UNBREAKABLE_WORD: usize = 70;

/// Macros that no finished code has.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let mut report = |line: usize, what: String| {
        findings.push(Finding {
            path: source.path.clone(),
            line,
            what,
        });
    };
    if !source.text.starts_with("//!") {
        report(
            1,
            "no header: begin with `//!` and what the file is responsible for".into(),
        );
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        report(
            LINES_MAX + 1,
            format!("{lines} lines, {LINES_MAX} are allowed: split it by concept"),
        );
    }
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && can_be_broken(line) {
            report(
                index + 1,
                format!("{columns} columns, {COLUMNS_MAX} are allowed: break the line"),
            );
        }
    }
    for (index, line) in source.code.lines().enumerate() {
        for name in UNFINISHED.iter().filter(|name| calls(line, name)) {
            report(
                index + 1,
                format!("`{name}!` marks unfinished work: finish or remove it"),
            );
        }
    }
}

/// Whether the line could be shorter: neither one long word nor a row of a table in a comment.
fn can_be_broken(line: &str) -> bool {
    let comment = line.trim_start().trim_start_matches(['/', '!']);
    let long = |word: &str| word.chars().count() >= UNBREAKABLE_WORD;
    !comment.trim_start().starts_with('|') && !line.split_whitespace().any(long)
}

/// Whether the line calls the macro `name`.
fn calls(line: &str, name: &str) -> bool {
    let call = format!("{name}!");
    line.match_indices(&call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + call.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && after != Some('=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        let source = Source::new("a/src/b.rs".into(), text.into());
        check(&source, &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    fn assert_one(text: &str, expected: &str) {
        let found = findings(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }

    #[test]
    fn a_tidy_file_has_no_findings() {
        assert_eq!(
            findings("//! What it is for.\nfn f() {}\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_one("fn f() {}\n", "a/src/b.rs:1: no header");
        assert_one("// f\nfn f() {}\n", "a/src/b.rs:1: no header");
    }

    #[test]
    fn a_file_with_too_many_lines_is_found() {
        assert_eq!(findings(&"//! a\n".repeat(LINES_MAX)), Vec::<String>::new());
        assert_one(
            &"//! a\n".repeat(LINES_MAX + 1),
            "a/src/b.rs:901: 901 lines",
        );
    }

    #[test]
    fn a_wide_line_is_found_unless_it_cannot_be_broken() {
        let wide = format!("//! a\n//{}\n", " é".repeat(50));
        assert_one(&wide, "a/src/b.rs:2: 102 columns");
        let key = format!("//! a\n// {}\n", "k".repeat(150));
        assert_eq!(findings(&key), Vec::<String>::new());
        let table = format!("//! a\n//! |{}\n", " b |".repeat(50));
        assert_eq!(findings(&table), Vec::<String>::new());
    }

    #[test]
    fn macros_of_unfinished_work_are_found_outside_strings_and_comments() {
        for name in UNFINISHED {
            let text = format!("//! a\nfn f() {{ {name}!(\"x\") }}\n");
            assert_one(&text, &format!("a/src/b.rs:2: `{name}!`"));
            let text = format!("//! a\n// {name}!()\nconst A: &str = \"{name}!()\";\n");
            assert_eq!(findings(&text), Vec::<String>::new());
        }
        assert_eq!(
            findings("//! a\nfn f() { my_todo!(); }\n"),
            Vec::<String>::new()
        );
    }
}
