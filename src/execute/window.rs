//! What is known of one owner's slots: the executed prefix, and what lies behind it.
//!
//! Slots near the executed prefix, where nearly all traffic is, live in a ring; a slot far ahead
//! goes to a map, so that a single huge slot number costs one entry and not a table that long.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::graph::Node;
use crate::types::Slot;

/// How far behind the ring's end a slot may lie and still make the ring grow.
const STRETCH: u64 = 256;

/// One slot, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Place {
    /// Nothing has told us its payload.
    #[default]
    Unknown,
    /// In the store: its payload is known.
    Held(Node),
    /// In the queue of components that the replica has yet to take.
    Ready,
    /// Executed, or decided `Nop`.
    Done,
}

/// One owner's slots.
///
/// 1. Every slot below `base` is `Done`, and `base` itself is not.
/// 2. Every slot up to `known` is not `Unknown`; the one behind it is.
/// 3. A slot is held in the ring or in the map, never in both; what is in neither is `Unknown`.
#[derive(Debug)]
pub(super) struct Window {
    base: Slot,
    known: Slot,
    ring: VecDeque<Place>,
    far: FxHashMap<Slot, Place>,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { base: 1, known: 0, ring: VecDeque::new(), far: FxHashMap::default() }
    }

    /// With everything up to `floor` and in `ranges` (ascending, both ends included) done.
    pub(super) fn starting_from(floor: Slot, ranges: &[(Slot, Slot)]) -> Window {
        let mut window = Window { base: floor + 1, known: floor, ..Window::new() };
        for slot in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            window.put(slot, Place::Done);
        }
        window
    }

    /// The slots done behind the prefix, ascending.
    pub(super) fn done_above(&self) -> Vec<Slot> {
        let near = self.ring.iter().zip(self.base..);
        let far = self.far.iter().map(|(slot, place)| (place, *slot));
        let done = near.chain(far).filter(|(place, _)| **place == Place::Done);
        let mut done: Vec<Slot> = done.map(|(_, slot)| slot).collect();
        done.sort_unstable();
        done
    }

    /// Everything up to here is executed or decided `Nop`.
    pub(super) fn executed(&self) -> Slot {
        self.base - 1
    }

    /// The payload, or the `Nop`, of everything up to here is known.
    pub(super) fn known(&self) -> Slot {
        self.known
    }

    pub(super) fn place(&self, slot: Slot) -> Place {
        let Some(offset) = slot.checked_sub(self.base) else { return Place::Done };
        match usize::try_from(offset).ok().and_then(|offset| self.ring.get(offset)) {
            Some(Place::Unknown) | None if !self.far.is_empty() => {
                self.far.get(&slot).copied().unwrap_or_default()
            }
            Some(place) => *place,
            None => Place::Unknown,
        }
    }

    /// Says where a slot, not yet `Done`, is from now on; whether `known` rose.
    pub(super) fn put(&mut self, slot: Slot, place: Place) -> bool {
        debug_assert!(slot >= self.base, "a done slot never changes");
        let offset = slot - self.base;
        if !self.far.is_empty() && self.far.contains_key(&slot) {
            self.far.insert(slot, place);
        } else if offset < self.ring.len() as u64 + STRETCH {
            let offset = usize::try_from(offset).expect("the ring fits in memory");
            if offset >= self.ring.len() {
                self.ring.resize(offset + 1, Place::Unknown);
            }
            self.ring[offset] = place;
        } else {
            self.far.insert(slot, place);
        }
        if place == Place::Done && slot == self.base {
            self.drop_done_prefix();
        }
        let before = self.known;
        if slot == before + 1 {
            self.known = slot;
            while self.place(self.known + 1) != Place::Unknown {
                self.known += 1;
            }
        }
        self.known > before
    }

    fn drop_done_prefix(&mut self) {
        while self.place(self.base) == Place::Done {
            self.ring.pop_front();
            if !self.far.is_empty() {
                self.far.remove(&self.base);
            }
            self.base += 1;
        }
        // What a backlog needed is given back, but not for every small wave.
        if self.ring.capacity() > 4096 && self.ring.len() < self.ring.capacity() / 8 {
            self.ring.shrink_to(self.ring.capacity() / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_moves_over_what_is_done_out_of_order() {
        let mut window = Window::new();
        for slot in [2, 3, 1000, 5] {
            window.put(slot, Place::Done);
        }
        assert_eq!((window.executed(), window.known()), (0, 0));
        assert!(window.put(1, Place::Held(7)), "1 to 3 are known now");
        assert_eq!((window.executed(), window.known()), (0, 3));
        assert!(!window.put(1, Place::Done));
        assert_eq!((window.executed(), window.known()), (3, 3));
        assert!(window.put(4, Place::Ready));
        assert_eq!((window.executed(), window.known()), (3, 5));
        for slot in (4..1000).filter(|slot| *slot != 5) {
            window.put(slot, Place::Done);
        }
        assert_eq!((window.executed(), window.known()), (1000, 1000), "the far slot joined");
        assert!(window.far.is_empty() && window.ring.is_empty());
    }

    #[test]
    fn a_huge_slot_takes_one_entry() {
        let mut window = Window::new();
        window.put(1 << 60, Place::Held(1));
        window.put(Slot::MAX, Place::Done);
        assert_eq!((window.ring.len(), window.far.len()), (0, 2));
        assert_eq!(window.place(1 << 60), Place::Held(1));
        assert_eq!(window.place((1 << 60) - 1), Place::Unknown);
        assert_eq!(window.place(0), Place::Done, "slot 0 stands for none");
    }
}
