//! Running a simulation that follows from a seed, whatever it simulates: quietly, because telling
//! costs time; and if something is broken, once more to tell the story.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sim::story::Story;
use crate::sim::violation::Violation;

/// A simulation that is the same whenever it is run.
pub trait Simulation: Copy {
    /// What a run came to.
    type Report;

    /// Everything that happens by chance follows from it.
    fn seed(&self) -> u64;

    /// The command that replays it.
    fn command(&self) -> String;

    /// Simulates. A panic counts as a broken invariant, too.
    ///
    /// # Errors
    /// The invariant that was broken.
    fn simulate(self, story: &Story) -> Result<Self::Report, Violation>;
}

/// A run that broke an invariant.
#[derive(Debug)]
pub struct Failure<S> {
    /// What was run.
    pub options: S,
    /// What was broken.
    pub violation: Violation,
    /// What led to it, a line each.
    pub story: Vec<String>,
}

impl<S: Simulation> fmt::Display for Failure<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.options.seed(), self.violation)?;
        write!(f, "replay with: {}", self.options.command())
    }
}

/// Runs one simulation.
///
/// # Errors
/// If an invariant was broken: which, and the story that led to it.
pub fn run<S: Simulation>(options: S) -> Result<S::Report, Box<Failure<S>>> {
    run_quietly(options).map_err(|violation| {
        // The same seed does the same again.
        let (again, story) = tell(options);
        let violation = again.err().unwrap_or(violation);
        Box::new(Failure {
            options,
            violation,
            story,
        })
    })
}

/// Runs one simulation and tells its story, whatever its end.
pub fn tell<S: Simulation>(options: S) -> (Result<S::Report, Violation>, Vec<String>) {
    let story = Story::told();
    let result = caught(options, &story);
    (result, story.lines())
}

/// Runs one simulation without a story.
///
/// # Errors
/// The invariant that was broken.
pub fn run_quietly<S: Simulation>(options: S) -> Result<S::Report, Violation> {
    caught(options, &Story::silent())
}

/// The assertions of what is simulated are invariants, too.
fn caught<S: Simulation>(options: S, story: &Story) -> Result<S::Report, Violation> {
    let run = AssertUnwindSafe(|| options.simulate(story));
    catch_unwind(run).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("panicked");
        Err(Violation::new("assertion", said.to_owned()))
    })
}
