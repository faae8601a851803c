//! `gateway check`: what is missing in a database for its guard rules to hold, and the SQL that
//! mends it. Reads catalogs as the gateway's own role; changes nothing.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::admin::{self, AdminError, server_error};
use super::install::{guard_sql, identifier, trigger_arguments};
use super::upstream::Target;
use crate::config::PostgresConfig;
use crate::findings::{Finding, Severity};
use crate::rules::TableRule;
use crate::tls::TlsError;

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The certificates of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot be reached, or refused.
    #[error(transparent)]
    Server(#[from] AdminError),
}

const FUNCTIONS: &str = "
    select p.oid::regprocedure::text, has_function_privilege(p.oid, 'execute'),
           has_function_privilege('public', p.oid, 'execute'), r.rolname = 'fence_owner'
      from pg_proc p join pg_roles r on r.oid = p.proowner
     where p.pronamespace = (select oid from pg_namespace where nspname = 'fence')
       and p.proname not in ('guard', 'raise_floor') order by 1";

/// Everything that a write to the table may go through, with its trigger's state.
const TREE: &str = "
    with recursive tree (oid) as (
      select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')
      union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid)
    select n.nspname || '.' || c.relname, r.rolname, r.rolcanlogin and not r.rolsuper,
           t.oid is not null and t.tgenabled = 'A' and t.tgtype = 62 and t.tgqual is null
             and t.tgattr = '' and t.tgargs = $3
             and t.tgfoid = (select p.oid from pg_proc p
               where p.proname = 'guard' and p.pronamespace = (
                 select oid from pg_namespace where nspname = 'fence')),
           (select pn.nspname || '.' || pc.relname from pg_inherits i
              join pg_class pc on pc.oid = i.inhparent
              join pg_namespace pn on pn.oid = pc.relnamespace
             where i.inhrelid = c.oid and i.inhparent not in (select tree.oid from tree) limit 1)
      from tree join pg_class c on c.oid = tree.oid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_roles r on r.oid = c.relowner
      left join pg_trigger t on t.tgrelid = c.oid and t.tgname = 'fence_guard'
     order by 1";

/// Looks for everything that is missing, problems first.
///
/// # Errors
/// [`CheckError`] if the server cannot be asked.
pub async fn check(config: &PostgresConfig) -> Result<Vec<Finding>, CheckError> {
    let client = admin::log_in(&Target::new(config)?, &admin::login(config)).await?;
    let mut checked = Checked {
        client,
        findings: Vec::new(),
    };
    if checked.server().await? {
        checked.functions(config).await?;
        checked.owner().await?;
        for rule in &config.guards {
            checked.table(rule).await?;
        }
        checked.ways_around().await?;
    }
    if config.pooler.is_some() {
        checked.pooler(&Target::for_clients(config)?).await;
    }
    checked
        .findings
        .sort_by_key(|finding| finding.severity == Severity::Note);
    Ok(checked.findings)
}

/// Roles that log in and, as members of another one, may write what the fence keeps.
const WRITERS_OF_THE_FENCE: &str = "select quote_ident(r.rolname), quote_ident(g.rolname)
    from pg_roles r, pg_roles g
   where r.rolcanlogin and not r.rolsuper and g.rolname in ('pg_write_all_data', 'fence_owner')
     and pg_has_role(r.oid, g.oid, 'member')
   order by 1, 2";

struct Checked {
    client: Client,
    findings: Vec<Finding>,
}

type Outcome<T> = Result<T, AdminError>;

