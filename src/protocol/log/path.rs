//! The paths that a decided slot may take, whichever protocol decided it; each is counted.

use crate::protocol::paths::paths;

paths! {
    /// Missing decisions were requested.
    Fetch = "fetch",
    /// A decision was sent on request.
    FetchAnswered = "fetch_answered",
    /// Slots were dropped that every member had executed.
    Trimmed = "trimmed",
    /// Slots were dropped that an absent member might have needed.
    Dropped = "dropped",
    /// A message about a slot that is dropped here was answered `Truncated`.
    Truncated = "truncated",
    /// A slot missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "needs_snapshot",
    /// Another replica's snapshot was installed.
    Installed = "installed",
}

impl Path {
    /// Taken only by replicas that drop slots a member may still need.
    pub const TRUNCATING: &'static [Path] =
        &[Path::Dropped, Path::Truncated, Path::NeedsSnapshot, Path::Installed];
}
