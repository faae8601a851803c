//! The demo's own database on a PostgreSQL server: made before the story, removed behind it,
//! with the roles that the demo created.

use rand::random;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};

use super::target::{ROWS, TABLE};

/// The database, which must not exist.
const DATABASE: &str = "lockd_demo";

/// Who the application is.
const APPLICATION: &str = "lockd_demo_application";

/// Who the gateway is.
const GATEWAY: &str = "lockd_demo_gateway";

/// Owner of the fence's schema, made by the gateway's installation.
const FENCE_OWNER: &str = "fence_owner";

/// A database for the demo.
pub struct Database {
    admin_url: String,
    address: String,
    application_password: String,
    gateway_password: String,
    /// Roles that were there before, and stay.
    keep_fence_owner: bool,
}

impl Database {
    /// Makes the database with its table and the application's role.
    ///
    /// # Errors
    /// What the server refused, or what is wrong with the URL.
    pub async fn create(admin_url: &str) -> Result<Database, String> {
        let database = Database {
            admin_url: admin_url.to_owned(),
            address: address(admin_url)?,
            application_password: password(),
            gateway_password: password(),
            keep_fence_owner: false,
        };
        let admin = connect(admin_url, None).await?;
        database.refuse_leftovers(&admin).await?;
        let keep_fence_owner = exists(&admin, "pg_roles", "rolname", FENCE_OWNER).await?;
        let database = Database {
            keep_fence_owner,
            ..database
        };
        if let Err(error) = database.fill(&admin).await {
            // What was made of it must not stand in the way of the next demo.
            let _ = database.remove().await;
            return Err(error);
        }
        Ok(database)
    }

    async fn refuse_leftovers(&self, admin: &Client) -> Result<(), String> {
        if exists(admin, "pg_database", "datname", DATABASE).await? {
            return Err(format!(
                "there is a database {DATABASE} already, perhaps from a demo that was killed: \
                 if nobody needs it, `drop database {DATABASE}` and start again"
            ));
        }
        for role in [APPLICATION, GATEWAY] {
            if exists(admin, "pg_roles", "rolname", role).await? {
                return Err(format!(
                    "there is a role {role} already, perhaps from a demo that was killed: if \
                     nobody needs it, `drop role {role}` and start again"
                ));
            }
        }
        Ok(())
    }

    async fn fill(&self, admin: &Client) -> Result<(), String> {
        let create = [
            format!("create database {DATABASE}"),
            format!(
                "create role {APPLICATION} login password '{}'",
                self.application_password
            ),
        ];
        for statement in &create {
            run(admin, statement).await?;
        }
        let inside = connect(&self.admin_url, Some(DATABASE)).await?;
        let table = format!(
            "create table {TABLE} (id bigint primary key, state text not null);
             insert into {TABLE} select id, 'new' from generate_series(1, {ROWS}) id;
             grant select, insert, update, delete on {TABLE} to {APPLICATION}"
        );
        run(&inside, &table).await
    }

    /// The settings of a gateway in front of it.
    #[must_use]
    pub fn gateway_settings(&self) -> String {
        format!(
            "[postgres]\nurl = \"postgres://{GATEWAY}:{}@{}/{DATABASE}\"\n\n\
             [[guard]]\ntable = \"{TABLE}\"\nlock = \"orders/%\"\n",
            self.gateway_password, self.address
        )
    }

    /// How the application connects by way of the gateway.
    #[must_use]
    pub fn application(&self, gateway: std::net::SocketAddr) -> String {
        format!(
            "host={} port={} user={APPLICATION} password={} dbname={DATABASE}",
            gateway.ip(),
            gateway.port(),
            self.application_password
        )
    }

    /// URL of the administrator.
    #[must_use]
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Removes it, and all roles that came with it.
    ///
    /// # Errors
    /// What is left behind, and why.
    pub async fn remove(self) -> Result<(), String> {
        let admin = connect(&self.admin_url, None).await?;
        let mut statements = vec![
            format!("drop database if exists {DATABASE} with (force)"),
            format!("drop role if exists {APPLICATION}"),
            format!("drop role if exists {GATEWAY}"),
        ];
        if !self.keep_fence_owner {
            statements.push(format!("drop role if exists {FENCE_OWNER}"));
        }
        for statement in &statements {
            run(&admin, statement).await?;
        }
        Ok(())
    }
}

async fn connect(url: &str, database: Option<&str>) -> Result<Client, String> {
    let mut config = parse(url)?;
    if let Some(database) = database {
        config.dbname(database);
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|e| words(&e))?;
    // An error of the connection shows in the statements.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn exists(client: &Client, table: &str, column: &str, name: &str) -> Result<bool, String> {
    let query = format!("select 1 from {table} where {column} = $1");
    let found = client.query_opt(&query, &[&name]).await;
    found
        .map(|row| row.is_some())
        .map_err(|error| words(&error))
}

async fn run(client: &Client, statement: &str) -> Result<(), String> {
    let done = client.batch_execute(statement).await;
    done.map_err(|error| format!("{} (in `{}`)", words(&error), without_password(statement)))
}

fn without_password(statement: &str) -> &str {
    statement.split(" password ").next().unwrap_or_default()
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => format!("{}: {}", refusal.code().code(), refusal.message()),
        None => error.to_string(),
    }
}

fn parse(url: &str) -> Result<tokio_postgres::Config, String> {
    let wrong = |error| format!("{error}; write postgres=postgres://user:password@host:port/db");
    url.parse().map_err(wrong)
}

/// `host:port` of the server.
fn address(url: &str) -> Result<String, String> {
    let config = parse(url)?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts() {
        [Host::Tcp(host)] if host.contains(':') => Ok(format!("[{host}]:{port}")),
        [Host::Tcp(host)] => Ok(format!("{host}:{port}")),
        _ => Err("the URL must name one host, reached by TCP".to_owned()),
    }
}

fn password() -> String {
    format!("{:032x}", random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_the_url() {
        let of = |url: &str| address(url);
        assert_eq!(
            of("postgres://u:p@db.example:5433/x"),
            Ok("db.example:5433".into())
        );
        assert_eq!(of("postgres://u@[::1]/x"), Ok("[::1]:5432".into()));
        assert!(of("postgres://u@/x?host=/tmp").is_err());
        assert!(of("nonsense").is_err());
    }

    #[test]
    fn a_password_is_not_shown_in_an_error() {
        let statement = format!("create role x login password '{}'", password());
        assert_eq!(without_password(&statement), "create role x login");
    }
}
