//! Describes the machine; without that, a result means little. Read from `/proc`; unknown on systems
//! without it.

use std::fs;

use serde::Serialize;

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described() {
        let machine = Machine::here();
        assert!(machine.kernel.is_some() && machine.memory_bytes > Some(1 << 20), "{machine:?}");
    }
}
