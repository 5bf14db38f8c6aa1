//! Thousands of random histories: from an atomic register, and changed ones.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// The composition of a simulated history.
#[derive(Clone, Copy)]
struct Mix {
    operations: usize,
    clients: usize,
    /// Whether values are unique or from a small set.
    unique: bool,
    /// Out of 1000 operations, how many get no answer, fail, delete or swap.
    unknown: u32,
    failing: u32,
    deleting: u32,
    swapping: u32,
}

const SMALL: Mix = Mix {
    operations: 7,
    clients: 3,
    unique: true,
    unknown: 150,
    failing: 50,
    deleting: 200,
    swapping: 300,
};

/// Clients of an atomic register. Each calls, the register acts at some moment, and the client gets
/// its answer. Or the client gets none, and the act may happen at any later moment.
struct World {
    random: ChaCha8Rng,
    mix: Mix,
    store: Kv,
    history: Vec<Operation>,
    clients: Vec<Client>,
    /// Operations that no client waits for any more.
    orphans: Vec<usize>,
    names: u64,
}

enum Client {
    Idle,
    Asked(usize),
    Done(usize, Answer),
}

fn simulate(seed: u64, mix: Mix) -> Vec<Operation> {
    let clients = (0..mix.clients).map(|_| Client::Idle).collect();
    let mut world = World {
        random: ChaCha8Rng::seed_from_u64(seed),
        mix,
        store: Kv::new(),
        history: Vec::new(),
        clients,
        orphans: Vec::new(),
        names: 0,
    };
    let mut now = 0;
    while world.history.len() < mix.operations || !world.all_idle() {
        now += 1;
        world.step(now);
    }
    world.history
}

impl World {
    fn all_idle(&self) -> bool {
        self.clients.iter().all(|it| matches!(it, Client::Idle))
    }

    fn chance(&mut self, of_1000: u32) -> bool {
        self.random.random_range(0..1000) < of_1000
    }

    fn step(&mut self, now: u64) {
        if !self.orphans.is_empty() && self.chance(20) {
            let at = self.random.random_range(0..self.orphans.len());
            let orphan = self.orphans.swap_remove(at);
            self.store.apply(command(&self.history[orphan]));
        }
        let at = self.random.random_range(0..self.clients.len());
        self.clients[at] = match std::mem::replace(&mut self.clients[at], Client::Idle) {
            Client::Idle if self.history.len() == self.mix.operations => Client::Idle,
            Client::Idle => self.ask(now),
            Client::Asked(index) if self.chance(self.mix.unknown) => {
                self.orphans.push(index);
                Client::Idle
            }
            Client::Asked(index) if self.chance(self.mix.failing) => {
                self.history[index].returned = Some(now);
                self.history[index].outcome = Outcome::Fail;
                Client::Idle
            }
            Client::Asked(index) => {
                let output = self.store.apply(command(&self.history[index]));
                Client::Done(index, answer(output))
            }
            Client::Done(index, answer) => {
                self.history[index].returned = Some(now);
                self.history[index].outcome = Outcome::Ok(answer);
                Client::Idle
            }
        };
    }

    fn ask(&mut self, now: u64) -> Client {
        let number = self.history.len();
        let kind = self.random.random_range(0..1000);
        let Mix { deleting, swapping, .. } = self.mix;
        let call = if kind < deleting {
            Call::Del
        } else if kind < deleting + swapping {
            // Mostly the current value, or it would never swap.
            let expected = match self.random.random_range(0..4) {
                0 => None,
                _ => self.store.get(b"x").cloned(),
            };
            Call::Cas { expected, value: self.value() }
        } else if kind % 2 == 0 {
            Call::Put(self.value())
        } else {
            Call::Get
        };
        self.history.push(Operation {
            client: number as u64,
            key: Bytes::from_static(b"x"),
            call,
            called: now,
            returned: None,
            outcome: Outcome::Info,
        });
        Client::Asked(number)
    }

    fn value(&mut self) -> Bytes {
        self.names += 1;
        let name = if self.mix.unique { self.names } else { self.random.random_range(0..3) };
        Bytes::from(format!("v{name}"))
    }
}

