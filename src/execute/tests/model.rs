//! Random histories, replayed in random orders, against petgraph's algorithms on the full graph.

use std::collections::BTreeSet;

use petgraph::algo::{kosaraju_scc, tarjan_scc};
use petgraph::graph::{DiGraph, NodeIndex};
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::super::graph::View;
use super::*;

/// One random proposal: its owner and footprint, how it spreads, and whether it ends as `Nop`.
#[derive(Clone, Debug)]
struct Story {
    owner: Pick,
    footprint: Footprint,
    /// How many proposals pass until each other replica hears of it.
    delays: [u8; 5],
    /// The first replica of the quorum that its dependencies come from.
    quorum: Pick,
    nop: bool,
}

fn footprints() -> impl Strategy<Value = Footprint> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    let keys = prop::collection::vec((0..4u64, access), 0..3);
    prop_oneof![
        8 => keys.prop_map(|keys| Footprint::from_keys(
            keys.into_iter().map(|(key, access)| (KeyHash(key), access))
        )),
        4 => Just(write(0)),
        1 => Just(Footprint::Everything),
    ]
}

fn stories(len: usize) -> impl Strategy<Value = Vec<Story>> {
    let nop = prop::bool::weighted(0.15);
    let story = (any::<Pick>(), footprints(), any::<[u8; 5]>(), any::<Pick>(), nop).prop_map(
        |(owner, footprint, delays, quorum, nop)| {
            let delays = delays.map(|delay| delay % 16);
            Story { owner, footprint, delays, quorum, nop }
        },
    );
    prop::collection::vec(story, 1..len)
}

/// A decided history of a cluster.
#[derive(Clone, Debug)]
struct History {
    n: usize,
    /// In proposal order. A `Nop` keeps the footprint that its owner proposed.
    instances: Vec<(InstanceId, Footprint, Deps, bool)>,
}

/// Adds to `deps` what a replica counts as conflicts when `id` with this footprint reaches it.
fn conf(known: &[(InstanceId, Footprint)], id: InstanceId, footprint: &Footprint, deps: &mut Deps) {
    for (other, touches) in known {
        let later = other.replica == id.replica && other.slot >= id.slot;
        if !later && touches.conflicts(footprint) {
            deps.raise(other.replica, other.slot);
        }
    }
}

/// Runs the stories in a cluster of `n`. Each instance's dependencies are the union, over a
/// majority that includes its owner, of what had reached them before it (PROTOCOL.md §4).
fn happen(n: usize, stories: &[Story]) -> History {
    let mut known: Vec<Vec<(InstanceId, Footprint)>> = vec![Vec::new(); n];
    let mut history = History { n, instances: Vec::new() };
    for now in 0..stories.len() + 16 {
        for (at, story) in stories.iter().enumerate().take(now) {
            let (id, footprint) = {
                let (id, footprint, ..) = &history.instances[at];
                (*id, footprint.clone())
            };
            for q in (0..n).filter(|q| *q != id.replica.index()) {
                if at + 1 + usize::from(story.delays[q]) != now {
                    continue;
                }
                let turn = (q + n - story.quorum.index(n)) % n;
                if turn <= n / 2 {
                    conf(&known[q], id, &footprint, &mut history.instances[at].2);
                }
                known[q].push((id, footprint.clone()));
            }
        }
        if let Some(story) = stories.get(now) {
            let owner = story.owner.index(n);
            let before = history.instances.iter().filter(|(id, ..)| id.replica.index() == owner);
            let id = id(owner, before.count() as Slot + 1);
            let mut deps = Deps::none(n);
            conf(&known[owner], id, &story.footprint, &mut deps);
            known[owner].push((id, story.footprint.clone()));
            history.instances.push((id, story.footprint.clone(), deps, story.nop));
        }
    }
    history
}

impl History {
    fn covers(&self, a: usize, b: usize) -> bool {
        let ((x, _, deps, _), (y, ..)) = (&self.instances[a], &self.instances[b]);
        a != b && deps.covers(*y) && !(x.replica == y.replica && x.slot < y.slot)
    }

    fn conflict(&self, a: usize, b: usize) -> bool {
        self.instances[a].1.conflicts(&self.instances[b].1)
    }

    fn nop(&self, at: usize) -> bool {
        self.instances[at].3
    }

