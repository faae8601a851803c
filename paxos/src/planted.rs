//! Bugs that can be planted, to show that the simulator finds them.
//!
//! Without the feature `sim` no bug can be planted, and the questions fold to `false`.

use crate::message::Body;
use crate::types::{Ballot, ConfirmNumber, WriteBatch};

/// Declares the enumeration, what each is in words, and where the mistake was made before.
macro_rules! planted {
    ($($name:ident = $doc:literal, $record:literal;)+) => {
        /// A classic mistake of a Paxos implementation, or one that was made here once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(not(feature = "sim"), allow(unreachable_pub, dead_code))]
        #[non_exhaustive]
        pub enum Planted {
            $(#[doc = $doc] $name,)+
        }

        #[cfg(feature = "sim")]
        impl Planted {
            /// Every bug that can be planted.
            pub const ALL: &[Planted] = &[$(Planted::$name,)+];

            /// What is wrong.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self {
                    $(Planted::$name => $doc,)+
                }
            }

            /// Who has made the mistake, or warned of it; empty if it is one of this crate's own.
            #[must_use]
            pub fn record(self) -> &'static str {
                match self {
                    $(Planted::$name => $record,)+
                }
            }
        }
    };
}

planted! {
    PromiseNotSynced = "A promise is spoken before it is durable.",
        "tikv 994 and 1610, EPaxos 28";
    AcceptWithoutPromise = "Accepting under a higher ballot does not raise the promise.",
        "the ambiguity of *Paxos Made Simple* (Brooker 2021)";
    AckOfOlderBallot = "A leader counts acknowledgements of other ballots.",
        "logcabin 44";
    EchoOfOlderBallot = "A leader counts echoes given to an earlier leadership of its own.",
        "*Paxos Made Live* (2007): leadership lost and regained within a request";
    EchoOutlivesBallot = "An acceptor that promises echoes the round of the ballot before.",
        "*On the correctness of Egalitarian Paxos* (2019): state kept when ballots are switched";
    AckNotSynced = "An acknowledgement is spoken before the entries are durable.",
        "EPaxos 28, robustmq 2039";
    LongestLog = "A new leader adopts the longest log, whatever its ballot.",
        "omnipaxos 19";
    ConfirmBeforeNewLeader = "A new leader confirms before its `NewLeader` is decided.",
        "etcd 7331";
    PartialFirstAccept = "The first accept under a ballot takes only a part of the adopted log.",
        "OCons 21";
    TailKept = "A follower keeps what its log has beyond the end of a new leader's.",
        "the ghosts of PALF (VLDB 2024)";
    BallotReused = "A restarted candidate may use a ballot again.",
        "phxpaxos 145";
    OldEchoes = "A confirm is believed on echoes from before it was asked for.",
        "etcd 20418, tikv 964, jraft 34, redisraft 19: a pause";
    AcceptQuorumTooSmall = "One acceptance less than a quorum decides.",
        "openraft 1802";
    PrepareQuorumTooSmall = "One promise less than a quorum makes a leader.",
        "openraft 1802";
    MessagesCounted = "Promises are counted by message, so that one node may count twice.",
        "";
    AppendUnmatched = "A log of the right length is taken for the leader's, whatever it holds.",
        "neon 295";
    DecidedUnmatched = "What a leader says is decided is believed of a log not under its ballot.",
        "tikv 994";
    DecidedBeyondLog = "What a leader says is decided is believed beyond the end of the own log.",
        "tikv 994";
    PromiseApart = "A promise is not in the same write as the entries that come with it.",
        "PySyncObj 202, raft-java 57";
    BallotApart = "The ballot of a log is not in the same write as its entries.",
        "omnipaxos, `atomic_storage_test.rs`";
    PromiseAcrossCut = "What an acceptor has cut off its log is taken for nothing by a candidate.",
        "omnipaxos 58";
    Duel = "A candidate that is outbid bids higher at once.",
        "*Paxos Made Simple* (2001), section 2.4";
    CampaignUnanswered = "A node campaigns though nobody answers it: one that only sends disturbs.",
        "Omni-Paxos (2023), section 2; TigerBeetle's view changes";
    CampaignAgainstHappy = "A node campaigns though others are happy with their leader.",
        "Omni-Paxos (2023), section 2: a chain that takes turns";
    ConfirmAfterStop = "Confirms go on after the entry that ends the epoch.",
        "*Stoppable Paxos* (2008); a configuration that counts only once it is decided";
    ProposalAfterStop = "Proposals are taken after the entry that ends the epoch.",
        "*Stoppable Paxos* (2008); a configuration that counts only once it is decided";
    StopForgotten = "A restarted node remembers the next membership only if it was decided.",
        "Raft's rule that a configuration counts once it is in the log (Ongaro 2014)";
    EpochOnUndecidedStop = "The next epoch is entered before its stop entry is decided.",
        "*Stoppable Paxos* (2008)";
    EpochWithoutState = "A node enters an epoch that it hears of, and votes without the state.",
        "*Reconfiguring a State Machine* (2010), section 4";
    MembershipForgotten = "The membership is not written when an epoch is entered.",
        "";
    StopTwice = "A stop entry that is learnt again begins its epoch again.",
        "";
    DeposedGoesOn = "A leader that learns what a later one decided goes on leading.",
        "";
    LearnerUnheard = "A node that wants to join asks the same helper for ever.",
        "";
    OlderSnapshot = "A snapshot that is older than the log is installed.",
        "openraft 1829 and 1892";
    SnapshotKeepsTail = "What follows a snapshot in the log is kept, whatever it followed before.",
        "Raft's rule for InstallSnapshot (Ongaro 2014)";
    CutBeforeSnapshot = "The log is cut before the snapshot is durable.",
        "*Paxos Made Live* (2007): the log is cut only behind a snapshot known to be good";
    RepairCuts = "A repair cuts the log behind a snapshot that the store has not been told of.",
        "";
    RepairUndecided = "A damaged entry is put right with what a peer has, decided or not.",
        "*Protocol-Aware Recovery* (FAST 2018): a repair without the entry's identity";
    DamagedPromises = "A node promises although its disk lost entries that it acknowledged.",
        "*Protocol-Aware Recovery* (FAST 2018)";
    DamageHidden = "Damaged entries are taken for a shorter log.",
        "*Protocol-Aware Recovery* (FAST 2018): truncation";
    DamageTaken = "Damage is taken for a torn tail, though more was written behind it.",
        "*Protocol-Aware Recovery* (FAST 2018); the defaults of raft-engine and RocksDB";
    TornTaken = "A torn tail is taken for damage of what was acknowledged.",
        "etcd 5230, 6515 and 11488, tikv 17325";
    ApplyDiffers = "Applying depends on more than the entries.",
        "*Paxos Made Live* (2007): three replicas that diverged";
    WriteErrorIgnored = "A write that failed counts as durable.",
        "ZOOKEEPER-4882";
    SyncRetried = "A sync that failed is tried again, and its success is believed.",
        "fsyncgate (2018), cockroach 37102";
    WipedDiskVotes = "A node whose disk was wiped starts afresh under its old number.",
        "atlasdb 1504 and 1508, tigerbeetle 2767";
    CopiedDiskVotes = "A node starts from an old copy of its disk.",
        "dragonboat 256";
    AskedAfterStop = "A leader takes questions behind the entry that ends its epoch.",
        "*Stoppable Paxos* (2008)";
    EchoAfterStop = "An acceptor echoes confirms though its log ends its epoch.",
        "*Stoppable Paxos* (2008)";
    EchoBelowPromise = "An acceptor echoes confirms below its promise.",
        "*Paxos Made Live* (2007): a master that was deposed without knowing it";
    EpochNotDurable = "The next epoch is entered before the log up to there is durable.",
        "*Reconfiguring a State Machine* (2010), section 4";
}

