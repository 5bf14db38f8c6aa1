//! A backup of a running replica: it takes a snapshot, and whoever wants the backup fetches that
//! part by part, from this process or over the network.
//!
//! Before the snapshot, a command that conflicts with every other is decided and executed at that
//! replica. So the backup has everything that was answered before it was asked for, whichever
//! replica answered. What is answered during it may be in it.

use std::path::{Path, PathBuf};
use std::thread;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::Xxh3;

use super::error::BackupError;
use super::file::{Head, Unfinished};
use super::{Backup, Source};
use crate::node::error::{ProposeError, SnapshotError};
use crate::node::fetched::{Asker, Wanted};
use crate::node::pending::{Entered, Waiter};
use crate::node::shared::{Question, ReplicaShared};
use crate::protocol::UnknownProtocol;
use crate::replica::SnapshotId;
use crate::types::{Era, LogPosition, ReplicaId};
use crate::wire::{MAX_PART, Offer};

/// Parts that wait for the disk.
const PARTS: usize = 4;

impl ReplicaShared {
    /// Waits until this replica has executed everything that was answered, anywhere in the cluster,
    /// before this was called.
    async fn catch_up(&self) -> Result<(), ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let barrier = Era::barrier(rand::random(), ReplicaId::from_index(0));
        let (now, waiter) = (self.clock.now(), Waiter::Local(sender, None));
        match self.pending.enter(barrier.request, &barrier.payload, 0, now, waiter) {
            Ok(Entered::New) => self.propose_again(barrier),
            // Another caller has drawn the same number, a moment before.
            Ok(Entered::Joined) => {}
            Err(turned_away) => return Err(turned_away.1),
        }
        receiver.await.unwrap_or_else(|_| Err(self.end().0)).map(drop)
    }

    /// Catches up, and takes a snapshot that is kept for a while.
    pub(in crate::node) async fn lend(&self) -> Result<Offer, BackupError> {
        self.catch_up().await.map_err(BackupError::NotAgreed)?;
        let asked = self.ask(|asker| Question::Snapshot(Asker::Backup(asker))).await;
        Ok(asked.unwrap_or(Err(SnapshotError::Stopped))?)
    }

    /// A part of a snapshot that is kept; `None` if it is not kept any more.
    pub(in crate::node) async fn fetch(&self, name: u64, offset: u64, bytes: u32) -> Option<Bytes> {
        let snapshot = SnapshotId(name);
        let wanted = |asker| Question::Fetch(Wanted { snapshot, offset, bytes, asker });
        self.ask(wanted).await
    }

    /// Writes a backup of this replica.
    pub(in crate::node) async fn backup(
        &self,
        cluster: &str,
        file: &Path,
        overwrite: bool,
    ) -> Result<Backup, BackupError> {
        super::file::check_name(file, overwrite)?;
        let offer = self.lend().await?;
        let mut fetched = Fetched::begin(file, overwrite, cluster, &offer);
        while let Some((offset, bytes)) = fetched.next_part() {
            let part = self.fetch(offer.snapshot, offset, bytes).await;
            let part = part.ok_or(SnapshotError::Stopped)?;
            if !fetched.put(part).await {
                break;
            }
        }
        fetched.finish().await
    }
}

/// A backup that is being fetched. A thread of its own writes the file. If this is dropped before
/// it is finished, the file is removed.
pub(crate) struct Fetched {
    parts: mpsc::Sender<Bytes>,
    written: oneshot::Receiver<Result<Backup, BackupError>>,
    bytes: u64,
    /// Where the next part begins.
    asked: u64,
}

impl Fetched {
    /// Begins the file.
    pub(crate) fn begin(file: &Path, overwrite: bool, cluster: &str, offer: &Offer) -> Fetched {
        let (parts, queue) = mpsc::channel(PARTS);
        let (tell, written) = oneshot::channel();
        let to = To {
            file: file.to_owned(),
            overwrite,
            cluster: cluster.to_owned(),
            offer: offer.clone(),
        };
        let thread = thread::Builder::new().name("isonomy-backup".to_owned());
        let spawned = thread.spawn(move || {
            if let Some(written) = to.write(queue) {
                // The caller may be gone.
                let _ = tell.send(written);
            }
        });
        if let Err(error) = spawned {
            let (failed, written) = oneshot::channel();
            let _ = failed.send(Err(BackupError::io("begin a thread that writes", file, error)));
            return Fetched { parts, written, bytes: 0, asked: 0 };
        }
        Fetched { parts, written, bytes: offer.bytes, asked: 0 }
    }

    /// The next part to ask for: where it begins, and its length. `None` after the last.
    pub(crate) fn next_part(&mut self) -> Option<(u64, u32)> {
        let (offset, left) = (self.asked, self.bytes - self.asked);
        let bytes = left.min(MAX_PART.into());
        self.asked += bytes;
        let bytes = u32::try_from(bytes).expect("at most the longest part");
        (bytes > 0).then_some((offset, bytes))
    }

    /// Gives on the next part. False if it cannot be written: [`Fetched::finish`] says why.
    pub(crate) async fn put(&self, part: Bytes) -> bool {
        self.parts.send(part).await.is_ok()
    }

    /// Waits until everything is written and checked.
    pub(crate) async fn finish(self) -> Result<Backup, BackupError> {
        drop(self.parts);
        self.written.await.expect("the thread answers unless it is given up")
    }
}

/// What the thread that writes a file knows.
struct To {
    file: PathBuf,
    overwrite: bool,
    cluster: String,
    offer: Offer,
}

impl To {
    /// Writes the parts that come. `None` if they end too early.
    fn write(self, mut parts: mpsc::Receiver<Bytes>) -> Option<Result<Backup, BackupError>> {
        let To { file, overwrite, cluster, offer } = self;
        let Offer { replica, protocol, list, position, snapshot, bytes } = offer;
        let damaged = |what: String| {
            Some(Err(BackupError::Damaged { file: file.display().to_string(), what }))
        };
        let kind = match protocol.parse() {
            Ok(kind) => kind,
            Err(error) => {
                let error: UnknownProtocol = error;
                return damaged(error.to_string());
            }
        };
        let position = LogPosition::new(position);
        let head = Head::of((&cluster, kind), replica, &list, Source::Running, position);
        let mut unfinished = match Unfinished::begin(&file, overwrite, &head) {
            Ok(unfinished) => unfinished,
            Err(error) => return Some(Err(error)),
        };
        let (mut hash, mut left) = (Xxh3::new(), bytes);
        while left > 0 {
            let part = parts.blocking_recv()?;
            hash.update(&part);
            let Some(rest) = left.checked_sub(part.len() as u64) else {
                return damaged("more was sent than was offered".to_owned());
            };
            left = rest;
            if let Err(error) = unfinished.put(&part) {
                return Some(Err(unfinished.failed("write", error)));
            }
        }
        if hash.digest() != snapshot {
            return damaged("other bytes were sent than were offered".to_owned());
        }
        // The part of an own snapshot that others do not get: its name, and no records.
        let mut own = BytesMut::new();
        own.put_u64_le(snapshot);
        own.put_u64_le(0);
        if let Err(error) = unfinished.put(&own) {
            return Some(Err(unfinished.failed("write", error)));
        }
        Some(unfinished.finish())
    }
}