    /// The full graph: every edge that the protocol page defines.
    fn graph(&self) -> DiGraph<usize, ()> {
        let all = 0..self.instances.len();
        let mut graph = DiGraph::new();
        for at in all.clone() {
            graph.add_node(at);
        }
        for (a, b) in all.clone().flat_map(|a| all.clone().map(move |b| (a, b))) {
            let counts = self.covers(a, b) && self.conflict(a, b);
            if counts && !self.nop(a) && !self.nop(b) {
                graph.add_edge(NodeIndex::new(a), NodeIndex::new(b), ());
            }
        }
        graph
    }

    fn at(&self, id: InstanceId) -> usize {
        self.instances.iter().position(|(other, ..)| *other == id).expect("it was proposed")
    }

    fn decision(&self, at: usize) -> Decision {
        let (id, footprint, deps, nop) = self.instances[at].clone();
        match nop {
            true => Decision::owned(id, Value::Nop, Deps::none(self.n)),
            false => decided(id, footprint, deps),
        }
    }

    /// Which instances cannot be executed yet: they reach an undecided one, or cover an unknown
    /// one.
    fn stuck(&self, graph: &DiGraph<usize, ()>, heard: &[Heard]) -> Vec<bool> {
        let all = 0..self.instances.len();
        let mut stuck: Vec<bool> = all
            .clone()
            .map(|a| {
                heard[a] != Heard::Decided
                    || all.clone().any(|b| {
                        let learned = heard[b] == Heard::Learned && self.conflict(a, b);
                        self.covers(a, b) && (heard[b] == Heard::Nothing || learned)
                    })
            })
            .collect();
        let mut spread: Vec<usize> = all.filter(|at| stuck[*at]).collect();
        while let Some(b) = spread.pop() {
            for a in graph.neighbors_directed(NodeIndex::new(b), petgraph::Incoming) {
                if !std::mem::replace(&mut stuck[a.index()], true) {
                    spread.push(a.index());
                }
            }
        }
        stuck
    }
}

/// What a replica has heard of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Heard {
    Nothing,
    Learned,
    Decided,
}

/// Passes the history to an executor in the order of `keys`: two numbers per instance, for when it
/// is learned and when it is decided. Checks every step. Returns the execution order.
fn replay(history: &History, keys: &[(u32, u32)]) -> Vec<Vec<InstanceId>> {
    let graph = history.graph();
    let mut events: Vec<(u32, usize, bool)> = Vec::new();
    for (at, (learned, decided)) in keys.iter().take(history.instances.len()).enumerate() {
        events.extend([(*learned, at, false), (*decided, at, true)]);
    }
    events.sort_unstable();
    let mut executor = Executor::new(history.n);
    let mut heard = vec![Heard::Nothing; history.instances.len()];
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    for (_, at, decided) in events {
        let (id, footprint, ..) = &history.instances[at];
        if decided {
            executor.on_committed(history.decision(at));
            heard[at] = Heard::Decided;
        } else {
            executor.on_learned(*id, &batch(*id, footprint.clone()));
            heard[at] = heard[at].max(Heard::Learned);
        }
        for component in drain(&mut executor) {
            done.extend(component.iter().map(|id| history.at(*id)));
            for a in component.iter().map(|id| NodeIndex::new(history.at(*id))) {
                let early = graph.neighbors(a).find(|b| !done.contains(&b.index()));
                assert_eq!(early, None, "{component:?} ran before what it depends on");
            }
            order.push(component);
        }
        check_step(history, &graph, &heard, &done, &executor);
    }
    assert!(executor.store.is_empty() && executor.pending() == 0, "all of it is executed");
    order
}

/// Checks that exactly the executable instances are executed, and that each other has a blocker.
fn check_step(
    history: &History,
    graph: &DiGraph<usize, ()>,
    heard: &[Heard],
    done: &BTreeSet<usize>,
    executor: &Executor,
) {
    let stuck = history.stuck(graph, heard);
    let blockers: Vec<_> = executor.blockers().collect();
    let mut pending = 0;
    for (at, (id, ..)) in history.instances.iter().enumerate() {
        let decided = heard[at] == Heard::Decided;
        let runs = decided && !history.nop(at) && !stuck[at];
        assert_eq!(done.contains(&at), runs, "{id}, of {heard:?}");
        assert_eq!(executor.is_executed(*id), decided && (history.nop(at) || runs));
        let waits = decided && !history.nop(at) && stuck[at];
        pending += usize::from(waits);
        let blocker = executor.blocker(*id);
        assert_eq!(blocker.is_some(), waits, "{id} says what it waits for: {blocker:?}");
        if let Some(blocker) = blocker {
            assert!(heard[history.at(blocker)] != Heard::Decided, "{blocker} is not decided");
            assert!(blockers.contains(&blocker), "{blocker} is among all blockers");
        }
    }
    assert_eq!(executor.pending(), pending);
    for blocker in &blockers {
        assert!(heard[history.at(*blocker)] != Heard::Decided, "{blocker} is not decided");
    }
    for (owner, slot) in executor.executed().iter() {
        let next = InstanceId::new(owner, slot + 1);
        assert!((1..=slot).all(|slot| executor.is_executed(InstanceId::new(owner, slot))));
        assert!(!executor.is_executed(next));
    }
}

