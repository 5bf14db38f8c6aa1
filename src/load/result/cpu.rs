//! The CPU time of each replica in this process, by the names of its threads. Read from `/proc`;
//! unknown on systems without it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::gauge::threads;

/// The CPU time of the replicas' threads since the first reading. Read it regularly: a thread's
/// work between its last reading and its end is not seen.
#[derive(Debug, Default)]
pub(in crate::load) struct Cpu {
    threads: BTreeMap<String, Worked>,
}

/// One thread's CPU time, in nanoseconds.
#[derive(Debug)]
struct Worked {
    replica: u8,
    first: u64,
    last: u64,
}

impl Cpu {
    /// Starts counting.
    pub(in crate::load) fn start() -> Cpu {
        let mut cpu = Cpu::default();
        cpu.read(true);
        cpu
    }

    /// Updates the figures.
    pub(in crate::load) fn look(&mut self) {
        self.read(false);
    }

    fn read(&mut self, is_first: bool) {
        for thread in threads().into_iter().flatten() {
            let Some(replica) = replica(&thread.name) else { continue };
            // A thread that has ended meanwhile keeps its last reading.
            let Some(nanos) = thread.worked() else { continue };
            // A thread that is new since the first reading has done all its work since then.
            let first = if is_first { nanos } else { 0 };
            let new = Worked { replica, first, last: nanos };
            self.threads.entry(thread.id).or_insert(new).last = nanos;
        }
    }

    /// The CPU time of each replica, by number; empty if unknown.
    pub(in crate::load) fn by_replica(&self) -> BTreeMap<u8, Duration> {
        let mut all: BTreeMap<u8, Duration> = BTreeMap::new();
        for Worked { replica, first, last } in self.threads.values() {
            *all.entry(*replica).or_default() += Duration::from_nanos(last.saturating_sub(*first));
        }
        all
    }
}

/// The replica of a thread with this name: `isonomy-r3`, or `isonomy-r3-apply` for another task.
fn replica(thread: &str) -> Option<u8> {
    let rest = thread.strip_prefix("isonomy-r")?;
    let number = rest.split_once('-').map_or(rest, |(number, _)| number);
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_apart_by_their_names() {
        // The system keeps 15 bytes of a name.
        let cases = [
            ("isonomy-r3", Some(3)),
            ("isonomy-r3-appl", Some(3)),
            ("isonomy-r13-kee", Some(13)),
            ("isonomy-log", None),
            ("isonomy-rest", None),
            ("load", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(replica(name), wanted, "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_replica_works_is_seen_and_kept_once_it_has_ended() {
        let (mut cpu, (done, wait)) = (Cpu::start(), std::sync::mpsc::channel::<()>());
        let (say, worked) = std::sync::mpsc::channel();
        let work = move || {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(30) {
                std::hint::black_box(&start);
            }
            say.send(()).expect("somebody waits");
            let _ = wait.recv();
        };
        let thread = std::thread::Builder::new().name("isonomy-r61-apply".into()).spawn(work);
        worked.recv().expect("it works");
        cpu.look();
        let seen = cpu.by_replica()[&61];
        assert!(seen > Duration::from_millis(1) && seen < Duration::from_secs(10), "{seen:?}");
        drop(done);
        thread.expect("a thread").join().expect("it ends");
        cpu.look();
        assert!(cpu.by_replica()[&61] >= seen);
    }
}
