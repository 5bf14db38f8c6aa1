//! The processor's time of one thread. What happens in one thread and waits for nobody is measured
//! by it: a machine that does other things besides makes that later, but hardly dearer.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Started and looked at by the same thread.
pub struct Stopwatch(Duration);

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch(now())
    }

    pub fn elapsed(&self) -> Duration {
        now() - self.0
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().expect("a thread's time is not negative")
}
