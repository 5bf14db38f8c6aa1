//! Fast or classic (§F6). A fast ballot pays while enough acceptors answer for a fast quorum and
//! collisions are rare. If either fails, the coordinator's ballots are classic for a while, and
//! longer each time.

use std::time::Duration;

use super::round::Sizes;
use crate::protocol::View;
use crate::types::Time;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(16);
/// Collisions are counted over this many slots.
const SLOTS: u32 = 32;
/// If more than one in this many slots collides, classic ballots are better. A collision costs two
/// message delays, and the loser starts over; a classic round costs one delay.
const ONE_IN: u32 = 3;

/// Decides when ballots are fast.
#[derive(Debug)]
pub(super) struct Mode {
    classic_until: Time,
    /// How long the next classic period lasts.
    pause: Duration,
    slots: u32,
    collisions: u32,
}

impl Default for Mode {
    fn default() -> Mode {
        Mode { classic_until: Time::ZERO, pause: SHORTEST, slots: 0, collisions: 0 }
    }
}

impl Mode {
    /// A slot of a fast ballot was decided.
    pub(super) fn note(&mut self, collided: bool) {
        self.slots += 1;
        self.collisions += u32::from(collided);
    }

    /// Whether the ballot should be fast now.
    pub(super) fn wants_fast(&mut self, view: &View, sizes: Sizes) -> bool {
        if view.suspected.len() > sizes.n - sizes.fast {
            self.classic_until = self.classic_until.max(view.now + SHORTEST);
        }
        if self.slots >= SLOTS {
            if self.collisions * ONE_IN > self.slots {
                self.classic_until = view.now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST);
            } else {
                self.pause = (self.pause / 2).max(SHORTEST);
            }
            (self.slots, self.collisions) = (0, 0);
        }
        view.now >= self.classic_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplicaId;

    #[test]
    fn many_collisions_end_fast_ballots_for_a_while_and_then_for_longer() {
        let (sizes, mut view, mut mode) = (Sizes::new(3), View::new(3), Mode::default());
        (0..SLOTS).for_each(|slot| mode.note(slot % (ONE_IN + 1) == 1));
        assert!(mode.wants_fast(&view, sizes), "not too many");
        for pause in [SHORTEST, SHORTEST * 2] {
            (0..SLOTS).for_each(|slot| mode.note(slot % 2 == 0));
            assert!(!mode.wants_fast(&view, sizes));
            view.now = view.now + pause;
            assert!(mode.wants_fast(&view, sizes), "{pause:?} are over");
        }
    }

    #[test]
    fn fast_ballots_need_a_fast_quorum() {
        for (n, spare) in [(3, 0), (4, 1), (5, 1), (7, 1), (9, 2)] {
            let (sizes, mut view, mut mode) = (Sizes::new(n), View::new(n), Mode::default());
            for suspected in ReplicaId::all(n).take(spare) {
                view.suspected.insert(suspected);
            }
            assert!(mode.wants_fast(&view, sizes), "n = {n}");
            view.suspected.insert(ReplicaId::from_index(n - 1));
            assert!(!mode.wants_fast(&view, sizes), "n = {n}");
        }
    }
}
