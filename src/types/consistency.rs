//! How fresh an answer has to be.

/// How fresh the answer to a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// The read sees every effect that was answered anywhere before the read was sent.
    #[default]
    Linearizable,
    /// The read is answered from one replica's present state: fast, but perhaps stale. Successive
    /// reads at one replica see its state advance, with one exception. When the replica installs
    /// another's snapshot, it executes again what it had executed beyond the snapshot. Until then
    /// those effects may be missing.
    Local,
}
