//! `loadtest report`: reads results, shows them, holds two against each other, and fails if a
//! figure has become worse by more than it may.

pub mod chart;
pub mod csv;
pub mod difference;
pub mod files;
pub mod page;
pub mod plots;
pub mod results;
pub mod threshold;

use std::path::PathBuf;

use crate::run::RunError;
use crate::terminal::print_line;
use difference::{CannotCompare, Difference, Overview, Passed};
use files::Files;
use results::{ReadError, Results};
use threshold::Threshold;

/// Options of `loadtest report`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// A result, as `--json` of `run` or `compare` wrote it.
    #[arg(value_name = "A.json")]
    pub first: PathBuf,
    /// A later result, to be held against it.
    #[arg(value_name = "B.json")]
    pub second: Option<PathBuf>,
    /// Exit with 1 if a median of the second result is further from that of the first than this:
    /// `p99+10%`, `cycles-5%`. Figures: cycles, p50, p99, p99.9, max (of the latency of grants),
    /// cpu (for each cycle), memory (of the servers). Can be repeated.
    #[arg(long, value_name = "FIGURE±N%", requires = "second")]
    pub fail_if: Vec<Threshold>,
    /// Files to be written.
    #[command(flatten)]
    pub files: Files,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file is no result.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The results do not go together.
    #[error(transparent)]
    CannotCompare(#[from] CannotCompare),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] RunError),
}

/// Reports. Whether no threshold was passed, and no promise broken in the latest result.
///
/// # Errors
/// [`ReportError`].
pub fn report(arguments: &ReportArgs) -> Result<bool, ReportError> {
    let first = Results::read(&arguments.first)?;
    let Some(second) = &arguments.second else {
        arguments.files.write(&first)?;
        print_line(&Overview(&first).to_string());
        return Ok(kept_every_promise(&first));
    };
    let second = Results::read(second)?;
    let difference = Difference::new(&first, &second)?;
    let passed = difference.passed(&arguments.fail_if)?;
    print_line(&difference.to_string());
    print_verdict(&arguments.fail_if, &passed);
    let kept = kept_every_promise(&second);
    arguments.files.write(&both(first, second))?;
    Ok(kept && passed.is_empty())
}

fn print_verdict(thresholds: &[Threshold], passed: &[Passed]) {
    for passed in passed {
        print_line(&format!("FAILED: {passed}"));
    }
    if passed.is_empty() && !thresholds.is_empty() {
        print_line("No threshold was passed.");
    }
}

fn kept_every_promise(results: &Results) -> bool {
    let violations = results.violations();
    if violations > 0 {
        print_line(&format!(
            "FAILED: {violations} broken promises are in the result"
        ));
    }
    violations == 0
}

/// Both results as one, so that they stand beside each other.
fn both(first: Results, second: Results) -> Results {
    let mut results = Results::default();
    for (name, part) in [("first", first), ("second", second)] {
        let named = part.measured.into_iter().map(|mut measured| {
            measured.key.driver = format!("{} ({name})", measured.key.driver);
            measured
        });
        results.measured.extend(named);
        results.missing.extend(part.missing);
    }
    results
}
