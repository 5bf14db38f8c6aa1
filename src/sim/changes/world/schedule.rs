//! The schedule of a world: what happens at random, until all is calm. After all other files of
//! this folder.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Machine, World, machine_of};
use crate::protocol::Protocol;
use crate::replica::Input as CoreInput;
use crate::replica::epochs::Input;
use crate::sim::changes::tally::Tally;

/// The driver's actions in one schedule.
const STEPS: usize = 1200;

impl<P: Protocol> World<P> {
    /// Runs the schedule to its end.
    ///
    /// # Errors
    /// What promise was broken.
    pub(in crate::sim::changes) fn judge(mut self) -> Result<Tally, String> {
        self.start_all();
        self.rough = true;
        for _ in 0..STEPS {
            self.act()?;
        }
        self.rough = false;
        self.calm_down()?;
        self.tally.changes = self.begun.len() - 1;
        self.tally.answered = self.answered.len();
        Ok(self.tally)
    }

    pub(super) fn start_all(&mut self) {
        let first = self.first.clone();
        for member in first.members() {
            self.add_host(machine_of(member), member.id, Some(first.clone()));
        }
    }

    fn anyone(&mut self) -> Machine {
        let ids: Vec<Machine> = self.hosts.keys().copied().collect();
        *ids.choose(&mut self.rng).expect("there is one")
    }

    fn act(&mut self) -> Result<(), String> {
        let at = self.anyone();
        match self.rng.random_range(0..1000) {
            0..400 => self.deliver(),
            400..640 => self.tick(at),
            640..740 => self.request(at),
            740..765 => self.change(at),
            765..785 => self.fail(at),
            785..815 => self.boot(at),
            815..845 => {
                let host = self.hosts.get_mut(&at).expect("it is there");
                host.stalled = !host.stalled;
                self.write_out(at)
            }
            845..870 => self.save(at),
            870..885 => {
                if !self.away.remove(&at) {
                    self.away.insert(at);
                }
                Ok(())
            }
            885..887 => {
                self.lose_machine(at);
                Ok(())
            }
            887..895 => self.drop_some(),
            895..900 => self.deliver_late(),
            _ => self.pass(),
        }
    }

    /// Time passes, and most of what is on its way arrives.
    fn pass(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.random_range(1..40) {
            let ids: Vec<Machine> = self.hosts.keys().copied().collect();
            self.now = self.now + Duration::from_millis(50);
            for at in ids {
                self.feed(at, vec![Input::Core(CoreInput::Tick)])?;
            }
            for _ in 0..self.post.len() {
                self.deliver()?;
            }
        }
        Ok(())
    }

    fn tick(&mut self, at: Machine) -> Result<(), String> {
        self.now = self.now + Duration::from_millis(20);
        self.feed(at, vec![Input::Core(CoreInput::Tick)])
    }

    fn drop_some(&mut self) -> Result<(), String> {
        let rng = &mut self.rng;
        self.post.retain(|_| rng.random_range(0..4) > 0);
        Ok(())
    }

    /// A machine is gone for good, if the last lists can do without it.
    fn lose_machine(&mut self, at: Machine) {
        if !self.hosts[&at].retired && self.can_do_without(at) {
            let host = self.hosts.get_mut(&at).expect("it is there");
            (host.lost, host.live) = (true, None);
            self.tally.lost += 1;
        }
    }
}
