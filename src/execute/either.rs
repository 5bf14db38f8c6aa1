//! The executor of any protocol: by dependencies or by slots.

use std::sync::Arc;

use super::{Component, Executor, InLog, LogExecutor};
use crate::types::{Batch, Decision, Deps, Executed, ExecutionOrder, InstanceId};

/// Receives decided instances, and yields them in the execution order of the protocol.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it stays where it is")]
pub enum AnyExecutor {
    /// By dependencies.
    Graph(Executor),
    /// By slots.
    Log(LogExecutor),
}

impl AnyExecutor {
    /// An executor for a cluster of `n` replicas that has executed nothing.
    pub fn new(order: ExecutionOrder, n: usize) -> AnyExecutor {
        match order {
            ExecutionOrder::Dependencies => AnyExecutor::Graph(Executor::new(n)),
            ExecutionOrder::Log => AnyExecutor::Log(LogExecutor::new(n)),
        }
    }

    /// Forgets everything and continues from a snapshot that has executed `executed`.
    pub fn start_again(&mut self, executed: &Executed) {
        match self {
            AnyExecutor::Graph(graph) => graph.start_again(executed),
            AnyExecutor::Log(log) => *log = LogExecutor::starting_from(executed),
        }
    }

    /// Everything executed or decided `Nop`.
    pub fn done(&self) -> Executed {
        match self {
            AnyExecutor::Graph(graph) => graph.done(),
            AnyExecutor::Log(log) => log.done(),
        }
    }

    /// The payload of an instance became known. A log ignores it.
    pub fn on_learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        match self {
            AnyExecutor::Graph(graph) => graph.on_learned(id, batch),
            AnyExecutor::Log(_) => {}
        }
    }

    /// An instance was decided.
    ///
    /// # Panics
    /// If the decision contradicts an earlier one.
    pub fn on_committed(&mut self, decision: Decision) {
        match self {
            AnyExecutor::Graph(graph) => graph.on_committed(decision),
            AnyExecutor::Log(log) => log.on_committed(decision),
        }
    }

    /// The next component of the graph, which then counts as executed.
    pub fn next_component(&mut self) -> Option<Component> {
        match self {
            AnyExecutor::Graph(graph) => graph.next_ready(),
            AnyExecutor::Log(_) => None,
        }
    }

    /// The next slot of the log, which then counts as executed.
    pub fn next_slot(&mut self) -> Option<InLog> {
        match self {
            AnyExecutor::Graph(_) => None,
            AnyExecutor::Log(log) => log.next_ready(),
        }
    }

    /// Per owner: everything up to here is executed or decided `Nop`.
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

    /// The instance that a decided instance ultimately waits for; for diagnosis.
    pub fn blocker(&self, id: InstanceId) -> Option<InstanceId> {
        match self {
            AnyExecutor::Graph(graph) => graph.blocker(id),
            AnyExecutor::Log(log) => log.blocker(id),
        }
    }

    /// How many instances are decided, not `Nop`, and not executed.
    pub fn pending(&self) -> usize {
        match self {
            AnyExecutor::Graph(graph) => graph.pending(),
            AnyExecutor::Log(log) => log.pending(),
        }
    }

    /// The largest component so far, in instances.
    pub fn largest_component(&self) -> usize {
        match self {
            AnyExecutor::Graph(graph) => graph.largest_component(),
            AnyExecutor::Log(log) => usize::from(log.executed().slot(InstanceId::LOG) > 0),
        }
    }

    /// The blocked instances, in Graphviz's language.
    pub fn dot(&self) -> String {
        match self {
            AnyExecutor::Graph(graph) => graph.dot(),
            AnyExecutor::Log(log) => log.dot(),
        }
    }
}
