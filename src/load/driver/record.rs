//! Records what clients asked and were told, in a compact form while the load runs, and turns it
//! into a history for the checker afterwards.
//!
//! Memory is bounded. When the record is full, every second key is dropped with all its operations,
//! repeatedly if necessary. So the record is complete for every remaining key, and linearizability
//! can be checked key by key. If that does not help, because all operations are on few keys, the
//! record ends: it is complete up to that moment.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::load::workload::{Answer, Ask, Key, Sizes, Written};
use crate::sim::history::{self, Call, Operation, Outcome, write_history};

/// How many operations go to the writer or the checker at a time.
const CHUNK: usize = 1 << 14;

/// The number of heaps that hold the entries, so that few clients contend for one. (A heap for each
/// client would need more memory than a processor's cache.)
const HEAPS: usize = 16;

/// After thinning by this many powers of two, only the first key of a table or two is left.
const MOST_THINNING: u32 = 20;

/// The records of all clients of a run.
#[derive(Debug)]
pub struct Record {
    capacity: usize,
    values: Sizes,
    /// Operations called from this time on are not recorded; `u64::MAX` while there is room.
    end: AtomicU64,
    /// A key is kept if its number is a multiple of two to this power.
    thinning: AtomicU32,
    /// Entries in all heaps; changed only under a heap's lock.
    kept: AtomicUsize,
    thinner: Mutex<()>,
    heaps: Vec<Mutex<Vec<Entry>>>,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    client: u32,
    ask: Ask,
    called: u64,
    /// Zero if there was no answer.
    returned: u64,
    answer: Answer,
}

/// An operation under way. Dropping it without an answer records it as one that may or may not have
/// happened.
#[derive(Debug)]
#[must_use = "dropping it says that there is no answer"]
pub struct OpenCall<'a> {
    /// The record, if this operation is recorded.
    record: Option<&'a Record>,
    entry: Entry,
}

impl OpenCall<'_> {
    /// Records the answer, `now` nanoseconds after the start.
    pub fn answered(mut self, now: u64, answer: Answer) {
        (self.entry.returned, self.entry.answer) = (now.max(1), answer);
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record {
            record.keep(self.entry);
        }
    }
}

impl Record {
    /// A record of about `capacity` operations; 0 records none. It allocates the memory now.
    pub fn new(capacity: usize, values: Sizes) -> Record {
        let heap = || Mutex::new(Vec::with_capacity(capacity / HEAPS));
        Record {
            capacity,
            values,
            end: AtomicU64::new(if capacity == 0 { 0 } else { u64::MAX }),
            thinning: AtomicU32::new(0),
            kept: AtomicUsize::new(0),
            thinner: Mutex::new(()),
            heaps: (0..HEAPS).map(|_| heap()).collect(),
        }
    }

    /// A client is about to send a call, `now` nanoseconds after the start.
    pub fn call(&self, client: u32, now: u64, key: Key, ask: Ask) -> OpenCall<'_> {
        let answer = Answer { ok: false, found: Written::NOTHING };
        let entry = Entry { key, client, ask, called: now, returned: 0, answer };
        // Read before the command is sent: an operation left out here was sent after the end.
        let has_room = now < self.end.load(Ordering::SeqCst);
        OpenCall { record: has_room.then_some(self), entry }
    }

    fn keep(&self, entry: Entry) {
        let mut heap = self.heap(entry.client as usize % HEAPS);
        if !is_kept(entry.key, self.thinning.load(Ordering::Relaxed)) {
            return;
        }
        heap.push(entry);
        let kept = self.kept.fetch_add(1, Ordering::Relaxed) + 1;
        drop(heap);
        if kept > self.capacity
            && let Ok(_only_one) = self.thinner.try_lock()
        {
            while self.kept.load(Ordering::Relaxed) > self.capacity {
                if self.thinning.load(Ordering::Relaxed) >= MOST_THINNING {
                    let now = entry.returned.max(entry.called);
                    self.end.fetch_min(now, Ordering::SeqCst);
                    return;
                }
                self.thin();
            }
        }
    }

    /// Drops every second remaining key.
    fn thin(&self) {
        let thinning = self.thinning.fetch_add(1, Ordering::Relaxed) + 1;
        for heap in 0..HEAPS {
            // Locked after the change above, so a later entry sees the change.
            let mut heap = self.heap(heap);
            let before = heap.len();
            heap.retain(|entry| is_kept(entry.key, thinning));
            self.kept.fetch_sub(before - heap.len(), Ordering::Relaxed);
        }
    }

    fn heap(&self, heap: usize) -> MutexGuard<'_, Vec<Entry>> {
        // The code under this lock does not panic between two related changes.
        self.heaps[heap].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record at the end of a run. The operations of a key are together, by time of call.
    pub fn finish(&self) -> Finished {
        let thinning = self.thinning.load(Ordering::Relaxed);
        let mut entries = Vec::with_capacity(self.kept.load(Ordering::Relaxed));
        for heap in 0..HEAPS {
            let taken = std::mem::take(&mut *self.heap(heap));
            entries.extend(taken.into_iter().filter(|entry| is_kept(entry.key, thinning)));
        }
        let end = self.end.load(Ordering::SeqCst);
        entries.retain(|entry| entry.called < end);
        for entry in entries.iter_mut().filter(|entry| entry.returned >= end) {
            // It may have seen something that was not recorded any more.
            entry.returned = 0;
        }
        entries.sort_unstable_by_key(|entry| (entry.key, entry.called));
        Finished { entries, thinning, values: self.values.clone() }
    }
}

