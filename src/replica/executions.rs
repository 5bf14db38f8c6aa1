//! Takes the decided commands that may be executed out of the executor, up to the one that ends the
//! epoch. After the protocol, before `Output::execute`.

use super::Execution;
use super::commands::Commands;
use crate::execute::{AnyExecutor, InLog};
use crate::types::{Batch, Membership, ReplicaId, Value};

/// What was taken out.
#[derive(Default)]
pub(super) struct Ran {
    /// Whether anything was, a `Nop` included.
    pub(super) any: bool,
    /// The list of members that follows, if the command that ends the epoch was among them.
    pub(super) ended: Option<Membership>,
}

/// Puts out everything that may be executed in `epoch` at replica `me`. Nothing follows the command
/// that ends the epoch.
pub(super) fn execute(
    executor: &mut AnyExecutor,
    commands: &mut Commands,
    me: ReplicaId,
    epoch: u32,
    out: &mut Vec<Execution>,
) -> Ran {
    let mut ran = Ran::default();
    while let Some(component) = executor.next_component() {
        ran.any = true;
        let last = component.instances.len() - 1;
        for (index, (id, batch)) in component.instances.into_iter().enumerate() {
            commands.finished(id);
            ran.ended = list_after(&batch, epoch);
            let ends_component = index == last || ran.ended.is_some();
            out.push(Execution { id, batch, ends_component, me });
            if ran.ended.is_some() {
                return ran;
            }
        }
    }
    while let Some(InLog { id, proposal, value }) = executor.next_slot() {
        ran.any = true;
        if proposal.replica == me {
            commands.finished(proposal);
        }
        if let Value::Batch(batch) = value {
            ran.ended = list_after(&batch, epoch);
            out.push(Execution { id, batch, ends_component: true, me });
            if ran.ended.is_some() {
                return ran;
            }
        }
    }
    ran
}

/// The list that the last command of the epoch begins, if this batch is that command. One that
/// cannot be decoded, or is not alone, was proposed against the rules. All replicas find that, so
/// it has no effect at any of them.
pub(super) fn list_after(batch: &Batch, epoch: u32) -> Option<Membership> {
    let [command] = batch.commands() else { return None };
    Membership::begun_by(command, epoch)?.ok()
}
