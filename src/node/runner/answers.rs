//! Questions to the core thread: the replica's state, its figures, why an instance waits. Part of
//! the runner; answered between steps.

use std::sync::atomic::Ordering;

use super::Runner;
use crate::node::latency::Latency;
use crate::node::metrics::{Metrics, PathLatency};
use crate::node::panics::lock;
use crate::node::shared::Question;
use crate::node::standing::ProtocolStanding;
use crate::node::status::{NodeProtocol, Status, explain};
use crate::node::work::Work;
use crate::protocol::{RECOVERY, RESUBMITTED};
use crate::types::Membership;

impl<P: NodeProtocol> Runner<P> {
    /// Answers a question, or returns the work for the apply thread that answers it.
    pub(super) fn answer(&mut self, question: Question) -> Option<Work> {
        // The receiver may be gone.
        match question {
            Question::Pause(resume, sender) => {
                // The network of this replica runs on this thread, so it pauses, too.
                let _ = sender.send(());
                let _ = resume.recv();
            }
            Question::Status(sender) => drop(sender.send(self.status())),
            Question::Metrics(sender) => drop(sender.send(self.metrics())),
            Question::Explain(id, sender) => {
                drop(sender.send(explain(&self.epochs, id)));
            }
            Question::Digest(sender) => return Some(Work::Digest(sender)),
            Question::Members(sender) => drop(sender.send(self.members())),
            Question::ChangeMembers(change, force, asker) => {
                self.change_members(change, force, asker);
            }
            Question::Snapshot(asker) => {
                self.snapshots.ask(asker);
                self.shared.wake.notify_one();
            }
            Question::Fetch(wanted) => self.snapshots.fetch(wanted),
        }
        None
    }

    fn standing(&self) -> Option<ProtocolStanding> {
        let (core, list) = self.epochs.present().zip(self.epochs.list())?;
        Some(core.protocol().standing(list))
    }

    fn status(&self) -> Status {
        Status {
            id: self.shared.id,
            replicas: self.epochs.list().map_or(0, Membership::len),
            protocol: P::KIND,
            standing: self.standing(),
            core: self.epochs.status(),
            under_way: self.shared.pending.len(),
            unapplied: self.backlog.weight().commands,
            unflushed_bytes: self.journal.unflushed_bytes(),
            space_low: self.shared.space_is_low(),
            waits_for_room: self.journal.waits_for_room(),
            peers: self.mesh.peers(),
            clients: self.mesh.clients(),
        }
    }

    /// The figures so far.
    pub(in crate::node) fn metrics(&self) -> Metrics {
        let (traffic, core) = (self.mesh.traffic(), self.epochs.present());
        let (paths, counts) = (self.epochs.paths(), &self.counts);
        let snapshots = self.snapshots.metrics(&self.epochs, &self.journal);
        let applied = lock(&self.shared.applied);
        let mut commit = counts.fast.clone();
        commit.add(&counts.slow);
        let path = |commit: &Latency, execute: &Latency| PathLatency {
            commit: commit.clone(),
            execute: execute.clone(),
        };
        Metrics {
            proposed: counts.proposed,
            executed: applied.executed,
            repeated: applied.repeated,
            local_reads: applied.reads,
            unproposed_reads: applied.unproposed_reads,
            commit,
            execute: applied.latency.clone(),
            fast: path(&counts.fast, &applied.fast),
            slow: path(&counts.slow, &applied.slow),
            commands: counts.commands,
            instances: counts.instances,
            recoveries: paths.named(RECOVERY).unwrap_or(0),
            resubmitted: paths.named(RESUBMITTED).unwrap_or(0),
            leader: self.standing().and_then(|standing| standing.leader()),
            largest_component: core.map_or(0, |core| core.status().largest_component),
            overloaded: self.shared.pending.overloaded.load(Ordering::Relaxed),
            frames_in: traffic.frames_received,
            bytes_in: traffic.bytes_received,
            frames_out: traffic.frames_sent,
            bytes_out: traffic.bytes_sent,
            frames_dropped: traffic.frames_dropped,
            wrong_frames: self.inbox.wrong_frames(),
            bad_requests: self.shared.bad_requests.load(Ordering::Relaxed),
            turns: counts.turns,
            paths,
            log: self.journal.metrics(),
            snapshots,
        }
    }
}
