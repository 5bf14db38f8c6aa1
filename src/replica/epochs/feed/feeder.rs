//! The member's side of a feed: it keeps what it executed lately, and sends it to the observers
//! that ask. One that is slow is sent to a snapshot; it slows nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::rules::Rules;
use super::{Fed, Feed, LAST_WINDOW, WINDOW};
use crate::replica::Execution;
use crate::types::{Batch, Deps, Executed, MemberId, Time};

/// The most bytes of commands that are kept for observers. The commands are shared with the rest of
/// the replica, so this is how much is kept in memory after the replica needs it no more.
const MAX_BYTES: usize = 32 << 20;
/// Commands are sent in pieces of at most so many bytes, or of a single instance.
const PIECE: usize = 128 << 10;

/// What a member feeds observers with, in one epoch. It exists while the list has observers.
///
/// Invariants:
///
/// 1. `before` and `kept` together are what is executed here, in the order of execution.
/// 2. `bytes` is the size of what is kept. `first` is how many were kept and are no more.
/// 3. An observer is fed by at most one feed.
#[derive(Debug)]
pub(in crate::replica::epochs) struct Feeder {
    rules: Rules,
    /// The most instances that are kept.
    most: usize,
    before: Executed,
    kept: VecDeque<Kept>,
    first: u64,
    bytes: usize,
    /// Everything up to here is executed, or a `Nop`.
    floor: Deps,
    observers: BTreeMap<MemberId, Observer>,
    /// What is to be sent.
    say: Vec<Say>,
}

/// An instance that was executed here.
#[derive(Debug)]
struct Kept {
    fed: Fed,
    bytes: usize,
    /// Everything up to here was executed with it; known for the last instance of a step.
    floor: Option<Deps>,
}

/// What is known of an observer.
#[derive(Debug, Default)]
struct Observer {
    /// When it looked last, and how far it was.
    looked: Option<(Time, Deps)>,
    asked: Option<Time>,
    feeding: Option<Feeding>,
}

/// An observer is fed.
#[derive(Debug)]
struct Feeding {
    feed: u64,
    /// What it had when it asked.
    have: Executed,
    /// The first that was not sent: of all that was ever kept.
    next: u64,
    /// How many pieces were sent, and how many have arrived.
    sent: u64,
    got: u64,
    spoke: Time,
}

/// What an observer is to be sent.
pub(in crate::replica::epochs) type Say = (MemberId, Feed);

impl Feeder {
    /// For a replica that has executed `done`, and everything up to `floor`.
    pub(in crate::replica::epochs) fn new(
        done: Executed,
        floor: Deps,
        most: usize,
        rules: Rules,
    ) -> Feeder {
        Feeder {
            rules,
            most,
            before: done,
            kept: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor,
            observers: BTreeMap::new(),
            say: Vec::new(),
        }
    }

    /// The replica executes these, and has then executed everything up to `floor`.
    pub(in crate::replica::epochs) fn note(&mut self, executions: &[Execution], floor: &Deps) {
        for Execution { id, batch, ends_component, .. } in executions {
            let fed = Fed { id: *id, batch: batch.clone(), ends_component: *ends_component };
            let bytes = size(batch);
            self.bytes += bytes;
            self.kept.push_back(Kept { fed, bytes, floor: None });
        }
        if self.floor != *floor {
            self.floor.clone_from(floor);
        }
        if !executions.is_empty()
            && let Some(last) = self.kept.back_mut()
        {
            last.floor = Some(floor.clone());
        }
        while self.bytes > MAX_BYTES || self.kept.len() > self.most {
            let Kept { fed, bytes, floor } = self.kept.pop_front().expect("something is kept");
            self.bytes -= bytes;
            self.first += 1;
            self.before.insert(fed.id);
            if let Some(floor) = floor {
                self.before.raise(&floor);
            }
        }
    }

