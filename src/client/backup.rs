//! Fetches a backup of a running cluster. One replica takes a snapshot, and is then asked for its
//! parts in order, a few at a time. If the connection is lost on the way, the rest is fetched over
//! the next one. If there is none soon, or the replica has restarted meanwhile, the backup begins
//! anew, at whichever replica answers.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::error::ClientError;
use super::link::{Asked, Forget, Link};
use super::session::Ticket;
use super::{Client, Inner};
use crate::machine::StateMachine;
use crate::node::{Backup, BackupError, Fetched};
use crate::types::MemberId;
use crate::wire::{Ask, Offer, Outcome, Refusal, Request};

/// How many parts are asked for at a time.
const WINDOW: usize = 4;
/// How often a backup is begun.
const ATTEMPTS: usize = 3;
/// The pause before a refused part is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why no backup was made. No part of its file remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoBackup {
    /// No replica took a snapshot for it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The file cannot be written, or what came is not what was offered.
    #[error(transparent)]
    File(#[from] BackupError),
    /// The replica that took the snapshot could not be reached any more.
    #[error(
        "cut off after {received} of {bytes} bytes: nothing came from {replica} for {patience:?}"
    )]
    CutOff {
        /// The replica.
        replica: MemberId,
        /// How much had come.
        received: u64,
        /// How much there is.
        bytes: u64,
        /// For how long nothing came.
        patience: Duration,
    },
    /// Replicas stopped while the backup was fetched from them, as often as it was begun.
    #[error("the backup was begun {ATTEMPTS} times, and each time the replica stopped meanwhile")]
    Stopped,
}

impl<S: StateMachine> Client<S> {
    /// Writes a backup of the running cluster to `file`, from which
    /// [`restore`](crate::node::restore) makes directories of a new cluster. It has everything that
    /// any replica had answered before this was called. Needs an administrator's certificate. A
    /// replica has to answer within [`patience`](super::ClientConfig::patience), and then at least
    /// once in each such time.
    ///
    /// # Errors
    /// [`NoBackup`]. An existing file is unchanged then.
    pub async fn backup(
        &self,
        file: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Backup, NoBackup> {
        self.inner.backup(file.as_ref(), overwrite).await
    }
}

/// A part that was asked for.
struct Asking<'a> {
    link: Arc<Link>,
    asked: Asked,
    ticket: Ticket<'a>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        drop(Forget { link: &self.link, request: self.ticket.request });
    }
}

impl Inner {
    async fn backup(&self, file: &Path, overwrite: bool) -> Result<Backup, NoBackup> {
        crate::node::check_backup_name(file, overwrite)?;
        for _ in 0..ATTEMPTS {
            let Outcome::Backup(offer) = self.ask(Ask::Backup).await? else {
                let why = "another answer than was asked for".to_owned();
                return Err(ClientError::Unknown(why).into());
            };
            let mut fetched = Fetched::begin(file, overwrite, self.endpoint.cluster(), &offer);
            if self.fetch(&mut fetched, &offer).await? {
                return Ok(fetched.finish().await?);
            }
        }
        Err(NoBackup::Stopped)
    }

    /// Fetches all parts, unless they cannot be written. False if the replica has stopped, or does
    /// not keep the snapshot any more.
    async fn fetch(&self, fetched: &mut Fetched, offer: &Offer) -> Result<bool, NoBackup> {
        let mut parts: VecDeque<(u64, u32)> = VecDeque::new();
        // The first of `parts`, in order.
        let mut asking: VecDeque<Asking<'_>> = VecDeque::new();
        let mut changes = self.changes.clone();
        let (mut received, mut since) = (0, Instant::now());
        let mut connected = since;
        loop {
            while parts.len() < WINDOW
                && let Some(part) = fetched.next_part()
            {
                parts.push_back(part);
            }
            let Some(&(_, wanted)) = parts.front() else { return Ok(true) };
            let enough = since + self.patience;
            if Instant::now() >= enough {
                let (replica, bytes, patience) = (offer.replica, offer.bytes, self.patience);
                return Err(NoBackup::CutOff { replica, received, bytes, patience });
            }
            changes.mark_unchanged();
            self.ask_for(offer, &parts, &mut asking, enough).await;
            let Some(first) = asking.front_mut() else {
                let soon = enough.min(connected + self.attempt);
                if Instant::now() >= soon {
                    return Ok(false);
                }
                // The links tell when one of them connects.
                let _ = timeout_at(soon, changes.changed()).await;
                continue;
            };
            connected = Instant::now();
            match timeout_at(enough, &mut first.asked.outcome).await {
                Ok(Ok(Outcome::Part(part))) if part.len() == wanted as usize => {
                    asking.pop_front();
                    parts.pop_front();
                    (received, since) = (received + u64::from(wanted), Instant::now());
                    if !fetched.put(part).await {
                        return Ok(true);
                    }
                }
                Ok(Ok(Outcome::Rejected(Refusal::Gone))) => return Ok(false),
                Ok(Ok(Outcome::Rejected(_))) => {
                    asking.clear();
                    sleep(PAUSE).await;
                }
                Ok(Ok(_)) => {
                    let why = "another answer than was asked for".to_owned();
                    return Err(ClientError::Unknown(why).into());
                }
                // The connection is lost, and with it all that was asked for.
                Ok(Err(_)) | Err(_) => asking.clear(),
            }
        }
    }

    /// Asks for those of `parts` that are not asked for yet, if the replica is connected.
    async fn ask_for<'a>(
        &'a self,
        offer: &Offer,
        parts: &VecDeque<(u64, u32)>,
        asking: &mut VecDeque<Asking<'a>>,
        enough: Instant,
    ) {
        while asking.len() < parts.len() {
            let links = self.in_order().into_iter().map(|(_, link)| link);
            let Some(link) = links.into_iter().find(|link| link.replica == offer.replica) else {
                return;
            };
            let ticket = Ticket::take(&self.session);
            let (offset, bytes) = parts[asking.len()];
            let ask = Ask::Fetch { snapshot: offer.snapshot, offset, bytes };
            let request = Request { request: ticket.request, floor: ticket.floor, ask };
            match timeout_at(enough, link.ask(&request)).await {
                Ok(Ok(asked)) => asking.push_back(Asking { link, asked, ticket }),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}
