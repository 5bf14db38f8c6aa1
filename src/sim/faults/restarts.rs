//! Replicas that stop and come back: one, several or all at once, several times in a row, or while
//! they send something.

use rand::RngExt;

use crate::sim::plan::Fault;
use crate::sim::report::{Breach, Counter};
use crate::sim::subject::{Moment, Subject};
use crate::sim::world::host::Doom;
use crate::sim::world::state::World;
use crate::types::ReplicaSet;

impl<P: Subject> World<'_, P> {
    /// A fault that ends with replicas coming back.
    pub(super) fn strike_down(&mut self, fault: Fault) -> Result<(), Breach> {
        let one = self.any();
        match fault {
            Fault::RestartSome => {
                self.counters.hit(Counter::RestartSome);
                let some = self.some();
                self.stop_all(some)?;
            }
            Fault::PowerFailure => {
                self.power_fails()?;
            }
            Fault::RestartAgain => {
                self.counters.hit(Counter::RestartAgain);
                self.hosts[one.index()].again = self.rng.random_range(1..5);
                self.stop_all(ReplicaSet::from_iter([one]))?;
            }
            Fault::RestartSpeaking => {
                let moments = [Moment::Proposing, Moment::Voting, Moment::Recovering];
                let moment = moments[self.rng.random_range(0..moments.len())];
                let host = &mut self.hosts[one.index()];
                if host.alive && host.doom.is_none() {
                    host.doom = Some(Doom { moment, returns: true });
                }
            }
            _ => self.stop_all(ReplicaSet::from_iter([one]))?,
        }
        Ok(())
    }
}
