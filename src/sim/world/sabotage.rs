//! Rules that tests break, to see that the checks notice.

use crate::sim::faults::older_disks::Forget;

/// Rules that tests break, to see it noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::sim) struct Sabotage {
    /// In the protocol.
    #[cfg(test)]
    pub(in crate::sim) plant: Option<crate::sim::subject::Plant>,
    /// Clients are answered when a command is committed, not when it is executed.
    pub(in crate::sim) answer_at_commit: bool,
    /// Something that keeps older copies of disks out is left out.
    pub(in crate::sim) forget: Option<Forget>,
    /// The store says that records are durable when they are written, not when they are flushed.
    pub(in crate::sim) unflushed_store: bool,
    /// Commands are told apart by their ids alone.
    #[cfg(test)]
    pub(in crate::sim) one_content: bool,
}
