//! `lockd man`: the manual's pages, from the definition of the flags.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::exit::Failure;
use super::{Cli, output};

/// Prints the page of lockd, or writes the pages of it and of every subcommand to a directory
///
/// For instance: `lockd man /usr/local/share/man/man1`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write every page to this directory, as lockd.1, lockd-lock.1 and so on
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.dir {
        Some(dir) => write(dir)
            .map_err(|error| Failure::other(format!("cannot write to {}: {error}", dir.display()))),
        None => output::print(&page()?),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn page() -> Result<String, Failure> {
    let mut page = Vec::new();
    Man::new(Cli::command())
        .render(&mut page)
        .map_err(Failure::other)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_subcommand_and_none_for_what_is_hidden() {
        let dir = tempfile::tempdir().expect("a directory");
        write(&dir.path().join("man1")).expect("writable");
        let main = page().expect("rendered");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let path = dir.path().join(format!("man1/lockd-{name}.1"));
            if command.is_hide_set() {
                assert!(!path.exists(), "{name}");
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a page");
            assert!(text.contains(".TH"), "{name}");
            assert!(
                main.contains(&format!("lockd\\-{name}(1)")),
                "{name} in:\n{main}"
            );
        }
        assert!(main.contains("120"), "the exit codes are part of it");
    }
}
