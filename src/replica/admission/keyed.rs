//! Admission key by key: decides which waiting commands are proposed, when, and in which batch
//! (PROTOCOL.md §6b.1).
//!
//! The protocol is safe whatever is proposed when; admission keeps the components of a contended
//! key small. While another owner's instance on a key is unexecuted here, at most two own instances
//! on that key are. Otherwise own instances are pipelined, one a millisecond. Waiting commands
//! queue in order of arrival on each key, and are proposed together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::types::{
    Access, Batch, ClientId, Command, Executed, Footprint, InstanceId, KeyHash, KeyedMap,
    ReplicaId, RequestId, Time,
};

/// Limit of own unexecuted instances on a key that another owner uses.
const CONTENDED: u32 = 2;
/// Limit of own unexecuted instances on a key that no other owner uses.
const PIPELINED: u32 = 256;
/// The least time between two own instances on one key.
const SPACING: Duration = Duration::from_millis(1);

/// Arrival order of a waiting command.
type Ticket = u64;
/// The first ticket of new commands. Returned commands get lower ones.
const FIRST: Ticket = Ticket::MAX / 2;

/// Unexecuted instances that use one key (or everything), by owner and access.
#[derive(Debug, Default)]
struct Use {
    own: [u32; 2],
    others: [u32; 2],
    /// When this replica last proposed an instance on it.
    last: Time,
}

impl Use {
    /// The numbers of own and others' instances that conflict with this access.
    fn conflicting(&self, access: Access) -> (u32, u32) {
        match access {
            Access::Read => (self.own[1], self.others[1]),
            Access::Write => (self.own[0] + self.own[1], self.others[0] + self.others[1]),
        }
    }

    fn is_idle(&self) -> bool {
        self.own == [0; 2] && self.others == [0; 2]
    }
}

/// One key's state; removed when no instance uses the key and no command waits for it.
///
/// The home hint of PROTOCOL.md §6b.2 will be stored here too.
#[derive(Debug, Default)]
struct Key {
    uses: Use,
    waiting: VecDeque<Ticket>,
}

/// Invariants:
///
/// 1. A waiting command's ticket is in the queue of each of its keys (or in `barriers`, when it
///    conflicts with everything), in ticket order.
/// 2. `counted` holds the instances that the uses count, each once.
#[derive(Debug)]
pub(in crate::replica) struct KeyedAdmission {
    me: ReplicaId,
    keys: KeyedMap<KeyHash, Key>,
    /// Use by instances that conflict with everything.
    everything: Use,
    /// Use by all unexecuted instances, for commands that conflict with everything.
    any: Use,
    counted: FxHashMap<InstanceId, Arc<Batch>>,
    waiting: BTreeMap<Ticket, Command>,
    barriers: VecDeque<Ticket>,
    next_ticket: Ticket,
    /// The ticket of the first returned command: those go in front after a `Nop`.
    front_ticket: Ticket,
    waiting_bytes: usize,
    /// Waiting commands to examine.
    ready: Vec<Ticket>,
    /// Pipelined commands that wait only for the clock; `wake` is when the first may be proposed.
    sleeping: Vec<Ticket>,
    wake: Option<Time>,
}

impl KeyedAdmission {
    pub(super) fn new(me: ReplicaId) -> KeyedAdmission {
        KeyedAdmission {
            me,
            keys: KeyedMap::default(),
            everything: Use::default(),
            any: Use::default(),
            counted: FxHashMap::default(),
            waiting: BTreeMap::new(),
            barriers: VecDeque::new(),
            next_ticket: FIRST,
            front_ticket: FIRST,
            waiting_bytes: 0,
            ready: Vec::new(),
            sleeping: Vec::new(),
            wake: None,
        }
    }

