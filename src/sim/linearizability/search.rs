//! Searches for an order: the last step of a check.
//!
//! It is depth first with its own stack, because histories are long, after Wing and Gong, with
//! Lowe's memory of configurations. These rules keep it short:
//!
//! 1. A unit may come next only if no other must precede it. So only units that overlap in time are
//!    candidates.
//! 2. A read that may come next and fits is taken without alternatives: if it has another place in
//!    some order, it may as well be here.
//! 3. Among units with the same effect, only the one with the earliest deadline is tried: in an
//!    order that starts with another one, the two may be exchanged.
//! 4. Among optional units with the same effect, only the one called first is tried, for the same
//!    reason.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use super::register::{ABSENT, Act, Optional, Unit, Value};

/// The result of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// An order exists.
    Order,
    /// None exists. The longest attempt ended at these units, of which one had to come next.
    Stuck(Vec<usize>),
    /// The budget of steps is used up.
    TooHard,
}

/// Searches for an order of all `units` and any of the `optional` ones, starting without a value.
pub(super) fn search(units: &[Unit], optional: &[Optional], budget: u64) -> Found {
    let mut search = Search::new(units, optional);
    let mut stack: Vec<Frame> = Vec::new();
    for _ in 0..budget {
        if search.left == 0 {
            return Found::Order;
        }
        let choices = if search.is_new() { search.choices() } else { SmallVec::new() };
        stack.push(Frame { choices, state: search.state });
        // Go on to the next configuration, and backtrack as far as necessary.
        loop {
            let Some(frame) = stack.last_mut() else { return Found::Stuck(search.stuck) };
            if let Some(choice) = frame.choices.last() {
                search.take(*choice);
                break;
            }
            stack.pop();
            if let Some(frame) = stack.last_mut() {
                let taken = frame.choices.pop().expect("the choice that led here");
                search.undo(taken, frame.state);
            }
        }
    }
    Found::TooHard
}

/// A configuration on the current path.
struct Frame {
    /// The remaining choices; the last one is being tried.
    choices: SmallVec<[Choice; 2]>,
    state: Value,
}

#[derive(Clone, Copy)]
enum Choice {
    Unit(usize),
    /// The next optional unit of this class.
    Optional(usize),
}

struct Search<'a> {
    units: &'a [Unit],
    /// The remaining units, by `opens` and by `closes`.
    by_opens: List,
    by_closes: List,
    left: usize,
    optional: Vec<Class>,
    state: Value,
    /// Identifies the set of units done and optional units used: the xor of random numbers. Two
    /// sets have the same name with a probability of about 2^-128.
    name: u128,
    seen: FxHashSet<u128>,
    /// The fewest remaining units so far, and the units of which one had to come next there.
    fewest: usize,
    stuck: Vec<usize>,
}

/// Optional units with the same effect.
struct Class {
    act: Act,
    /// Ascending.
    calls: Vec<u64>,
    used: usize,
}

