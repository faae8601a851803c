//! `lockd completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::exit::Failure;
use super::{Cli, output};

/// Prints a script that completes this command line in a shell
///
/// For bash: `lockd completions bash > /etc/bash_completion.d/lockd`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    output::print(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lockd", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_script_of_every_shell_knows_every_subcommand_and_the_flags_of_lock() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            let cli = Cli::command();
            for command in cli.get_subcommands().filter(|it| !it.is_hide_set()) {
                let name = command.get_name();
                assert!(script.contains(name), "{name} for {shell}");
            }
            for flag in ["on-lost", "ticket-fd", "conflict-exit-code"] {
                assert!(script.contains(flag), "--{flag} for {shell}");
            }
        }
    }
}
