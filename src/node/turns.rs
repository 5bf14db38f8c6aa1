//! Fairness between callers. While only one caller is active, every command goes straight on. While
//! several compete, only as many commands as the [`Window`] allows are under way, and the [`Rota`]
//! chooses the next. So a flood of commands waits in its own connections, in front of the replica.
//! It does not fill the queues further on, where every caller would wait.
//!
//! A client's commands may be stuck for a reason of their own. They must not keep other clients
//! out. So a few commands of each certificate and one of each connection are always admitted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::clock::Clock;
use super::panics::lock;
use super::rota::{Line, Rota};
use super::window::Window;
use crate::types::Time;

/// The line of all callers in this process.
pub(super) const LOCAL: Line = Line { account: 0, number: 0 };
/// A caller that has been idle this long no longer competes.
const QUIET: Duration = Duration::from_secs(10);
/// How often to check whether callers still compete.
const LOOK: Duration = Duration::from_secs(1);
/// A certificate's commands are admitted at once while their total cost is below this.
const FREE: u64 = 16;
/// A command costs 1, plus 1 for each full unit of this many bytes.
const UNIT_BYTES: usize = 1024;
/// Values of `lone` that are not a connection's number.
const CROWD: u64 = u64::MAX;
const NOBODY: u64 = u64::MAX - 1;

/// Invariants:
/// 1. `under_way` is the total cost of all turns.
/// 2. While `lone` is not [`CROWD`], no caller waits.
pub(super) struct Turns {
    clock: Clock,
    /// The number of the only active line, if exactly one was active lately.
    lone: AtomicU64,
    under_way: AtomicU64,
    closed: AtomicBool,
    state: Mutex<Competition>,
}

struct Competition {
    rota: Rota<oneshot::Sender<Turn>>,
    window: Window,
    /// The competing lines, and the cost of each certificate's commands under way.
    competitors: FxHashMap<Line, Competitor>,
    accounts: FxHashMap<u64, u64>,
    /// When the competitors were last checked.
    looked: Time,
}

struct Competitor {
    /// When it last asked.
    asked: Time,
    /// The number of its commands under way.
    under_way: u64,
}

/// A command's place among those under way; dropping it gives the place up.
pub(super) struct Turn {
    /// `None` once it has ended.
    turns: Option<Arc<Turns>>,
    cost: u64,
    /// The line and the time of the turn, if it was given in competition.
    given: Option<(Line, Time)>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.end(self.cost, self.given);
        }
    }
}

/// What a command of this length costs.
pub(super) fn cost(payload_bytes: usize) -> u64 {
    1 + (payload_bytes / UNIT_BYTES) as u64
}

impl Turns {
    pub(super) fn new(clock: Clock) -> Turns {
        let now = clock.now();
        Turns {
            clock,
            lone: AtomicU64::new(NOBODY),
            under_way: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            state: Mutex::new(Competition {
                rota: Rota::new(),
                window: Window::new(now),
                competitors: FxHashMap::default(),
                accounts: FxHashMap::default(),
                looked: now,
            }),
        }
    }

    /// A turn for a command of `line`; may wait for it.
    pub(super) async fn take(self: &Arc<Self>, line: Line, cost: u64) -> Turn {
        let first = self.lone.load(Ordering::Acquire);
        let alone = first == line.number
            || (first == NOBODY
                && self
                    .lone
                    .compare_exchange(NOBODY, line.number, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok());
        if alone || self.closed.load(Ordering::Acquire) {
            return self.give(cost, None);
        }
        match self.compete(line, cost) {
            Ok(turn) => turn,
            // The sender is dropped only when the line was removed.
            Err(given) => match given.await {
                Ok(turn) => turn,
                Err(_) => self.give(cost, None),
            },
        }
    }

    /// Removes a closed connection.
    pub(super) fn leave(&self, line: Line) {
        let mut state = lock(&self.state);
        state.rota.leave(line);
        state.competitors.remove(&line);
    }

    /// The replica ends: all waiting callers get a turn.
    pub(super) fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        self.hand_out(&mut lock(&self.state), self.clock.now());
    }

    fn give(self: &Arc<Self>, cost: u64, given: Option<(Line, Time)>) -> Turn {
        self.under_way.fetch_add(cost, Ordering::AcqRel);
        Turn { turns: Some(Arc::clone(self)), cost, given }
    }

