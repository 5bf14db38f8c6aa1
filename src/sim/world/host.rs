//! One simulated machine: a replica with its clock, disk and inbox, and the faults that affect it.
//! Part of `state`.

use std::time::Duration;

use rustc_hash::FxHashSet;

use super::freshness::Freshness;
use super::room::{Flip, Room};
use crate::machine::{Applier, ContentKey, Kv};
use crate::protocol::Paths;
use crate::replica::{Core, Input, Limits, PeerMessage, Record};
use crate::sim::plan::{Clock, Disk, Plan};
use crate::sim::subject::{Moment, Subject};
use crate::types::{Quorums, ReplicaId, RequestId, Settings, Time};

/// The length of a chunk of a snapshot, in bytes.
const CHUNK: u32 = 200;

/// A replica is to die while it sends something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) struct Doom {
    pub(in crate::sim) moment: Moment,
    /// Whether it comes back.
    pub(in crate::sim) returns: bool,
}

impl Doom {
    /// Whether the replica dies when it sends this message.
    pub(super) fn comes_with<P: Subject>(self, message: &PeerMessage<P::Message>) -> bool {
        match message {
            PeerMessage::Protocol(message) => P::comes_at(message, self.moment),
            _ => false,
        }
    }
}

/// A machine.
///
/// Invariants:
///
/// 1. Everything that arrives while the replica is busy waits in `inbox` and is taken in one step.
/// 2. At most one flush is under way; it covers everything appended before it began.
/// 3. Positions (`appended`, `durable`, `flushed`) count the remaining records of all lives.
pub(in crate::sim) struct Host<P: Subject> {
    settings: Settings,
    /// Each host has its own.
    content_key: ContentKey,
    pub(in crate::sim) core: Core<P>,
    pub(in crate::sim) applier: Applier<Kv>,
    pub(in crate::sim) alive: bool,
    pub(in crate::sim) inbox: Vec<Input<P::Message>>,
    /// The replica is busy or paused until then.
    pub(in crate::sim) free_at: Time,
    /// Whether a step is scheduled at `free_at`.
    pub(in crate::sim) called: bool,
    /// Messages that arrive earlier are lost.
    pub(in crate::sim) deaf_until: Time,
    pub(in crate::sim) disk: Disk,
    pub(in crate::sim) clock: Clock,
    /// Every readable record of all lives; empty in worlds without restarts.
    pub(in crate::sim) log: Vec<Record<P::Record>>,
    /// The real storage, in worlds that use it; `log` is compared with it.
    pub(in crate::sim) room: Option<Room<Record<P::Record>>>,
    /// What it knows of itself and the others.
    pub(in crate::sim) fresh: Freshness<P>,
    /// Its disk was damaged: it may never come back, and counts as gone until it does.
    pub(in crate::sim) condemned: bool,
    /// The flipped bit, if that was the damage.
    pub(in crate::sim) flip: Option<Flip>,
    /// The number of its newest own snapshot that counts.
    pub(in crate::sim) snapshot: Option<usize>,
    /// The received part of another replica's snapshot.
    pub(in crate::sim) arrived: Vec<u8>,
    /// Whether it stops during a flush.
    pub(in crate::sim) torn: bool,
    /// Records appended.
    pub(in crate::sim) appended: u64,
    /// Records that are durable, or will be after the flush under way.
    pub(in crate::sim) durable: u64,
    /// Records that are durable.
    pub(in crate::sim) flushed: u64,
    /// Whether a flush is under way.
    pub(in crate::sim) flushing: bool,
    /// Whether its log waits for room on the disk; it then takes no step.
    pub(in crate::sim) full: bool,
    /// The earliest scheduled wake-up for `Core::wake`.
    pub(in crate::sim) wake_at: Option<Time>,
    /// It dies when it sends a message of a certain kind; some of these messages still leave.
    pub(in crate::sim) doom: Option<Doom>,
    /// How often it has come back.
    pub(in crate::sim) life: u32,
    /// Whether it is down and will come back.
    pub(in crate::sim) returning: bool,
    /// How often it will stop again soon after coming back.
    pub(in crate::sim) again: u32,
    /// Requests that this life would answer; kept only in worlds with restarts.
    pub(in crate::sim) waiting: FxHashSet<RequestId>,
    /// Those of them that arrived before it installed another replica's snapshot. Commands executed
    /// in that snapshot are proposed again here, so a refusal because of their age proves nothing.
    pub(in crate::sim) unsure: FxHashSet<RequestId>,
    /// The paths of earlier lives.
    pub(in crate::sim) paths: Paths,
}