impl<'a> Search<'a> {
    fn new(units: &'a [Unit], optional: &[Optional]) -> Search<'a> {
        let mut classes: Vec<Class> = Vec::new();
        let mut class_of: FxHashMap<Act, usize> = FxHashMap::default();
        for Optional { call, act } in optional {
            let class = *class_of.entry(*act).or_insert_with(|| {
                classes.push(Class { act: *act, calls: Vec::new(), used: 0 });
                classes.len() - 1
            });
            classes[class].calls.push(*call);
        }
        classes.iter_mut().for_each(|class| class.calls.sort_unstable());
        Search {
            units,
            by_opens: List::new(units.len(), |index| units[index].opens),
            by_closes: List::new(units.len(), |index| units[index].closes),
            left: units.len(),
            optional: classes,
            state: ABSENT,
            name: 0,
            seen: FxHashSet::default(),
            fewest: usize::MAX,
            stuck: Vec::new(),
        }
    }

    /// Whether this configuration is reached for the first time; remembers it.
    fn is_new(&mut self) -> bool {
        self.seen.insert(self.name ^ random(u64::MAX, u64::from(self.state)))
    }

    /// The choices from here, the most promising last.
    fn choices(&mut self) -> SmallVec<[Choice; 2]> {
        let mut closes = self.by_closes.iter();
        let first = closes.next().expect("called while units are left");
        let second = closes.next().map_or(u64::MAX, |unit| self.units[unit].closes);
        // All other units must wait for the unit that closes first; that one must wait for the
        // second.
        let limit = self.units[first].closes;
        let open = self.by_opens.iter().take_while(|unit| self.units[*unit].opens <= limit);
        let alone = self.units[first].opens > limit && self.units[first].opens <= second;
        let open = open.chain(alone.then_some(first));

        let mut best: SmallVec<[usize; 8]> = SmallVec::new();
        for unit in open.clone() {
            let Unit { act, closes, .. } = self.units[unit];
            if act.apply(self.state).is_none() {
                continue;
            }
            if matches!(act, Act::Read(_)) {
                return SmallVec::from_iter([Choice::Unit(unit)]);
            }
            match best.iter_mut().find(|other| self.units[**other].act == act) {
                Some(other) if self.units[*other].closes <= closes => {}
                Some(other) => *other = unit,
                None => best.push(unit),
            }
        }
        if self.left < self.fewest {
            self.fewest = self.left;
            self.stuck = open.collect();
        }
        best.sort_by_key(|unit| std::cmp::Reverse(self.units[*unit].closes));
        let useful = |class: &Class| {
            class.calls.get(class.used).is_some_and(|call| *call <= limit)
                && class.act.apply(self.state).is_some_and(|after| after != self.state)
        };
        let classes = self.optional.iter().enumerate().filter(|(_, class)| useful(class));
        let optional = classes.map(|(index, _)| Choice::Optional(index));
        optional.chain(best.into_iter().map(Choice::Unit)).collect()
    }

    fn take(&mut self, choice: Choice) {
        let act = match choice {
            Choice::Unit(unit) => {
                self.by_opens.remove(unit);
                self.by_closes.remove(unit);
                self.left -= 1;
                self.units[unit].act
            }
            Choice::Optional(class) => {
                self.optional[class].used += 1;
                self.optional[class].act
            }
        };
        self.name ^= self.random_of(choice);
        self.state = act.apply(self.state).expect("only what can happen is a choice");
    }

    /// Reverts the last choice.
    fn undo(&mut self, choice: Choice, state: Value) {
        self.name ^= self.random_of(choice);
        self.state = state;
        match choice {
            Choice::Unit(unit) => {
                self.by_closes.restore(unit);
                self.by_opens.restore(unit);
                self.left += 1;
            }
            Choice::Optional(class) => self.optional[class].used -= 1,
        }
    }

    /// The random number of a choice.
    fn random_of(&self, choice: Choice) -> u128 {
        match choice {
            Choice::Unit(unit) => random(unit as u64, 0),
            Choice::Optional(class) => random(class as u64, self.optional[class].used as u64),
        }
    }
}

/// The same result for the same two numbers.
fn random(a: u64, b: u64) -> u128 {
    xxh3_128([a.to_le_bytes(), b.to_le_bytes()].as_flattened())
}

/// The numbers below some `n` in a fixed order. Any can be removed, and restored in reverse order
/// of removal (Knuth's dancing links).
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(n: usize, key: impl Fn(usize) -> u64) -> List {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|index| key(*index));
        // A ring, closed by `n`, which is not a member.
        let mut list = List { next: vec![n; n + 1], previous: vec![n; n + 1] };
        let mut last = n;
        for index in order {
            list.next[last] = index;
            list.previous[index] = last;
            last = index;
        }
        list.previous[n] = last;
        list
    }

    fn iter(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        let end = self.next.len() - 1;
        let follow = move |index: usize| Some(self.next[index]).filter(|next| *next != end);
        std::iter::successors(follow(end), move |index| follow(*index))
    }

    fn remove(&mut self, index: usize) {
        let (previous, next) = (self.previous[index], self.next[index]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn restore(&mut self, index: usize) {
        let (previous, next) = (self.previous[index], self.next[index]);
        self.next[previous] = index;
        self.previous[next] = index;
    }
}
