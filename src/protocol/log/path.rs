//! The ways that a decided slot may go, whichever protocol decided it, for the counts of them.

use crate::protocol::paths::paths;

paths! {
    /// Missing decisions were asked for.
    Fetch = "fetch",
    /// A decision was sent on request.
    FetchAnswered = "fetch_answered",
    /// Slots were forgotten because every member had executed them.
    Trimmed = "trimmed",
    /// Slots were dropped that an absent member might have asked for.
    Dropped = "dropped",
    /// Somebody wanted a slot that is dropped here.
    Truncated = "truncated",
    /// What is missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "needs_snapshot",
    /// Another replica's snapshot took the place of the state here.
    Installed = "installed",
}

impl Path {
    /// Those that only replicas take that drop what a member may still need.
    pub const TRUNCATING: &'static [Path] =
        &[Path::Dropped, Path::Truncated, Path::NeedsSnapshot, Path::Installed];
}
