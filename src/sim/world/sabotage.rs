//! Rules that tests break on purpose, to see that the checks notice.

/// Which part of the protection against older copies of disks is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests leave something out"))]
pub(in crate::sim) enum Forget {
    /// What was heard of others is not written before what depends on it.
    Heard,
    /// What was heard of others is not written to snapshots.
    InSnapshots,
    /// Only lives are compared.
    Position,
    /// Only positions are compared.
    Life,
    /// Frames report how much of the log is appended instead of how much is durable.
    Durable,
    /// The positions where lives began are not written.
    Began,
    /// What two replicas remember of a third is not compared.
    Third,
}

#[cfg(test)]
impl Forget {
    pub(in crate::sim) const ALL: [Forget; 7] = [
        Forget::Heard,
        Forget::InSnapshots,
        Forget::Position,
        Forget::Life,
        Forget::Durable,
        Forget::Began,
        Forget::Third,
    ];
}

/// The rules that a test breaks on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::sim) struct Sabotage {
    /// A bug in the protocol.
    #[cfg(test)]
    pub(in crate::sim) plant: Option<crate::sim::subject::Plant>,
    /// Clients are answered when a command is committed instead of when it is executed.
    pub(in crate::sim) answer_at_commit: bool,
    /// A part of the protection against older copies of disks is left out.
    pub(in crate::sim) forget: Option<Forget>,
    /// The storage reports records as durable when they are written instead of when they are
    /// flushed.
    pub(in crate::sim) unflushed_store: bool,
    /// Commands are identified by their ids alone.
    #[cfg(test)]
    pub(in crate::sim) one_content: bool,
}
