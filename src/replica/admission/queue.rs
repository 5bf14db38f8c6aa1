//! Admission in order of arrival: for protocols that agree on a single sequence. All waiting
//! commands are proposed together, up to the limits of a batch.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::{Batch, ClientId, Command, RequestId};

/// First come, first served.
#[derive(Debug, Default)]
pub(in crate::replica) struct Queue {
    commands: VecDeque<Command>,
    /// How many of the first commands were proposed before and returned.
    returned: usize,
    bytes: usize,
}

impl Queue {
    /// The number of waiting commands, and the bytes of their payloads.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.commands.len(), self.bytes)
    }

    pub(super) fn push_back(&mut self, command: Command) {
        self.bytes += command.payload.len();
        self.commands.push_back(command);
    }

    pub(super) fn push_front(&mut self, command: Command) {
        self.bytes += command.payload.len();
        self.commands.push_front(command);
        self.returned += 1;
    }

    pub(super) fn take_fresh(&mut self) -> Vec<RequestId> {
        let fresh = self.commands.split_off(self.returned);
        self.bytes -= fresh.iter().map(|command| command.payload.len()).sum::<usize>();
        fresh.into_iter().map(|command| command.request).collect()
    }

    /// All waiting commands, up to the limits of a batch.
    pub(super) fn batch(&mut self) -> Option<Arc<Batch>> {
        let (mut keys, mut bytes) = (0, 0);
        let fits = |command: &&Command| {
            keys += command.footprint.keys().map_or(0, <[_]>::len);
            bytes += command.payload.len();
            keys <= Batch::MAX_KEYS && bytes <= Batch::MAX_BYTES
        };
        let together = self.commands.iter().take(Batch::MAX_COMMANDS).take_while(fits).count();
        // Nothing of the epoch follows the command that ends it, so it is proposed alone.
        let ends = |command: &Command| command.request.client == ClientId::MEMBERS;
        let before = self.commands.iter().take(together).take_while(|it| !ends(it)).count();
        let together = if before < together { before } else { together };
        // A single command may exceed the limits.
        let leaving = together.max(1).min(self.commands.len());
        let commands: Vec<Command> = self.commands.drain(..leaving).collect();
        self.returned = self.returned.saturating_sub(leaving);
        if commands.is_empty() {
            return None;
        }
        self.bytes -= commands.iter().map(|command| command.payload.len()).sum::<usize>();
        Some(Batch::new(commands))
    }

    /// All that wait, in their order: those that were proposed before, and new ones.
    pub(super) fn into_waiting(mut self) -> (Vec<Command>, Vec<Command>) {
        let new = self.commands.split_off(self.returned);
        (self.commands.into(), new.into())
    }
}
