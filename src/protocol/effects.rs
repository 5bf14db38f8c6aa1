//! The effects of a protocol's step, as data: what the replica has to write, send and execute.

use std::sync::Arc;

use crate::types::{
    Batch, Command, Decision, Deps, Durable, Held, InstanceId, Journal, LogPosition, ReplicaId,
    ReplicaSet, Written,
};

/// A message and its receivers: a set, so that it is encoded once.
#[derive(Clone, PartialEq, Debug)]
pub struct Outgoing<M> {
    /// The receivers; may include the sender.
    pub to: ReplicaSet,
    /// The message.
    pub message: M,
}

/// The effects of a step. The protocol fills it; the replica empties it.
///
/// Invariants:
///
/// 1. A message or a decision enters only together with the [`Written`] it depends on, and leaves
///    only against a [`Durable`] mark.
/// 2. `records` are in journal order; a record of the replica itself precedes the one at `front`.
#[derive(Debug)]
pub struct Effects<M, R> {
    journal: Journal,
    /// A record of the replica itself has to precede the next record.
    wants_front: bool,
    /// The index in `records` of the record that it precedes.
    front: Option<usize>,
    /// To be appended to the log, in this order.
    pub records: Vec<R>,
    /// To be sent when durable.
    pub messages: Vec<Held<Outgoing<M>>>,
    /// To be executed when durable.
    pub decisions: Vec<Held<Decision>>,
    /// Payloads that became known here, decided or not. The executor and admission read them.
    pub learned: Vec<(InstanceId, Arc<Batch>)>,
    /// Commands of this replica's proposals that were not executed: to be proposed again.
    pub returned: Vec<Command>,
    /// Own proposals that were decided as commands, and whether it took one round trip.
    pub own_commits: Vec<(InstanceId, bool)>,
    /// A snapshot that holds at least this is needed from another replica: what is missing here is
    /// dropped elsewhere.
    pub needs_snapshot: Option<Deps>,
    /// How often each path was taken.
    pub paths: Paths,
}

impl<M, R> Default for Effects<M, R> {
    fn default() -> Effects<M, R> {
        Effects {
            journal: Journal::default(),
            wants_front: false,
            front: None,
            records: Vec::new(),
            messages: Vec::new(),
            decisions: Vec::new(),
            learned: Vec::new(),
            returned: Vec::new(),
            own_commits: Vec::new(),
            needs_snapshot: None,
            paths: Paths::default(),
        }
    }
}

impl<M, R> Effects<M, R> {
    /// Appends a record. Effects that depend on it take the returned token.
    pub fn append(&mut self, record: R) -> Written {
        if std::mem::take(&mut self.wants_front) {
            self.front = Some(self.records.len());
            self.journal.append();
        }
        self.records.push(record);
        self.journal.append()
    }

    /// The replica has a record of its own to write. If a protocol record follows, it goes in front
    /// of that: it has to be durable no later.
    pub fn put_in_front(&mut self) {
        self.wants_front = self.front.is_none();
    }

    /// The index in `records` in front of which the replica's own record goes, if there is one.
    pub fn take_front(&mut self) -> Option<usize> {
        self.front.take()
    }

    /// The log of an earlier life ends at `end`; records appended from now on come after it.
    pub fn start_at(&mut self, end: LogPosition) {
        self.journal = Journal::starting_at(end);
    }

    /// The position after everything appended so far.
    pub fn end(&self) -> LogPosition {
        self.journal.end()
    }

    /// A token for everything appended so far.
    pub fn everything(&self) -> Written {
        self.journal.everything()
    }

    /// Sends `message` to all in `to` once `after` is durable.
    pub fn send(&mut self, after: Written, to: ReplicaSet, message: M) {
        self.messages.push(Held::new(after, Outgoing { to, message }));
    }

    /// Sends `message` to one replica once `after` is durable.
    pub fn answer(&mut self, after: Written, to: ReplicaId, message: M) {
        self.send(after, ReplicaSet::from_iter([to]), message);
    }

    /// Executes a decision once `after` is durable.
    pub fn decide(&mut self, after: Written, decision: Decision) {
        self.decisions.push(Held::new(after, decision));
    }

    /// Counts a path.
    pub fn hit(&mut self, path: Path) {
        self.paths.hit(path);
    }

    /// Whether a mark covers everything appended so far.
    pub fn is_durable(&self, durable: Durable) -> bool {
        Held::new(self.everything(), ()).release(durable).is_ok()
    }
}

