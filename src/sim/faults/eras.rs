//! The ends of eras, with which sessions expire, and closes (`machine::sessions`). One replica or
//! two at once propose them at odd moments. Old commands also arrive again. They must have no
//! second effect, whether their sessions are remembered or not.

use rand::RngExt;

use crate::sim::report::Counter;
use crate::sim::subject::Subject;
use crate::sim::world::agenda::Event;
use crate::sim::world::state::World;
use crate::types::Era;

/// The most late commands at a time.
const LATE: usize = 4;

impl<P: Subject> World<'_, P> {
    /// Proposes to end the era, as the proposer sees it, or to close what is finished in it. Then
    /// some clients are late.
    pub(super) fn end_era(&mut self) {
        let proposers = self.rng.random_range(1..=2);
        let closes = self.close_rng.random_ratio(1, 3);
        let mut era = Era::FIRST;
        for _ in 0..proposers {
            let me = self.any();
            let host = &self.hosts[me.index()];
            if host.alive {
                let sessions = host.applier.sessions();
                era = sessions.era();
                let command = if closes {
                    self.counters.hit(Counter::Close);
                    era.close(sessions.next_close(), me)
                } else {
                    self.counters.hit(Counter::EraEnd);
                    era.end(me)
                };
                self.checks.asked(&command);
                self.at(self.now, Event::Request(Box::new((me, command))));
            }
        }
        self.clients.learn(era);
        for ask in self.clients.late(LATE) {
            self.counters.hit(Counter::LateRetry);
            let wait = self.plan.timing.suspect.mul_f64(8.0 * self.rng.random::<f64>().powi(2));
            self.later(wait, Event::Request(Box::new(ask)));
        }
    }
}
