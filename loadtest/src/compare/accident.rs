//! `loadtest compare --accident`: a holder meets with an accident between reading a row of a real
//! database and writing it, the next holder writes first, and then the first one writes all the
//! same. It counts the writes that are lost by that, for each way of taking a lock.
//!
//! All servers are started for it, anew for each accident of each system; all holders are
//! processes.

pub mod forwarder;
pub mod holder;
mod player;
pub mod report;
pub mod row;
mod scene;
mod service;
pub mod system;

use std::path::Path;

use super::bench::reason;
use super::{CompareArgs, CompareError};
use crate::keeper::{KeepOptions, Keeper, Kept};
use crate::run::{self, RunError};
use report::{Accidents, Row};
use scene::Scene;
use system::{Accident, System};

/// Plays every accident with every system.
///
/// # Errors
/// [`CompareError`], if there is no database for the rows. An accident that could not be played is
/// in the result, with the reason, and so are lost writes.
pub async fn compare(arguments: &CompareArgs, program: &Path) -> Result<Accidents, CompareError> {
    let directory = run::temporary_directory(None)?;
    let options = KeepOptions::default();
    let data = Keeper::start(program, directory.path(), Kept::Postgres, &options).await;
    let data = data.map_err(|error| CompareError::NoDatabase(reason(error)))?;
    let url = data.urls().first().cloned().unwrap_or_default();
    let accidents = match arguments.accidents.as_slice() {
        [] => Accident::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let trials = arguments.trials;
    let mut rows = Vec::new();
    for accident in accidents {
        for system in arguments.peers().into_iter().flat_map(System::of) {
            eprintln!("{}: {}", accident.name(), system.name());
            let place = directory.path().join(format!("scene-{}", rows.len()));
            std::fs::create_dir(&place).map_err(|source| RunError::Write {
                path: place.clone(),
                source,
            })?;
            let scene = Scene {
                program,
                directory: &place,
                system,
                accident,
                trials: usize::try_from(trials).unwrap_or(1),
                ttl: arguments.ttl,
                data: &url,
            };
            let played = match accident.impossible(system) {
                Some(why) => Err(why.to_owned()),
                None => Box::pin(scene.play()).await,
            };
            rows.push(Row::new(system, accident, played));
        }
    }
    let ttl = arguments.ttl;
    Ok(Accidents::new(
        rows,
        trials,
        ttl,
        !arguments.peers.is_empty(),
    ))
}
