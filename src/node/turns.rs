//! Fairness between callers: with one caller alone every command goes straight on; while several
//! compete, so many commands are under way as the [`Window`] allows, and the [`Rota`] says whose is
//! the next. So a flood waits in front of the replica, in its own connections, instead of in the
//! queues after it, where everybody would wait with it.
//!
//! Commands may be stuck for reasons of their own. So that one client's do not keep the others out,
//! a few of each certificate and one of each connection come in however many are under way.

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

/// The callers in this process.
pub(super) const LOCAL: Line = Line { account: 0, number: 0 };
/// Whoever has asked for nothing this long competes with nobody.
const QUIET: Duration = Duration::from_secs(10);
/// How often it is looked for whether anybody still competes.
const LOOK: Duration = Duration::from_secs(1);
/// A certificate's commands come in at once as long as they cost less than this together.
const FREE: u64 = 16;
/// A command costs one for each so many bytes begun, beside one for itself.
const UNIT_BYTES: usize = 1024;
/// Values of `lone` that are no connection's number.
const CROWD: u64 = u64::MAX;
const NOBODY: u64 = u64::MAX - 1;

/// Invariants:
/// 1. `under_way` is the cost of the turns there are.
/// 2. While `lone` is not [`CROWD`], nobody waits.
pub(super) struct Turns {
    clock: Clock,
    /// The number of the only line that has asked for anything lately, if there is only one.
    lone: AtomicU64,
    under_way: AtomicU64,
    closed: AtomicBool,
    state: Mutex<Competition>,
}

struct Competition {
    rota: Rota<oneshot::Sender<Turn>>,
    window: Window,
    /// Those who compete, and what each certificate's commands cost that are under way.
    competitors: FxHashMap<Line, Competitor>,
    accounts: FxHashMap<u64, u64>,
    /// When it was last looked for who competes.
    looked: Time,
}

struct Competitor {
    /// When it asked last.
    asked: Time,
    /// How many commands of it are under way.
    under_way: u64,
}

/// A command's place among those under way, until this is dropped.
pub(super) struct Turn {
    /// None once it has ended.
    turns: Option<Arc<Turns>>,
    cost: u64,
    /// Whose it is and when it was given, if it was in competition.
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

    /// A turn for a command of `line`, for which it may have to wait.
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
            // Only when the line was left is it closed.
            Err(given) => match given.await {
                Ok(turn) => turn,
                Err(_) => self.give(cost, None),
            },
        }
    }

    /// A connection is gone.
    pub(super) fn leave(&self, line: Line) {
        let mut state = lock(&self.state);
        state.rota.leave(line);
        state.competitors.remove(&line);
    }

    /// The replica ends: nobody waits any more.
    pub(super) fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        self.hand_out(&mut lock(&self.state), self.clock.now());
    }

    fn give(self: &Arc<Self>, cost: u64, given: Option<(Line, Time)>) -> Turn {
        self.under_way.fetch_add(cost, Ordering::AcqRel);
        Turn { turns: Some(Arc::clone(self)), cost, given }
    }

    /// A turn at once, if nobody waits and the window has room; else a place in the line.
    fn compete(self: &Arc<Self>, line: Line, cost: u64) -> Result<Turn, oneshot::Receiver<Turn>> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let before = self.lone.swap(CROWD, Ordering::AcqRel);
        if before != CROWD {
            // What the other has under way was not counted against the window, and drains first.
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

    /// Goes back to the short way once only one line is left that asks.
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
        // What is larger than the window passes alone.
        under_way == 0 || under_way < window.size()
    }

    /// Gives turns to those who are next, as far as there is room.
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

    /// Gives a turn to one who waits. False if it has gone away.
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
                // It must not end as others do, which would wait for the lock that is held here.
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
    /// Whether the next of this line comes in however many are under way.
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
        // A connection that is gone is not counted any more.
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

    /// Polled once: a turn at once, or a place in the line.
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
            // Both the other certificate and another connection of the same.
            held.push(ask(&turns, line(2, 9)).ok().unwrap());
        }
        held.push(ask(&turns, line(1, 5)).ok().unwrap());
        assert!(ask(&turns, line(2, 9)).is_err());
        assert!(ask(&turns, line(1, 5)).is_err());
        // Everything that waits comes in as what is under way ends.
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
