//! `gateway install`.

use std::path::Path;

use super::{CONFIG, Failure, admin_code, link_code, mysql_code, nothing_to_install, runtime};
use crate::config::{Config, MysqlConfig, PostgresConfig, RedisConfig, Upstream};
use crate::{mysql, postgres, redis};

/// Puts the fence into the server of a configuration, or prints how.
pub(super) fn run(file: &Path, print: bool, admin: Option<&str>) -> Result<(), Failure> {
    match Config::load(file)?.upstream {
        Upstream::Postgres(config) if print => print!("{}", postgres::install::sql(&config)),
        Upstream::Postgres(config) => {
            into_postgres(&config, admin)?;
            println!("installed; {} tables are under guard", config.guards.len());
        }
        Upstream::Mysql(config) if print => print!("{}", mysql::install::sql(&config)),
        Upstream::Mysql(config) => {
            into_mysql(&config, admin)?;
            println!("installed; {} tables are under guard", config.guards.len());
        }
        Upstream::Redis(config) if print => print!("{}", redis::install::text(&config)),
        Upstream::Redis(config) => {
            into_redis(&config, admin)?;
            println!("installed; {} guard rules hold", config.guards.len());
        }
        Upstream::Store(_) | Upstream::Http(_) => return Err(nothing_to_install(file)),
    }
    Ok(())
}

pub(super) fn into_postgres(config: &PostgresConfig, admin: Option<&str>) -> Result<(), Failure> {
    use postgres::install::InstallError;
    let installed = runtime()?.block_on(postgres::install::install(config, admin));
    installed.map_err(|error| Failure {
        code: match &error {
            InstallError::Server(error) => admin_code(error),
            InstallError::Tls(_) | InstallError::Url(_) => CONFIG,
        },
        message: error.to_string(),
    })
}

fn into_mysql(config: &MysqlConfig, admin: Option<&str>) -> Result<(), Failure> {
    use mysql::install::InstallError;
    let installed = runtime()?.block_on(mysql::install::install(config, admin));
    installed.map_err(|error| Failure {
        code: match &error {
            InstallError::Server(error) => mysql_code(error),
            InstallError::Url(_) => CONFIG,
        },
        message: error.to_string(),
    })
}

fn into_redis(config: &RedisConfig, admin: Option<&str>) -> Result<(), Failure> {
    use redis::install::InstallError;
    let installed = runtime()?.block_on(redis::install::install(config, admin));
    installed.map_err(|error| Failure {
        code: match &error {
            InstallError::Server(error) => link_code(error),
            InstallError::Tls(_) | InstallError::Admin => CONFIG,
        },
        message: error.to_string(),
    })
}