fn sorted(mut components: Vec<Vec<InstanceId>>) -> Vec<Vec<InstanceId>> {
    components.iter_mut().for_each(|component| component.sort());
    components.sort();
    components
}

/// The components of the full graph by one of petgraph's algorithms.
fn oracle(
    history: &History,
    algorithm: impl Fn(&DiGraph<usize, ()>) -> Vec<Vec<NodeIndex>>,
) -> Vec<Vec<InstanceId>> {
    let components = algorithm(&history.graph()).into_iter();
    let commands = components.filter(|component| !history.nop(component[0].index()));
    let ids = |component: Vec<NodeIndex>| {
        component.into_iter().map(|at| history.instances[at.index()].0).collect()
    };
    sorted(commands.map(ids).collect())
}

/// Each instance's position in the execution order.
fn positions(history: &History, order: &[Vec<InstanceId>]) -> Vec<usize> {
    let mut positions = vec![usize::MAX; history.instances.len()];
    for (position, id) in order.iter().flatten().enumerate() {
        positions[history.at(*id)] = position;
    }
    positions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_arrival_gives_the_same_order_and_petgraphs_components(
        n in 1..=5usize,
        stories in stories(48),
        arrivals in prop::collection::vec(prop::collection::vec(any::<(u32, u32)>(), 48), 3),
    ) {
        let history = happen(n, &stories);
        let orders: Vec<_> = arrivals.iter().map(|keys| replay(&history, keys)).collect();
        let expected = oracle(&history, |graph| tarjan_scc(graph));
        prop_assert_eq!(&oracle(&history, |graph| kosaraju_scc(graph)), &expected);
        for order in &orders {
            prop_assert_eq!(&sorted(order.clone()), &expected);
            for component in order {
                prop_assert!(component.is_sorted_by_key(|id| id.execution_key()));
            }
        }
        let positions: Vec<_> = orders.iter().map(|order| positions(&history, order)).collect();
        for a in 0..stories.len() {
            for b in (0..a).filter(|b| history.conflict(a, *b)) {
                if history.nop(a) || history.nop(b) {
                    continue;
                }
                prop_assert!(history.covers(a, b) || history.covers(b, a), "Visibility");
                let first = positions[0][a] < positions[0][b];
                for other in &positions[1..] {
                    prop_assert_eq!(other[a] < other[b], first);
                }
            }
        }
    }

    /// All instances also cover one unknown instance of an additional owner. So all are in the
    /// graph at once, with only the edges that the store considers necessary.
    #[test]
    fn the_edges_kept_reach_all_that_the_edges_left_out_do(
        n in 1..=5usize,
        stories in stories(64),
    ) {
        let history = happen(n, &stories);
        let mut executor = Executor::new(n + 1);
        for at in 0..history.instances.len() {
            let mut decision = history.decision(at);
            let slots = decision.deps.as_slots().iter().copied();
            decision.deps = Deps::from_slots(slots.chain([1]));
            executor.on_committed(decision);
        }
        prop_assert_eq!(drain(&mut executor).len(), 0);
        let kept = tarjan_scc(View::whole(&executor.store));
        let id_of = |node| executor.store.instance(node).id;
        let kept = kept.into_iter().map(|c| c.into_iter().map(id_of).collect()).collect();
        let expected = oracle(&history, |graph| kosaraju_scc(graph));
        prop_assert_eq!(&sorted(kept), &expected);
        // Then all become ready at once.
        executor.on_committed(nop(id(n, 1), n + 1));
        prop_assert_eq!(&sorted(drain(&mut executor)), &expected);
    }
}