#[cfg(feature = "sim")]
impl Planted {
    /// Rules whose loss another rule makes up for, as the model checker says: nothing finds these.
    pub const SECOND_LINES: &[Planted] = &[
        Planted::AskedAfterStop,
        Planted::EchoAfterStop,
        Planted::EpochNotDurable,
    ];

    /// Bugs that break no promise of safety and that chance heals, each with the file and the name
    /// of a test that plants it and shows what it costs.
    pub const SHOWN_BY_TESTS: &[(Planted, &str, &str)] = &[
        (
            Planted::LearnerUnheard,
            "src/learn/tests.rs",
            "a_learner_that_stays_with_a_good_helper_is_not_heard_by_the_leader",
        ),
        (
            Planted::CampaignUnanswered,
            "tests/topologies.rs",
            "campaigns_without_answers_let_a_node_that_only_sends_disturb_all",
        ),
        (
            Planted::CampaignAgainstHappy,
            "tests/topologies.rs",
            "campaigns_against_happy_nodes_make_a_chain_take_turns",
        ),
    ];

    /// Bugs for which so much has to come together that only the model check of `lockd`'s leases
    /// looks for them.
    pub const MODELLED: &[Planted] = &[Planted::EchoBelowPromise];

    /// The bug of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Planted> {
        let mut all = Planted::ALL.iter().copied();
        all.find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
    }
}

