//! One owner's slots: the executed prefix, and the state of the slots after it.
//!
//! Slots near the executed prefix, where nearly all traffic is, are kept in a ring. A slot far
//! ahead goes to a map, so that one huge slot number costs one entry and not a huge ring.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::node::Node;
use crate::types::Slot;

/// How far beyond the ring's end a slot may lie and still make the ring grow.
const STRETCH: u64 = 256;

/// What is known here of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Place {
    /// Its payload is unknown.
    #[default]
    Unknown,
    /// Its payload is known; the instance is in the store.
    Held(Node),
    /// In the queue of components that the replica has not taken yet.
    Ready,
    /// Executed, or decided `Nop`.
    Done,
}

/// One owner's slots.
///
/// 1. Every slot below `base` is `Done`, and `base` itself is not.
/// 2. No slot up to `known` is `Unknown`; the one after it is.
/// 3. A slot is stored in at most one of the ring, the map and `done`. If it is in none, it is
///    `Unknown`.
#[derive(Debug)]
pub(super) struct Window {
    base: Slot,
    known: Slot,
    ring: VecDeque<Place>,
    far: FxHashMap<Slot, Place>,
    /// Slots done before this window began: ascending ranges, none empty. They are never expanded
    /// into slots: a snapshot may come from another replica, and one range may be huge.
    done: VecDeque<(Slot, Slot)>,
}

impl Window {
    pub(super) fn new() -> Window {
        Window::starting_from(0, &[])
    }

    /// A window in which everything up to `floor` and in `ranges` is done. The ranges ascend; both
    /// ends are included.
    pub(super) fn starting_from(floor: Slot, ranges: &[(Slot, Slot)]) -> Window {
        Window {
            base: floor + 1,
            known: floor,
            ring: VecDeque::new(),
            far: FxHashMap::default(),
            done: ranges.iter().copied().collect(),
        }
    }

    /// The slots done after the prefix, as ascending ranges with gaps between them.
    pub(super) fn done_above(&self) -> Vec<(Slot, Slot)> {
        let mut ranges = Vec::new();
        let near = self.ring.iter().zip(self.base..);
        let near = near.filter(|(place, _)| **place == Place::Done);
        near.for_each(|(_, slot)| append((slot, slot), &mut ranges));
        if self.far.is_empty() && self.done.is_empty() {
            return ranges;
        }
        let far = self.far.iter().filter(|(_, place)| **place == Place::Done);
        ranges.extend(far.map(|(slot, _)| (*slot, *slot)));
        ranges.extend(&self.done);
        ranges.sort_unstable();
        let mut joined = Vec::with_capacity(ranges.len());
        ranges.into_iter().for_each(|range| append(range, &mut joined));
        joined
    }

    /// The end of the range, among those done before this window began, that contains `slot`.
    fn done_until(&self, slot: Slot) -> Option<Slot> {
        let at = self.done.partition_point(|(_, last)| *last < slot);
        self.done.get(at).filter(|(first, _)| *first <= slot).map(|(_, last)| *last)
    }

    /// The first instance held above `after` and up to `bound`. Pass its slot as `after` to get the
    /// next one.
    pub(super) fn first_held(&self, after: Slot, bound: Slot) -> Option<(Slot, Node)> {
        let (mut slot, bound) = (after.max(self.executed()) + 1, bound.min(self.known));
        while slot <= bound {
            if let Place::Held(node) = self.place(slot) {
                return Some((slot, node));
            }
            slot = self.done_until(slot).unwrap_or(slot) + 1;
        }
        None
    }

    /// Everything up to here is executed or decided `Nop`.
    pub(super) fn executed(&self) -> Slot {
        self.base - 1
    }

    /// The payload or the `Nop` of everything up to here is known.
    pub(super) fn known(&self) -> Slot {
        self.known
    }

    pub(super) fn place(&self, slot: Slot) -> Place {
        let Some(offset) = slot.checked_sub(self.base) else { return Place::Done };
        match usize::try_from(offset).ok().and_then(|offset| self.ring.get(offset)) {
            Some(Place::Unknown) | None => self.place_elsewhere(slot),
            Some(place) => *place,
        }
    }

    /// The place of a slot that is not in the ring.
    fn place_elsewhere(&self, slot: Slot) -> Place {
        if !self.done.is_empty() && self.done_until(slot).is_some() {
            return Place::Done;
        }
        if self.far.is_empty() {
            return Place::Unknown;
        }
        self.far.get(&slot).copied().unwrap_or_default()
    }

    /// Sets the place of a slot that is not `Done`. Returns whether `known` rose.
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
                let next = self.known + 1;
                self.known = self.done_until(next).unwrap_or(next);
            }
        }
        self.known > before
    }

    fn drop_done_prefix(&mut self) {
        while self.place(self.base) == Place::Done {
            if self.done.front().is_some_and(|(first, _)| *first == self.base) {
                self.skip_done_range();
                continue;
            }
            self.ring.pop_front();
            if !self.far.is_empty() {
                self.far.remove(&self.base);
            }
            self.base += 1;
        }
        // Gives back the memory of a large backlog, but not after every small one.
        if self.ring.capacity() > 4096 && self.ring.len() < self.ring.capacity() / 8 {
            self.ring.shrink_to(self.ring.capacity() / 4);
        }
    }

    fn skip_done_range(&mut self) {
        let (first, last) = self.done.pop_front().expect("there is a first");
        let length = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        self.ring.drain(..length.min(self.ring.len()));
        self.base = last + 1;
    }
}

/// Adds a range after all others.
fn append((first, last): (Slot, Slot), ranges: &mut Vec<(Slot, Slot)>) {
    match ranges.last_mut() {
        Some((_, end)) if *end + 1 == first => *end = last,
        _ => ranges.push((first, last)),
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
    fn a_huge_range_takes_one_entry() {
        let huge = 1 << 60;
        let mut window = Window::starting_from(3, &[(6, 7), (10, huge), (huge + 5, huge + 5)]);
        assert_eq!((window.executed(), window.known(), window.ring.len()), (3, 3, 0));
        let at = |w: &Window, slot| w.place(slot);
        assert_eq!([3, 7, 10, huge].map(|slot| at(&window, slot)), [Place::Done; 4]);
        assert_eq!([4, 8, huge + 1].map(|slot| at(&window, slot)), [Place::Unknown; 3]);
        for slot in [5, 8, 9, huge + 1] {
            window.put(slot, Place::Held(1));
        }
        assert!(window.put(4, Place::Done), "4 to behind the huge range");
        assert_eq!((window.executed(), window.known()), (4, huge + 1));
        assert_eq!(window.first_held(5, huge), Some((8, 1)));
        assert_eq!(window.first_held(9, huge + 9), Some((huge + 1, 1)));
        assert_eq!(window.done_above(), [(6, 7), (10, huge), (huge + 5, huge + 5)]);
        window.put(5, Place::Done);
        assert_eq!(window.executed(), 7);
        window.put(9, Place::Done);
        assert_eq!(window.done_above()[0], (9, huge), "joined");
        window.put(8, Place::Done);
        assert_eq!((window.executed(), window.place(huge + 1)), (huge, Place::Held(1)));
        assert!(window.ring.len() < 300);
        window.put(huge + 1, Place::Done);
        assert_eq!(
            (window.executed(), window.done_above()),
            (huge + 1, vec![(huge + 5, huge + 5)])
        );
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