    /// A turn at once if no caller waits and the window has room; otherwise a place in the queue.
    fn compete(self: &Arc<Self>, line: Line, cost: u64) -> Result<Turn, oneshot::Receiver<Turn>> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let before = self.lone.swap(CROWD, Ordering::AcqRel);
        if before != CROWD {
            // The other line's commands under way were not measured by the window, and drain first.
            state.window = Window::new(now);
            state.looked = now;
        }
        let fresh = Competitor { asked: now, under_way: 0 };
        state.competitors.entry(line).or_insert(fresh).asked = now;
        self.look_around(&mut state, now);
        let has_room = state.rota.is_empty() && self.has_room(&state.window);
        if has_room || state.is_free(line) {
            state.rota.serve_at_once(line, cost);
            state.begin(line, cost);
            return Ok(self.give(cost, Some((line, now))));
        }
        let (sender, receiver) = oneshot::channel();
        state.rota.push(line, cost, sender);
        self.hand_out(&mut state, now);
        Err(receiver)
    }

    /// Returns to the short path once only one active line is left.
    fn look_around(self: &Arc<Self>, state: &mut Competition, now: Time) {
        if now.since(state.looked) < LOOK {
            return;
        }
        state.looked = now;
        let is_quiet = |it: &Competitor| now.since(it.asked) >= QUIET;
        state.competitors.retain(|_, it| it.under_way > 0 || !is_quiet(it));
        let loud = state.competitors.iter().filter(|(_, it)| !is_quiet(it));
        let mut lines = loud.map(|(line, _)| line);
        if let (Some(only), None) = (lines.next(), lines.next()) {
            self.lone.store(only.number, Ordering::Release);
            self.hand_out(state, now);
        }
    }

    fn has_room(&self, window: &Window) -> bool {
        let under_way = self.under_way.load(Ordering::Acquire);
        // A command larger than the window passes alone.
        under_way == 0 || under_way < window.size()
    }

    /// Gives turns to the next callers, as far as there is room.
    fn hand_out(self: &Arc<Self>, state: &mut Competition, now: Time) {
        let free = |turns: &Turns| {
            turns.closed.load(Ordering::Acquire) || turns.lone.load(Ordering::Acquire) != CROWD
        };
        while free(self) || self.has_room(&state.window) {
            let Some((line, cost, waiter)) = state.rota.pop() else { return };
            self.hand(state, line, cost, waiter, now);
        }
        if !state.rota.is_empty() {
            state.window.note_full();
        }
    }

    /// Gives a turn to a waiting caller; false if it is gone.
    fn hand(
        self: &Arc<Self>,
        state: &mut Competition,
        line: Line,
        cost: u64,
        waiter: oneshot::Sender<Turn>,
        now: Time,
    ) -> bool {
        let sent = waiter.send(self.give(cost, Some((line, now))));
        match sent {
            Ok(()) => state.begin(line, cost),
            Err(mut turn) => {
                // Disarm the turn: its drop would wait for the lock that is held here.
                turn.turns = None;
                self.under_way.fetch_sub(cost, Ordering::AcqRel);
                return false;
            }
        }
        true
    }

    fn end(self: &Arc<Self>, cost: u64, given: Option<(Line, Time)>) {
        self.under_way.fetch_sub(cost, Ordering::AcqRel);
        if given.is_none() && self.lone.load(Ordering::Acquire) != CROWD {
            return;
        }
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if let Some((line, since)) = given {
            state.window.note_done(since, now);
            state.end(line, cost);
            while state.is_free(line) {
                let Some((cost, waiter)) = state.rota.pop_from(line) else { break };
                self.hand(&mut state, line, cost, waiter, now);
            }
        }
        self.hand_out(&mut state, now);
    }
}

impl Competition {
    /// Whether this line's next command is admitted regardless of the window.
    fn is_free(&self, line: Line) -> bool {
        let account = self.accounts.get(&line.account).copied().unwrap_or_default();
        account < FREE || self.competitors.get(&line).is_none_or(|it| it.under_way == 0)
    }

    fn begin(&mut self, line: Line, cost: u64) {
        *self.accounts.entry(line.account).or_default() += cost;
        if let Some(competitor) = self.competitors.get_mut(&line) {
            competitor.under_way += 1;
        }
    }