/// The bug planted in one replica, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Plant {
    #[cfg(feature = "sim")]
    bug: Option<Planted>,
    /// The highest ballot that was promised when asked for, not by accepting.
    #[cfg(feature = "sim")]
    floor: Ballot,
}

#[cfg(feature = "sim")]
impl Plant {
    pub(crate) fn new(bug: Planted) -> Plant {
        Plant {
            bug: Some(bug),
            ..Plant::default()
        }
    }

    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.bug == Some(bug)
    }

    /// Leaves out of a write what the planted bug forgets.
    pub(crate) fn spoil(&self, batch: &mut WriteBatch) {
        let with_entries = !batch.entries.is_empty();
        if with_entries && self.has(Planted::PromiseApart) {
            batch.promised = None;
        }
        if with_entries && self.has(Planted::BallotApart) {
            batch.accepted = None;
        }
        if self.has(Planted::MembershipForgotten) {
            batch.membership = None;
        }
    }

    /// Whether a message goes out before what it speaks of is durable.
    pub(crate) fn speaks_early(&self, body: &Body) -> bool {
        match body {
            Body::Promise(_) => self.has(Planted::PromiseNotSynced),
            Body::Accepted(_) => self.has(Planted::AckNotSynced),
            _ => false,
        }
    }

    pub(crate) fn promised_when_asked(&mut self, ballot: Ballot) {
        self.floor = self.floor.max(ballot);
    }

    /// Whether a leader is asked to confirm itself though its epoch is about to end.
    pub(crate) fn asks_after_stop(&self) -> bool {
        self.has(Planted::AskedAfterStop) || self.has(Planted::ConfirmAfterStop)
    }

    /// The confirm round whose end a question is made to wait for.
    pub(crate) fn number_to_await(&self, number: ConfirmNumber) -> ConfirmNumber {
        match self.has(Planted::OldEchoes) {
            true => ConfirmNumber(number.0 - 1),
            false => number,
        }
    }

    /// Whether an acceptor echoes though its epoch is about to end.
    pub(crate) fn echoes_after_stop(&self) -> bool {
        self.has(Planted::EchoAfterStop) || self.has(Planted::ConfirmAfterStop)
    }

    /// Whether a message of a ballot below the promise is taken all the same.
    pub(crate) fn lets_pass(&self, ballot: Ballot) -> bool {
        self.has(Planted::AcceptWithoutPromise) && ballot >= self.floor
    }
}

#[cfg(not(feature = "sim"))]
#[allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref)]
impl Plant {
    pub(crate) fn has(&self, _bug: Planted) -> bool {
        false
    }

    pub(crate) fn spoil(&self, _batch: &mut WriteBatch) {}

    pub(crate) fn speaks_early(&self, _body: &Body) -> bool {
        false
    }

    pub(crate) fn promised_when_asked(&mut self, _ballot: Ballot) {}

    pub(crate) fn asks_after_stop(&self) -> bool {
        false
    }

    pub(crate) fn number_to_await(&self, number: ConfirmNumber) -> ConfirmNumber {
        number
    }

    pub(crate) fn echoes_after_stop(&self) -> bool {
        false
    }

    pub(crate) fn lets_pass(&self, _ballot: Ballot) -> bool {
        false
    }
}
