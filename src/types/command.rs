//! Commands, batches of commands, and the decisions of instances.

use std::sync::Arc;

use bytes::Bytes;

use super::{Deps, Footprint, InstanceId, ReplicaId, RequestId};

/// One client command. The engine reads only its identity and its footprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Session and sequence: executed exactly once.
    pub request: RequestId,
    /// The client has finished all its requests below this sequence: their *results* may be
    /// forgotten, but not that they were executed. 0 if the client has not said.
    pub floor: u64,
    /// The replica that the client sent it to, which answers it. Not always the instance's owner.
    pub origin: ReplicaId,
    /// The keys that it reads and writes.
    pub footprint: Footprint,
    /// The user's command, encoded.
    pub payload: Bytes,
}

/// The commands of one instance, executed in this order, and the union of their footprints.
#[derive(PartialEq, Eq, Debug)]
pub struct Batch {
    commands: Vec<Command>,
    footprint: Footprint,
}

impl Command {
    /// The most keys that one command's footprint may name. A command with more declares
    /// [`Footprint::Everything`]; a peer refuses it otherwise.
    pub const MAX_KEYS: usize = 4096;
    /// The most payload bytes of one command.
    pub const MAX_BYTES: usize = 4 << 20;
}

impl Batch {
    /// The most commands in one batch; a peer refuses more.
    pub const MAX_COMMANDS: usize = 4096;
    /// The most keys that the footprints of one batch name in total, unless it has one command.
    pub const MAX_KEYS: usize = 16_384;
    /// The most payload bytes in one batch, unless it has one command.
    pub const MAX_BYTES: usize = 1 << 20;

    /// A batch of these commands, in this order.
    ///
    /// # Panics
    /// If `commands` is empty: such a batch would be a second form of `Nop`.
    pub fn new(commands: Vec<Command>) -> Arc<Batch> {
        assert!(!commands.is_empty(), "a batch holds at least one command");
        let footprint = match &commands[..] {
            [one] => one.footprint.clone(),
            many => Footprint::union(many.iter().map(|command| &command.footprint)),
        };
        Arc::new(Batch { commands, footprint })
    }

    /// The commands, in execution order.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The total bytes of all payloads.
    pub fn bytes(&self) -> usize {
        self.commands.iter().map(|command| command.payload.len()).sum()
    }

    /// The union of the commands' footprints.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }
}

/// What an instance may decide: its owner's batch or `Nop`, never another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// No command is executed.
    Nop,
    /// The owner's commands.
    Batch(Arc<Batch>),
}

impl Value {
    /// Whether it is a `Nop`.
    pub fn is_nop(&self) -> bool {
        matches!(self, Value::Nop)
    }

    /// The commands, unless it is a `Nop`.
    pub fn batch(&self) -> Option<&Arc<Batch>> {
        match self {
            Value::Nop => None,
            Value::Batch(batch) => Some(batch),
        }
    }
}

/// The decision of an instance; the same at every replica that learns it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The instance. A protocol that agrees on one sequence uses slots of one owner,
    /// [`InstanceId::LOG`].
    pub id: InstanceId,
    /// The id of the proposal. If only its owner proposes in an instance, it is `id`; otherwise it
    /// is what `Protocol::propose` returned at `proposal.replica`.
    pub proposal: InstanceId,
    /// The decided value.
    pub value: Value,
    /// Its dependencies. Unused by protocols with one sequence: there a slot depends on all below.
    pub deps: Deps,
}

impl Decision {
    /// A decision of an instance in which only its owner proposes.
    pub fn owned(id: InstanceId, value: Value, deps: Deps) -> Decision {
        Decision { id, proposal: id, value, deps }
    }
}

/// The order in which decided instances are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExecutionOrder {
    /// By the dependencies that were agreed on, component by component.
    Dependencies,
    /// By slots, one after the other without a gap.
    Log,
}
