//! How fresh an answer has to be.

/// How fresh the answer to a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// It sees everything that was answered, anywhere, before it was asked.
    #[default]
    Linearizable,
    /// It is answered from one replica's state as it is: fast, maybe stale.
    Local,
}
