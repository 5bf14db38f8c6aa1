//! The faults. Each kind that the seed has drawn strikes at random times while the unrest lasts.
//!
//! Read `victims` and `links` first, then `duels`, then the others in any order, and last this
//! file, which dispatches them.

mod absences;
mod disks;
mod duels;
mod eras;
mod links;
mod older_disks;
mod restarts;
mod victims;

use rand::RngExt;

use super::plan::Fault;
use super::report::{Breach, Counter};
use super::subject::{Kind, Moment, Subject};
use super::world::agenda::Event;
use super::world::host::Doom;
use super::world::state::World;
use links::ALWAYS;

impl<P: Subject> World<'_, P> {
    /// Schedules the next fault of a kind at a random time.
    pub(in crate::sim) fn schedule_fault(&mut self, index: usize) {
        let mean = self.plan.faults[index].1;
        let wait = mean.mul_f64(-self.rng.random::<f64>().max(1e-6).ln());
        self.later(wait, Event::Fault(index));
    }

    /// A fault strikes.
    pub(in crate::sim) fn strike(&mut self, fault: Fault) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("fault: {}", fault.name()));
        match fault {
            Fault::Partition => self.partition(),
            Fault::LinkCut => self.cut_link(),
            Fault::Mute => self.lose(Kind::Signs, ALWAYS, Counter::Muted),
            Fault::KeepRecover => self.lose(Kind::RecoverToOwner, ALWAYS, Counter::KeptRecover),
            Fault::LoseCommit => self.lose(Kind::Commit, ALWAYS, Counter::LostCommit),
            Fault::LosePreAccept => self.lose(Kind::PreAccept, 40_000, Counter::LostPreAccept),
            Fault::LoseVote => self.lose(Kind::Votes, 40_000, Counter::LostVote),
            Fault::LoseRecovery => self.lose(Kind::Recovery, 30_000, Counter::LostRecovery),
            Fault::Crash => {
                if let Some(victim) = self.victim() {
                    self.counters.hit(Counter::Crash);
                    self.crash(victim);
                }
            }
            Fault::CrashProposing => {
                if let Some(victim) = self.victim() {
                    let returns = self.plan.restarts && self.rng.random_ratio(1, 2);
                    let doom = Doom { moment: Moment::Proposing, returns };
                    self.hosts[victim.index()].doom = Some(doom);
                }
            }
            Fault::Pause => self.pause(),
            Fault::Duel => self.duel(),
            Fault::Absence => self.absence(),
            Fault::EndEra => self.end_era(),
            Fault::Restart
            | Fault::RestartSome
            | Fault::PowerFailure
            | Fault::RestartAgain
            | Fault::RestartSpeaking => return self.strike_down(fault),
            Fault::TornFlush
            | Fault::FlushFails
            | Fault::WriteFails
            | Fault::ReadFails
            | Fault::DiskFull
            | Fault::BitFlip
            | Fault::Wipe => return self.strike_disk(fault),
            Fault::OlderDisk => return self.older_disk(),
            // These are in force from the start, in the plan.
            Fault::Drop
            | Fault::Duplicate
            | Fault::Late
            | Fault::ClientDrop
            | Fault::SlowDisk
            | Fault::StopStarting
            | Fault::Clock => {}
        }
        Ok(())
    }

    /// A replica pauses. Messages that arrive meanwhile wait or are lost.
    fn pause(&mut self) {
        let victim = self.any();
        let until = self.now + self.spell();
        let losing = self.rng.random_ratio(1, 2);
        self.counters.hit(if losing { Counter::PauseLosing } else { Counter::Pause });
        let host = &mut self.hosts[victim.index()];
        host.free_at = host.free_at.max(until);
        if losing {
            host.deaf_until = until;
        }
    }
}
