//! What a client has tried for one command, and what it concludes when it gives up.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::error::{ClientError, Rejected};
use crate::types::MemberId;
use crate::wire::Refusal;

/// The pause between attempts while every replica refuses: it doubles from the first value up to
/// the second.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long to try a command while all reachable replicas have no quorum. Each of them has waited
/// for a quorum by then.
const WITHOUT_QUORUM: Duration = Duration::from_secs(3);

/// What has been tried for one command.
#[derive(Default)]
pub(super) struct Effort {
    /// The replicas tried in this round.
    pub(super) tried: Vec<MemberId>,
    rounds: u32,
    /// How many of them had no quorum.
    pub(super) without_quorum: usize,
    /// Since when no replica that was tried has had a quorum.
    no_quorum_since: Option<Instant>,
    /// Set if some replica may have the command; the latest reason to think so.
    pub(super) unknown: Option<String>,
    pub(super) refusal: Option<Refusal>,
}

impl Effort {
    pub(super) fn note(&mut self, refusal: Refusal) {
        self.without_quorum += usize::from(matches!(refusal, Refusal::NoQuorum(_)));
        self.refusal = Some(refusal);
    }

    /// Whether all replicas have lacked a quorum for long enough. Call it at the end of a round.
    pub(super) fn is_without_quorum(&mut self) -> bool {
        if self.tried.is_empty() || self.without_quorum < self.tried.len() {
            self.no_quorum_since = None;
            return false;
        }
        let since = *self.no_quorum_since.get_or_insert_with(Instant::now);
        self.unknown.is_none() && since.elapsed() >= WITHOUT_QUORUM
    }

    /// Every connected replica has been tried: waits for another one, or for a while.
    pub(super) async fn next_round(
        &mut self,
        deadline: Instant,
        mut changes: watch::Receiver<u64>,
    ) {
        changes.mark_unchanged();
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(self.rounds)).min(LONGEST_PAUSE);
        let pause = pause.min(deadline.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = sleep(pause) => {}
            // The sender lives as long as the links.
            _ = changes.changed() => {}
        }
        self.tried.clear();
        self.without_quorum = 0;
        self.rounds = (self.rounds + 1).min(16);
    }

    pub(super) fn result(self, patience: Duration) -> ClientError {
        match (self.unknown, self.refusal) {
            (Some(why), _) => ClientError::Unknown(why),
            (None, Some(last)) => Rejected::Refused { patience, last }.into(),
            (None, None) => Rejected::Unreachable(patience).into(),
        }
    }
}
