//! Messages and decisions held back until the journal is durable up to their position.

use std::collections::BTreeMap;

use crate::types::{Durable, Held, LogPosition};

/// Items that wait for their records to become durable.
#[derive(Debug)]
pub(super) struct HeldBack<T> {
    by_position: BTreeMap<LogPosition, Vec<Held<T>>>,
}

impl<T> Default for HeldBack<T> {
    fn default() -> HeldBack<T> {
        HeldBack { by_position: BTreeMap::new() }
    }
}

impl<T> HeldBack<T> {
    /// Returns the item if it need not wait; otherwise keeps it until [`HeldBack::release`].
    pub(super) fn pass(&mut self, held: Held<T>, durable: Durable) -> Option<T> {
        match held.release(durable) {
            Ok(item) => Some(item),
            Err(held) => {
                self.by_position.entry(held.after()).or_default().push(held);
                None
            }
        }
    }

    /// All items that `durable` covers, in the order of their positions.
    pub(super) fn release(&mut self, durable: Durable) -> Vec<T> {
        let mut released = Vec::new();
        while let Some(entry) = self.by_position.first_entry() {
            if *entry.key() > durable.position() {
                break;
            }
            for held in entry.remove() {
                let item = held.release(durable).ok();
                released.push(item.expect("its position is durable"));
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Journal;

    #[test]
    fn items_leave_in_the_order_of_their_positions() {
        let durable = |records| Durable::flushed(LogPosition::new(records));
        let mut journal = Journal::default();
        let (first, second) = (journal.append(), journal.append());
        let mut held = HeldBack::default();
        assert_eq!(held.pass(Held::new(second, "b"), durable(0)), None);
        assert_eq!(held.pass(Held::new(first, "a"), durable(0)), None);
        assert_eq!(held.pass(Held::new(first, "now"), durable(1)), Some("now"));
        assert!(held.release(durable(0)).is_empty());
        assert_eq!(held.release(durable(1)), ["a"]);
        assert_eq!(held.release(durable(5)), ["b"]);
    }
}
