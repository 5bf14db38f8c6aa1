//! The bounds a replica keeps. The builder sets them; the code around the core enforces them.

use crate::types::Command;

/// The bounds a replica keeps, whatever its callers and peers do.
///
/// Fill it in from its default: `Limits { commands: 500, ..Limits::default() }`. It is not
/// `#[non_exhaustive]` for that reason. A release may add a field, and gives it a default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Commands proposed here and not answered yet. Beyond this limit, callers get `Overloaded`.
    pub commands: usize,
    /// Bytes of those commands: their encodings, and their footprints in memory.
    pub bytes: usize,
    /// The longest encoding of one command, in bytes; at most [`Command::MAX_BYTES`].
    pub command_bytes: usize,
    /// Requests of one client connection that are not answered yet.
    pub client_requests: usize,
    /// Sessions that the clients of one certificate may use here in one era. An era lasts from half
    /// to all of the builder's `session_idle`. Beyond this limit, new ones get
    /// `Rejected::TooManySessions`.
    pub client_sessions: usize,
    /// Sessions in all. Beyond this limit, new sessions from the network get the same error. A
    /// session takes some 300 bytes of memory at every replica, for one to two times
    /// `session_idle`.
    pub sessions: usize,
    /// Bytes of peers' messages that wait for the core. Beyond this limit, the peers are held back.
    /// While more records wait for a flush than [`Limits::log_queue_bytes`] allows, they stay here.
    pub inbox_bytes: usize,
    /// Commands that wait for the state machine. Beyond half of this limit, nothing new is proposed
    /// here; beyond all of it, the peers are held back, too.
    pub unapplied: usize,
    /// As `unapplied`, in bytes of the commands' encodings.
    pub unapplied_bytes: usize,
    /// Approximate bytes of memory for decisions that some member of the cluster has not executed,
    /// and for what remains of them once they are dropped. While a member is away, this grows with
    /// every key. At the limit, callers get `Rejected::Full`.
    pub kept_bytes: usize,
    /// Approximate bytes of decisions kept for a member that makes no progress. Beyond this limit,
    /// the others agree to drop them, and that member needs a snapshot when it comes back.
    pub keep_for_absent_bytes: usize,
    /// A snapshot is taken when the log has grown by this many bytes since the last one, or by the
    /// length of the state if that is more. One is also taken when the disk is almost full. The log
    /// is kept from the last snapshot but one, or from the last if room is short. So a disk must
    /// hold two snapshots and part of the log. A snapshot contains the state and the decisions that
    /// other replicas may still need. At least [`Limits::LEAST_SNAPSHOT_EVERY`].
    pub snapshot_every: u64,
    /// The longest snapshot accepted from another replica, in bytes. It is assembled in memory.
    pub snapshot_bytes: u64,
    /// Bytes of records that wait for a flush. Beyond half of this limit, nothing new is proposed
    /// here; beyond all of it, the peers are held back, too. At most a quarter of `keep_free_bytes`
    /// counts, or 8 MiB if that is more: when the disk turns out to be almost full, the waiting
    /// records still go there, and the snapshot that frees room needs the rest.
    pub log_queue_bytes: usize,
    /// The length of each log file, in bytes: from 8 MiB to 1 GiB.
    pub segment_bytes: usize,
    /// Bytes that the log leaves free on its disk. Below that, callers get `Rejected::DiskFull`,
    /// and the replica takes a snapshot to free room. Meanwhile it takes in nothing. If the
    /// snapshot does not fit, the replica still votes on what others propose, until its votes have
    /// used up these bytes, too. Then it takes no more steps until there is room.
    pub keep_free_bytes: u64,
    /// The mesh's own bounds: frames, queues, connections and network timeouts.
    pub mesh: crate::mesh::ConnectionLimits,
}

impl Limits {
    /// The lowest value for [`Limits::snapshot_every`]. With less, a replica would do little but
    /// take snapshots.
    pub const LEAST_SNAPSHOT_EVERY: u64 = 16 << 10;

    /// How many bytes of [`Limits::log_queue_bytes`] count.
    pub(super) fn log_queue(&self) -> usize {
        let share = (self.keep_free_bytes / 4).max(8 << 20);
        self.log_queue_bytes.min(usize::try_from(share).unwrap_or(usize::MAX))
    }

    /// How many bytes of peers' messages the core takes in at a time. It looks at the disk between
    /// two turns only, and what it takes in may go to the log at once.
    pub(super) fn turn_bytes(&self) -> usize {
        self.log_queue() / 2
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
            mesh: crate::mesh::ConnectionLimits::default(),
        }
    }
}
