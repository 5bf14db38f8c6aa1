//! Describes the machine, and measures how busy it and the load generator are; without that, a
//! result means little. Read from `/proc`; unknown on systems without it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

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
        let memory = || {
            let info = read("/proc/meminfo")?;
            let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        let cpu = || {
            let info = read("/proc/cpuinfo")?;
            let line = info.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu(),
            kernel: read("/proc/sys/kernel/osrelease").map(|name| name.trim().to_owned()),
            memory_bytes: memory(),
        }
    }
}

/// A reading of the CPU times of processors and threads.
#[derive(Clone, Debug)]
pub(in crate::load) struct Reading {
    at: Instant,
    /// The CPU time of each thread of the generator, in nanoseconds.
    threads: Option<Vec<(String, u64)>>,
    /// The busy time and the total time of all processors since the machine started.
    machine: Option<(u64, u64)>,
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

impl Reading {
    pub(in crate::load) fn take() -> Reading {
        Reading { at: Instant::now(), threads: generator(), machine: machine() }
    }

    /// The usage since an earlier reading.
    pub(in crate::load) fn since(&self, before: &Reading) -> Busy {
        let wall = self.at.duration_since(before.at).as_nanos() as f64;
        let worked = || -> Option<Vec<f64>> {
            let before = before.threads.as_ref()?;
            let worked = self.threads.as_ref()?.iter().map(|(id, now)| {
                let known = before.iter().find(|(other, _)| other == id);
                now.saturating_sub(known.map_or(0, |(_, then)| *then)) as f64 / wall
            });
            Some(worked.collect())
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let worked = worked();
        let machine = self.machine.zip(before.machine).map(|(now, then)| {
            let (busy, all) = (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
            busy as f64 / all.max(1) as f64
        });
        Busy {
            generator: worked.as_ref().map(|all| all.iter().sum::<f64>() / cores),
            busiest_thread: worked.map(|all| all.into_iter().fold(0.0, f64::max)),
            machine,
        }
    }
}

/// A thread of this process.
pub(super) struct Thread {
    /// Its number.
    pub(super) id: String,
    /// Its name, cut to 15 bytes by the system.
    pub(super) name: String,
    path: PathBuf,
}

impl Thread {
    /// Its CPU time, in nanoseconds.
    pub(super) fn worked(&self) -> Option<u64> {
        let schedstat = fs::read_to_string(self.path.join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse().ok()
    }
}

/// All threads of this process, if known. One that ends meanwhile has no name.
pub(super) fn threads() -> Option<Vec<Thread>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let (id, path) = (task.file_name().to_string_lossy().into_owned(), task.path());
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
        found.push(Thread { id, name, path });
    }
    Some(found)
}

/// The CPU time of the generator's threads, by their numbers.
fn generator() -> Option<Vec<(String, u64)>> {
    let own = &THREAD[..THREAD.len().min(15)];
    let threads = threads()?.into_iter().filter(|thread| thread.name == own);
    threads
        .map(|thread| {
            let worked = thread.worked()?;
            Some((thread.id, worked))
        })
        .collect()
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_busy_thread_of_the_generator_is_seen() {
        let spin = |name: &str| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            let work = || {
                let (mut before, start) = (Reading::take(), Instant::now());
                // Until it has had a processor for a while, however busy the machine is.
                while start.elapsed() < Duration::from_millis(50) {
                    std::hint::black_box(&mut before);
                }
                Reading::take().since(&before)
            };
            thread.spawn(work).expect("a thread").join().expect("it ends")
        };
        let busy = spin(THREAD);
        assert!(busy.busiest_thread > Some(0.02) && busy.generator <= Some(1.0), "{busy:?}");
        assert!(busy.machine > Some(0.0), "{busy:?}");
        let machine = Machine::here();
        assert!(machine.kernel.is_some() && machine.memory_bytes > Some(1 << 20), "{machine:?}");
    }
}
