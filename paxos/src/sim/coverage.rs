//! What a run really did: how often each fault fired, each invariant was checked, and each branch
//! of the protocol was taken.
//!
//! A simulator that never reaches a branch says nothing about it, so `cargo xtask seeds` fails if
//! many seeds leave one of these at zero.

use std::fmt;

/// An enumeration whose variants are counted, each with a few words for people.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident: $($variant:ident = $words:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $words] $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[$name] = &[$($name::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// What it is, in a few words.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self {
                    $($name::$variant => $words,)+
                }
            }
        }
    };
}
pub(super) use counted;

counted! {
    /// An invariant; a file of its own in `invariants/` says what it means and where it is from.
    Check:
    OneValue = "one value is decided for each slot",
    Proposed = "what is decided was proposed, and is decided once",
    AppliedIsDecided = "what is applied is decided",
    AppliedInOrder = "entries are applied in order, once",
    SameState = "replicas that applied the same slot are equal",
    PromiseKept = "a promise is never lowered, nor forgotten over a restart",
    DurableBeforeSpoken = "durable before spoken",
    Acknowledged = "what was acknowledged survives",
    Confirm = "a confirm is current",
    Ballots = "a ballot is used by one leadership",
    NoGhost = "no entry comes behind the start of a later leadership",
    DecidedIsDurable = "nobody believes more decided than a quorum made durable",
    Bounds = "what a replica holds and sends is bounded",
    Snapshots = "a snapshot is the state at its slot, and newer than what it replaces",
    Stop = "nothing follows a stop entry in its epoch",
    Epochs = "an epoch is entered behind a decided stop entry, with the state durable",
    Members = "only members vote and lead",
    Store = "what was written is what a store recovers",
    Encoding = "messages survive their encoding",
    Recovery = "after faults stop a leader exists within a bound and serves",
    UpToDate = "after faults stop every node gets up to date within a bound",
}

counted! {
    /// A branch of the protocol, seen from outside: by what a replica sends, writes or says.
    Branch:
    Campaign = "a replica campaigned",
    CampaignLost = "a campaign ended without a leadership",
    Led = "a campaign ended with a leadership",
    Established = "a NewLeader was decided",
    SteppedDown = "a leader stepped down",
    Rejected = "a ballot was rejected",
    Fetched = "a candidate fetched a part of the log that it adopts",
    AdoptedOwn = "a candidate's own log was the best",
    SyncInParts = "a follower's log was exchanged in more than one message",
    TailReplaced = "a log's end was replaced by another leader's",
    Gap = "a follower missed entries on the way",
    Loaded = "entries were read from a disk for a peer",
    WindowFull = "a proposal was refused as busy",
    OversizedRefused = "a proposal was refused as too large",
    Confirmed = "a confirm was given",
    ConfirmUnanswered = "a confirm was asked for and the leadership ended first",
    RestartedDecided = "a node restarted knowing decided entries",
    RestartedOpen = "a node restarted with undecided entries",
    LostAtCrash = "a write in flight at a crash was lost",
    KeptAtCrash = "a write in flight at a crash was on disk all the same",
    Learned = "decided entries were sent to who asked for them",
    SnapshotTaken = "a snapshot of the own state was taken",
    SnapshotOffered = "what was asked for was in no log, and a snapshot was offered",
    ChunkSent = "a part of a snapshot was read for a peer",
    TransferResumed = "a transfer of a snapshot went on where it was interrupted",
    SnapshotInstalled = "a snapshot was installed",
    SnapshotDamaged = "a snapshot was found damaged",
    LogRestarted = "a log was given up and began again behind a snapshot",
    StopProposed = "an end of the epoch was proposed",
    NotCaughtUp = "a node that is to join was not far enough",
    EpochEntered = "a replica entered another epoch",
    Removed = "a node learnt that it was removed",
    Retired = "a removed node was not needed any more",
    RemovedStarted = "a removed node was started again, to tell those who do not know",
    Replaced = "a node that was lost was replaced",
    Repaired = "what a disk had damaged was put right by peers",
    ScrubFound = "damage was found by reading again",
    RestartedDamaged = "a node started from a disk that had damaged something",
    Refused = "a store refused to open, because its disk cannot be trusted",
    DiskFailed = "a disk failed under a running process",
    Happy = "a replica told one without a leader that it has one",
}

/// Counts of everything above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// By [`Fault`](super::Fault).
    pub(super) faults: [u64; super::Fault::COUNT],
    pub(super) checks: [u64; Check::COUNT],
    pub(super) branches: [u64; Branch::COUNT],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            faults: [0; super::Fault::COUNT],
            checks: [0; Check::COUNT],
            branches: [0; Branch::COUNT],
        }
    }
}

impl Coverage {
    pub(super) fn fault(&mut self, fault: super::Fault) {
        self.faults[fault as usize] += 1;
    }

    pub(super) fn check(&mut self, check: Check) {
        self.checks[check as usize] += 1;
    }

    pub(super) fn branch(&mut self, branch: Branch) {
        self.branches[branch as usize] += 1;
    }

    /// How often a branch was taken.
    #[must_use]
    pub fn taken(&self, branch: Branch) -> u64 {
        self.branches[branch as usize]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Coverage) {
        let add = |mine: &mut [u64], theirs: &[u64]| {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += theirs;
            }
        };
        add(&mut self.faults, &other.faults);
        add(&mut self.checks, &other.checks);
        add(&mut self.branches, &other.branches);
    }

    /// What was never seen, in words.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let never = self.rows().filter(|(_, _, count)| *count == 0);
        never.map(|(_, words, _)| words).collect()
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let faults = super::Fault::ALL.iter().map(|fault| fault.words());
        let checks = Check::ALL.iter().map(|check| check.words());
        let branches = Branch::ALL.iter().map(|branch| branch.words());
        let faults = faults
            .zip(self.faults)
            .map(|(words, n)| ("fault", words, n));
        let checks = checks
            .zip(self.checks)
            .map(|(words, n)| ("invariant", words, n));
        let branches = branches.zip(self.branches);
        let branches = branches.map(|(words, n)| ("branch", words, n));
        faults.chain(checks).chain(branches)
    }
}

/// As a table, one line each.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, words, count) in self.rows() {
            let never = if count == 0 { "  never!" } else { "" };
            writeln!(f, "{kind:<10} {count:>14}  {words}{never}")?;
        }
        Ok(())
    }
}