fn is_kept(key: Key, thinning: u32) -> bool {
    key.0.trailing_zeros() >= thinning
}

/// What was recorded of a run.
#[derive(Debug)]
pub struct Finished {
    entries: Vec<Entry>,
    thinning: u32,
    values: Sizes,
}

impl Finished {
    /// One key in this many is recorded; 1 means all.
    pub fn one_key_in(&self) -> u32 {
        1u32.checked_shl(self.thinning).unwrap_or(u32::MAX)
    }

    /// The history in parts that can be checked separately: a key is never split.
    pub fn pieces(&self) -> impl Iterator<Item = Vec<Operation>> + '_ {
        let mut rest = &self.entries[..];
        std::iter::from_fn(move || {
            let mut end = rest.len().min(CHUNK);
            while end > 0 && end < rest.len() && rest[end].key == rest[end - 1].key {
                end += 1;
            }
            let (piece, left) = rest.split_at(end);
            rest = left;
            (!piece.is_empty()).then(|| self.operations(piece))
        })
    }

    /// Writes the history for outside checkers, by time of call.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let mut entries: Vec<Entry> = self.entries.clone();
        entries.sort_unstable_by_key(|entry| entry.called);
        entries.chunks(CHUNK).try_for_each(|piece| write_history(&self.operations(piece), &mut to))
    }

    fn operations(&self, entries: &[Entry]) -> Vec<Operation> {
        let values = &self.values;
        let some = |written: Written| (written != Written::NOTHING).then(|| written.value(values));
        let operation = |entry: &Entry| {
            let Answer { ok, found } = entry.answer;
            let (call, answer) = match entry.ask {
                Ask::Get => (Call::Get, history::Answer::Value(some(found))),
                Ask::Put(new) => (Call::Put(new.value(values)), history::Answer::Done),
                Ask::Cas(expected, new) => {
                    let call = Call::Cas { expected: some(expected), value: new.value(values) };
                    let swapped = history::Answer::Swapped;
                    (call, if ok { swapped } else { history::Answer::Mismatch(some(found)) })
                }
                Ask::Del => (Call::Del, history::Answer::Deleted(ok)),
            };
            let returned = (entry.returned > 0).then_some(entry.returned);
            Operation {
                client: entry.client.into(),
                key: entry.key.name(),
                call,
                called: entry.called,
                returned,
                outcome: returned.map_or(Outcome::Info, |_| Outcome::Ok(answer)),
            }
        };
        entries.iter().map(operation).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sim::history::read_history;
    use crate::sim::linearizability::{BUDGET, Verdict, check};

    /// Simulates a store and clients that act in turn, each on its own keys.
    fn run(record: &Record, clients: u32, rounds: u64) {
        for round in 0..rounds {
            for client in 0..clients {
                let (key, now) = (Key((1 << 20) + client), 10 * (round * u64::from(clients)) + 1);
                let value = Written(1 + round * u64::from(clients) + u64::from(client));
                let asked = record.call(client, now, key, Ask::Put(value));
                asked.answered(now + 5, Answer { ok: true, found: Written::NOTHING });
            }
        }
    }

    fn counts(finished: &Finished) -> BTreeMap<Key, usize> {
        let mut counts = BTreeMap::new();
        finished.entries.iter().for_each(|entry| *counts.entry(entry.key).or_default() += 1);
        counts
    }

    #[test]
    fn a_record_within_its_capacity_has_everything() {
        let record = Record::new(400, Sizes::Fixed(16));
        run(&record, 4, 100);
        let finished = record.finish();
        assert_eq!((finished.one_key_in(), record.end.into_inner()), (1, u64::MAX));
        assert_eq!(counts(&finished).into_values().collect::<Vec<_>>(), [100; 4]);
    }

    #[test]
    fn beyond_it_whole_keys_go_and_the_rest_is_complete() {
        let record = Record::new(1_000, Sizes::Fixed(16));
        run(&record, 64, 100);
        let finished = record.finish();
        let one_key_in = finished.one_key_in();
        assert!(finished.entries.len() <= 1_000 && one_key_in >= 8, "one key in {one_key_in}");
        let counts = counts(&finished);
        assert!(counts.values().all(|count| *count == 100), "{counts:?}");
        assert_eq!(counts.len(), 64 / one_key_in as usize);
    }

    #[test]
    fn of_one_key_alone_the_record_is_complete_up_to_its_end() {
        let record = Record::new(1_000, Sizes::Fixed(16));
        // An operation that is under way when the record ends and has seen later values.
        let late = record.call(9, 3, Key(0), Ask::Get);
        for now in (0..2_000).map(|round| 10 * round) {
            let put = record.call(0, now, Key(0), Ask::Put(Written(1 + now)));
            put.answered(now + 5, Answer { ok: true, found: Written::NOTHING });
        }
        late.answered(20_000, Answer { ok: true, found: Written(15_001) });
        let finished = record.finish();
        let end = record.end.load(Ordering::SeqCst);
        assert!((9_000..11_000).contains(&end), "{end}");
        assert!(finished.entries.iter().all(|entry| entry.called < end && entry.returned < end));
        let piece = finished.pieces().next().expect("one key");
        assert_eq!(check(&piece, BUDGET), Verdict::Linearizable);
    }

    #[test]
    fn pieces_never_divide_a_key_and_an_open_operation_is_unknown() {
        let record = Record::new(100_000, Sizes::Fixed(16));
        run(&record, 2, CHUNK as u64);
        drop(record.call(2, 7, Key(0), Ask::Get));
        let pieces: Vec<_> = record.finish().pieces().collect();
        assert_eq!(pieces.iter().map(Vec::len).sum::<usize>(), 2 * CHUNK + 1);
        let mut seen = Vec::new();
        for piece in &pieces {
            let mut keys: Vec<_> = piece.iter().map(|operation| operation.key.clone()).collect();
            keys.dedup();
            seen.extend(keys);
        }
        assert_eq!(seen, ["hot-0", "c0-0", "c0-1"]);
        assert_eq!((pieces[0][0].returned, &pieces[0][0].outcome), (None, &Outcome::Info));
    }

    #[test]
    fn what_is_written_reads_back_and_shows_a_lost_write() {
        let record = Record::new(10, Sizes::Fixed(16));
        let told = |ok, found| Answer { ok, found };
        let story = [
            (Ask::Put(Written(1)), told(true, Written::NOTHING)),
            (Ask::Cas(Written(1), Written(2)), told(true, Written::NOTHING)),
            (Ask::Cas(Written(1), Written(3)), told(false, Written(2))),
            (Ask::Get, told(true, Written(2))),
            (Ask::Del, told(true, Written::NOTHING)),
        ];
        for (now, (ask, answer)) in (0..).step_by(10).zip(story) {
            record.call(0, now, Key(9), ask).answered(now + 5, answer);
        }
        let finished = record.finish();
        let mut file = Vec::new();
        finished.write(&mut file).expect("memory takes everything");
        let read = read_history(&file[..]).expect("what was written");
        assert_eq!(vec![read], finished.pieces().collect::<Vec<_>>());
        let piece = finished.pieces().next().expect("one key");
        assert_eq!(check(&piece, BUDGET), Verdict::Linearizable);

        let nothing = told(true, Written::NOTHING);
        record.call(0, 1, Key(9), Ask::Put(Written(1))).answered(2, nothing);
        record.call(0, 3, Key(9), Ask::Get).answered(4, nothing);
        let piece = record.finish().pieces().next().expect("one key");
        assert!(matches!(check(&piece, BUDGET), Verdict::Violation(_)));
    }
}
