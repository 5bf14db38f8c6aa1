//! The faults: each kind strikes now and then while the unrest lasts, if the seed has drawn it.
//! Used by `world`; the links' steady loss, duplication and delay are in `network`.

pub(super) mod absences;
pub(super) mod disks;
mod eras;
pub(super) mod older_disks;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::RngExt;

use super::checks::Breach;
use super::report::Counter;
use super::subject::Subject;
use super::world::network::{Kind, Rule};
use super::world::restarts::{Doom, Moment};
use super::world::state::{Event, World};
use crate::types::{Quorums, ReplicaId, ReplicaSet, Time};

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// All of them, in declaration order.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }
        }
    };
}

faults! {
    /// Messages are lost at a steady rate.
    Drop = "drop",
    /// Messages arrive twice.
    Duplicate = "duplicate",
    /// Messages arrive late, and out of order.
    Late = "late",
    /// What clients say or are told is lost.
    ClientDrop = "client-drop",
    /// Groups of replicas cannot talk, for a while.
    Partition = "partition",
    /// A link is down from now on.
    LinkCut = "link-cut",
    /// Signs of life are lost.
    Mute = "mute",
    /// Recover does not reach owners.
    KeepRecover = "keep-recover",
    /// Commits are lost.
    LoseCommit = "lose-commit",
    /// Some PreAccepts are lost.
    LosePreAccept = "lose-pre-accept",
    /// Votes are lost.
    LoseVote = "lose-vote",
    /// What recoveries say is lost.
    LoseRecovery = "lose-recovery",
    /// A replica dies.
    Crash = "crash",
    /// A replica dies after some of its PreAccepts have left.
    CrashProposing = "crash-proposing",
    /// A replica stops for a while.
    Pause = "pause",
    /// Replicas propose conflicting commands at once, with some PreAccepts and Commits lost, and
    /// some of the owners out of reach afterwards.
    Duel = "duel",
    /// Flushes take long.
    SlowDisk = "slow-disk",
    /// Clocks run at different rates.
    Clock = "clock",
    /// A replica stops, loses what was not flushed, and comes back.
    Restart = "restart",
    /// Several do, at once.
    RestartSome = "restart-some",
    /// All do, at once.
    PowerFailure = "power-failure",
    /// A replica stops and comes back, several times in a row.
    RestartAgain = "restart-again",
    /// A replica stops while it proposes, votes, or recovers, with some of that said, and comes
    /// back.
    RestartSpeaking = "restart-speaking",
    /// A replica stops in the middle of a flush, which leaves it torn.
    TornFlush = "torn-flush",
    /// A flush fails.
    FlushFails = "flush-fails",
    /// A write fails.
    WriteFails = "write-fails",
    /// A read fails while a replica starts.
    ReadFails = "read-fails",
    /// A replica stops again while it starts.
    StopStarting = "stop-starting",
    /// A disk is full for a while.
    DiskFull = "disk-full",
    /// A bit turns over on the disk of a replica that is down.
    BitFlip = "bit-flip",
    /// A replica that is down loses its disk and gets a new one.
    Wipe = "wiped-disk",
    /// A replica comes back with an older copy of its disk.
    OlderDisk = "older-disk",
    /// Members are out of reach for so long that the others drop what they lack.
    Absence = "absence",
    /// Eras end, and with them sessions; commands arrive long after they were sent.
    EndEra = "era-end",
}

impl Fault {
    /// Those that only worlds with restarts have.
    pub(super) const RESTARTS: [Fault; 5] = [
        Fault::Restart,
        Fault::RestartSome,
        Fault::PowerFailure,
        Fault::RestartAgain,
        Fault::RestartSpeaking,
    ];

    /// Those that only worlds with snapshots have.
    pub(super) const TRUNCATING: [Fault; 1] = [Fault::Absence];

    /// Those of disks, that only worlds with the real storage room have.
    pub(super) const DISKS: [Fault; 8] = [
        Fault::TornFlush,
        Fault::FlushFails,
        Fault::WriteFails,
        Fault::ReadFails,
        Fault::StopStarting,
        Fault::DiskFull,
        Fault::BitFlip,
        Fault::Wipe,
    ];
}

/// Some kinds of faults. Written as their names with commas between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultSet(u64);

impl FaultSet {
    /// Adds a kind.
    pub fn insert(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u64;
    }

    /// Whether a kind is in it.
    pub const fn contains(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }

    /// Whether no kind is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for fault in Fault::ALL.iter().filter(|fault| self.contains(**fault)) {
            write!(f, "{comma}{}", fault.name())?;
            comma = ",";
        }
        Ok(())
    }
}

/// No fault has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no fault {0:?}")]
pub struct UnknownFault(String);

impl FromStr for FaultSet {
    type Err = UnknownFault;

