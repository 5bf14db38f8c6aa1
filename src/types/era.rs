//! Eras of sessions, encoded in the sequences of their commands (PROTOCOL.md §8).

use std::fmt;

use super::{ClientId, Command, Footprint, ReplicaId, RequestId};

/// The number of low bits of a sequence that count commands within an era.
const BITS: u32 = 40;

/// A period of the cluster's history. A command that all replicas execute at the same place ends
/// it.
///
/// Every sequence belongs to an era. Those of the first start at 1, those of any other at its
/// [`Era::first_sequence`]. A client numbers its first command in the era it finds. So each command
/// tells for ever in which era it may have been new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Era(u32);

impl Era {
    /// The era a cluster starts in.
    pub const FIRST: Era = Era(0);
    /// The last era: 2^24 eras of an hour are 1,900 years. It never ends.
    pub const LAST: Era = Era((1 << (u64::BITS - BITS)) - 1);

    /// The era with this number, from 0; `None` after the last.
    pub const fn new(number: u32) -> Option<Era> {
        if number <= Era::LAST.0 { Some(Era(number)) } else { None }
    }

    /// The era that a sequence belongs to.
    pub fn of(sequence: u64) -> Era {
        Era(u32::try_from(sequence >> BITS).expect("24 bits are left"))
    }

    /// Its number, from 0.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The sequence at which a session that begins in this era starts. (A session that used all
    /// 2^40 sequences of an era would continue in the next; no session does.)
    pub const fn first_sequence(self) -> u64 {
        // Sequences start from 1.
        if self.0 == 0 { 1 } else { (self.0 as u64) << BITS }
    }

    /// The one after it.
    pub fn next(self) -> Option<Era> {
        Era::new(self.0 + 1)
    }

    /// The one before it; the first stays.
    pub const fn previous(self) -> Era {
        Era(self.0.saturating_sub(1))
    }

    /// The command that closes what sessions have finished, for the `nth` time in this era, from 0.
    pub fn close(self, nth: u64, origin: ReplicaId) -> Command {
        let mut command = self.end(origin);
        // An era has fewer closes than commands.
        command.request.sequence = self.first_sequence() + nth + 1;
        command
    }

    /// A command without any effect. It conflicts with everything, so whoever executes it has
    /// executed all that was answered before it was proposed. It is a close of the last era, which
    /// never begins. The `number` tells it from others under way.
    pub fn barrier(number: u32, origin: ReplicaId) -> Command {
        Era::LAST.close(number.into(), origin)
    }

    /// Which close of its era a sequence of [`ClientId::CLUSTER`] is; `None` if it is the end of
    /// the era.
    pub fn nth_close(sequence: u64) -> Option<u64> {
        sequence.checked_sub(Era::of(sequence).first_sequence())?.checked_sub(1)
    }

    /// The command that ends the era. It conflicts with everything, so every replica executes it
    /// between the same commands. No client gets an answer.
    pub fn end(self, origin: ReplicaId) -> Command {
        Command {
            request: RequestId::new(ClientId::CLUSTER, self.first_sequence()),
            floor: 0,
            origin,
            footprint: Footprint::Everything,
            payload: bytes::Bytes::new(),
        }
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "era {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_has_one_era_and_eras_follow_each_other() {
        for era in [Era::FIRST, Era(1), Era(7), Era::LAST] {
            assert_eq!(Era::of(era.first_sequence()), era);
            assert_eq!(Era::of(era.end(ReplicaId::from_index(0)).request.sequence), era);
            assert_eq!(Era::nth_close(era.end(ReplicaId::from_index(0)).request.sequence), None);
            for nth in [0, 1, 1 << 30] {
                let close = era.close(nth, ReplicaId::from_index(1)).request.sequence;
                assert_eq!((Era::of(close), Era::nth_close(close)), (era, Some(nth)));
            }
            if let Some(next) = era.next() {
                assert_eq!(Era::of(next.first_sequence() - 1), era);
                assert_eq!(next.previous(), era);
            }
        }
        assert_eq!(Era::of(u64::MAX), Era::LAST);
        assert_eq!((Era::LAST.next(), Era::FIRST.previous()), (None, Era::FIRST));
        assert_eq!(Era::new(Era::LAST.number() + 1), None);
    }
}