    fn end(&mut self, line: Line, cost: u64) {
        if let Some(account) = self.accounts.get_mut(&line.account) {
            *account -= cost;
            if *account == 0 {
                self.accounts.remove(&line.account);
            }
        }
        // A closed connection is no longer counted.
        if let Some(competitor) = self.competitors.get_mut(&line) {
            competitor.under_way = competitor.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(account: u64, number: u64) -> Line {
        Line { account, number }
    }

    /// Polls once: a turn at once, or a place in the queue.
    fn ask(turns: &Arc<Turns>, line: Line) -> Result<Turn, impl Future<Output = Turn> + use<>> {
        let turns = Arc::clone(turns);
        let mut taking = Box::pin(async move { turns.take(line, 1).await });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match taking.as_mut().poll(&mut context) {
            std::task::Poll::Ready(turn) => Ok(turn),
            std::task::Poll::Pending => Err(taking),
        }
    }

    fn is_ready<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn whoever_is_alone_never_waits() {
        let turns = Arc::new(Turns::new(Clock::start()));
        let held: Vec<_> = (0..100_000).map(|_| ask(&turns, line(1, 1)).ok().unwrap()).collect();
        assert_eq!(turns.under_way.load(Ordering::Relaxed), 100_000);
        drop(held);
        assert_eq!(turns.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_flood_fills_the_window_and_whoever_asks_for_little_comes_in_at_once() {
        let turns = Arc::new(Turns::new(Clock::start()));
        drop(ask(&turns, line(2, 9)));
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for round in 0..1000 {
            match ask(&turns, line(1, 1 + round % 4)) {
                Ok(turn) => held.push(turn),
                Err(taking) => waiting.push(Box::pin(taking)),
            }
        }
        let size = lock(&turns.state).window.size();
        assert_eq!(held.len() as u64, size, "the rest waits");
        for _ in 0..FREE {
            // Both the other certificate and another connection of the same certificate.
            held.push(ask(&turns, line(2, 9)).ok().unwrap());
        }
        held.push(ask(&turns, line(1, 5)).ok().unwrap());
        assert!(ask(&turns, line(2, 9)).is_err());
        assert!(ask(&turns, line(1, 5)).is_err());
        // Everything that waits is admitted as the commands under way end.
        let mut rounds = 0;
        while !waiting.is_empty() {
            rounds += 1;
            assert!(rounds < 100, "{} still wait", waiting.len());
            held.clear();
            waiting.retain_mut(|taking| match is_ready(taking) {
                Some(turn) => {
                    held.push(turn);
                    false
                }
                None => true,
            });
        }
        drop(held);
        assert_eq!(turns.under_way.load(Ordering::Relaxed), 0);
        assert!(lock(&turns.state).accounts.is_empty());
    }

    #[test]
    fn those_who_wait_and_go_away_cost_nothing_and_at_the_end_nobody_waits() {
        let turns = Arc::new(Turns::new(Clock::start()));
        drop(ask(&turns, line(2, 9)));
        let ask_all = |count: u64| -> (Vec<_>, Vec<_>) {
            let asked = (0..count).map(|_| ask(&turns, line(1, 1)));
            let (held, waiting): (Vec<_>, Vec<_>) = asked.partition(Result::is_ok);
            (held, waiting)
        };
        let (held, waiting) = ask_all(500);
        assert!(!waiting.is_empty());
        drop(waiting);
        drop(held);
        assert_eq!(turns.under_way.load(Ordering::Relaxed), 0);
        let (held, waiting) = ask_all(500);
        turns.close();
        assert!(ask(&turns, line(1, 1)).is_ok());
        for taking in waiting {
            let mut taking = Box::pin(taking.err().unwrap());
            assert!(is_ready(&mut taking).is_some());
        }
        drop(held);
    }

    #[test]
    fn a_line_that_is_left_lets_go_of_those_who_wait_in_it() {
        let turns = Arc::new(Turns::new(Clock::start()));
        drop(ask(&turns, line(2, 9)));
        let asked: Vec<_> = (0..500).map(|_| ask(&turns, line(1, 1))).collect();
        turns.leave(line(1, 1));
        for taking in asked.into_iter().filter_map(Result::err) {
            assert!(is_ready(&mut Box::pin(taking)).is_some());
        }
        assert_eq!(turns.under_way.load(Ordering::Relaxed), 0);
    }
}
