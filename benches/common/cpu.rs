//! The processor time of one thread. It is used to measure work that happens in one thread and
//! never waits. If the machine is also busy with other work, the thread finishes later but hardly
//! uses more processor time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// It must be started and read by the same thread.
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
