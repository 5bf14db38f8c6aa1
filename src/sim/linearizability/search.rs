//! Looks for an order: the last step of a check.
//!
//! Depth first, with a stack of its own (histories are long), after Wing and Gong, with Lowe's
//! memory of configurations. What keeps it short:
//!
//! 1. A unit may come next only if no other has to precede it, so the choice is among those that
//!    overlap in time.
//! 2. A read that may come next and fits is taken, with no alternative: wherever it stands in some
//!    order, it may as well stand here.
//! 3. Of units that do the same, only the one that has to be done first is tried: where an order
//!    begins with another, the two may change places.
//! 4. Of optional units that do the same, likewise, the one called first.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use super::register::{ABSENT, Act, Optional, Unit, Value};

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none. The longest attempt was stopped by these units, of which one must come next.
    Stuck(Vec<usize>),
    /// The budget of steps is used up.
    TooHard,
}

/// Looks for an order of all `units` and any of the `optional` ones, from a register without value.
pub(super) fn search(units: &[Unit], optional: &[Optional], budget: u64) -> Found {
    let mut search = Search::new(units, optional);
    let mut stack: Vec<Frame> = Vec::new();
    for _ in 0..budget {
        if search.left == 0 {
            return Found::Order;
        }
        let choices = if search.is_new() { search.choices() } else { SmallVec::new() };
        stack.push(Frame { choices, state: search.state });
        // On to the next configuration, back as far as it takes.
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

/// A configuration on the way.
struct Frame {
    /// What is left to try; the last is being tried.
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
    /// What is left of the units, by `opens` and by `closes`.
    by_opens: List,
    by_closes: List,
    left: usize,
    optional: Vec<Class>,
    state: Value,
    /// Names the set of units that are done and optional units that are used: the xor of random
    /// numbers, so two sets share a name with a probability of about 2^-128.
    name: u128,
    seen: FxHashSet<u128>,
    /// The fewest units left so far, and who would have had to come next there.
    fewest: usize,
    stuck: Vec<usize>,
}

/// Optional units that do the same.
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

    /// Whether this configuration was never reached before; notes it.
    fn is_new(&mut self) -> bool {
        self.seen.insert(self.name ^ random(u64::MAX, u64::from(self.state)))
    }

    /// What to try next, the most promising last.
    fn choices(&mut self) -> SmallVec<[Choice; 2]> {
        let mut closes = self.by_closes.iter();
        let first = closes.next().expect("called while units are left");
        let second = closes.next().map_or(u64::MAX, |unit| self.units[unit].closes);
        // All others have to wait for the unit that closes first; that one, for the second.
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

    /// Takes back the last choice taken.
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

    /// The random number of a choice that is taken.
    fn random_of(&self, choice: Choice) -> u128 {
        match choice {
            Choice::Unit(unit) => random(unit as u64, 0),
            Choice::Optional(class) => random(class as u64, self.optional[class].used as u64),
        }
    }
}

/// Always the same for the same two numbers.
fn random(a: u64, b: u64) -> u128 {
    xxh3_128([a.to_le_bytes(), b.to_le_bytes()].as_flattened())
}

/// The numbers below some `n` in a fixed order, from which any can be taken out; and put back, if
/// the last taken out goes first (Knuth's dancing links).
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(n: usize, key: impl Fn(usize) -> u64) -> List {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|index| key(*index));
        // A ring, closed by `n`, which is no member.
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