impl<P: Subject> Host<P> {
    pub(in crate::sim) fn new(plan: &Plan, me: ReplicaId) -> Host<P> {
        let seed = plan.seed.wrapping_mul(64) + u64::from(me.number());
        let settings = Settings {
            me,
            quorums: Quorums::new(plan.replicas).expect("a supported size"),
            seed,
            timing: plan.timing.clone(),
            optimisations: plan.optimisations,
            retention: plan.retention::<P>(),
            leases: plan.leases,
        };
        Host {
            core: core(&settings),
            settings,
            content_key: [seed, 7],
            applier: Applier::new(Kv::new()).keyed([seed, 7]),
            alive: true,
            inbox: Vec::new(),
            free_at: Time::ZERO,
            called: false,
            deaf_until: Time::ZERO,
            disk: plan.disks[me.index()],
            clock: plan.clocks[me.index()],
            log: Vec::new(),
            room: plan.storage.map(|storage| Room::new(&storage, P::NAME, plan.replicas, me, seed)),
            fresh: Freshness::new(plan.replicas, me),
            condemned: false,
            flip: None,
            snapshot: None,
            arrived: Vec::new(),
            torn: false,
            appended: 0,
            durable: 0,
            flushed: 0,
            flushing: false,
            full: false,
            wake_at: None,
            doom: None,
            life: 0,
            returning: false,
            again: 0,
            waiting: FxHashSet::default(),
            unsure: FxHashSet::default(),
            paths: Paths::default(),
        }
    }

    /// A deliberate bug: the first command of an id is taken for all of them.
    #[cfg(test)]
    pub(super) fn tell_no_contents_apart(&mut self) {
        self.content_key = crate::machine::BLIND;
        self.applier = Applier::new(Kv::new()).keyed(self.content_key);
    }

    /// Stops the replica, which loses everything in memory.
    pub(super) fn go_down(&mut self) {
        self.alive = false;
        self.inbox.clear();
        self.waiting.clear();
        self.unsure.clear();
        self.flushing = false;
        self.full = false;
        self.wake_at = None;
        self.doom = None;
        self.arrived.clear();
    }

    /// Starts a new life from `log` alone.
    pub(in crate::sim) fn begin_anew(&mut self, now: Time) {
        self.paths.add(self.core.paths());
        self.core = core(&self.settings);
        self.applier = Applier::new(Kv::new()).keyed(self.content_key);
        self.alive = true;
        self.returning = false;
        self.life += 1;
        self.condemned = false;
        let end = self.log.len() as u64;
        (self.appended, self.durable, self.flushed) = (end, end, end);
        self.free_at = now;
        self.called = false;
        self.deaf_until = Time::ZERO;
    }
}

impl<P: Subject> Host<P> {
    /// Hands the records appended since the last flush began to the storage, if used, as far as the
    /// next flush may reach.
    pub(super) fn hand_over(&mut self) {
        let mut end = self.appended;
        if let Some(room) = &mut self.room {
            end = room.divides_at().unwrap_or(end);
            let place = |at| usize::try_from(at).expect("what is in memory can be counted");
            for record in &self.log[place(self.durable)..place(end)] {
                room.append(record).expect("a sound log takes records of this length");
            }
        }
        self.durable = end;
    }

    /// Whether it will never be back, or might not be.
    pub(in crate::sim) fn is_gone(&self) -> bool {
        let dead = !(self.alive || self.returning);
        dead || self.condemned || self.doom.is_some_and(|doom| !doom.returns)
    }
}

fn core<P: Subject>(settings: &Settings) -> Core<P> {
    // Snapshots are small here, so small chunks split them anyway.
    let limits = Limits { chunk_bytes: CHUNK, ..Limits::default() };
    Core::new(settings.clone(), limits, P::new(settings.clone()))
}

impl Clock {
    /// The time on this clock.
    pub(super) fn local(self, world: Time) -> Time {
        let nanos = u128::from(world.as_nanos()) * u128::from(self.rate) / 1024;
        Time::from_nanos(self.offset + u64::try_from(nanos).expect("worlds last for days at most"))
    }

    /// The first time of the world at which this clock shows at least `local`.
    pub(super) fn world(self, local: Time) -> Time {
        let nanos = u128::from(local.as_nanos().saturating_sub(self.offset)) * 1024;
        let nanos = nanos.div_ceil(u128::from(self.rate));
        Time::from_nanos(u64::try_from(nanos).expect("worlds last for days at most"))
    }

    /// How long this local duration takes in the world.
    pub(in crate::sim) fn takes(self, local: Duration) -> Duration {
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
