//! Reserve: names and rounds that no other life of this replica has used (§L2).
//!
//! A replica forgets in a crash what it had not made durable, and must never use one name for two
//! values, nor one ballot for two values. So it writes down beforehand up to where it will go, a
//! block at a time, and starts above it after a restart. What is said under a name or a ballot
//! waits for [`Reserve::written`], which is durable long before in all but a block's first use.

use super::LogRecord;
use crate::protocol::Effects;
use crate::types::{Ballot, InstanceId, ReplicaId, Slot, Written};

/// So many at a time; few in tests, so that the ends of blocks are met.
const NAMES: Slot = if cfg!(test) { 4 } else { 1 << 20 };
const ROUNDS: u32 = if cfg!(test) { 2 } else { 1 << 10 };

/// What was used and what may be.
///
/// Invariant: every name and round that was handed out lies at or below what is on record.
#[derive(Debug)]
pub(in crate::protocol) struct Reserve {
    me: ReplicaId,
    last_name: Slot,
    /// The rounds of this life lie above.
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

    /// A name that was never used.
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

    /// An own ballot above another, `skip` rounds higher than need be. The same one may come again
    /// in the same life. `None` when rounds run out: a peer made one up.
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

    /// What is said under a name or a ballot of this life waits for this.
    pub(in crate::protocol) fn written(&self) -> Written {
        self.written
    }

    /// An earlier life may have used all of this.
    pub(in crate::protocol) fn restore(&mut self, names: Slot, rounds: u32) {
        self.names = self.names.max(names);
        self.last_name = self.names;
        self.rounds = self.rounds.max(rounds);
        self.earlier_rounds = self.rounds;
    }

    /// For an own snapshot.
    pub(in crate::protocol) fn record(&self) -> Option<LogRecord> {
        let any = self.names > 0 || self.rounds > 0;
        any.then_some(LogRecord::Reserved { names: self.names, rounds: self.rounds })
    }
}