    fn from_str(names: &str) -> Result<FaultSet, UnknownFault> {
        let mut set = FaultSet::default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let fault = Fault::ALL.iter().find(|fault| fault.name() == name);
            set.insert(*fault.ok_or_else(|| UnknownFault(name.to_owned()))?);
        }
        Ok(set)
    }
}

/// Certainly lost.
const ALWAYS: u32 = 65536;

impl<P: Subject> World<'_, P> {
    /// The next fault of a kind comes after a random while.
    pub(super) fn schedule_fault(&mut self, index: usize) {
        let mean = self.plan.faults[index].1;
        let wait = mean.mul_f64(-self.rng.random::<f64>().max(1e-6).ln());
        self.later(wait, Event::Fault(index));
    }

    /// A fault strikes.
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("fault: {}", fault.name()));
        match fault {
            Fault::Partition => self.partition(),
            Fault::LinkCut => self.cut_link(),
            Fault::Mute => self.lose(Kind::Signs, ALWAYS, Counter::Muted),
            Fault::KeepRecover => self.lose(Kind::RecoverToOwner, ALWAYS, Counter::KeptRecover),
            Fault::LoseCommit => self.lose(Kind::Commit, ALWAYS, Counter::LostCommit),
            Fault::LosePreAccept => self.lose(Kind::PreAccept, 40_000, Counter::LostPreAccept),
            Fault::LoseVote => self.lose(Kind::Votes, 40_000, Counter::LostVote),
            Fault::LoseRecovery => self.lose(Kind::Recovery, 30_000, Counter::LostRecovery),
            Fault::Crash => {
                if let Some(victim) = self.victim() {
                    self.counters.hit(Counter::Crash);
                    self.crash(victim);
                }
            }
            Fault::CrashProposing => {
                if let Some(victim) = self.victim() {
                    let returns = self.plan.restarts && self.rng.random_ratio(1, 2);
                    let doom = Doom { moment: Moment::Proposing, returns };
                    self.hosts[victim.index()].doom = Some(doom);
                }
            }
            Fault::Pause => self.pause(),
            Fault::Duel => self.duel(),
            Fault::Absence => self.absence(),
            Fault::EndEra => self.end_era(),
            Fault::Restart
            | Fault::RestartSome
            | Fault::PowerFailure
            | Fault::RestartAgain
            | Fault::RestartSpeaking => return self.strike_down(fault),
            Fault::TornFlush
            | Fault::FlushFails
            | Fault::WriteFails
            | Fault::ReadFails
            | Fault::DiskFull
            | Fault::BitFlip
            | Fault::Wipe => return self.strike_disk(fault),
            Fault::OlderDisk => return self.older_disk(),
            // In force from the start, in the plan.
            Fault::Drop
            | Fault::Duplicate
            | Fault::Late
            | Fault::ClientDrop
            | Fault::SlowDisk
            | Fault::StopStarting
            | Fault::Clock => {}
        }
        Ok(())
    }

    fn quorums(&self) -> Quorums {
        Quorums::new(self.plan.replicas).expect("a supported size")
    }

    /// How long a fault lasts: often less than a suspicion takes, sometimes much more.
    pub(super) fn spell(&mut self) -> Duration {
        let spread = self.rng.random::<f64>();
        self.plan.timing.suspect.mul_f64(0.1 * 80f64.powf(spread))
    }

    pub(super) fn any(&mut self) -> ReplicaId {
        ReplicaId::from_index(self.rng.random_range(0..self.plan.replicas))
    }

    pub(super) fn some(&mut self) -> ReplicaSet {
        let mask = self.rng.random::<u64>();
        let chosen = ReplicaId::all(self.plan.replicas);
        chosen.filter(|replica| mask >> replica.index() & 1 == 1).collect()
    }

    fn everybody(&self) -> ReplicaSet {
        ReplicaSet::all(self.plan.replicas)
    }

    fn rule(&mut self, kind: Kind, from: ReplicaSet, to: ReplicaSet, counter: Counter) -> Rule {
        let until = self.now + self.spell();
        Rule { kind, from, to, loss: ALWAYS, until, flap: None, since: self.now, counter }
    }

    /// One kind of message is lost between some replicas.
    fn lose(&mut self, kind: Kind, loss: u32, counter: Counter) {
        let everybody = self.everybody();
        let from = if self.rng.random_ratio(1, 3) { everybody } else { self.some() };
        let to = if self.rng.random_ratio(1, 3) { everybody } else { self.some() };
        let rule = self.rule(kind, from, to, counter);
        self.network.add(Rule { loss, ..rule });
    }

    /// One direction of one link, or both, until the unrest ends.
    fn cut_link(&mut self) {
        let (a, b) = (self.any(), self.any());
        let both = self.rng.random_ratio(1, 2);
        let [a, b] = [a, b].map(|one| ReplicaSet::from_iter([one]));
        let rule = self.rule(Kind::Any, a, b, Counter::LinkCut);
        let rule = Rule { until: Time::from_nanos(u64::MAX), ..rule };
        if both {
            self.network.add(Rule { from: b, to: a, ..rule.clone() });
        }
        self.network.add(rule);
    }

    fn partition(&mut self) {
        let n = self.plan.replicas;
        let everybody = self.everybody();
        let without = |set: ReplicaSet| -> ReplicaSet {
            everybody.iter().filter(|replica| !set.contains(*replica)).collect()
        };
        let one = ReplicaSet::from_iter([self.any()]);
        let half = self.some();
        let shape = self.rng.random_range(0..6);
        let (pairs, counter) = match shape {
            0 => (vec![(half, without(half)), (without(half), half)], Counter::Halves),
            1 => (vec![(one, without(one)), (without(one), one)], Counter::Isolated),
            2 => (vec![(half, without(half))], Counter::OneWay),
            3 => {
                // Two halves that only the bridge can talk to.
                let left: ReplicaSet = half.iter().filter(|it| !one.contains(*it)).collect();
                let right = without(left.union(one));
                (vec![(left, right), (right, left)], Counter::Bridge)
            }
            4 => {
                // Everybody sees a majority, no two the same.
                let near = n / 4;
                let far = |from: ReplicaId, to: ReplicaId| {
                    let apart = from.index().abs_diff(to.index());
                    apart.min(n - apart) > near.max(1)
                };
                let sees = |from: ReplicaId| everybody.iter().filter(move |to| far(from, *to));
                let cuts = everybody.iter();
                let pairs = cuts.map(|it| (ReplicaSet::from_iter([it]), sees(it).collect()));
                (pairs.collect(), Counter::Ring)
            }
            _ => (vec![(half, without(half)), (without(half), half)], Counter::Flapping),
        };
        let until = self.now + self.spell();
        let flap = (shape == 5).then(|| self.spell() / 4);
        for (from, to) in pairs {
            let rule = self.rule(Kind::Any, from, to, counter);
            self.network.add(Rule { until, flap, ..rule });
        }
    }

    /// Somebody who may die: as many as all the rest can do without.
    fn victim(&mut self) -> Option<ReplicaId> {
        let chosen = self.any();
        let host = &self.hosts[chosen.index()];
        (self.may_lose_one() && host.alive && host.doom.is_none()).then_some(chosen)
    }

    /// Whether more may be gone for good.
    pub(super) fn may_lose_one(&self) -> bool {
        self.hosts.iter().filter(|host| host.is_gone()).count() < self.expendable()
    }

    /// How many may be gone for good: f; fewer where owners that come back are silent about their
    /// orphans. Each of those counts as a failure itself, and orphans of two owners that conflict
    /// must not both keep `|Rmax| = |Q| - e` disjoint votes among the rest: then each waits for the
    /// other, rightly, since either may have been fast.
    fn expendable(&self) -> usize {
        let Quorums { n, f, e } = self.quorums();
        if self.plan.optimisations.silent_orphans { (f - 1).min(n - 2 * e - 1) } else { f }
    }

    /// A replica dies for good.
    pub(super) fn crash(&mut self, victim: ReplicaId) {
        self.trace.say(self.now, || format!("{victim} dies"));
        self.hosts[victim.index()].go_down();
    }

    /// A replica stands still; what arrives meanwhile waits, or is lost.
    fn pause(&mut self) {
        let victim = self.any();
        let until = self.now + self.spell();
        let losing = self.rng.random_ratio(1, 2);
        self.counters.hit(if losing { Counter::PauseLosing } else { Counter::Pause });
        let host = &mut self.hosts[victim.index()];
        host.free_at = host.free_at.max(until);
        if losing {
            host.deaf_until = until;
        }
    }

    /// Concurrent proposals on one key, of which each reaches only some; then some of the owners
    /// are out of reach, so that the others recover what they know.
    fn duel(&mut self) {
        self.counters.hit(Counter::Duel);
        if self.plan.replicas > 4 && self.rng.random_ratio(1, 3) {
            return self.duel_of_two();
        }
        let proposers = self.some();
        let spell = self.plan.timing.suspect.mul_f64(1.5 + 4.0 * self.rng.random::<f64>());
        let brief = self.now + spell / 8;
        for proposer in proposers.iter() {
            let from = ReplicaSet::from_iter([proposer]);
            let missing = self.some();
            let rule = self.rule(Kind::PreAccept, from, missing, Counter::LostPreAccept);
            self.network.add(Rule { until: brief, ..rule });
            if self.rng.random_ratio(1, 2) {
                let to = self.some();
                let rule = self.rule(Kind::Commit, from, to, Counter::LostCommit);
                self.network.add(Rule { until: self.now + spell / 2, ..rule });
            }
        }
        let key = if self.rng.random_ratio(1, 2) { self.clients.fresh_key() } else { 0 };
        for proposer in proposers.iter() {
            let asks = self.clients.duel(proposer, key, self.now, &mut self.counters);
            self.ask_all(asks, 0);
        }
        if self.rng.random_ratio(1, 2) {
            self.deafen(proposers);
        } else {
            self.seclude(spell);
        }
    }

    /// Two propose; some hear of the first alone, the rest of the second alone. The first is cut
    /// off, and when the others recover what it left, the second has not heard its votes yet: so
    /// that recovery waits, and then sees the second one decided (PROTOCOL.md §5.5).
    fn duel_of_two(&mut self) {
        self.counters.hit(Counter::DuelOfTwo);
        let (n, e) = (self.plan.replicas, self.quorums().e);
        let everybody = self.everybody();
        let turn = self.rng.random_range(0..n);
        let order: Vec<_> = (0..n).map(|at| ReplicaId::from_index((at + turn) % n)).collect();
        let hears_first = self.quorums().slow() - e;
        let first = ReplicaSet::from_iter([order[0]]);
        let second = ReplicaSet::from_iter([order[1]]);
        let near_first: ReplicaSet = order[2..2 + hears_first].iter().copied().collect();
        let near_second: ReplicaSet = order[2 + hears_first..].iter().copied().collect();
        // With these out of hearing the second owner is one of those that the recovery asks.
        let quiet = order[3 + hears_first..].iter().copied().collect();
        let suspect = self.plan.timing.suspect;
        let until = self.now + suspect.mul_f64(5.0 + 2.0 * self.rng.random::<f64>());
        let heard = self.now + suspect.mul_f64(1.5 + 2.5 * self.rng.random::<f64>());
        let gone = self.now + suspect / 4;
        let lost = |kind, from, to, since, until, counter| Rule {
            kind,
            from,
            to,
            loss: ALWAYS,
            until,
            flap: None,
            since,
            counter,
        };
        for rule in [
            lost(Kind::PreAccept, first, near_second, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, first, second, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, second, near_first, self.now, until, Counter::LostPreAccept),
            lost(Kind::PreAccept, second, first, self.now, until, Counter::LostPreAccept),
            lost(Kind::Votes, everybody, second, self.now, heard, Counter::LostVote),
            lost(Kind::Any, quiet, near_first, gone, until, Counter::OneWay),
            lost(Kind::Any, first, everybody, gone, until, Counter::Isolated),
            lost(Kind::Any, everybody, first, gone, until, Counter::Isolated),
        ] {
            self.network.add(rule);
        }
        let key = self.clients.fresh_key();
        for proposer in [order[0], order[1]] {
            let asks = self.clients.duel(proposer, key, self.now, &mut self.counters);
            self.ask_all(asks, 0);
        }
    }

    /// Owners hear neither votes nor recoveries of their own instances, but take part in others',
    /// so that recoveries have to wait for each other (PROTOCOL.md §5.5). Each hears again in its
    /// time, and may still decide what another recovery waits for.
    fn deafen(&mut self, owners: ReplicaSet) {
        self.counters.hit(Counter::Deafened);
        let everybody = self.everybody();
        let long = self.plan.timing.suspect.max(self.plan.timing.patience);
        for owner in owners.iter() {
            let owner = ReplicaSet::from_iter([owner]);
            let until = self.now + long.mul_f64(0.7 + 2.5 * self.rng.random::<f64>());
            for kind in [Kind::Votes, Kind::RecoverToOwner] {
                let rule = self.rule(kind, everybody, owner, Counter::LostVote);
                self.network.add(Rule { until, ..rule });
            }
        }
    }

    /// Some replicas are out of reach, and owners hear of no recovery.
    fn seclude(&mut self, spell: Duration) {
        let f = self.quorums().f;
        let gone: ReplicaSet = self.some().iter().take(f).collect();
        let everybody = self.everybody();
        let since = self.now + self.plan.timing.suspect.mul_f64(0.2 * self.rng.random::<f64>());
        let rule = self.rule(Kind::Any, gone, everybody, Counter::Isolated);
        let rule = Rule { until: self.now + spell, since, ..rule };
        self.network.add(Rule { from: everybody, to: gone, ..rule.clone() });
        self.network.add(rule);
        if self.rng.random_ratio(1, 2) {
            let rule = self.rule(Kind::RecoverToOwner, everybody, everybody, Counter::KeptRecover);
            self.network.add(Rule { until: self.now + spell * 2, ..rule });
        }
    }
}
