//! How many commands may be under way at a time while several clients compete. More than the
//! replicas can work on only wait in a queue, and then every caller waits. So the window is kept as
//! large as it can be without a queue. It learns the size from how long a command of a round takes
//! on average. (The quickest command of a round says nothing. Commands begin and end in batches,
//! and the first of a batch finds no queue, however many follow it.) Pure: the caller passes the
//! time.

use std::time::Duration;

use crate::types::Time;

/// The smallest window, so that work continues whatever the measurements say.
const LEAST: u64 = 128;
/// The largest window. The bound on pending requests is reached earlier.
const MOST: u64 = 1 << 17;
/// A round ends this long after its first answer.
const ROUND: Duration = Duration::from_millis(20);
/// The base is measured again after this time: a permanent queue looks like distance.
const FORGET: Duration = Duration::from_secs(10);
/// A delay this short does not count as a queue, because work comes in batches.
const QUEUE: Duration = Duration::from_millis(5);

/// The window, in the units of [`Turns`](super::turns::Turns).
pub(super) struct Window {
    size: u64,
    /// The shortest known time of a command that waits in no queue, and since when it has been
    /// measured.
    base: Duration,
    measured: Time,
    /// When the current round began.
    began: Time,
    /// The commands that began and ended in this round.
    done: Option<Done>,
    /// Whether a caller had to wait for the window in this round.
    limits: bool,
}

/// The answered commands of one round: when the first was answered, how many they are, and how long
/// they took in total.
#[derive(Clone, Copy)]
struct Done {
    first: Time,
    count: u32,
    took: Duration,
}

impl Window {
    /// A new window: the smallest, because nothing is known yet.
    pub(super) fn new(now: Time) -> Window {
        let (measured, began) = (now, now);
        Window { size: LEAST, base: Duration::MAX, measured, began, done: None, limits: false }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A caller waits only because the window is full.
    pub(super) fn note_full(&mut self) {
        self.limits = true;
    }

    /// A command that began at `since` has been answered.
    pub(super) fn note_done(&mut self, since: Time, now: Time) {
        // A command from before this round says nothing about the current window.
        if since < self.began {
            return;
        }
        let mut done = self.done.unwrap_or(Done { first: now, count: 0, took: Duration::ZERO });
        (done.count, done.took) = (done.count.saturating_add(1), done.took + now.since(since));
        self.done = Some(done);
        if now.since(self.measured) >= FORGET {
            *self = Window::new(now);
        } else if now.since(done.first) >= ROUND {
            self.end_round(done.took / done.count);
            (self.began, self.done, self.limits) = (now, None, false);
        }
    }

    fn end_round(&mut self, took: Duration) {
        // With the smallest window nothing queues for long, so the time of a command is the base,
        // even if an earlier one was shorter.
        let base = if self.size == LEAST { took } else { self.base.min(took) };
        self.base = base;
        let slack = QUEUE.max(base / 4);
        if took > base + slack {
            self.size = (self.size - self.size / 4).max(LEAST);
        } else if self.limits {
            let more = if took <= base + slack / 2 { self.size / 2 } else { self.size / 8 };
            self.size = (self.size + more).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a system that takes `base_ms` for a command and completes `per_ms` commands in a
    /// millisecond, with clients that always have more. Returns the mean window over ten seconds.
    fn run(window: &mut Window, now: &mut Time, base_ms: u64, per_ms: u64) -> u64 {
        let mut sum = 0;
        for _ in 0..10_000 {
            *now = *now + Duration::from_millis(1);
            let queued_ms = (window.size() / per_ms).saturating_sub(base_ms);
            let took = Duration::from_millis(base_ms + queued_ms);
            window.note_full();
            let since = now.since(Time::ZERO).saturating_sub(took);
            window.note_done(Time::ZERO + since, *now);
            sum += window.size();
        }
        sum / 10_000
    }

    #[test]
    fn near_and_far_it_holds_what_is_under_way_anyway_and_a_short_queue() {
        for (base_ms, per_ms) in [(2, 100), (2, 20), (40, 50), (150, 50)] {
            let mut now = Time::ZERO;
            let mut window = Window::new(now);
            let size = run(&mut window, &mut now, base_ms, per_ms);
            let under_way = base_ms * per_ms;
            let queue = (base_ms / 4).max(5) * per_ms;
            let good = under_way * 3 / 4..=(under_way + 2 * queue).max(2 * LEAST);
            assert!(good.contains(&size), "{base_ms}: {size}");
        }
    }

    #[test]
    fn it_follows_when_everything_takes_longer_and_when_it_takes_less_again() {
        let mut now = Time::ZERO;
        let mut window = Window::new(now);
        let near = run(&mut window, &mut now, 10, 100);
        // A nearby replica is gone, so the quorum is far away.
        run(&mut window, &mut now, 100, 100);
        let far = run(&mut window, &mut now, 100, 100);
        assert!(far >= 7 * near, "{far} after {near}");
        run(&mut window, &mut now, 10, 100);
        let again = run(&mut window, &mut now, 10, 100);
        assert!((near / 2..=near * 3 / 2).contains(&again), "{again} after {near}");
    }

    /// Everything under way is answered at once, one command after the other: the first of a batch
    /// takes no time at all.
    #[test]
    fn batches_do_not_hide_the_queue() {
        const TURN_MS: u64 = 2;
        const PER_MS: u64 = 100;
        let mut now = Time::ZERO;
        let mut window = Window::new(now);
        let mut largest = 0;
        for _ in 0..1000 {
            largest = largest.max(window.size());
            let (began, size) = (now, window.size());
            window.note_full();
            for done in 0..size {
                now = began + Duration::from_micros(TURN_MS * 1000 + done * 1000 / PER_MS);
                window.note_done(began, now);
            }
            // The answers and the next commands come in together.
            now = now + Duration::from_millis(1);
        }
        assert!(largest <= 2000, "{largest}");
    }

    #[test]
    fn without_anybody_waiting_it_stays() {
        let mut window = Window::new(Time::ZERO);
        for ms in 0..1000 {
            let now = Time::ZERO + Duration::from_millis(ms);
            window.note_done(now, now + Duration::from_millis(1));
        }
        assert_eq!(window.size(), LEAST);
    }
}
