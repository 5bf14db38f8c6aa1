//! How fresh an answer has to be.

/// How fresh the answer to a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// It sees everything that was answered, anywhere, before it was asked.
    #[default]
    Linearizable,
    /// It is answered from one replica's state as it is: fast, maybe stale. Two such reads at one
    /// replica nearly always see its state in the order in which it went on. Not so around the
    /// moment when it takes in another replica's snapshot: what it had executed and is not in there
    /// is executed again, and may be missing until then.
    Local,
}
