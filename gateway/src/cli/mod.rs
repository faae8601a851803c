//! The `gateway` command: flags, exit codes, and one file per longer subcommand.

mod dev;
mod report;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, PostgresConfig, Upstream};
use crate::postgres::admin::AdminError;
use crate::postgres::check::CheckError;
use crate::postgres::install::{self, InstallError};
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
    /// Serves for trying things out: a lock service and a store, or your PostgreSQL.
    Dev(dev::DevArgs),
    /// Puts the fence into the database and the tables of the guard rules under guard.
    Install {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print the SQL instead of running it (it contains the password of the gateway's role).
        #[arg(long)]
        print: bool,
        /// Run it as this administrator: postgres://user:password@host/database. Host and port
        /// are those of the configuration.
        #[arg(long, value_name = "URL", conflicts_with = "print")]
        admin: Option<String>,
    },
    /// Says what is missing in the database, and the SQL that mends it.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
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
            } => {
                let postgres = postgres(&config)?;
                if print {
                    print!("{}", install::sql(&postgres));
                    return Ok(());
                }
                let installed = install::install(&postgres, admin.as_deref());
                runtime()?.block_on(installed)?;
                println!(
                    "installed; {} tables are under guard",
                    postgres.guards.len()
                );
                Ok(())
            }
            Command::Check { config } => report::check(&postgres(&config)?),
            Command::Fences { config, json } => report::fences(&config, json),
        }
    }
}

/// The PostgreSQL server of a configuration.
fn postgres(file: &Path) -> Result<PostgresConfig, Failure> {
    match Config::load(file)?.upstream {
        Upstream::Postgres(postgres) => Ok(postgres),
        Upstream::Store(_) => Err(Failure {
            code: CONFIG,
            message: format!(
                "{}: has no [postgres], and the store needs nothing",
                file.display()
            ),
        }),
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
            _ => CONFIG,
        };
        Failure {
            code,
            message: error.to_string(),
        }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Failure {
        let code = match &error {
            InstallError::Server(error) => admin_code(error),
            InstallError::Tls(_) | InstallError::Url(_) => CONFIG,
        };
        Failure {
            code,
            message: error.to_string(),
        }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Failure {
        ServeError::from(error).into()
    }
}

fn admin_code(error: &AdminError) -> u8 {
    match error {
        AdminError::NotInstalled(_) => CHECK_FAILED,
        _ => UNREACHABLE,
    }
}

/// Where `dev` listens unless it is told.
const DEV_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6543);

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = include_str!("../../../docs/gateway.md");

    /// The blocks of this language in the guide.
    fn blocks(language: &str) -> impl Iterator<Item = &str> {
        let opening = format!("```{language}\n");
        let parts = GUIDE.split("```").collect::<Vec<_>>();
        let wanted = opening.trim_start_matches('`').to_owned();
        parts
            .into_iter()
            .filter_map(move |part| part.strip_prefix(wanted.as_str()))
    }

    #[test]
    fn every_command_of_the_guide_is_one() {
        let commands: Vec<_> = blocks("console")
            .flat_map(str::lines)
            .filter_map(|l| l.strip_prefix("$ "))
            .collect();
        assert_eq!(commands.len(), 3);
        for command in commands {
            let parsed = Cli::try_parse_from(command.split(' '));
            assert!(parsed.is_ok(), "{command}: {}", parsed.err().unwrap());
        }
    }

    #[test]
    fn the_configuration_of_the_guide_can_be_used() {
        let text = blocks("toml").next().unwrap();
        Config::parse(Path::new("gateway.toml"), text).unwrap();
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
