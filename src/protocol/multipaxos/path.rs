//! The paths that a slot or an election may take; each is counted.

use crate::protocol::paths::paths;

paths! {
    /// A follower heard a leader that it did not know.
    Followed = "mp_followed",
    /// A replica that heard no leader asked for pre-votes.
    PreVote = "mp_pre_vote",
    /// A pre-vote was refused: there is a live leader, or the candidate lags too far.
    PreVoteRefused = "mp_pre_vote_refused",
    /// A Prepare was refused because of a granted lease.
    PrepareRefused = "mp_prepare_refused",
    /// A replica put off its candidacy until the lease it granted had ended.
    WaitedOut = "mp_waited_out",
    /// A candidate asked again.
    AskedAgain = "mp_asked_again",
    /// A promise came in more than one page.
    NextPage = "mp_next_page",
    /// A leader was elected.
    Elected = "mp_elected",
    /// A vote found by phase 1 was proposed again.
    ProposedAgain = "mp_proposed_again",
    /// A slot without any vote was filled with a `Nop`.
    GapFilled = "mp_gap_filled",
    /// A sender was told of a higher ballot.
    Rejected = "mp_rejected",
    /// A leader with a lease took a higher ballot, because a replica had promised one.
    LedAgain = "mp_led_again",
    /// A leader stepped down.
    SteppedDown = "mp_stepped_down",
    /// Proposals were forwarded to the leader.
    Forwarded = "mp_forwarded",
    /// Proposals that no Accept had shown were forwarded again.
    ForwardedAgain = "mp_forwarded_again",
    /// The leader recognised a proposal that it already had.
    Duplicate = "mp_duplicate",
    /// Proposals had to wait: too many slots were in progress.
    WindowFull = "mp_window_full",
    /// An Accept was resent.
    Resent = "mp_resent",
    /// Decisions were announced without an Accept.
    CommitTold = "mp_commit_told",
    /// Missing decisions were requested.
    Fetch = "mp_fetch",
    /// Decisions were sent on request.
    FetchAnswered = "mp_fetch_answered",
    /// Slots were dropped that every member had executed.
    Trimmed = "mp_trimmed",
    /// Votes beyond the barrier of a later leader were dropped.
    Outdone = "mp_outdone",
    /// Slots were dropped that an absent member might have needed.
    Dropped = "mp_dropped",
    /// A message about a slot that is dropped here was answered `Truncated`.
    Truncated = "mp_truncated",
    /// A slot missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "mp_needs_snapshot",
    /// Another replica's snapshot was installed.
    Installed = "mp_installed",
}

impl Path {
    /// Taken by any cluster whose leaders fail now and then.
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

    /// Taken only at rare moments, after restarts or under heavy load.
    pub const RARE: &'static [Path] = &[
        Path::PrepareRefused,
        Path::WaitedOut,
        Path::NextPage,
        Path::GapFilled,
        Path::LedAgain,
        Path::WindowFull,
    ];

    /// Taken only by replicas that drop slots a member may still need.
    pub const TRUNCATING: &'static [Path] =
        &[Path::Dropped, Path::Truncated, Path::NeedsSnapshot, Path::Installed];
}
