//! What a replica remembers of the others (`types::Known`), to recognise one that restarts from an
//! older copy of its directory (PROTOCOL.md §7a). It is durable no later than the votes that rest
//! on it: see [`Record`]. The node and the simulator use the same code.

use crate::types::{Known, LogPosition, ReplicaId};

/// A record in a replica's log: its own or its protocol's.
#[derive(Clone, PartialEq, Debug)]
pub enum Record<R> {
    /// How far others' logs were durable; in front of the first record that may rest on it.
    Heard(Vec<Heard>),
    /// A record of the protocol.
    Protocol(R),
}

impl<R> Record<R> {
    /// The protocol's record, if it is one.
    pub fn protocol(&self) -> Option<&R> {
        match self {
            Record::Heard(_) => None,
            Record::Protocol(record) => Some(record),
        }
    }
}

impl<R> From<R> for Record<R> {
    fn from(record: R) -> Record<R> {
        Record::Protocol(record)
    }
}

/// News of one replica, as another keeps it in its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// The replica it is about.
    pub peer: ReplicaId,
    /// Its directory and life, unless they are those of the previous news.
    pub since: Option<Since>,
    /// The furthest position up to which its log is known to be durable.
    pub held: LogPosition,
}

/// A directory and a life; they stay the same until the replica restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since {
    /// The number of its data directory.
    pub directory: u64,
    /// The name of the life.
    pub life: u64,
    /// The log position at which the life began; `None` if an earlier version wrote this.
    pub began: Option<LogPosition>,
}

impl From<Known> for Since {
    fn from(Known { directory, life, began, .. }: Known) -> Since {
        Since { directory, life, began }
    }
}

/// What a replica remembers of all others.
///
/// Invariant: `written` is never ahead of `known`. It can be read back from this replica's log once
/// that is durable up to its present end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    known: Vec<Option<Known>>,
    written: Vec<Option<Known>>,
}

impl Memory {
    /// What is remembered of `peer`.
    pub fn of(&self, peer: ReplicaId) -> Option<Known> {
        self.known.get(peer.index()).copied().flatten()
    }

    /// `peer` is connected in the life `shown`, which contradicts nothing remembered.
    pub fn met(&mut self, peer: ReplicaId, shown: Known) {
        let known = self.entry(peer);
        *known = Some(Known::or_later(*known, shown));
    }

    /// A frame of `peer`, in its present life, shows that its log is durable up to `held`. Ignored
    /// if the peer was never met.
    pub fn heard(&mut self, peer: ReplicaId, held: LogPosition) {
        if let Some(known) = self.entry(peer) {
            known.held = known.held.max(held);
        }
    }

    /// Whether something is remembered that is not written.
    pub fn is_ahead(&self) -> bool {
        self.known != self.written
    }

    /// Everything remembered that is not written; from now on it counts as written.
    pub fn write(&mut self) -> Vec<Heard> {
        let mut news = Vec::new();
        for (place, (known, written)) in self.known.iter().zip(&mut self.written).enumerate() {
            let Some(known) = known.filter(|known| *written != Some(*known)) else { continue };
            let since = Since::from(known);
            let same = written.is_some_and(|before| Since::from(before) == since);
            let since = (!same).then_some(since);
            news.push(Heard { peer: ReplicaId::from_index(place), since, held: known.held });
            *written = Some(known);
        }
        news
    }

    /// Everything remembered, for a snapshot.
    pub fn all(&self) -> Vec<Heard> {
        let all = self.known.iter().enumerate().filter_map(|(place, known)| {
            let known = (*known)?;
            let since = Some(known.into());
            Some(Heard { peer: ReplicaId::from_index(place), since, held: known.held })
        });
        all.collect()
    }

    /// Restores what earlier lives wrote; pass it in order.
    pub fn restore(&mut self, news: &[Heard]) {
        for Heard { peer, since, held } in news.iter().copied() {
            match since {
                Some(Since { directory, life, began }) => {
                    self.met(peer, Known { directory, life, began, held });
                }
                None => self.heard(peer, held),
            }
        }
        self.written.clone_from(&self.known);
    }

    /// What is remembered of each replica, by its position in this epoch.
    pub(super) fn known(&self) -> impl Iterator<Item = (ReplicaId, Known)> {
        let known = self.known.iter().enumerate();
        known.filter_map(|(place, known)| Some((ReplicaId::from_index(place), (*known)?)))
    }

    fn entry(&mut self, peer: ReplicaId) -> &mut Option<Known> {
        if self.known.len() <= peer.index() {
            self.known.resize(peer.index() + 1, None);
            self.written.resize(peer.index() + 1, None);
        }
        &mut self.known[peer.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(records: u64) -> LogPosition {
        LogPosition::new(records)
    }

    fn known(life: u64, held: u64) -> Known {
        Known { directory: 7, life, began: Some(at(held)), held: at(held) }
    }

    #[test]
    fn what_is_remembered_is_written_once_and_restored_whole() {
        let (one, two) = (ReplicaId::from_index(0), ReplicaId::from_index(1));
        let mut memory = Memory::default();
        memory.heard(one, at(3));
        assert!(!memory.is_ahead() && memory.of(one).is_none(), "it was never met");
        memory.met(two, known(4, 10));
        let mut log = memory.write();
        assert_eq!(log, [Heard { peer: two, since: Some(known(4, 10).into()), held: at(10) }]);
        assert!(!memory.is_ahead());
        memory.heard(two, at(12));
        memory.heard(two, at(11));
        assert!(memory.is_ahead());
        log.extend(memory.write());
        assert_eq!(log[1..], [Heard { peer: two, since: None, held: at(12) }]);
        memory.met(two, known(5, 12));
        memory.met(one, known(8, 0));
        log.extend(memory.write());
        for news in [log, memory.all()] {
            let mut again = Memory::default();
            again.restore(&news);
            assert_eq!(again, memory);
        }
    }

    #[test]
    fn where_a_life_began_is_written_once_it_is_known() {
        let two = ReplicaId::from_index(1);
        let before = Known { began: None, ..known(4, 10) };
        let mut memory = Memory::default();
        let mut log = vec![Heard { peer: two, since: Some(before.into()), held: at(10) }];
        memory.restore(&log);
        memory.met(two, Known { began: Some(at(6)), ..known(4, 11) });
        assert!(memory.is_ahead());
        log.extend(memory.write());
        let since = Since { directory: 7, life: 4, began: Some(at(6)) };
        assert_eq!(log[1..], [Heard { peer: two, since: Some(since), held: at(11) }]);
        let mut again = Memory::default();
        again.restore(&log);
        assert_eq!(again.of(two), memory.of(two));
    }
}
