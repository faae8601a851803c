//! The files that a result is written to beside its JSON.

use std::path::{Path, PathBuf};

use super::results::Results;
use super::{csv, page};
use crate::run::RunError;

/// Which files are wanted.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Files {
    /// Write what happened second by second to this file as CSV (`-`: to standard output).
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the result to this file as one HTML page with plots, which needs no other file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Files {
    /// Writes them.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn write(&self, results: &Results) -> Result<(), RunError> {
        if let Some(path) = &self.csv {
            write(path, &csv::text(results))?;
        }
        if let Some(path) = &self.html {
            write(path, &page::html(results))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), RunError> {
    let written = if path == Path::new("-") {
        // A reader who has left does not make the result a failure.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
        Ok(())
    } else {
        std::fs::write(path, text)
    };
    written.map_err(|source| RunError::Write {
        path: path.to_owned(),
        source,
    })
}
