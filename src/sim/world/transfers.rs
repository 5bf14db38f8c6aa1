//! What a step asks for in connection with snapshots (PROTOCOL.md §8a): receiving those of others,
//! sending own ones, and dropping instances. Before `step`; `snapshots` carries it out.

use std::time::Duration;

use rand::RngExt;

use super::agenda::{Event, SnapshotEvent};
use super::state::World;
use crate::replica::{Arrival, Output};
use crate::sim::plan::Fault;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::Subject;
use crate::types::ReplicaId;

/// How long it takes to read a chunk of a snapshot.
const SOON: Duration = Duration::from_millis(1);

impl<P: Subject> World<'_, P> {
    /// Carries out what a step asks for in connection with snapshots.
    pub(super) fn follow_snapshots(
        &mut self,
        me: ReplicaId,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let life = self.hosts[me.index()].life;
        if std::mem::take(&mut out.snapshot_wanted) {
            self.later(Duration::ZERO, Event::Snapshot(SnapshotEvent::Begin(me, false)));
        }
        for read in out.snapshot_reads.drain(..) {
            self.later(SOON, Event::Snapshot(SnapshotEvent::Read(me, life, read)));
        }
        let host = &mut self.hosts[me.index()];
        let (mut begins, mut complete) = (false, false);
        for arrival in out.snapshot_received.drain(..) {
            match arrival {
                Arrival::Begins { .. } => {
                    host.arrived.clear();
                    begins = true;
                }
                Arrival::GivenUp => host.arrived.clear(),
                Arrival::Bytes(bytes) => host.arrived.extend_from_slice(&bytes),
                Arrival::Complete => complete = true,
            }
        }
        if begins {
            self.disturb_transfer(me);
        }
        if complete {
            self.later(Duration::ZERO, Event::Snapshot(SnapshotEvent::Install(me, life)));
        }
    }

    /// Checks what a replica has dropped and forgotten so far.
    pub(super) fn check_truncation(&mut self, me: ReplicaId) -> Result<(), Breach> {
        let protocol = self.hosts[me.index()].core.protocol();
        let Some((dropped, forgotten)) = protocol.truncation() else { return Ok(()) };
        self.checks.drops(me, dropped);
        if !self.checks.forgets(me, forgotten) {
            return Ok(());
        }
        if self.plan.retention::<P>().volatile {
            for other in ReplicaId::all(self.plan.replicas) {
                let executed = self.hosts[other.index()].core.status().executed;
                self.checks.is_safe(other, &executed);
            }
        }
        self.checks.all_have(me)
    }

    /// A snapshot starts to arrive: sometimes either side stops during the transfer.
    fn disturb_transfer(&mut self, me: ReplicaId) {
        let drawn = self.plan.faults.iter().any(|(it, _)| *it == Fault::Absence);
        if !drawn || self.calm_since.is_some() || !self.room_rng.random_ratio(1, 4) {
            return;
        }
        let other = self.room_rng.random_range(0..self.plan.replicas);
        let either = self.room_rng.random_ratio(1, 2);
        let victim = if either { me } else { ReplicaId::from_index(other) };
        let life = self.hosts[victim.index()].life;
        let soon = self.plan.timing.tick.mul_f64(2.0 * self.room_rng.random::<f64>());
        self.counters.hit(Counter::TransferDisturbed);
        self.later(soon, Event::Stop(victim, life));
    }
}
