//! `loadtest`: the demo, load on a cell, and (hidden) the roles in which it starts itself again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::cluster::Timeouts;
use loadtest::compare::accident::holder::{self, HolderArgs};
use loadtest::compare::outcome::Outcome;
use loadtest::compare::{self, CompareArgs};
use loadtest::demo::actor::{self, ActorArgs};
use loadtest::demo::{self, DemoArgs, DemoError};
use loadtest::keeper::{self, Kept};
use loadtest::process;
use loadtest::report::{self, ReportArgs};
use loadtest::run::{self, RunArgs};
use loadtest::scale::{self, ScaleArgs};
#[cfg(feature = "sim")]
use loadtest::sim::command::{self, SimArgs};
use loadtest::terminal::print_line;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a result that cannot be used, as for flags that cannot.
const UNUSABLE: u8 = 2;

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Drives lockd and its gateway, and proves safety while it does.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all promises were kept; 1 one was broken, or a threshold passed; \
    2 wrong usage; 3 it could not be run; 130 interrupted."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the accident that a lock alone cannot prevent, and how the gateway prevents it.
    Demo(DemoArgs),
    /// Puts a workload on a cell, judges every answer, and reports what it cost.
    Run(RunArgs),
    /// Puts the same work on lockd and on what people use for locks, and reports what each cost.
    Compare(CompareArgs),
    /// Shows results, holds two against each other, and fails if a figure has become worse.
    Report(ReportArgs),
    /// Fills a cell with very many sessions and locks, measures what they cost, kills its leader,
    /// and counts what was lost.
    Scale(ScaleArgs),
    /// Simulates the whole system from seeds, with faults, and checks every promise at every step.
    #[cfg(feature = "sim")]
    Sim(SimArgs),
    /// A node of a cell.
    #[command(name = "__node", hide = true)]
    Node {
        /// Its `node.toml`.
        #[arg(long)]
        config: PathBuf,
    },
    /// A gateway.
    #[command(name = "__gateway", hide = true)]
    Gateway {
        /// Its `gateway.toml`.
        #[arg(long)]
        config: PathBuf,
    },
    /// Keeps private servers of another project.
    #[command(name = "__keep", hide = true)]
    Keep {
        /// Which.
        what: Kept,
        /// For how many clients.
        #[arg(long)]
        clients: u64,
        /// How long nodes of a cluster wait for each other.
        #[arg(long, value_enum)]
        timeouts: Timeouts,
    },
    /// A client of the demo.
    #[command(name = "__actor", hide = true)]
    Actor(ActorArgs),
    /// A holder of a lock that meets with an accident.
    #[command(name = "__holder", hide = true)]
    Holder(HolderArgs),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = match command {
        Command::Node { config } => serve(&config, |path| lockd::server::serve(path, |_| ())),
        Command::Gateway { config } => serve(&config, gateway::serve),
        Command::Actor(arguments) => {
            process::die_with_parent();
            in_runtime(actor::run(&arguments)).map(|()| ExitCode::SUCCESS)
        }
        Command::Holder(arguments) => {
            process::die_with_parent();
            in_runtime(holder::run(&arguments)).map(|()| ExitCode::SUCCESS)
        }
        Command::Keep {
            what,
            clients,
            timeouts,
        } => in_runtime(keeper::keep(what, clients, timeouts)).map(|()| ExitCode::SUCCESS),
        Command::Demo(arguments) => in_runtime(show_demo(&arguments)),
        Command::Run(arguments) => in_runtime(put_load(&arguments)),
        Command::Compare(arguments) => in_runtime(compare_all(&arguments)),
        Command::Report(arguments) => Ok(report_on(&arguments)),
        Command::Scale(arguments) => in_runtime(fill_cell(&arguments)),
        #[cfg(feature = "sim")]
        Command::Sim(arguments) => command::execute(&arguments).map(exit_code),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadtest: {error}");
        ExitCode::from(3)
    })
}

/// Runs a server until it is told to stop, or its parent ends.
fn serve<E: std::fmt::Display>(
    config: &Path,
    serve: impl Fn(&Path) -> Result<(), E>,
) -> Result<ExitCode, String> {
    process::lifeline();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    serve(config)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| error.to_string())
}