    /// The number of waiting commands, and the bytes of their payloads.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting_bytes)
    }

    /// The number of keys in use or waited for.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// When to ask for batches again if nothing else happens.
    pub(super) fn wake(&self) -> Option<Time> {
        self.wake
    }

    /// Adds a new command after all others.
    pub(super) fn push_back(&mut self, command: Command) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.enqueue(ticket, command, VecDeque::push_back);
    }

    /// Adds commands whose instance became a `Nop` in front of all others, in their order.
    pub(super) fn push_front(&mut self, commands: impl DoubleEndedIterator<Item = Command>) {
        for command in commands.rev() {
            self.front_ticket -= 1;
            self.enqueue(self.front_ticket, command, VecDeque::push_front);
        }
    }

    fn enqueue(
        &mut self,
        ticket: Ticket,
        command: Command,
        push: fn(&mut VecDeque<Ticket>, Ticket),
    ) {
        self.waiting_bytes += command.payload.len();
        match command.footprint.keys() {
            None => push(&mut self.barriers, ticket),
            Some(keys) => {
                for (key, _) in keys {
                    push(&mut self.keys.entry(*key).or_default().waiting, ticket);
                }
            }
        }
        self.waiting.insert(ticket, command);
        self.ready.push(ticket);
    }

    /// Removes all waiting commands that were never proposed.
    pub(super) fn take_fresh(&mut self) -> Vec<RequestId> {
        let drop_fresh = |tickets: &mut VecDeque<Ticket>| {
            while tickets.back().is_some_and(|ticket| *ticket >= FIRST) {
                tickets.pop_back();
            }
        };
        let fresh = self.waiting.split_off(&FIRST);
        for command in fresh.values() {
            self.waiting_bytes -= command.payload.len();
            for (key, _) in command.footprint.keys().unwrap_or_default() {
                let Some(entry) = self.keys.get_mut(key) else { continue };
                drop_fresh(&mut entry.waiting);
                if entry.waiting.is_empty() && entry.uses.is_idle() {
                    self.keys.remove(key);
                }
            }
        }
        drop_fresh(&mut self.barriers);
        // Commands that waited after a removed one may now be first on their keys.
        self.ready_all();
        fresh.into_values().map(|command| command.request).collect()
    }

    /// All that wait, in their order: those that were proposed before, and new ones.
    pub(super) fn into_waiting(mut self) -> (Vec<Command>, Vec<Command>) {
        let new = self.waiting.split_off(&FIRST);
        (self.waiting.into_values().collect(), new.into_values().collect())
    }

    /// An instance's payload became known here: it uses its keys until it is executed.
    pub(super) fn learned(&mut self, id: InstanceId, batch: &Arc<Batch>) {
        if self.counted.insert(id, batch.clone()).is_none() {
            self.count(id, batch.footprint(), 1);
        }
    }

    /// An instance was executed or ended as `Nop`.
    pub(super) fn finished(&mut self, id: InstanceId) {
        let Some(batch) = self.counted.remove(&id) else { return };
        self.count(id, batch.footprint(), -1);
        match batch.footprint().keys() {
            None => self.ready_all(),
            Some(keys) => {
                for (key, _) in keys {
                    let Some(entry) = self.keys.get(key) else { continue };
                    match entry.waiting.front() {
                        Some(ticket) => self.ready.push(*ticket),
                        None if entry.uses.is_idle() => {
                            self.keys.remove(key);
                        }
                        None => {}
                    }
                }
                self.ready.extend(self.barriers.front());
            }
        }
    }

    /// All of these are executed: they no longer use their keys.
    pub(super) fn executed(&mut self, executed: &Executed) {
        let gone = self.counted.keys().filter(|id| executed.contains(**id));
        let mut gone: Vec<InstanceId> = gone.copied().collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|id| self.finished(id));
    }

    fn count(&mut self, id: InstanceId, footprint: &Footprint, by: i32) {
        let own = id.replica == self.me;
        let add = |uses: &mut Use, access: Access| {
            let counts = if own { &mut uses.own } else { &mut uses.others };
            let count = &mut counts[access as usize];
            *count = count.checked_add_signed(by).expect("only counted instances are subtracted");
        };
        add(&mut self.any, Access::Write);
        match footprint.keys() {
            None => add(&mut self.everything, Access::Write),
            Some(keys) => {
                for (key, access) in keys {
                    add(&mut self.keys.entry(*key).or_default().uses, *access);
                }
            }
        }
    }

    fn ready_all(&mut self) {
        self.ready.extend(self.waiting.keys());
    }

    /// The batches that may be proposed now. Commands on contended keys get a batch of their own,
    /// so that the others do not wait for them.
    pub(super) fn batches(&mut self, now: Time) -> Vec<Arc<Batch>> {
        if self.wake.is_some_and(|wake| wake <= now) {
            self.wake = None;
            self.ready.append(&mut self.sleeping);
        }
        if self.ready.is_empty() {
            return Vec::new();
        }
        let mut leaving = Leaving::default();
        let mut ready = std::mem::take(&mut self.ready);
        ready.sort_unstable();
        let mut queue: VecDeque<Ticket> = ready.drain(..).collect();
        while let Some(ticket) = queue.pop_front() {
            let Some(command) = self.waiting.get(&ticket) else { continue };
            match self.permits(ticket, command, now, &leaving) {
                Permit::Wait => {}
                Permit::WaitUntil(time) => {
                    self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
                    self.sleeping.push(ticket);
                }
                // The batch is full: the next round counts the instances proposed in this one.
                Permit::Leave { contended } if !leaving.has_room(command, contended) => {
                    self.ready.push(ticket);
                }
                Permit::Leave { contended } => {
                    let command = self.take(ticket, now, &mut queue);
                    leaving.push(command, contended);
                }
            }
        }
        leaving.finish()
    }

    fn permits(&self, ticket: Ticket, command: &Command, now: Time, leaving: &Leaving) -> Permit {
        if self.barriers.front().is_some_and(|barrier| *barrier < ticket) {
            return Permit::Wait;
        }
        let Some(keys) = command.footprint.keys() else {
            let first = self.waiting.first_key_value().is_some_and(|(first, _)| *first == ticket);
            // The commands proposed in this round are not counted yet.
            if !first || !leaving.is_empty() {
                return Permit::Wait;
            }
            return Self::limit(&self.any, Access::Write, (0, 0), now);
        };
        let everything = self.everything.conflicting(Access::Write);
        let mut verdict = Permit::Leave { contended: false };
        for (key, access) in keys {
            let entry = self.keys.get(key).expect("the command waits in its queue");
            if entry.waiting.front() != Some(&ticket) {
                return Permit::Wait;
            }
            // If the key is already used in this round, the command joins the same instance.
            if leaving.contended.keys.contains_key(key) {
                verdict = verdict.and(Permit::Leave { contended: true });
            } else if !leaving.clean.keys.contains_key(key) {
                verdict = verdict.and(Self::limit(&entry.uses, *access, everything, now));
            }
        }
        verdict
    }

    /// The rule for one key.
    fn limit(uses: &Use, access: Access, everything: (u32, u32), now: Time) -> Permit {
        let (own, others) = uses.conflicting(access);
        let (own, others) = (own + everything.0, others + everything.1);
        if others > 0 {
            return if own < CONTENDED { Permit::Leave { contended: true } } else { Permit::Wait };
        }
        if own == 0 {
            return Permit::Leave { contended: false };
        }
        if own >= PIPELINED {
            return Permit::Wait;
        }
        let next = uses.last + SPACING;
        if next <= now { Permit::Leave { contended: true } } else { Permit::WaitUntil(next) }
    }

    /// Removes a command from its queues. The next command on each of its keys is examined next.
    fn take(&mut self, ticket: Ticket, now: Time, queue: &mut VecDeque<Ticket>) -> Command {
        let command = self.waiting.remove(&ticket).expect("a permitted command was waiting");
        self.waiting_bytes -= command.payload.len();
        match command.footprint.keys() {
            None => {
                self.barriers.pop_front();
                self.any.last = now;
                queue.extend(self.waiting.keys());
            }
            Some(keys) => {
                for (key, _) in keys {
                    let entry = self.keys.get_mut(key).expect("its queue held the command");
                    let front = entry.waiting.pop_front();
                    assert_eq!(front, Some(ticket), "first come first served on each key");
                    entry.uses.last = now;
                    queue.extend(entry.waiting.front());
                }
                if self.waiting.first_key_value().map(|(first, _)| first) == self.barriers.front() {
                    self.ready.extend(self.barriers.front());
                }
            }
        }
        command
    }
}

