//! Reserve: names and rounds that no other life of this replica has used (§L2).
//!
//! In a crash a replica loses what it had not made durable, but it must never use one name or one
//! ballot for two values. So it records beforehand how far it will go, a block at a time, and
//! starts above the recorded end after a restart. A message under a name or a ballot waits for
//! [`Reserve::written`]. Except at the first use of a block, that is durable long before.

use super::LogRecord;
use crate::protocol::Effects;
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Written};

/// The size of a block; small in tests, so that they reach the ends of blocks.
const NAMES: Slot = if cfg!(test) { 4 } else { 1 << 20 };
const ROUNDS: u32 = if cfg!(test) { 2 } else { 1 << 10 };

/// The names and rounds used and reserved.
///
/// Invariant: every name and round handed out is at or below the recorded end.
#[derive(Debug)]
pub(in crate::protocol) struct Reserve {
    me: ReplicaId,
    last_name: Slot,
    /// The rounds of this life are above this one.
    earlier_rounds: u32,
    names: Slot,
    rounds: u32,
    written: Written,
}

impl Reserve {
    pub(in crate::protocol) fn new(me: ReplicaId) -> Reserve {
        let written = Written::default();
        Reserve { me, last_name: 0, earlier_rounds: 0, names: 0, rounds: 0, written }
    }

    /// A name that was never used before.
    pub(in crate::protocol) fn name<M, R: From<LogRecord>>(
        &mut self,
        fx: &mut Effects<M, R>,
    ) -> InstanceId {
        self.last_name += 1;
        if self.last_name > self.names {
            self.names = self.last_name + NAMES;
            self.note(fx);
        }
        InstanceId::new(self.me, self.last_name)
    }

    /// A ballot of this replica above another, `skip` rounds higher than necessary. It may return
    /// the same ballot again in one life. `None` if rounds run out, because a peer made up a high
    /// one.
    pub(in crate::protocol) fn ballot<M, R: From<LogRecord>>(
        &mut self,
        above: Ballot,
        skip: u32,
        fx: &mut Effects<M, R>,
    ) -> Option<Ballot> {
        let round = above.round().max(self.earlier_rounds).checked_add(1 + skip)?;
        if round > Ballot::MAX_ROUND {
            return None;
        }
        if round > self.rounds {
            self.rounds = round.saturating_add(ROUNDS);
            self.note(fx);
        }
        Ballot::new(round, self.me)
    }

    fn note<M, R: From<LogRecord>>(&mut self, fx: &mut Effects<M, R>) {
        let record = LogRecord::Reserved { names: self.names, rounds: self.rounds };
        self.written = fx.append(R::from(record));
    }

    /// The record that messages under a name or a ballot of this life wait for.
    pub(in crate::protocol) fn written(&self) -> Written {
        self.written
    }

    /// An earlier life may have used names and rounds up to these.
    pub(in crate::protocol) fn restore(&mut self, names: Slot, rounds: u32) {
        self.names = self.names.max(names);
        self.last_name = self.names;
        self.rounds = self.rounds.max(rounds);
        self.earlier_rounds = self.rounds;
    }

    /// The record for a snapshot of this replica.
    pub(in crate::protocol) fn record(&self) -> Option<LogRecord> {
        let any = self.names > 0 || self.rounds > 0;
        any.then_some(LogRecord::Reserved { names: self.names, rounds: self.rounds })
    }
}
