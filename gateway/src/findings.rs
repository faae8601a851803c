//! What `gateway check` finds in a server, whatever its kind.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The fence does not hold, or cannot be used.
    Problem,
    /// A way around the fence that only the operator can judge.
    Note,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// Statements or commands that mend it.
    pub remedy: Option<String>,
}

impl Finding {
    /// The fence does not hold, and this mends it.
    #[must_use]
    pub fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Problem,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A way around the fence, and what could be done about it.
    #[must_use]
    pub fn note(what: impl Into<String>, remedy: Option<String>) -> Finding {
        Finding {
            severity: Severity::Note,
            what: what.into(),
            remedy,
        }
    }
}
