//! How much a replica may hold.

/// The most bytes of a snapshot in one message.
pub const MAX_CHUNK: u32 = 256 << 10;

/// How much may wait inside a replica before it rejects clients' commands.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands that are queued or proposed and not yet executed.
    pub commands: usize,
    /// Payload bytes of queued commands.
    pub bytes: usize,
    /// Roughly how many bytes of memory instances may take that some member has not executed. If a
    /// member stops for good, this grows until the replica accepts no more proposals.
    pub kept_bytes: usize,
    /// The longest snapshot of another replica, in bytes, that is accepted.
    pub snapshot_bytes: u64,
    /// The bytes of a snapshot to request at a time: from 1 to [`MAX_CHUNK`].
    pub chunk_bytes: u32,
    /// How many executed instances are kept for observers. One that lacks more needs a snapshot.
    pub feed_instances: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        let (kept_bytes, snapshot_bytes) = (4 << 30, 64 << 30);
        let (chunk_bytes, feed_instances) = (MAX_CHUNK, 1 << 16);
        let (commands, bytes) = (100_000, 64 << 20);
        Limits { commands, bytes, kept_bytes, snapshot_bytes, chunk_bytes, feed_instances }
    }
}
