//! Rules that tests break, to see that the checks notice.

/// What is left out, of what keeps older copies of disks out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests leave something out"))]
pub(in crate::sim) enum Forget {
    /// What was heard of others is not written in front of what rests on it.
    Heard,
    /// It is not in snapshots.
    InSnapshots,
    /// Only lives are compared.
    Position,
    /// Only positions are compared.
    Life,
    /// Frames say how far the log was appended to, not how far it is durable.
    Durable,
    /// Where lives began is not written.
    Began,
    /// What two remember of a third is not compared.
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
