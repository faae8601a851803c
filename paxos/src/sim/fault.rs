//! The kinds of faults that a run may have.
//!
//! *The budget.* Faults of processes, clocks and the network are not limited: the cell may lose
//! its service for their time, never its safety. A fault that takes away what a disk said it had
//! (a damaged, lost or rolled-back disk) is only injected while a majority of the members' disks,
//! more exactly one of every quorum, is whole: Paxos promises nothing beyond that. A disk counts
//! as doubtful from the fault until all of it has been read again without finding anything, or
//! until its node was replaced. While a disk is doubtful the membership is changed only to replace
//! a lost node, and while it is being changed no disk is damaged. A write that a disk acknowledged
//! and lost can be noticed only by a later one, so a node that crashes before is not started again.

use crate::sim::coverage::counted;

counted! {
    /// A kind of fault.
    Fault:
    Crash = "a node crashes",
    CrashOfSeveral = "several nodes crash at once",
    CrashOfAll = "all nodes crash at once",
    RestartStorm = "a node crashes again while it recovers",
    Pause = "a process stands still for a moment",
    LongPause = "a process stands still for many timeouts",
    Suspend = "a machine is suspended, and its clock jumps",
    FastClock = "a clock runs fast",
    SlowClock = "a clock runs slow",
    OneWayCut = "links are cut in one direction",
    Isolate = "a node is cut off from all others",
    LonelyLeader = "a leader is cut off while much is proposed to it",
    Partition = "the cell falls into two halves",
    Bridge = "two halves see each other only through one node",
    FlappingLink = "a link comes and goes",
    Loss = "a message is lost",
    Duplication = "a message arrives twice",
    Reordering = "a message overtakes another",
    LateDelivery = "a message arrives very late",
    HeldBack = "what was sent to a leader arrives when it leads again",
    Congestion = "a link delivers a burst late",
    SlowDisk = "a disk is slow for a while",
    StuckDisk = "a disk does not answer for a while",
    LeaderDiskSpike = "one write of a leader takes very long",
    LostWrite = "a write in flight at a crash is lost",
    KeptWrite = "a write in flight at a crash is kept, unacknowledged",
    TornWrite = "a write in flight at a crash is torn",
    LostPower = "a machine loses power with its process",
    LyingDisk = "a write that was acknowledged never arrived",
    MisdirectedWrite = "a write landed in another place",
    FlippedLog = "a bit of the log flips",
    FlippedOther = "a bit of another file flips",
    UnreadableSector = "a sector of the log cannot be read any more",
    DamagedSnapshot = "a snapshot file is damaged",
    ShortWrite = "a write does only a part",
    WriteError = "a write fails",
    SyncError = "a sync fails",
    DiskFull = "a disk is full",
    WipedDisk = "a disk is wiped",
    CopiedDisk = "an old copy of a disk is put in its place",
    InterruptedTransfer = "a node crashes while it receives a snapshot",
    AddMember = "a node joins",
    RemoveMember = "a node is removed",
    ReplaceMember = "a node is replaced",
    LeaderLeaves = "a leader removes itself",
    ChangeQuorums = "the quorums change",
    ChangeAsleep = "the quorums change while the leader's machine is suspended",
    LazyDriver = "a driver takes many inputs before any output",
    TinyBounds = "a replica's bounds are tiny",
    ProposalBurst = "more is proposed than a window holds",
    OversizedProposal = "a proposal is too large",
}

impl Fault {
    /// Whether it happens at a time of its own. The others are conditions under which a whole run
    /// goes, or belong to one of these.
    pub(super) fn is_timed(self) -> bool {
        !matches!(
            self,
            Fault::Loss
                | Fault::Duplication
                | Fault::Reordering
                | Fault::LateDelivery
                | Fault::LostWrite
                | Fault::KeptWrite
                | Fault::TornWrite
                | Fault::LostPower
                | Fault::LazyDriver
                | Fault::TinyBounds
        )
    }
    pub(super) fn is_of_disks(self) -> bool {
        matches!(
            self,
            Fault::LyingDisk
                | Fault::MisdirectedWrite
                | Fault::FlippedLog
                | Fault::FlippedOther
                | Fault::UnreadableSector
                | Fault::DamagedSnapshot
                | Fault::ShortWrite
                | Fault::WriteError
                | Fault::SyncError
                | Fault::DiskFull
                | Fault::WipedDisk
                | Fault::CopiedDisk
                | Fault::InterruptedTransfer
        )
    }

    pub(super) fn is_of_membership(self) -> bool {
        matches!(
            self,
            Fault::AddMember
                | Fault::RemoveMember
                | Fault::ReplaceMember
                | Fault::LeaderLeaves
                | Fault::ChangeQuorums
                | Fault::ChangeAsleep
        )
    }
}
