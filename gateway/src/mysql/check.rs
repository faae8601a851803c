//! `gateway check`: what is missing in a MariaDB server for its guard rules to hold, and the SQL
//! that mends it. Looks through procedures of the fence, because the gateway's own account may
//! not see much; changes nothing.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row};

use super::admin::{self, AdminError, field, server_error};
use super::install::{EVENTS, guard_body, guard_sql, identifier};
use crate::config::MysqlConfig;
use crate::findings::{Finding, Severity};
use crate::rules::TableRule;

/// The tables of the fence and their engines: which of them survives a restart matters.
const FENCE_TABLES: &str = "boot MEMORY,floor InnoDB,held InnoDB,hw InnoDB,session InnoDB";

/// Rights with which a table's content changes, or its triggers go, without any trigger firing.
const AROUND_TABLE: &str = "DROP,ALTER,TRIGGER";

/// Rights over the fence itself that are nobody's business but its own.
const OVER_FENCE: &str = "INSERT,UPDATE,DELETE,CREATE,DROP,ALTER,TRIGGER,EXECUTE,CREATE ROUTINE,\
    ALTER ROUTINE,SUPER,SET USER,BINLOG REPLAY";

/// Looks for everything that is missing, problems first.
///
/// # Errors
/// [`AdminError`] if the server cannot be asked.
pub async fn check(config: &MysqlConfig) -> Result<Vec<Finding>, AdminError> {
    let mut conn = admin::connect(admin::login(config)).await?;
    admin::known_server(&mut conn).await?;
    let mut checked = Checked {
        conn,
        findings: Vec::new(),
    };
    if checked.server().await? {
        checked.fence_rights(config).await?;
        for rule in &config.guards {
            checked.table(rule).await?;
            checked.cascades(rule, &config.guards).await?;
            checked.table_rights(rule).await?;
        }
    }
    admin::disconnect(checked.conn).await;
    let mut findings = checked.findings;
    findings.sort_by_key(|finding| finding.severity == Severity::Note);
    Ok(findings)
}

struct Checked {
    conn: Conn,
    findings: Vec<Finding>,
}

type Outcome<T> = Result<T, AdminError>;

