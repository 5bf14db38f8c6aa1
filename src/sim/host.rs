//! One simulated machine: a replica with its clock, its disk, its inbox, and its moods. Used by
//! `world`.

use std::time::Duration;

use super::plan::{Clock, Disk, Plan};
use crate::machine::{Applier, Kv};
use crate::protocol::epaxos::{EPaxos, Message};
use crate::replica::{Core, Input, Limits};
use crate::types::{Quorums, ReplicaId, Settings, Time};

/// A machine.
///
/// Invariants:
///
/// 1. What arrives while the replica is busy waits in `inbox`, and is taken in one step.
/// 2. At most one flush is under way, and covers what was appended before it began.
pub(super) struct Host {
    pub(super) core: Core<EPaxos>,
    pub(super) applier: Applier<Kv>,
    pub(super) alive: bool,
    pub(super) inbox: Vec<Input<Message>>,
    /// Busy, or paused, until then.
    pub(super) free_at: Time,
    /// Whether the world will call at `free_at`.
    pub(super) called: bool,
    /// What arrives before is lost.
    pub(super) deaf_until: Time,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    /// Records appended.
    pub(super) appended: u64,
    /// Records that are durable, or will be with the flush under way.
    pub(super) durable: u64,
    /// Whether a flush is under way.
    pub(super) flushing: bool,
    /// The soonest call there will be for `Core::wake`.
    pub(super) wake_at: Option<Time>,
    /// Dies at its next proposal, of which some messages get away.
    pub(super) doomed: bool,
}

impl Host {
    pub(super) fn new(plan: &Plan, me: ReplicaId) -> Host {
        let settings = Settings {
            me,
            quorums: Quorums::new(plan.replicas).expect("a supported size"),
            seed: plan.seed.wrapping_mul(64) + u64::from(me.number()),
            timing: plan.timing.clone(),
        };
        Host {
            core: Core::new(settings.clone(), Limits::default(), EPaxos::new(settings)),
            applier: Applier::new(Kv::new()),
            alive: true,
            inbox: Vec::new(),
            free_at: Time::ZERO,
            called: false,
            deaf_until: Time::ZERO,
            disk: plan.disks[me.index()],
            clock: plan.clocks[me.index()],
            appended: 0,
            durable: 0,
            flushing: false,
            wake_at: None,
            doomed: false,
        }
    }
}

impl Clock {
    /// The moment on this clock.
    pub(super) fn local(self, world: Time) -> Time {
        let nanos = u128::from(world.as_nanos()) * u128::from(self.rate) / 1024;
        Time::from_nanos(self.offset + u64::try_from(nanos).expect("worlds last for days at most"))
    }

    /// The first moment of the world at which this clock shows `local`, or more.
    pub(super) fn world(self, local: Time) -> Time {
        let nanos = u128::from(local.as_nanos().saturating_sub(self.offset)) * 1024;
        let nanos = nanos.div_ceil(u128::from(self.rate));
        Time::from_nanos(u64::try_from(nanos).expect("worlds last for days at most"))
    }

    /// How long this takes in the world.
    pub(super) fn takes(self, local: Duration) -> Duration {
        let nanos = u64::try_from(local.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos.saturating_mul(1024) / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_can_be_read_both_ways() {
        for rate in [512, 900, 1024, 2048] {
            let clock = Clock { offset: 77, rate };
            for nanos in [0, 1, 999, 1_234_567_891] {
                let local = clock.local(Time::from_nanos(nanos));
                let back = clock.world(local);
                assert!(back.as_nanos() <= nanos && clock.local(back) >= local, "{rate} {nanos}");
            }
        }
    }
}
