//! The ways that a slot or an election may go, for the counts of them.

use crate::protocol::paths::paths;

paths! {
    /// A follower heard a leader that it did not know of.
    Followed = "mp_followed",
    /// Who heard no leader asked whether a majority would have another.
    PreVote = "mp_pre_vote",
    /// A pre-vote was refused: a leader lives, or who asked is too far behind.
    PreVoteRefused = "mp_pre_vote_refused",
    /// A Prepare was refused, because of a lease that was granted.
    PrepareRefused = "mp_prepare_refused",
    /// A replica did not stand for election before its grants had run out.
    WaitedOut = "mp_waited_out",
    /// A candidate asked again.
    AskedAgain = "mp_asked_again",
    /// A promise came in more than one page.
    NextPage = "mp_next_page",
    /// A leader was elected.
    Elected = "mp_elected",
    /// A vote found by phase 1 was proposed again.
    ProposedAgain = "mp_proposed_again",
    /// A slot that nobody had voted for was filled with a `Nop`.
    GapFilled = "mp_gap_filled",
    /// Somebody was told of a higher ballot.
    Rejected = "mp_rejected",
    /// A leader that held its lease took a higher ballot, for somebody had promised one.
    LedAgain = "mp_led_again",
    /// A leader gave up.
    SteppedDown = "mp_stepped_down",
    /// Proposals went to the leader.
    Forwarded = "mp_forwarded",
    /// The leader got proposals again that it had not been seen to have.
    ForwardedAgain = "mp_forwarded_again",
    /// A proposal came twice, and the leader noticed.
    Duplicate = "mp_duplicate",
    /// Proposals had to wait: too many slots were under way.
    WindowFull = "mp_window_full",
    /// An Accept was sent again.
    Resent = "mp_resent",
    /// Somebody was told what is decided, without an Accept.
    CommitTold = "mp_commit_told",
    /// Missing decisions were asked for.
    Fetch = "mp_fetch",
    /// Decisions were sent on request.
    FetchAnswered = "mp_fetch_answered",
    /// Slots were forgotten because every member had executed them.
    Trimmed = "mp_trimmed",
    /// Votes were dropped that a later leader's phase 1 had found to be of no use.
    Outdone = "mp_outdone",
    /// Slots were dropped that an absent member might have asked for.
    Dropped = "mp_dropped",
    /// Somebody wanted a slot that is dropped here.
    Truncated = "mp_truncated",
    /// What is missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "mp_needs_snapshot",
    /// Another replica's snapshot took the place of the state here.
    Installed = "mp_installed",
}

impl Path {
    /// Those that any cluster takes whose leaders fail now and then.
    pub const USUAL: &'static [Path] = &[
        Path::Followed,
        Path::PreVote,
        Path::PreVoteRefused,
        Path::AskedAgain,
        Path::Elected,
        Path::ProposedAgain,
        Path::Rejected,
        Path::SteppedDown,
        Path::Forwarded,
        Path::ForwardedAgain,
        Path::Duplicate,
        Path::Resent,
        Path::CommitTold,
        Path::Fetch,
        Path::FetchAnswered,
        Path::Trimmed,
    ];

    /// Those that take rare moments, restarts or heavy load.
    pub const RARE: &'static [Path] = &[
        Path::PrepareRefused,
        Path::WaitedOut,
        Path::NextPage,
        Path::GapFilled,
        Path::LedAgain,
        Path::WindowFull,
    ];

    /// Those that only replicas take that drop what a member may still need.
    pub const TRUNCATING: &'static [Path] =
        &[Path::Dropped, Path::Truncated, Path::NeedsSnapshot, Path::Installed];
}