async fn show_demo(arguments: &DemoArgs) -> Result<ExitCode, String> {
    let outcome = match demo::run(arguments, &this_program()?, interrupted()?).await {
        Ok(outcome) => outcome,
        Err(DemoError::Interrupted) => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => return Err(error.to_string()),
    };
    if arguments.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(|error| error.to_string())?;
        print_line(&json);
    } else {
        print_line(&format!("\n{}", outcome.verdict()));
    }
    Ok(exit_code(outcome.passed))
}

async fn put_load(arguments: &RunArgs) -> Result<ExitCode, String> {
    let program = this_program()?;
    // Dropping the run ends every process that it has started.
    let report = tokio::select! {
        report = run::run(arguments, &program) => report.map_err(|error| error.to_string())?,
        () = interrupted()? => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let failed = |error: run::RunError| error.to_string();
    run::write_report(&report, arguments.json.as_deref()).map_err(failed)?;
    run::write_interval_log(&report, arguments.hdr.as_deref()).map_err(failed)?;
    let passed = report.passed();
    arguments.files.write(&report.into()).map_err(failed)?;
    Ok(exit_code(passed))
}

fn report_on(arguments: &ReportArgs) -> ExitCode {
    match report::report(arguments) {
        Ok(passed) => exit_code(passed),
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

async fn compare_all(arguments: &CompareArgs) -> Result<ExitCode, String> {
    let program = this_program()?;
    // Dropping the comparison ends every process that it has started.
    let comparison = tokio::select! {
        result = compare::compare(arguments, &program) => result.map_err(|e| e.to_string())?,
        () = interrupted()? => return Ok(ExitCode::from(INTERRUPTED)),
    };
    run::write_report(&comparison, arguments.json.as_deref()).map_err(|e| e.to_string())?;
    if let Outcome::Cycles(comparison) = &comparison {
        let files = arguments.files.write(&comparison.into());
        files.map_err(|e| e.to_string())?;
    }
    if comparison.passed() && !comparison.is_complete() {
        return Err(
            "not everything could be measured or cleaned up: the result says what".to_owned(),
        );
    }
    Ok(exit_code(comparison.passed()))
}

async fn fill_cell(arguments: &ScaleArgs) -> Result<ExitCode, String> {
    let program = this_program()?;
    let report = tokio::select! {
        report = scale::run(arguments, &program) => report.map_err(|error| error.to_string())?,
        () = interrupted()? => return Ok(ExitCode::from(INTERRUPTED)),
    };
    report
        .write(arguments.json.as_deref())
        .map_err(|error| error.to_string())?;
    Ok(exit_code(report.passed()))
}

fn exit_code(passed: bool) -> ExitCode {
    ExitCode::from(u8::from(!passed))
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot tell where this program is: {error}"))
}

/// Runs on this thread alone: it is the parent of all processes, and must live as long as they.
fn in_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?
        .block_on(work)
}

/// Ends at Ctrl-C or SIGTERM, also at one that came before it is waited for.
fn interrupted() -> Result<impl Future<Output = ()>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_documents_is_understood() {
        let documents = [
            include_str!("../../README.md"),
            include_str!("../../docs/benchmark.md"),
            include_str!("../../docs/loadtest.md"),
            include_str!("../../docs/limits.md"),
        ];
        let lines = documents.iter().flat_map(|document| document.lines());
        let commands = lines.filter_map(|line| {
            line.strip_prefix("cargo run --release -p loadtest -- ")
                .or_else(|| line.strip_prefix("loadtest "))
        });
        let commands: Vec<&str> = commands
            .map(|line| line.split(" #").next().unwrap_or(line))
            .collect();
        assert!(commands.len() >= 15, "{commands:?}");
        for words in commands {
            let words = std::iter::once("loadtest").chain(words.split_whitespace());
            let parsed = Arguments::try_parse_from(words.clone());
            let error = parsed.err().map(|error| error.to_string());
            assert_eq!(error, None, "{:?}", words.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
