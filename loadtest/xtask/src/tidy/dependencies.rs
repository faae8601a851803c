//! Which package of the workspace may depend on which: `paxos` knows nothing of locks, `lockd`
//! nothing of the gateway, and nothing but the load test knows them all.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;
use crate::Failure;

/// A package, and the packages of this workspace that it may depend on.
struct Allowed {
    package: &'static str,
    on: &'static [&'static str],
    /// More of them, for its tests and the examples in its documentation.
    tests_on: &'static [&'static str],
}

const ALLOWED: &[Allowed] = &[
    allowed("paxos", &[]),
    allowed("lockd-protocol", &[]),
    Allowed {
        package: "lockd-client",
        on: &["lockd-protocol"],
        // Its examples need a cell to talk to.
        tests_on: &["lockd"],
    },
    allowed("lockd", &["paxos", "lockd-protocol", "lockd-client"]),
    allowed(
        "lockd-testkit",
        &["paxos", "lockd-protocol", "lockd-client", "lockd"],
    ),
    allowed("lockd-origin", &["lockd-protocol"]),
    allowed(
        "gateway",
        &["lockd-protocol", "lockd-client", "lockd", "lockd-origin"],
    ),
    allowed(
        "loadtest",
        &[
            "paxos",
            "lockd-protocol",
            "lockd-client",
            "lockd",
            "gateway",
        ],
    ),
    allowed("xtask", &["paxos"]),
];

const fn allowed(package: &'static str, on: &'static [&'static str]) -> Allowed {
    Allowed {
        package,
        on,
        tests_on: &[],
    }
}

/// Checks the manifests of the workspace at `root`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>, Failure> {
    let failed = |what: String| Failure(format!("`cargo metadata` {what}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|error| failed(format!("did not start: {error}")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("printed no JSON: {error}")))?;
    Ok(check_metadata(root, &metadata))
}

fn check_metadata(root: &Path, metadata: &Value) -> Vec<Finding> {
    let packages = list(metadata, "packages");
    let ours: Vec<&str> = packages
        .iter()
        .map(|package| text(package, "name"))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let manifest = Path::new(text(package, "manifest_path"));
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest);
        let mut report = |what: String| {
            findings.push(Finding {
                path: manifest.to_string_lossy().into_owned(),
                line: 1,
                what,
            });
        };
        let Some(rule) = ALLOWED.iter().find(|allowed| allowed.package == name) else {
            report(format!(
                "the package `{name}` has no rule: say in xtask's tidy/dependencies.rs what it \
                 may depend on"
            ));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let on = text(dependency, "name");
            let for_tests = text(dependency, "kind") == "dev";
            let is_allowed = rule.on.contains(&on) || (for_tests && rule.tests_on.contains(&on));
            // A package that names itself switches features on for its own tests.
            if ours.contains(&on) && on != name && !is_allowed {
                report(format!(
                    "`{name}` must not depend on `{on}`: move what it needs below both, or pass \
                     it in as an argument"
                ));
            }
        }
    }
    findings
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A package's name, and its dependencies with their kinds.
    type Package<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn findings(packages: &[Package<'_>]) -> Vec<String> {
        let package = |(name, dependencies): &Package<'_>| {
            let dependencies: Vec<Value> = dependencies
                .iter()
                .map(|(name, kind)| json!({"name": name, "kind": kind}))
                .collect();
            json!({
                "name": name,
                "manifest_path": format!("/root/{name}/Cargo.toml"),
                "dependencies": dependencies,
            })
        };
        let packages: Vec<Value> = packages.iter().map(package).collect();
        let found = check_metadata(Path::new("/root"), &json!({"packages": packages}));
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let found = findings(&[
            ("paxos", &[("lockd", None), ("redb", None)]),
            ("lockd", &[]),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("paxos/Cargo.toml:1: `paxos` must not depend on `lockd`"));
    }

    #[test]
    fn the_design_s_dependencies_and_those_of_others_are_fine() {
        let found = findings(&[
            ("paxos", &[("redb", None), ("paxos", Some("dev"))]),
            ("lockd", &[("paxos", None), ("tokio", None)]),
            ("gateway", &[("lockd", None)]),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn only_the_client_s_tests_may_use_the_server() {
        let with = |kind| findings(&[("lockd-client", &[("lockd", kind)]), ("lockd", &[])]);
        assert_eq!(with(Some("dev")), Vec::<String>::new());
        assert_eq!(with(None).len(), 1);
        let paxos = findings(&[("paxos", &[("lockd", Some("dev"))]), ("lockd", &[])]);
        assert_eq!(paxos.len(), 1);
    }

    #[test]
    fn a_package_without_a_rule_is_found() {
        let found = findings(&[("novelty", &[])]);
        assert!(found[0].contains("`novelty` has no rule"), "{found:?}");
    }
}
