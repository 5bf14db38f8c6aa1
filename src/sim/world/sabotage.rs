//! Rules that tests break, to see that the checks notice.

use super::older_disks::Forget;

/// Rules that tests break, to see it noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sabotage {
    /// In the protocol.
    #[cfg(test)]
    pub(super) plant: Option<super::subject::Plant>,
    /// Clients are answered when a command is committed, not when it is executed.
    pub(super) answer_at_commit: bool,
    /// Something that keeps older copies of disks out is left out.
    pub(super) forget: Option<Forget>,
    /// The store says that records are durable when they are written, not when they are flushed.
    pub(super) unflushed_store: bool,
    /// Commands are told apart by their ids alone.
    #[cfg(test)]
    pub(super) one_content: bool,
}
