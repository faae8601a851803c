//! The `gateway` command: flags, exit codes, and one file per longer subcommand.

mod dev;
mod install;
mod report;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::mysql;
use crate::postgres::admin::AdminError;
use crate::redis::link::LinkError;
use crate::server::{self, ServeError};

/// Something that can be mended is missing in the database.
const CHECK_FAILED: u8 = 1;
/// Wrong flags, or a configuration that cannot be used.
const CONFIG: u8 = 2;
/// The server behind the gateway, or the lock service, cannot be reached or refused.
const UNREACHABLE: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  something is missing: the fence does not hold in that database
  2  wrong flags, or a configuration that cannot be used
  3  the server behind the gateway cannot be reached, or refused";

/// Stands in front of a database and lets it refuse the writes of stale lock holders.
#[derive(Parser)]
#[command(name = "gateway", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves clients. Prints `listening on ADDR` when it is ready.
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Serves for trying things out: a lock service and a store, your PostgreSQL, or your HTTP
    /// server.
    Dev(dev::DevArgs),
    /// Puts the fence into the server, and what the guard rules name under guard.
    Install {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print what would be run instead of running it (it contains passwords).
        #[arg(long)]
        print: bool,
        /// Run it as this administrator: postgres://user:password@host/database,
        /// mysql://user:password@host or redis://user:password@host. Host and port are those of
        /// the configuration.
        #[arg(long, value_name = "URL", conflicts_with = "print")]
        admin: Option<String>,
    },
    /// Says what is missing in the server, and what mends it.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Vouches that no write in doubt will take effect any more, so that newer tokens are taken:
    /// for an HTTP server, whose gateway cannot know.
    Settle {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Of this lock only; otherwise of all, and of what an earlier gateway may have sent.
        #[arg(long, value_name = "NAME")]
        lock: Option<String>,
    },
    /// Lists the highest token admitted for each lock.
    Fences {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// An exit code and a line for a person.
struct Failure {
    code: u8,
    message: String,
}

/// Runs the command with the arguments of a process, its name first. Returns when it has ended.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(CONFIG);
            // There is nobody to tell if this cannot be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            eprintln!("gateway: {message}");
            ExitCode::from(code)
        }
    }
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Command::Serve { config } => Ok(server::serve(&config)?),
            Command::Dev(args) => args.run(),
            Command::Install {
                config,
                print,
                admin,
            } => install::run(&config, print, admin.as_deref()),
            Command::Check { config } => report::check(&config),
            Command::Settle { config, lock } => report::settle(&config, lock),
            Command::Fences { config, json } => report::fences(&config, json),
        }
    }
}

/// The embedded store has its fence built in; an HTTP server gets none.
fn nothing_to_install(file: &Path) -> Failure {
    Failure {
        code: CONFIG,
        message: format!(
            "{}: nothing has to be installed: it names the store or an HTTP server",
            file.display()
        ),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Machine)?)
}

/// The log goes to stderr, at `info` unless `RUST_LOG` says otherwise.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,tokio_postgres=warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A process that has its own log already keeps it.
    let _ = subscriber.try_init();
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure {
            code: CONFIG,
            message: error.to_string(),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        let code = match &error {
            ServeError::Unguarded(_) => CHECK_FAILED,
            ServeError::Upstream(error) => admin_code(error),
            ServeError::Mysql(error) => mysql_code(error),
            ServeError::Redis(error) => link_code(error),
            ServeError::Http(_) => UNREACHABLE,
            _ => CONFIG,
        };
        Failure {
            code,
            message: error.to_string(),
        }
    }
}

fn admin_code(error: &AdminError) -> u8 {
    match error {
        AdminError::NotInstalled(_) => CHECK_FAILED,
        _ => UNREACHABLE,
    }
}

fn mysql_code(error: &mysql::admin::AdminError) -> u8 {
    match error {
        mysql::admin::AdminError::NotInstalled(_) => CHECK_FAILED,
        _ => UNREACHABLE,
    }
}

fn link_code(error: &LinkError) -> u8 {
    match error {
        LinkError::NotInstalled(_) => CHECK_FAILED,
        _ => UNREACHABLE,
    }
}

/// Where `dev` listens unless it is told.
const DEV_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6543);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const GUIDES: [&str; 5] = [
        include_str!("../../../docs/gateway.md"),
        include_str!("../../../docs/gateway-transaction.md"),
        include_str!("../../../docs/gateway-mysql.md"),
        include_str!("../../../docs/gateway-redis.md"),
        include_str!("../../../docs/gateway-http.md"),
    ];

    /// The blocks of this language in a guide.
    fn blocks<'a>(guide: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
        let opening = format!("```{language}\n");
        let parts = guide.split("```").collect::<Vec<_>>();
        let wanted = opening.trim_start_matches('`').to_owned();
        parts
            .into_iter()
            .filter_map(move |part| part.strip_prefix(wanted.as_str()))
    }

    #[test]
    fn every_command_of_the_guides_is_one() {
        for guide in GUIDES {
            let commands: Vec<_> = blocks(guide, "console")
                .flat_map(str::lines)
                .filter_map(|l| l.strip_prefix("$ "))
                .collect();
            assert_eq!(commands.len(), 3);
            for command in commands {
                let parsed = Cli::try_parse_from(command.split(' '));
                assert!(parsed.is_ok(), "{command}: {}", parsed.err().unwrap());
            }
        }
    }

    #[test]
    fn the_configurations_of_the_guides_can_be_used() {
        for guide in GUIDES {
            let text = blocks(guide, "toml").next().unwrap();
            Config::parse(Path::new("gateway.toml"), text).unwrap();
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
