//! The clock of one replica. It is the only clock in the crate, apart from those of `load` and the
//! command line.
//!
//! It runs while the machine is suspended, where the system has such a clock. A leader answers
//! reads for as long as its lease holds (`protocol::multipaxos::lease`). [`Instant`] on Linux stops
//! during suspension. With it, a leader would still trust a lease that ended while it slept, and
//! would answer reads from a state that others have overwritten.

use std::time::{Duration, Instant};

use crate::types::Time;

/// A clock that counts from the moment it was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Duration);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(uptime())
    }

    pub(super) fn now(self) -> Time {
        Time::ZERO + uptime().saturating_sub(self.0)
    }

    /// Converts a time of the replica's clock to the clock that timers use. The two drift apart
    /// when the machine is suspended, so the result is right only now.
    pub(super) fn instant(self, time: Time) -> Instant {
        Instant::now() + time.since(self.now())
    }
}

/// The time since some moment in the past, including time suspended.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn uptime() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};

    #[cfg(target_vendor = "apple")]
    const GOES_ON: ClockId = ClockId::Monotonic;
    #[cfg(not(target_vendor = "apple"))]
    const GOES_ON: ClockId = ClockId::Boottime;
    let Timespec { tv_sec, tv_nsec } = clock_gettime(GOES_ON);
    let seconds = u64::try_from(tv_sec).expect("this clock began at zero");
    Duration::new(seconds, u32::try_from(tv_nsec).expect("less than a second"))
}

/// The time since the first call. The system decides whether it includes time suspended.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn uptime() -> Duration {
    use std::sync::LazyLock;

    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_on_both_clocks() {
        let clock = Clock::start();
        let before = Instant::now();
        let soon = clock.instant(clock.now() + Duration::from_secs(5));
        let after = Instant::now();
        // The clocks are read one after the other; any time may pass in between.
        let in_between = after - before;
        assert!(soon + in_between >= before + Duration::from_secs(5));
        assert!(soon <= after + Duration::from_secs(5));
        assert!(clock.instant(Time::ZERO) <= Instant::now(), "what is over is due");
    }

    /// No test can suspend its machine. But the kernel has both clocks, and they differ by the time
    /// it was suspended.
    #[cfg(target_os = "linux")]
    #[test]
    fn it_is_the_clock_that_goes_on_during_suspension() {
        use rustix::time::{ClockId, clock_gettime};

        let read = || {
            let at = clock_gettime(ClockId::Boottime);
            Duration::new(at.tv_sec.unsigned_abs(), u32::try_from(at.tv_nsec).expect("nanoseconds"))
        };
        let (before, time, after) = (read(), uptime(), read());
        assert!(before <= time && time <= after);
    }
}
