//! Describes the machine, and measures the CPU time of this process's threads, by their names, and
//! of the whole machine: what each replica costs, and how busy the load generator is; without that,
//! a result means little. Read from `/proc`; unknown on systems without it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::load::driver::THREAD;

/// The machine of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Machine {
    /// The number of usable processors.
    pub cores: usize,
    /// Their name.
    pub cpu: Option<String>,
    /// The operating system's kernel.
    pub kernel: Option<String>,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).ok();
        let value = |path: &str, name: &str| {
            let info = read(path)?;
            let line = info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = || {
            let kilobytes = value("/proc/meminfo", "MemTotal")?;
            Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: value("/proc/cpuinfo", "model name"),
            kernel: read("/proc/sys/kernel/osrelease").map(|name| name.trim().to_owned()),
            memory_bytes: memory(),
        }
    }
}

/// The CPU time since the first reading. Read it regularly: a thread's work between its last
/// reading and its end is not seen.
#[derive(Debug)]
pub(in crate::load) struct Cpu {
    start: Instant,
    wall: Duration,
    threads: BTreeMap<String, Worked>,
    /// The busy time and the total time of all processors since the machine started, at the first
    /// reading and at the last.
    machine: Option<[(u64, u64); 2]>,
}

/// One thread's CPU time, in nanoseconds.
#[derive(Debug)]
struct Worked {
    /// Its name, cut to 15 bytes by the system.
    name: String,
    first: u64,
    last: u64,
}

impl Worked {
    fn nanos(&self) -> u64 {
        self.last.saturating_sub(self.first)
    }
}

/// CPU usage between two readings, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Busy {
    /// The generator's share of all processors.
    pub generator: Option<f64>,
    /// Its busiest thread's share of one processor.
    pub busiest_thread: Option<f64>,
    /// The usage of all processors by anything.
    pub machine: Option<f64>,
}

impl Cpu {
    /// Starts counting.
    pub(in crate::load) fn start() -> Cpu {
        let machine = machine().map(|now| [now, now]);
        let (start, wall) = (Instant::now(), Duration::ZERO);
        let mut cpu = Cpu { start, wall, threads: BTreeMap::new(), machine };
        cpu.look();
        cpu
    }

    /// Updates the figures.
    pub(in crate::load) fn look(&mut self) {
        let is_first = self.threads.is_empty();
        self.wall = self.start.elapsed();
        if let (Some([_, last]), Some(now)) = (&mut self.machine, machine()) {
            *last = now;
        }
        for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            // A thread that has ended meanwhile keeps its last reading.
            let worked = read("schedstat").split(' ').next().and_then(|it| it.parse().ok());
            let Some(nanos) = worked else { continue };
            // A thread that is new since the first reading has done all its work since then.
            let first = if is_first { nanos } else { 0 };
            let new = || Worked { name: read("comm").trim().to_owned(), first, last: nanos };
            let id = task.file_name().to_string_lossy().into_owned();
            self.threads.entry(id).or_insert_with(new).last = nanos;
        }
    }

    /// The CPU time of each replica, by number; empty if unknown.
    pub(in crate::load) fn by_replica(&self) -> BTreeMap<u8, Duration> {
        let mut all: BTreeMap<u8, Duration> = BTreeMap::new();
        for worked in self.threads.values() {
            if let Some(replica) = replica(&worked.name) {
                *all.entry(replica).or_default() += Duration::from_nanos(worked.nanos());
            }
        }
        all
    }

    /// How busy the generator and the machine were.
    pub(in crate::load) fn busy(&self) -> Busy {
        let own = &THREAD[..THREAD.len().min(15)];
        let threads = self.threads.values().filter(|worked| worked.name == own);
        let wall = self.wall.as_nanos() as f64;
        let shares: Vec<f64> = threads.map(|worked| worked.nanos() as f64 / wall).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let all = shares.iter().copied().reduce(|sum, share| sum + share);
        Busy {
            generator: all.map(|all| all / cores),
            busiest_thread: shares.into_iter().reduce(f64::max),
            machine: self.machine.map(|[then, now]| {
                let (busy, all) = (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
                busy as f64 / all.max(1) as f64
            }),
        }
    }
}

/// The replica of a thread with this name: `isonomy-r3`, or `isonomy-r3-apply` for another task.
fn replica(thread: &str) -> Option<u8> {
    let rest = thread.strip_prefix("isonomy-r")?;
    let number = rest.split_once('-').map_or(rest, |(number, _)| number);
    number.parse().ok()
}

fn machine() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; user includes guests.
    let all: u64 = times.iter().take(8).sum();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    Some((all - idle, all))
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_busy_thread_of_the_generator_is_seen() {
        let work = || {
            let (mut cpu, start) = (Cpu::start(), Instant::now());
            // Until it has had a processor for a while, however busy the machine is.
            while start.elapsed() < Duration::from_millis(50) {
                std::hint::black_box(&mut cpu);
            }
            cpu.look();
            cpu.busy()
        };
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(work);
        let busy = thread.expect("a thread").join().expect("it ends");
        assert!(busy.busiest_thread > Some(0.02) && busy.generator <= Some(1.0), "{busy:?}");
        assert!(busy.machine > Some(0.0), "{busy:?}");
        let machine = Machine::here();
        assert!(machine.kernel.is_some() && machine.memory_bytes > Some(1 << 20), "{machine:?}");
    }
}
