//! The bounds a replica keeps. Set through the builder, kept by the rooms around the core.

use crate::types::Command;

/// The bounds a replica keeps, whatever its callers and peers do.
///
/// To be filled from its default: `Limits { commands: 500, ..Limits::default() }`. That is why it
/// is not `#[non_exhaustive]`; a release may add a field, and gives it a default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Commands proposed here and not answered yet; beyond it callers are `Overloaded`.
    pub commands: usize,
    /// Their encodings' bytes, and those of their footprints in memory.
    pub bytes: usize,
    /// The longest encoding of one command, in bytes; at most [`Command::MAX_BYTES`].
    pub command_bytes: usize,
    /// Requests of one client connection that are not answered yet.
    pub client_requests: usize,
    /// Sessions that the clients of one certificate may use here in one era (half the builder's
    /// `session_idle` to all of it): beyond it new ones are `Rejected::TooManySessions`.
    pub client_sessions: usize,
    /// Sessions that there may be in all before new ones from the network are refused like that.
    /// One takes some 300 bytes of memory at every replica, for one to two times `session_idle`.
    pub sessions: usize,
    /// Peers' messages that wait for the core, in bytes; beyond it the peers are held back.
    pub inbox_bytes: usize,
    /// Commands that wait for the state machine. Beyond half of it nothing new is proposed here;
    /// beyond all of it the peers are held back too.
    pub unapplied: usize,
    /// The same in bytes of their encodings.
    pub unapplied_bytes: usize,
    /// About how many bytes of memory may be taken by decisions that some member of the cluster has
    /// not executed, and by what is left of them once they are dropped. A member that is gone makes
    /// this grow with every key; when it is reached, callers are told `Rejected::Full`.
    pub kept_bytes: usize,
    /// About how many bytes of decisions are kept for a member that stands still; beyond that the
    /// others agree to drop them, and it needs a snapshot when it comes back.
    pub keep_for_absent_bytes: usize,
    /// A snapshot is taken when the log has grown by this many bytes since the last, or by the
    /// length of the state if that is more, and when the disk is almost full. The log is kept back
    /// to the last snapshot but one, or to the last where room is short. So a disk has to hold two
    /// snapshots and some of the log, and a snapshot holds what others may still need of the log
    /// besides the state. At least [`Limits::LEAST_SNAPSHOT_EVERY`].
    pub snapshot_every: u64,
    /// The longest snapshot of another replica that is taken in, in bytes. It is put together in
    /// memory.
    pub snapshot_bytes: u64,
    /// Bytes of records that wait to be flushed. Beyond half of it nothing new is proposed here;
    /// beyond all of it the peers are held back too. No more than a quarter of `keep_free_bytes`
    /// counts, or 8 MiB if that is more: what waits when the disk is found to be almost full is
    /// written there, and the snapshot that makes room needs the rest.
    pub log_queue_bytes: usize,
    /// The length of the log's files, in bytes: from 8 MiB to 1 GiB.
    pub segment_bytes: usize,
    /// Bytes that the log leaves free on its disk: below that, callers are told
    /// `Rejected::DiskFull`, and the replica takes a snapshot that makes room. It takes nothing in
    /// meanwhile. If there is too little room for the snapshot, what others propose is still voted
    /// on, until that has used up these bytes too. Then the replica stands still, and goes on once
    /// there is room.
    pub keep_free_bytes: u64,
    /// The mesh's own bounds: frames, queues, connections, patience with the network.
    pub mesh: crate::mesh::Limits,
}

impl Limits {
    /// The least that [`Limits::snapshot_every`] may be: below it, a replica would do little else
    /// than take snapshots.
    pub const LEAST_SNAPSHOT_EVERY: u64 = 16 << 10;

    /// How much of [`Limits::log_queue_bytes`] counts.
    pub(super) fn log_queue(&self) -> usize {
        let share = (self.keep_free_bytes / 4).max(8 << 20);
        self.log_queue_bytes.min(usize::try_from(share).unwrap_or(usize::MAX))
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            commands: 100_000,
            bytes: 64 << 20,
            command_bytes: Command::MAX_BYTES,
            client_requests: 8192,
            client_sessions: 65_536,
            sessions: 1 << 20,
            inbox_bytes: 16 << 20,
            unapplied: 200_000,
            unapplied_bytes: 256 << 20,
            kept_bytes: 4 << 30,
            keep_for_absent_bytes: 256 << 20,
            snapshot_every: 64 << 20,
            snapshot_bytes: 64 << 30,
            log_queue_bytes: 64 << 20,
            segment_bytes: 16 << 20,
            keep_free_bytes: 32 << 20,
            mesh: crate::mesh::Limits::default(),
        }
    }
}