/// Changes one thing in a history, which may or may not make it wrong.
fn bend(history: &mut [Operation], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<Option<Bytes>> = history
        .iter()
        .filter_map(|it| match &it.call {
            Call::Put(value) | Call::Cas { value, .. } => Some(Some(value.clone())),
            _ => None,
        })
        .chain([None])
        .collect();
    let value = values[random.random_range(0..values.len())].clone();
    let at = random.random_range(0..history.len());
    let operation = &mut history[at];
    match (random.random_range(0..4), &mut operation.outcome) {
        (0, outcome) => *outcome = Outcome::Fail,
        (1, Outcome::Ok(_)) => {
            let length = operation.returned.unwrap_or(operation.called) - operation.called;
            operation.returned = Some(operation.called + length / 3);
        }
        (_, Outcome::Ok(answer)) => {
            *answer = match (&operation.call, &answer) {
                (Call::Get, _) => Answer::Value(value),
                (Call::Put(_), _) => Answer::Done,
                (Call::Cas { .. }, Answer::Swapped) => Answer::Mismatch(value),
                (Call::Cas { .. }, _) => Answer::Swapped,
                (Call::Del, Answer::Deleted(existed)) => Answer::Deleted(!existed),
                (Call::Del, _) => unreachable!("no answer to a deletion"),
            }
        }
        (_, outcome) => *outcome = Outcome::Fail,
    }
}

proptest! {
    // Small histories: a thousand take a fraction of a second.
    #![proptest_config(ProptestConfig::with_cases(4 * ProptestConfig::default().cases))]

    #[test]
    fn an_atomic_register_is_linearizable(seed: u64, unique: bool) {
        let history = simulate(seed, Mix { unique, operations: 40, ..SMALL });
        let verdict = check(&history, BUDGET);
        prop_assert_eq!(verdict, Verdict::Linearizable);
    }

    #[test]
    fn the_verdict_is_that_of_trying_every_order(
        seed: u64, unique: bool, deleting in 0..400u32, bends in 1..4u64,
    ) {
        let mut history = simulate(seed, Mix { unique, deleting, ..SMALL });
        for number in 0..bends {
            bend(&mut history, seed.wrapping_add(number));
        }
        let verdict = check(&history, BUDGET);
        let expected = brute_force(&history);
        prop_assert_eq!(verdict == Verdict::Linearizable, expected, "{:?}", verdict);
        let decided = !matches!(verdict, Verdict::TooHard { .. });
        prop_assert!(decided);
    }

    /// The operations shown for a contradiction are contradictory on their own.
    #[test]
    fn an_explanation_by_contradiction_is_a_proof(seed: u64) {
        let mut history = simulate(seed, Mix { operations: 30, clients: 5, ..SMALL });
        bend(&mut history, seed);
        bend(&mut history, !seed);
        if let Verdict::Violation(violation) = check(&history, BUDGET) {
            let proof = ["was there both", "never written", "replaced twice", "answered before"];
            // A series of swaps without answers has a long explanation, which is rare and slow to
            // test.
            let short = violation.operations.len() <= 9;
            if short && proof.iter().any(|it| violation.reason.contains(it)) {
                prop_assert!(!brute_force(&violation.operations), "{}", violation);
            }
        }
    }
}

/// The tests above would mean nothing if all changed histories were correct or all wrong.
#[test]
fn bending_makes_some_histories_wrong() {
    let wrong = (0..400).filter(|seed| {
        let mut history = simulate(*seed, SMALL);
        bend(&mut history, *seed);
        !brute_force(&history)
    });
    let wrong = wrong.count();
    assert!((100..300).contains(&wrong), "{wrong} of 400 are wrong");
}

/// As many clients and operations on one key as a demo has. Some are changed, so that the search
/// must show that there is no order.
#[test]
fn a_hundred_thousand_operations_on_one_key() {
    for (clients, deleting, swapping, unknown) in
        [(10, 0, 0, 0), (100, 0, 300, 1), (100, 100, 100, 1), (30, 200, 300, 10)]
    {
        let operations = 100_000;
        let mix = Mix { operations, clients, deleting, swapping, unknown, ..SMALL };
        let mut history = simulate(7, mix);
        assert_eq!(check(&history, BUDGET), Verdict::Linearizable);
        let seen =
            history.iter().rposition(|it| matches!(it.outcome, Outcome::Ok(Answer::Value(_))));
        history[seen.unwrap()].outcome = Outcome::Ok(Answer::Value(Some(Bytes::from("v9"))));
        let verdict = check(&history, BUDGET);
        assert!(matches!(verdict, Verdict::Violation(_)), "{verdict:?}");
    }
}