impl Checked {
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::problem(what, remedy));
    }

    async fn rows(&mut self, sql: &str, parameters: impl Into<Params> + Send) -> Outcome<Vec<Row>> {
        let parameters = parameters.into();
        let rows = self.conn.exec(sql, parameters).await;
        rows.map_err(|error| server_error(&error))
    }

    /// Whether the rest can be looked at.
    async fn server(&mut self) -> Outcome<bool> {
        let install = "run `gateway install`";
        let rows = match self.rows("call fence.look_at_server()", ()).await {
            Err(AdminError::NotInstalled(reason)) => {
                let what = format!("the fence is not installed in this server ({reason})");
                self.problem(what, install);
                return Ok(false);
            }
            rows => rows?,
        };
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        let comment: Option<String> = field(row, 2)?;
        if comment.as_deref() != Some("lockd fence, version 1") {
            let what = format!("the schema fence is not this version's: {comment:?}");
            self.problem(what, "run `gateway install` of this version");
            return Ok(false);
        }
        let tables: Option<String> = field(row, 3)?;
        if tables.as_deref() != Some(FENCE_TABLES) {
            let what = format!("the fence's tables are {tables:?}, not {FENCE_TABLES:?}");
            self.problem(
                what,
                "drop the schema fence while nobody writes, and install it again",
            );
        }
        if field::<i64>(row, 4)? > 0 {
            self.problem(
                "this server is a replica: what it gets from its primary fires no trigger",
                "guard the primary",
            );
        }
        if field::<i64>(row, 5)? > 0 {
            self.problem(
                "this server is a node of a Galera cluster, whose nodes do not see each other's \
                 row locks",
                "use a server that is no cluster",
            );
        }
        if field::<i64>(row, 6)? > 0 {
            self.problem(
                "the binary log takes statements, with which READ COMMITTED does not work",
                "set global binlog_format = MIXED; -- and in the server's configuration",
            );
        }
        Ok(true)
    }

    async fn fence_rights(&mut self, config: &MysqlConfig) -> Outcome<()> {
        let sql = "call fence.look_at_rights('fence', '', ?)";
        let rows = self.rows(sql, (OVER_FENCE,)).await?;
        for row in &rows {
            let (grantee, scope): (String, String) = (field(row, 0)?, field(row, 1)?);
            let rights: String = field(row, 2)?;
            if grantee.starts_with(&format!("'{}'@", config.user)) && rights == "EXECUTE" {
                continue;
            }
            let remedy = format!("revoke {rights} on {scope} from {grantee};");
            let what = format!("{grantee} can switch the fence off: {rights} on {scope}");
            if scope == "*.*" {
                self.findings.push(Finding::note(what, Some(remedy)));
            } else {
                self.problem(what, remedy);
            }
        }
        Ok(())
    }

    async fn table(&mut self, rule: &TableRule) -> Outcome<()> {
        let sql = "call fence.look_at_table(?, ?)";
        let rows = self.rows(sql, (&rule.schema, &rule.table)).await?;
        let Some(first) = rows.first() else {
            let what = format!("there is no table {rule}, or it is not under guard");
            self.problem(what, guard_sql(rule));
            return Ok(());
        };
        let engine: Option<String> = field(first, 0)?;
        if engine.as_deref() != Some("InnoDB") {
            let what = format!(
                "{rule} is a table of {}, which knows no transactions",
                engine.as_deref().unwrap_or("no engine")
            );
            let table = format!("{}.{}", identifier(&rule.schema), identifier(&rule.table));
            self.problem(what, format!("alter table {table} engine = InnoDB;"));
        }
        let mut guarded = Vec::new();
        for row in &rows {
            let event: Option<String> = field(row, 1)?;
            let body: Option<String> = field(row, 2)?;
            let definer: Option<String> = field(row, 3)?;
            if body.as_deref() == Some(&guard_body(rule))
                && definer.as_deref() == Some("fence_owner@localhost")
            {
                guarded.extend(event.map(|event| event.to_lowercase()));
            }
        }
        if !EVENTS
            .iter()
            .all(|event| guarded.iter().any(|g| g == event))
        {
            let what = format!("{rule} is not under guard, or not as its rule says");
            self.problem(what, guard_sql(rule));
        }
        Ok(())
    }

    /// Rows that a foreign key changes fire no trigger: the table that it points to has to be
    /// under the same guard.
    async fn cascades(&mut self, rule: &TableRule, rules: &[TableRule]) -> Outcome<()> {
        let sql = "call fence.look_at_cascades(?, ?)";
        let rows = self.rows(sql, (&rule.schema, &rule.table)).await?;
        for row in &rows {
            let (key, schema): (String, String) = (field(row, 0)?, field(row, 1)?);
            // Not told of a table on which the fence's owner has no right: one without guard.
            let parent: Option<String> = field(row, 2)?;
            let parent = parent.unwrap_or_else(|| "(another table)".to_owned());
            let same_guard = |other: &TableRule| {
                other.schema == schema && other.table == parent && other.lock == rule.lock
            };
            if !rules.iter().any(same_guard) {
                self.problem(
                    format!(
                        "a write to {schema}.{parent} changes {rule} through the foreign key \
                         {key}, which fires no trigger"
                    ),
                    format!(
                        "add a guard rule with the same lock for {schema}.{parent}, or let the \
                         key RESTRICT"
                    ),
                );
            }
        }
        Ok(())
    }

    async fn table_rights(&mut self, rule: &TableRule) -> Outcome<()> {
        let sql = "call fence.look_at_rights(?, ?, ?)";
        let parameters = (&rule.schema, &rule.table, AROUND_TABLE);
        let rows = self.rows(sql, parameters).await?;
        for row in &rows {
            let (grantee, scope): (String, String) = (field(row, 0)?, field(row, 1)?);
            let rights: String = field(row, 2)?;
            let what = format!(
                "{grantee} can go around the guard of {rule} (TRUNCATE, ALTER, DROP): {rights} \
                 on {scope}"
            );
            let remedy = format!("revoke {rights} on {scope} from {grantee};");
            self.findings.push(Finding::note(what, Some(remedy)));
        }
        Ok(())
    }
}
