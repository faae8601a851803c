//! `cargo xtask tidy`: the rules of the code base that neither compiler, clippy nor rustfmt check.
//!
//! It reads sources as text and never builds anything, so it can judge a tree that does not
//! compile. The same check runs as a test.

mod dependencies;
mod lines;
mod purity;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Failure;
use source::Source;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// File, relative to the workspace.
    path: String,
    /// Line, counted from 1.
    line: usize,
    /// What is wrong, and what to do.
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks the workspace at `root` and prints what it finds.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let (files, findings) = check(root)?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("xtask: {files} files are tidy");
            Ok(())
        }
        count => Err(Failure(format!("{count} findings in {files} files"))),
    }
}

/// The number of files looked at, and what was found in them.
fn check(root: &Path) -> Result<(usize, Vec<Finding>), Failure> {
    let mut findings = dependencies::check(root)?;
    let files = rust_files(root)?;
    for file in &files {
        let path = file.strip_prefix(root).unwrap_or(file);
        let path = path.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure(format!("cannot read {path}: {error}")))?;
        let source = Source::new(path, text);
        lines::check(&source, &mut findings);
        purity::check(&source, &mut findings);
    }
    Ok((files.len(), findings))
}

/// Every Rust source of the workspace, in order of path.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let unreadable = |error| Failure(format!("cannot list {}: {error}", directory.display()));
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let (files, findings) = check(&crate::workspace_root()).unwrap();
        assert!(files > 10, "the workspace has more than {files} files");
        let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(report.is_empty(), "\n{}", report.join("\n"));
    }
}