    /// What an observer of this epoch says. It is asked no more often than every `gossip` whether
    /// it can be fed.
    pub(in crate::replica::epochs) fn on_feed(
        &mut self,
        from: MemberId,
        feed: Feed,
        (now, gossip): (Time, Duration),
    ) {
        let say = &mut self.say;
        let observer = self.observers.entry(from).or_default();
        match feed {
            Feed::Look { sent, executed } => {
                observer.looked = Some((now, executed));
                say.push((from, Feed::Here { echo: sent, executed: self.floor.clone() }));
            }
            Feed::Ask { feed, have } => {
                if observer.asked.is_some_and(|asked| now.since(asked) < gossip) {
                    return;
                }
                observer.asked = Some(now);
                observer.feeding = None;
                if self.rules.a_gap_is_noticed() && !have.includes(&self.before) {
                    let at_least = self.before.ends();
                    return say.push((from, Feed::Behind { feed, at_least }));
                }
                let (next, spoke) = (self.first, now);
                observer.feeding = Some(Feeding { feed, have, next, sent: 0, got: 0, spoke });
            }
            Feed::Got { feed, pieces } => {
                if let Some(feeding) = observer.feeding.as_mut().filter(|it| it.feed == feed) {
                    feeding.got = feeding.got.max(pieces.min(feeding.sent));
                }
            }
            // A member says these.
            Feed::Here { .. } | Feed::Piece { .. } | Feed::Behind { .. } => {}
        }
    }

    /// Sends what may be sent, and a sign of life every `gossip`.
    pub(in crate::replica::epochs) fn feed(&mut self, (now, gossip): (Time, Duration)) {
        self.send(WINDOW, (now, gossip));
    }

    /// The epoch has ended: sends as much as a network may take at once. An observer that lacks
    /// more fetches the state of the next.
    pub(in crate::replica::epochs) fn finish(&mut self, now: Time) {
        self.send(LAST_WINDOW, (now, Duration::MAX));
    }

    /// What is to be sent.
    pub(in crate::replica::epochs) fn take_said(&mut self) -> Vec<Say> {
        std::mem::take(&mut self.say)
    }

    fn send(&mut self, window: u64, (now, gossip): (Time, Duration)) {
        let Feeder { rules, before, kept, first, floor, observers, say, .. } = self;
        for (id, observer) in observers {
            let Some(feeding) = &mut observer.feeding else { continue };
            if rules.a_gap_is_noticed() && feeding.next < *first {
                let (feed, at_least) = (feeding.feed, before.ends());
                say.push((*id, Feed::Behind { feed, at_least }));
                observer.feeding = None;
                continue;
            }
            while feeding.sent < feeding.got + window {
                let (executions, piece_floor) = feeding.piece(*rules, kept, *first, floor);
                let quiet = feeding.sent == feeding.got && now.since(feeding.spoke) >= gossip;
                if executions.is_empty() && !quiet {
                    break;
                }
                let is_last = executions.is_empty();
                let (feed, number) = (feeding.feed, feeding.sent);
                feeding.sent += 1;
                feeding.spoke = now;
                say.push((*id, Feed::Piece { feed, number, executions, floor: piece_floor }));
                if is_last {
                    break;
                }
            }
        }
    }

    /// For each observer that has looked: when, and how many instances it is behind.
    pub(in crate::replica::epochs) fn progress(
        &self,
    ) -> impl Iterator<Item = (MemberId, Time, u64)> + '_ {
        self.observers.iter().filter_map(|(id, observer)| {
            let (at, executed) = observer.looked.as_ref()?;
            Some((*id, *at, lacks(executed, &self.floor)))
        })
    }
}

impl Feeding {
    /// The next piece; empty if the observer has everything.
    fn piece(
        &mut self,
        rules: Rules,
        kept: &VecDeque<Kept>,
        first: u64,
        floor: &Deps,
    ) -> (Vec<Fed>, Option<Deps>) {
        let (mut executions, mut bytes, mut reached) = (Vec::<Fed>::new(), 0, None);
        let begin = usize::try_from(self.next.saturating_sub(first)).expect("it is kept");
        for one in kept.range(begin..) {
            let has = match rules.what_an_observer_has_is_left_out_alone() {
                true => self.have.contains(one.fed.id),
                false => self.have.ends().covers(one.fed.id),
            };
            if !has {
                if !executions.is_empty() && bytes + one.bytes > PIECE {
                    return (executions, reached);
                }
                bytes += one.bytes;
                executions.push(one.fed.clone());
            }
            self.next = self.next.max(first) + 1;
            reached = one.floor.clone().or(reached);
        }
        (executions, Some(floor.clone()))
    }
}

/// Roughly the bytes that a batch takes.
fn size(batch: &Batch) -> usize {
    let keys = |footprint: &crate::types::Footprint| footprint.keys().map_or(0, <[_]>::len);
    let commands = batch.commands().iter();
    commands.map(|command| 64 + command.payload.len() + 16 * keys(&command.footprint)).sum()
}

/// How many instances lie between two prefixes.
pub(super) fn lacks(executed: &Deps, of: &Deps) -> u64 {
    let pairs = executed.as_slots().iter().zip(of.as_slots());
    pairs.map(|(here, there)| there.saturating_sub(*here)).sum()
}
