//! `loadtest`: the demo, load on a cell, and (hidden) the roles in which it starts itself again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::demo::actor::{self, ActorArgs};
use loadtest::demo::{self, DemoArgs};
use loadtest::process;
use loadtest::run::{self, RunArgs};

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Drives lockd and its gateway, and proves safety while it does.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all promises were kept; 1 one was broken; \
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
    /// A node of a cell.
    #[command(name = "__node", hide = true)]
    Node {
        /// Its `node.toml`.
        #[arg(long)]
        config: PathBuf,
    },
    /// A client of the demo.
    #[command(name = "__actor", hide = true)]
    Actor(ActorArgs),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let result = match command {
        Command::Node { config } => serve(&config, |path| lockd::server::serve(path, |_| ())),
        Command::Actor(arguments) => {
            process::die_with_parent();
            in_runtime(actor::run(&arguments)).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo(arguments) => in_runtime(or_interrupted(show_demo(&arguments))),
        Command::Run(arguments) => in_runtime(or_interrupted(put_load(&arguments))),
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
    let outcome = demo::run(arguments, &this_program()?)
        .await
        .map_err(|error| error.to_string())?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(|error| error.to_string())?;
        println!("{json}");
    } else {
        println!("\n{}", outcome.verdict());
    }
    Ok(exit_code(outcome.passed))
}

async fn put_load(arguments: &RunArgs) -> Result<ExitCode, String> {
    let report = run::run(arguments, &this_program()?)
        .await
        .map_err(|error| error.to_string())?;
    run::write_report(&report, arguments.json.as_deref()).map_err(|error| error.to_string())?;
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

/// Dropping the work at Ctrl-C or SIGTERM ends every process that it has started.
async fn or_interrupted(
    work: impl Future<Output = Result<ExitCode, String>>,
) -> Result<ExitCode, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
    }
}