impl Checked {
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::problem(what, remedy));
    }

    fn note(&mut self, what: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding::note(what, remedy));
    }

    async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Outcome<Vec<tokio_postgres::Row>> {
        self.client
            .query(sql, parameters)
            .await
            .map_err(|error| server_error(&error))
    }

    /// Whether the rest can be looked at.
    async fn server(&mut self) -> Outcome<bool> {
        let sql =
            "select current_setting('server_version_num')::int, current_setting('server_version'),
            (select obj_description(n.oid, 'pg_namespace') from pg_namespace n
              where n.nspname = 'fence')";
        let rows = self.rows(sql, &[]).await?;
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        let (number, version): (i32, &str) = (column(row, 0)?, column(row, 1)?);
        if number < 140_000 {
            self.problem(
                format!("the server is PostgreSQL {version}; the fence needs 14 or newer"),
                "upgrade the server",
            );
            return Ok(false);
        }
        match column::<Option<&str>>(row, 2)? {
            Some("lockd fence, version 2") => Ok(true),
            Some(other) => {
                let what = format!("the schema fence is not this version's: {other:?}");
                self.problem(what, "run `gateway install` of this version");
                Ok(false)
            }
            None => {
                self.problem(
                    "the fence is not installed in this database",
                    "run `gateway install`",
                );
                Ok(false)
            }
        }
    }

    async fn functions(&mut self, config: &PostgresConfig) -> Outcome<()> {
        let rows = self.rows(FUNCTIONS, &[]).await?;
        if rows.is_empty() {
            self.problem(
                "the functions of the fence are missing",
                "run `gateway install`",
            );
        }
        for row in &rows {
            let function: &str = column(row, 0)?;
            if !column::<bool>(row, 1)? {
                self.problem(
                    format!("the gateway's role may not call {function}"),
                    format!(
                        "grant usage on schema fence to {role}; \
                         grant execute on function {function} to {role};",
                        role = identifier(&config.user)
                    ),
                );
            }
            if column(row, 2)? {
                self.problem(
                    format!("everybody may call {function}"),
                    format!("revoke all on function {function} from public;"),
                );
            }
            if !column::<bool>(row, 3)? {
                self.problem(
                    format!("{function} does not belong to fence_owner"),
                    format!("alter function {function} owner to fence_owner;"),
                );
            }
        }
        Ok(())
    }

    async fn owner(&mut self) -> Outcome<()> {
        let sql = "select rolsuper, rolcanlogin, pg_has_role(oid, 'pg_signal_backend', 'usage'),
            pg_has_role(oid, 'pg_read_all_stats', 'usage')
            from pg_roles where rolname = 'fence_owner'";
        let rows = self.rows(sql, &[]).await?;
        let Some(row) = rows.first() else {
            self.problem("the role fence_owner is missing", "run `gateway install`");
            return Ok(());
        };
        for (at, wanted, what, remedy) in [
            (
                0,
                false,
                "is a superuser",
                "alter role fence_owner nosuperuser;",
            ),
            (1, false, "can log in", "alter role fence_owner nologin;"),
            (
                2,
                true,
                "cannot end backends",
                "grant pg_signal_backend to fence_owner;",
            ),
            (
                3,
                true,
                "cannot see backends",
                "grant pg_read_all_stats to fence_owner;",
            ),
        ] {
            if column::<bool>(row, at)? != wanted {
                self.problem(format!("the role fence_owner {what}"), remedy);
            }
        }
        Ok(())
    }

    async fn table(&mut self, rule: &TableRule) -> Outcome<()> {
        let (kind, argument) = trigger_arguments(&rule.lock);
        let arguments = [kind.as_bytes(), &[0], argument.as_bytes(), &[0]].concat();
        let rows = self
            .rows(TREE, &[&rule.schema, &rule.table, &arguments])
            .await?;
        if rows.is_empty() {
            self.problem(
                format!("there is no table {rule}"),
                "correct the guard rule, or create it",
            );
        }
        for row in &rows {
            let (name, owner): (&str, &str) = (column(row, 0)?, column(row, 1)?);
            if !column::<bool>(row, 3)? {
                self.problem(
                    format!("{name} is not under guard, or not as the rule of {rule} says"),
                    guard_sql(rule).trim().to_owned(),
                );
            }
            if let Some(parent) = column::<Option<&str>>(row, 4)? {
                self.problem(
                    format!("writes to {parent} reach {name} without firing its trigger"),
                    format!("write the guard rule for {parent} instead"),
                );
            }
            if column(row, 2)? {
                let what = format!("{owner} owns {name}, can log in, and could drop its trigger");
                let remedy = "let a role without login own the table, and grant what is needed";
                self.note(what, Some(remedy.to_owned()));
            }
        }
        Ok(())
    }

    /// Only whether it is there: who may log in, and to which server it leads, is seen when a
    /// client comes; leads it elsewhere, all writes are refused.
    async fn pooler(&mut self, pooler: &Target) {
        if let Err(error) = pooler.dial().await {
            self.problem(
                format!("the pooler cannot be reached: {error}"),
                "start it, or correct [postgres.pooler]",
            );
        }
        self.note(
            "through a pooler it is not seen whether a role may become a superuser",
            Some("let the pooler admit no role that is a member of one".to_owned()),
        );
    }

    async fn ways_around(&mut self) -> Outcome<()> {
        let sql = "select current_setting('max_prepared_transactions')::int,
            (select string_agg(rolname, ', ' order by rolname) from pg_roles
              where rolsuper and rolcanlogin)";
        let rows = self.rows(sql, &[]).await?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        if column::<i32>(row, 0)? > 0 {
            self.note(
                "prepared transactions are possible; one that is pending blocks newer holders",
                Some("alter system set max_prepared_transactions = 0; -- and restart".to_owned()),
            );
        }
        if let Some(superusers) = column::<Option<&str>>(row, 1)? {
            self.note(
                format!("superusers can switch the fence off: {superusers}"),
                None,
            );
        }
        for row in &self.rows(WRITERS_OF_THE_FENCE, &[]).await? {
            let (role, through): (&str, &str) = (column(row, 0)?, column(row, 1)?);
            self.note(
                format!("{role} can write the tables of the fence itself, by way of {through}"),
                Some(format!("revoke {through} from {role};")),
            );
        }
        Ok(())
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    at: usize,
) -> Outcome<T> {
    row.try_get(at)
        .map_err(|error| AdminError::Server(error.to_string()))
}
