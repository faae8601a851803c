//! `cargo xtask seeds --plants`: how soon the consensus simulator catches each planted bug, as the
//! table of `docs/planted.md`, whose other columns come from the code and the model checker's page.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use paxos::Planted;
use paxos::sim::{Options, run_quietly};

use crate::{Failure, workspace_root};

/// Between these lines of the page is the table.
const BEGIN: &str = "<!-- written by cargo xtask seeds --plants --write -->\n";
const END: &str = "<!-- end -->\n";

const HEAD: &str = "\
| bug | what is wrong | on record | planted in | first seed | it breaks | model checker |
|---|---|---|---|---|---|---|
";

/// Plants one bug after the other and prints the table; with `write`, into the page, too.
///
/// # Errors
///
/// If nothing catches a bug.
pub(crate) fn run(options: Options, count: u64, jobs: usize, write: bool) -> Result<(), Failure> {
    let root = workspace_root();
    let models = read(&root.join("docs/model-checking.md"))?;
    let mut table = HEAD.to_owned();
    let mut missed = Vec::new();
    for bug in Planted::ALL {
        let sought = elsewhere(*bug).is_none();
        let caught = sought.then(|| first_failure(options, count, jobs, *bug));
        let caught = caught.flatten();
        let row = row(&root, &models, *bug, caught)?;
        eprintln!("{row}");
        let _ = writeln!(table, "{row}");
        let known = caught.is_some() || by_model(&models, *bug).is_some();
        if !known && elsewhere(*bug).is_none() {
            missed.push(format!("{bug:?}"));
        }
    }
    println!("{table}");
    if write {
        put(&root.join("docs/planted.md"), &table)?;
    }
    match missed.is_empty() {
        true => Ok(()),
        false => Err(Failure(format!("nothing catches {}", missed.join(", ")))),
    }
}

fn row(
    root: &Path,
    models: &str,
    bug: Planted,
    caught: Option<(u64, &'static str)>,
) -> Result<String, Failure> {
    let (seed, by) = match caught {
        Some((seed, by)) => (seed.to_string(), by.to_owned()),
        None => ("—".to_owned(), elsewhere(bug).unwrap_or_default()),
    };
    let cells = [
        format!("`{bug:?}`"),
        bug.words().to_owned(),
        bug.record().to_owned(),
        place(root, bug)?,
        seed,
        by,
        by_model(models, bug).unwrap_or_default(),
    ];
    Ok(format!("| {} |", cells.join(" | ")))
}

/// What shows a bug that the simulator does not look for.
fn elsewhere(bug: Planted) -> Option<String> {
    if Planted::SECOND_LINES.contains(&bug) {
        return Some("nothing: another rule prevents the same".to_owned());
    }
    if Planted::MODELLED.contains(&bug) {
        return Some("the model of the leases, see model-checking.md".to_owned());
    }
    let mut tests = Planted::SHOWN_BY_TESTS.iter();
    let (_, file, test) = tests.find(|(shown, ..)| *shown == bug)?;
    Some(format!("`{file}`: {}", test.replace('_', " ")))
}

/// The instance of the model checker that finds the bug, and in how many steps.
fn by_model(models: &str, bug: Planted) -> Option<String> {
    let begin = format!("| `{bug:?}`");
    let mut rows = models.lines().filter(|line| line.starts_with(&begin));
    let cells: Vec<&str> = rows.next()?.split('|').map(str::trim).collect();
    // A second line has two cells only: the instance that is exhausted without finding anything.
    let steps = cells.get(4).filter(|_| cells.len() > 5)?;
    Some(format!("{}: {steps} steps", cells.get(2)?))
}

/// The file that asks whether the bug is planted.
fn place(root: &Path, bug: Planted) -> Result<String, Failure> {
    let name = format!("Planted::{bug:?})");
    let paxos = root.join("paxos/src");
    let mut places = Vec::new();
    for directory in ["", "acceptor", "store", "sim"] {
        for file in rust_files(&paxos.join(directory))? {
            if read(&file)?.contains(&name) {
                let path = file.strip_prefix(&paxos).unwrap_or(&file);
                places.push(format!("`{}`", path.display()));
            }
        }
    }
    // Where a question stands for several bugs, it is in the list of them.
    let known = places.iter().filter(|place| *place != "`planted.rs`");
    let known: Vec<String> = known.cloned().collect();
    Ok(if known.is_empty() { places } else { known }.join(", "))
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure(format!("{}: {error}", directory.display()));
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

/// Puts the table into the page, in the place of the one before.
fn put(path: &Path, table: &str) -> Result<(), Failure> {
    let page = read(path)?;
    let parts = page.split_once(BEGIN);
    let parts = parts.and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) =
        parts.ok_or_else(|| Failure(format!("{}: no place for a table", path.display())))?;
    std::fs::write(path, format!("{head}{BEGIN}{table}{END}{tail}"))
        .map_err(|error| Failure(format!("{}: {error}", path.display())))
}

/// The first seed that catches a bug, and the invariant that it breaks.
fn first_failure(
    options: Options,
    count: u64,
    jobs: usize,
    bug: Planted,
) -> Option<(u64, &'static str)> {
    let next = AtomicU64::new(0);
    let first: Mutex<Option<(u64, &'static str)>> = Mutex::new(None);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let seed = options.seed + index;
            let planted = Some(bug);
            let Err(violation) = run_quietly(Options {
                seed,
                planted,
                ..options
            }) else {
                continue;
            };
            next.store(count, Ordering::Relaxed);
            let Ok(mut first) = first.lock() else { break };
            if first.is_none_or(|(found, _)| seed < found) {
                *first = Some((seed, violation.invariant));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    first.into_inner().ok().flatten()
}
