//! The rules of the fence, each of which can be switched off to see what breaks.

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A write locks what its session has registered until its transaction ends.
    WritesLockTheirRows,
    /// An advance waits for those locks.
    AdvanceWaitsForWriters,
    /// An advance takes the rights of whoever carries a lower token.
    AdvanceTakesRights,
    /// A token below the mark is refused.
    LowerTokensAreStale,
    /// If one of the tickets that a session carries goes stale, it may not write under the others.
    WhatIsStaleIsStaleAsAWhole,
    /// A gateway shows tickets of a session only when nothing of it is under way.
    ShownWhenIdle,
    /// What follows a ticket is held until the session is registered under it.
    HeldUntilAdmitted,
    /// A command to give tickets back names the registration that it means.
    GivingBackNamesTheRegistration,
    /// A gateway whose own connection broke ends it in the server before it uses another one.
    BrokenLinksAreEnded,
    /// Writers are ended only for a token that has closed theirs.
    OnlyTheClosedAreEvicted,
    /// After a restart the server knows that it may have forgotten marks.
    EraEndsWithTheServer,
    /// What the cell said counts only in the era in which it was asked.
    AnswersAreOfTheEra,
    /// The cell is asked after the era has begun, not before.
    TheCellIsAskedAfterwards,
    /// Marks are removed only together with raising the floor above them.
    MarksAreRemovedBelowTheFloor,
}

impl Rule {
    pub(crate) const ALL: [Rule; 14] = [
        Rule::WritesLockTheirRows,
        Rule::AdvanceWaitsForWriters,
        Rule::AdvanceTakesRights,
        Rule::LowerTokensAreStale,
        Rule::WhatIsStaleIsStaleAsAWhole,
        Rule::ShownWhenIdle,
        Rule::HeldUntilAdmitted,
        Rule::GivingBackNamesTheRegistration,
        Rule::BrokenLinksAreEnded,
        Rule::OnlyTheClosedAreEvicted,
        Rule::EraEndsWithTheServer,
        Rule::AnswersAreOfTheEra,
        Rule::TheCellIsAskedAfterwards,
        Rule::MarksAreRemovedBelowTheFloor,
    ];
}

/// Which rules are in force: all but these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) off: &'static [Rule],
}

impl Rules {
    pub(crate) fn on(self, rule: Rule) -> bool {
        !self.off.contains(&rule)
    }
}
