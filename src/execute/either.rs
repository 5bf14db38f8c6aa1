//! The executor of any protocol: the graph's or the sequence's, as its decisions are ordered.

use std::sync::Arc;

use super::{Component, Executor, InLog, LogExecutor};
use crate::types::{Batch, Decision, Deps, Executed, ExecutionOrder, InstanceId};

/// Decided instances in, what may be executed out, in the order that the protocol agrees on.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it stays where it is")]
pub enum AnyExecutor {
    /// By dependencies.
    Graph(Executor),
    /// By slots.
    Log(LogExecutor),
}

impl AnyExecutor {
    /// Of a cluster of `n` replicas that has executed nothing.
    pub fn new(order: ExecutionOrder, n: usize) -> AnyExecutor {
        match order {
            ExecutionOrder::Dependencies => AnyExecutor::Graph(Executor::new(n)),
            ExecutionOrder::Log => AnyExecutor::Log(LogExecutor::new(n)),
        }
    }

    /// Forgets all it knows and starts where the state of a snapshot ends.
    pub fn start_again(&mut self, executed: &Executed) {
        match self {
            AnyExecutor::Graph(graph) => graph.start_again(executed),
            AnyExecutor::Log(log) => *log = LogExecutor::starting_from(executed),
        }
    }

    /// What is executed or decided `Nop`.
    pub fn done(&self) -> Executed {
        match self {
            AnyExecutor::Graph(graph) => graph.done(),
            AnyExecutor::Log(log) => log.done(),
        }
    }

    /// The payload of an instance became known; of no use to a sequence.
    pub fn on_learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        match self {
            AnyExecutor::Graph(graph) => graph.on_learned(id, batch),
            AnyExecutor::Log(_) => {}
        }
    }

    /// An instance was decided.
    ///
    /// # Panics
    /// When the decision contradicts an earlier one.
    pub fn on_committed(&mut self, decision: Decision) {
        match self {
            AnyExecutor::Graph(graph) => graph.on_committed(decision),
            AnyExecutor::Log(log) => log.on_committed(decision),
        }
    }

    /// The next component of the graph, from now on executed.
    pub fn next_component(&mut self) -> Option<Component> {
        match self {
            AnyExecutor::Graph(graph) => graph.next_ready(),
            AnyExecutor::Log(_) => None,
        }
    }

    /// The next slot of the sequence, from now on executed.
    pub fn next_slot(&mut self) -> Option<InLog> {
        match self {
            AnyExecutor::Graph(_) => None,
            AnyExecutor::Log(log) => log.next_ready(),
        }
    }

    /// Per owner: everything up to here is executed or decided `Nop`, without a gap.
    pub fn executed(&self) -> &Deps {
        match self {
            AnyExecutor::Graph(graph) => graph.executed(),
            AnyExecutor::Log(log) => log.executed(),
        }
    }

    /// Whether the instance is executed or decided `Nop`.
    pub fn is_executed(&self, id: InstanceId) -> bool {
        match self {
            AnyExecutor::Graph(graph) => graph.is_executed(id),
            AnyExecutor::Log(log) => log.is_executed(id),
        }
    }

    /// What a decided instance waits for in the end; for people.
    pub fn blocker(&self, id: InstanceId) -> Option<InstanceId> {
        match self {
            AnyExecutor::Graph(graph) => graph.blocker(id),
            AnyExecutor::Log(log) => log.blocker(id),
        }
    }

    /// The number of instances decided, no `Nop`, and not executed.
    pub fn pending(&self) -> usize {
        match self {
            AnyExecutor::Graph(graph) => graph.pending(),
            AnyExecutor::Log(log) => log.pending(),
        }
    }

    /// The number of instances in the largest component so far.
    pub fn largest_component(&self) -> usize {
        match self {
            AnyExecutor::Graph(graph) => graph.largest_component(),
            AnyExecutor::Log(log) => usize::from(log.executed().slot(InstanceId::LOG) > 0),
        }
    }

    /// What is stuck, in Graphviz's language.
    pub fn dot(&self) -> String {
        match self {
            AnyExecutor::Graph(graph) => graph.dot(),
            AnyExecutor::Log(log) => log.dot(),
        }
    }
}