/// Whether a command may be proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Permit {
    Leave {
        contended: bool,
    },
    /// Wait until an instance on its keys has executed.
    Wait,
    WaitUntil(Time),
}

impl Permit {
    /// Combines the verdicts of two keys on one command: the stricter one.
    fn and(self, other: Permit) -> Permit {
        match (self, other) {
            (Permit::Wait, _) | (_, Permit::Wait) => Permit::Wait,
            (Permit::WaitUntil(a), Permit::WaitUntil(b)) => Permit::WaitUntil(a.max(b)),
            (Permit::WaitUntil(a), _) | (_, Permit::WaitUntil(a)) => Permit::WaitUntil(a),
            (Permit::Leave { contended: a }, Permit::Leave { contended: b }) => {
                Permit::Leave { contended: a || b }
            }
        }
    }
}

/// The commands of one round: at most two instances.
#[derive(Default)]
struct Leaving {
    clean: Side,
    contended: Side,
    /// The command that ends the epoch is among them: it is proposed alone.
    ends_epoch: bool,
}

/// The commands of one instance.
#[derive(Default)]
struct Side {
    commands: Vec<Command>,
    keys: KeyedMap<KeyHash, ()>,
    /// The number of keys of all commands, with repetition.
    named: usize,
    bytes: usize,
}

impl Leaving {
    fn is_empty(&self) -> bool {
        self.clean.commands.is_empty() && self.contended.commands.is_empty()
    }

    fn side(&mut self, contended: bool) -> &mut Side {
        if contended { &mut self.contended } else { &mut self.clean }
    }

    /// Whether the instance has room for this command.
    fn has_room(&mut self, command: &Command, contended: bool) -> bool {
        let side = self.side(contended);
        let named = side.named + command.footprint.keys().map_or(0, <[_]>::len);
        let bytes = side.bytes + command.payload.len();
        let fits = side.commands.is_empty()
            || side.commands.len() < Batch::MAX_COMMANDS
                && named <= Batch::MAX_KEYS
                && bytes <= Batch::MAX_BYTES;
        fits && !self.ends_epoch
    }

    fn push(&mut self, command: Command, contended: bool) {
        self.ends_epoch |= command.request.client == ClientId::MEMBERS;
        let side = self.side(contended);
        let keys = command.footprint.keys().unwrap_or_default();
        side.named += keys.len();
        for (key, _) in keys {
            side.keys.insert(*key, ());
        }
        side.bytes += command.payload.len();
        side.commands.push(command);
    }

    /// The batches, the uncontended one first.
    fn finish(self) -> Vec<Arc<Batch>> {
        let sides = [self.clean.commands, self.contended.commands];
        sides.into_iter().filter(|commands| !commands.is_empty()).map(Batch::new).collect()
    }
}
