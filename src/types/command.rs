//! Commands, the batches an instance holds, and what an instance decides.

use std::sync::Arc;

use bytes::Bytes;

use super::{Deps, Footprint, InstanceId, ReplicaId, RequestId};

/// One client command, as the engine sees it: opaque but for its identity and footprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Session and sequence: executed exactly once.
    pub request: RequestId,
    /// The client is done with all its requests below this sequence: their *results* may be
    /// forgotten (that they were executed may not). 0 when it has said nothing.
    pub floor: u64,
    /// The replica the client spoke to, which answers it. Not always the instance's owner.
    pub origin: ReplicaId,
    /// What it touches.
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
    /// The most keys that one command's footprint may name; beyond it, name
    /// [`Footprint::Everything`]. A peer refuses more.
    pub const MAX_KEYS: usize = 4096;
    /// The most payload bytes of one command.
    pub const MAX_BYTES: usize = 4 << 20;
}

impl Batch {
    /// The most commands in one batch; a peer refuses more.
    pub const MAX_COMMANDS: usize = 4096;
    /// The most keys that the footprints of one batch name together, unless it is one command's.
    pub const MAX_KEYS: usize = 16_384;
    /// The most payload bytes in one batch, unless they are one command's.
    pub const MAX_BYTES: usize = 1 << 20;

    /// A batch of these commands, in this order.
    ///
    /// # Panics
    /// If there are none: a batch without commands would be a `Nop` under another name.
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

    /// The bytes of all payloads.
    pub fn bytes(&self) -> usize {
        self.commands.iter().map(|command| command.payload.len()).sum()
    }

    /// The union of the commands' footprints.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }
}

/// What an instance may decide: its owner's batch, or nothing; never a third thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Nothing is executed here.
    Nop,
    /// The owner's commands.
    Batch(Arc<Batch>),
}

impl Value {
    /// Whether nothing is executed.
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

/// A decided instance: every replica that learns of it learns the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The instance. A protocol that agrees on one sequence names all its slots as those of one
    /// owner, [`InstanceId::LOG`].
    pub id: InstanceId,
    /// What its proposer calls it: `id`, where only the owner of an instance proposes in it; else
    /// what `Protocol::propose` returned at `proposal.replica`.
    pub proposal: InstanceId,
    /// What it executes.
    pub value: Value,
    /// What it covers. Of no meaning where there is one sequence: all that is below.
    pub deps: Deps,
}

impl Decision {
    /// Of an instance in which only its owner proposes.
    pub fn owned(id: InstanceId, value: Value, deps: Deps) -> Decision {
        Decision { id, proposal: id, value, deps }
    }
}

/// What decides in which order decided instances are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExecutionOrder {
    /// The dependencies that were agreed on, component by component.
    Dependencies,
    /// Their slots, one after the other without a gap.
    Log,
}