impl Path {
    /// Whether it is one of EPaxos*, which come first.
    pub const fn is_of_epaxos(self) -> bool {
        self as usize <= Path::Installed as usize
    }

    /// Those that only replicas take that save latency by the optimisations of PROTOCOL.md §7, and
    /// all but the first only after a restart.
    pub const OPTIMISED: &'static [Path] = &[
        Path::CommitUnflushed,
        Path::Orphan,
        Path::LostSlot,
        Path::UnknownReported,
        Path::UnknownHarmless,
    ];

    /// Those of Paxos.
    pub const PAXOS: &'static [Path] = &[
        Path::LearnedCommit,
        Path::Retransmit,
        Path::Fetch,
        Path::FetchAnswered,
        Path::Rejected,
        Path::Trimmed,
        Path::PaxosPrepare,
        Path::PaxosChosen,
        Path::PaxosAdopted,
        Path::PaxosCollision,
        Path::PaxosGap,
        Path::PaxosNop,
    ];

    /// Those of Fast Paxos.
    pub const FAST_PAXOS: &'static [Path] = &[
        Path::LearnedCommit,
        Path::Retransmit,
        Path::Fetch,
        Path::FetchAnswered,
        Path::Rejected,
        Path::Trimmed,
        Path::FastChosen,
        Path::FastCoordinated,
        Path::FastCollision,
        Path::FastTimedOut,
        Path::FastForced,
        Path::FastSuggested,
        Path::FastRepeated,
        Path::FastLost,
        Path::FastForwarded,
        Path::FastNop,
        Path::FastCampaign,
        Path::FastElected,
        Path::FastToClassic,
        Path::FastAgain,
    ];

    /// Those that only replicas take that drop what a member may still need (PROTOCOL.md §8a).
    pub const TRUNCATING: &'static [Path] = &[
        Path::Dropped,
        Path::CutProposed,
        Path::CutAgreed,
        Path::CutRefused,
        Path::CutEstablished,
        Path::Truncated,
        Path::NeedsSnapshot,
        Path::DroppedReported,
        Path::DroppedInterferes,
        Path::DroppedHarmless,
        Path::Installed,
    ];
}

impl Path {
    /// Those of Multi-Paxos that any cluster takes whose leaders fail now and then.
    pub const MULTI_PAXOS: &'static [Path] = &[
        Path::MpFollowed,
        Path::MpPreVote,
        Path::MpPreVoteRefused,
        Path::MpAskedAgain,
        Path::MpElected,
        Path::MpProposedAgain,
        Path::MpRejected,
        Path::MpSteppedDown,
        Path::MpForwarded,
        Path::MpForwardedAgain,
        Path::MpDuplicate,
        Path::MpResent,
        Path::MpCommitTold,
        Path::MpFetch,
        Path::MpFetchAnswered,
        Path::MpTrimmed,
    ];

    /// Those of Multi-Paxos that take rare moments, restarts or heavy load.
    pub const MULTI_PAXOS_RARE: &'static [Path] = &[
        Path::MpPrepareRefused,
        Path::MpWaitedOut,
        Path::MpNextPage,
        Path::MpGapFilled,
        Path::MpLedAgain,
        Path::MpWindowFull,
    ];

    /// Those of Multi-Paxos that only replicas take that drop what a member may still need.
    pub const MULTI_PAXOS_TRUNCATING: &'static [Path] =
        &[Path::MpDropped, Path::MpTruncated, Path::MpNeedsSnapshot, Path::MpInstalled];
}

