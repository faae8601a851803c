//! The `lockd` command line: one file per subcommand, one definition of every flag.
//!
//! * `exit`: exit codes, and errors as one line on stderr.
//! * `config`: finding `client.toml`, and connecting with it.
//! * `output`: tables and JSON. `reading`: where a listing comes from. `labels`: of sessions.
//! * `lock` runs a command under a lock: `child` starts it, `supervise` watches over it,
//!   `terminal` gives it the terminal, `ticket_fd` hands its ticket over, `warden` ends what it
//!   has started if this process is killed.
//! * `completions`, `man`: made from the same definition.

mod break_lock;
mod child;
mod completions;
mod config;
mod dev;
mod exit;
mod init;
mod labels;
mod lock;
mod ls;
mod man;
mod member;
mod output;
mod reading;
mod serve;
mod sessions;
mod status;
mod supervise;
mod terminal;
mod ticket_fd;
mod warden;
mod watch;
mod who;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use exit::Failure;

/// A distributed lock service whose grants carry fencing tokens.
#[derive(Debug, Parser)]
#[command(name = "lockd", version, after_help = exit::HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Dev(dev::Args),
    Lock(lock::Args),
    Status(status::Args),
    Member(member::Args),
    Ls(ls::Args),
    Who(who::Args),
    Watch(watch::Args),
    Sessions(sessions::Args),
    Break(break_lock::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(name = child::NAME, hide = true)]
    Child(child::Args),
    #[command(name = warden::NAME, hide = true)]
    Warden(warden::Args),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(error) if is_mistake(&error) => Failure::usage(one_line(&error)).report(),
        Err(error) => error.exit(),
    }
}

/// Whether something is wrong with the flags. Otherwise somebody wants help.
fn is_mistake(error: &clap::Error) -> bool {
    let help = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    error.use_stderr() && error.kind() != help
}

/// What is wrong with the flags, in one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let what = text.split("\n\n").next().unwrap_or(text);
    let words: Vec<&str> = what.split_whitespace().collect();
    format!("{} (see --help)", words.join(" "))
}

fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Dev(args) => dev::run(args),
        Command::Lock(args) => lock::run(args),
        Command::Status(args) => status::run(&args),
        Command::Member(args) => member::run(args),
        Command::Ls(args) => ls::run(&args),
        Command::Who(args) => who::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Break(args) => break_lock::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Child(args) => Err(child::run(&args)),
        Command::Warden(args) => warden::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Runs an async subcommand on a runtime of its own. One thread is enough.
fn run_async<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start: {error}")))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_flags_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_in_the_help_and_in_the_documentation() {
        let help = Cli::command().render_long_help().to_string();
        let page = include_str!("../../../docs/cli.md");
        for code in exit::ALL {
            assert!(help.contains(&format!(" {code} ")), "{code} in:\n{help}");
            assert!(
                page.contains(&format!("| {code} |")),
                "{code} in docs/cli.md"
            );
        }
    }

    #[test]
    fn every_subcommand_and_flag_of_lock_is_in_the_documentation() {
        let page = include_str!("../../../docs/cli.md");
        let cli = Cli::command();
        for command in cli
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let name = command.get_name();
            assert!(
                page.contains(&format!("| `{name}")),
                "{name} in docs/cli.md"
            );
        }
        let lock = cli.find_subcommand("lock").expect("it exists");
        for flag in lock.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(
                page.contains(&format!("`--{flag}")),
                "--{flag} in docs/cli.md"
            );
        }
    }

    #[test]
    fn a_bad_duration_is_a_usage_error_that_names_the_flag() {
        let error = Cli::try_parse_from(["lockd", "lock", "a", "--wait", "5q", "--", "true"]);
        let error = error.expect_err("5q is not a duration");
        assert_eq!(error.exit_code(), i32::from(exit::USAGE));
        assert!(error.to_string().contains("--wait"));
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let cli = Cli::try_parse_from(["lockd", "lock", "a", "--try", "--", "ls", "--try", "-l"]);
        let Command::Lock(args) = cli.expect("allowed").command else {
            panic!("another subcommand");
        };
        assert_eq!(args.command(), ["ls", "--try", "-l"]);
    }
}