macro_rules! paths {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A way that an instance may go. The simulator demands to have seen every one of them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Path { $($(#[$doc])* $variant,)* }

        impl Path {
            /// All of them, in declaration order.
            pub const ALL: &'static [Path] = &[$(Path::$variant,)*];

            /// The name used in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Path::$variant => $name,)* }
            }
        }
    };
}

paths! {
    /// Committed by the owner after one round trip (§4.3).
    FastCommit = "fast_commit",
    /// The owner had to propose the union (§4.3).
    SlowPath = "slow_path",
    /// The slow path was chosen because the fast-path timeout passed.
    FastTimeout = "fast_timeout",
    /// Learned by counting AcceptOk (§4.5).
    AcceptCommit = "accept_commit",
    /// Learned from a Commit message.
    LearnedCommit = "learned_commit",
    /// A Commit without its payload had to be fetched.
    CommitWithoutPayload = "commit_without_payload",
    /// Something was sent again.
    Retransmit = "retransmit",
    /// A missing decision was asked for.
    Fetch = "fetch",
    /// A decision was sent on request.
    FetchAnswered = "fetch_answered",
    /// Reject was received: a higher ballot is at work.
    Rejected = "rejected",
    /// A recovery began (§5.1).
    Recovery = "recovery",
    /// A recovery began again at a higher ballot (§5.6).
    RecoveryAgain = "recovery_again",
    /// §5.3.1: somebody had committed.
    RecoverCommitted = "recover_committed",
    /// §5.3.2: an accepted value was adopted.
    RecoverAccepted = "recover_accepted",
    /// §5.3.3: the owner answered and had not committed.
    RecoverOwnerNop = "recover_owner_nop",
    /// §5.3.4: enough fast votes, so validate.
    RecoverValidate = "recover_validate",
    /// §5.3.5: the fast path cannot have happened.
    RecoverNop = "recover_nop",
    /// §5.5: nothing interferes.
    ValidateClean = "validate_clean",
    /// §5.5: something interfering is committed.
    ValidateCommitted = "validate_committed",
    /// §5.5: the owner of something interfering is outside the quorum.
    ValidateOwnerOutside = "validate_owner_outside",
    /// §5.5: had to wait.
    Waiting = "waiting",
    /// §5.5: what was waited for committed without covering this instance.
    WaitingNop = "waiting_nop",
    /// §5.5: all that was waited for turned out harmless.
    WaitingClean = "waiting_clean",
    /// §5.5: another waiting recovery proved the fast path impossible.
    WaitingYield = "waiting_yield",
    /// §5.5: a late RecoverOk settled it.
    WaitingLate = "waiting_late",
    /// An owner's instance ended as `Nop` and its commands were proposed again.
    Resubmitted = "resubmitted",
    /// A `Nop` was accepted whose payload is unknown: it conflicts with everything.
    Wildcard = "wildcard",
    /// A slot that nobody here had heard of was recovered.
    GapRecovered = "gap_recovered",
    /// The owner told of a fast-path commit before it was durable (§7).
    CommitUnflushed = "commit_unflushed",
    /// An owner came back to an instance that it may have committed (§7).
    Orphan = "orphan",
    /// An owner came back to a slot that it had reserved and has no record of (§7).
    LostSlot = "lost_slot",
    /// An instance of unknown payload was reported to a recovery (§7).
    UnknownReported = "unknown_reported",
    /// An instance reported as of unknown payload turned out not to conflict (§7).
    UnknownHarmless = "unknown_harmless",
    /// Records were forgotten because every member had executed them.
    Trimmed = "trimmed",
    /// Records were dropped that an absent member might have asked for (§8a).
    Dropped = "dropped",
    /// A cut was proposed (§8a).
    CutProposed = "cut_proposed",
    /// A cut was agreed to.
    CutAgreed = "cut_agreed",
    /// A cut was not agreed to: not all of it is executed here, or another one was agreed to.
    CutRefused = "cut_refused",
    /// A cut was established by `n - f` agreements.
    CutEstablished = "cut_established",
    /// Somebody wanted something about an instance that is dropped here.
    Truncated = "truncated",
    /// What is missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "needs_snapshot",
    /// A dropped instance was reported to a recovery (§5.4).
    DroppedReported = "dropped_reported",
    /// An instance reported to a recovery is dropped here, and was not harmless (§5.5).
    DroppedInterferes = "dropped_interferes",
    /// An instance reported to a recovery is dropped here, and harmless (§5.5).
    DroppedHarmless = "dropped_harmless",
    /// Another replica's snapshot took the place of the state here.
    Installed = "installed",

    // Multi-Paxos.
    /// A follower heard a leader that it did not know of.
    MpFollowed = "mp_followed",
    /// Who heard no leader asked whether a majority would have another.
    MpPreVote = "mp_pre_vote",
    /// A pre-vote was refused: a leader lives, or who asked is too far behind.
    MpPreVoteRefused = "mp_pre_vote_refused",
    /// A Prepare was refused, because of a lease that was granted.
    MpPrepareRefused = "mp_prepare_refused",
    /// A replica did not stand for election before its grants had run out.
    MpWaitedOut = "mp_waited_out",
    /// A candidate asked again.
    MpAskedAgain = "mp_asked_again",
    /// A promise came in more than one page.
    MpNextPage = "mp_next_page",
    /// A leader was elected.
    MpElected = "mp_elected",
    /// A vote found by phase 1 was proposed again.
    MpProposedAgain = "mp_proposed_again",
    /// A slot that nobody had voted for was filled with a `Nop`.
    MpGapFilled = "mp_gap_filled",
    /// Somebody was told of a higher ballot.
    MpRejected = "mp_rejected",
    /// A leader that held its lease took a higher ballot, for somebody had promised one.
    MpLedAgain = "mp_led_again",
    /// A leader gave up.
    MpSteppedDown = "mp_stepped_down",
    /// Proposals went to the leader.
    MpForwarded = "mp_forwarded",
    /// The leader got proposals again that it had not been seen to have.
    MpForwardedAgain = "mp_forwarded_again",
    /// A proposal came twice, and the leader noticed.
    MpDuplicate = "mp_duplicate",
    /// Proposals had to wait: too many slots were under way.
    MpWindowFull = "mp_window_full",
    /// An Accept was sent again.
    MpResent = "mp_resent",
    /// Somebody was told what is decided, without an Accept.
    MpCommitTold = "mp_commit_told",
    /// Missing decisions were asked for.
    MpFetch = "mp_fetch",
    /// Decisions were sent on request.
    MpFetchAnswered = "mp_fetch_answered",
    /// Slots were forgotten because every member had executed them.
    MpTrimmed = "mp_trimmed",
    /// Votes were dropped that a later leader's phase 1 had found to be of no use.
    MpOutdone = "mp_outdone",
    /// Slots were dropped that an absent member might have asked for.
    MpDropped = "mp_dropped",
    /// Somebody wanted a slot that is dropped here.
    MpTruncated = "mp_truncated",
    /// What is missing here is dropped elsewhere: a snapshot is needed.
    MpNeedsSnapshot = "mp_needs_snapshot",
    /// Another replica's snapshot took the place of the state here.
    MpInstalled = "mp_installed",
    // Paxos.
    /// Phase 1 of a slot began.
    PaxosPrepare = "sp_prepare",
    /// A majority's votes in one ballot were counted.
    PaxosChosen = "sp_chosen",
    /// Phase 1 found another's value, which has to be finished.
    PaxosAdopted = "sp_adopted",
    /// Another proposer was found at work in the same slot.
    PaxosCollision = "sp_collision",
    /// A slot that its proposer left undecided was taken over.
    PaxosGap = "sp_gap",
    /// Phase 1 found nothing in such a slot, so it was decided as nothing.
    PaxosNop = "sp_nop",
    // Fast Paxos.
    /// A fast quorum's votes in a fast round were counted.
    FastChosen = "fp_chosen_fast",
    /// A majority's votes in a coordinated round were counted.
    FastCoordinated = "fp_chosen_coordinated",
    /// No value can get a fast quorum in a slot any more.
    FastCollision = "fp_collision",
    /// A slot waited too long for its fast quorum.
    FastTimedOut = "fp_timed_out",
    /// The coordinator had to pick a value that may have been chosen.
    FastForced = "fp_forced",
    /// A slot that too few have voted in was pushed.
    FastSuggested = "fp_suggested",
    /// A vote that had come to nothing was told to the coordinator again.
    FastRepeated = "fp_repeated",
    /// An own value lost its slot, and was proposed again.
    FastLost = "fp_lost",
    /// A value was sent to the coordinator, for a classic round.
    FastForwarded = "fp_forwarded",
    /// The coordinator had nothing to put into a slot.
    FastNop = "fp_nop",
    /// Phase 1 began.
    FastCampaign = "fp_campaign",
    /// Phase 1 was done.
    FastElected = "fp_elected",
    /// Fast rounds do not pay: classic ones follow.
    FastToClassic = "fp_to_classic",
    /// Fast rounds are tried again.
    FastAgain = "fp_fast_again",
}

/// How often each [`Path`] was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths(Vec<u64>);

impl Default for Paths {
    fn default() -> Paths {
        Paths(vec![0; Path::ALL.len()])
    }
}

impl Paths {
    /// Counts one.
    pub fn hit(&mut self, path: Path) {
        self.0[path as usize] += 1;
    }

    /// How often `path` was taken.
    pub fn count(&self, path: Path) -> u64 {
        self.0[path as usize]
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Paths) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Each path's name and count.
    pub fn iter(&self) -> impl Iterator<Item = (Path, u64)> + '_ {
        Path::ALL.iter().map(|path| (*path, self.count(*path)))
    }
}
