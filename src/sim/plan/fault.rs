//! The kinds of faults that a seed may draw. `faults` implements them.

use std::fmt;
use std::str::FromStr;

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
    /// Requests and answers of clients are lost.
    ClientDrop = "client-drop",
    /// Groups of replicas cannot reach each other for a while.
    Partition = "partition",
    /// A link is down from then on.
    LinkCut = "link-cut",
    /// Heartbeats are lost.
    Mute = "mute",
    /// Recover messages do not reach owners.
    KeepRecover = "keep-recover",
    /// Commits are lost.
    LoseCommit = "lose-commit",
    /// Some PreAccepts are lost.
    LosePreAccept = "lose-pre-accept",
    /// Votes are lost.
    LoseVote = "lose-vote",
    /// Messages of recoveries are lost.
    LoseRecovery = "lose-recovery",
    /// A replica dies.
    Crash = "crash",
    /// A replica dies after some of its PreAccepts have left.
    CrashProposing = "crash-proposing",
    /// A replica stops for a while.
    Pause = "pause",
    /// Replicas propose conflicting commands at once. Some PreAccepts and Commits are lost, and
    /// some of the owners become unreachable.
    Duel = "duel",
    /// Flushes take long.
    SlowDisk = "slow-disk",
    /// Clocks run at different rates.
    Clock = "clock",
    /// A replica stops, loses what was not flushed, and comes back.
    Restart = "restart",
    /// Several replicas restart at once.
    RestartSome = "restart-some",
    /// All replicas restart at once.
    PowerFailure = "power-failure",
    /// A replica stops and comes back, several times in a row.
    RestartAgain = "restart-again",
    /// A replica stops while it sends a proposal, a vote or a recovery, after some messages have
    /// left, and comes back.
    RestartSpeaking = "restart-speaking",
    /// A replica stops during a flush, which leaves it torn.
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
    /// A bit flips on the disk of a replica that is down.
    BitFlip = "bit-flip",
    /// A replica that is down loses its disk and gets a new one.
    Wipe = "wiped-disk",
    /// A replica comes back with an older copy of its disk.
    OlderDisk = "older-disk",
    /// Members are unreachable for so long that the others drop what they lack.
    Absence = "absence",
    /// Eras end, and with them sessions; commands arrive long after they were sent.
    EndEra = "era-end",
}

impl Fault {
    /// Faults that only worlds with restarts have.
    pub(in crate::sim) const RESTARTS: [Fault; 5] = [
        Fault::Restart,
        Fault::RestartSome,
        Fault::PowerFailure,
        Fault::RestartAgain,
        Fault::RestartSpeaking,
    ];

    /// Faults that only worlds with snapshots have.
    pub(in crate::sim) const TRUNCATING: [Fault; 1] = [Fault::Absence];

    /// Faults of disks, which only worlds with the real storage have.
    pub(in crate::sim) const DISKS: [Fault; 8] = [
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

/// A set of faults, written as their names with commas between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultSet(u64);

impl FaultSet {
    /// Adds a kind.
    pub fn insert(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u64;
    }

    /// Whether the set contains a kind.
    pub const fn contains(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }

    /// Whether the set is empty.
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
#[error("there is no fault {0:?}; there are {all}", all = all().join(", "))]
pub struct UnknownFault(String);

fn all() -> Vec<&'static str> {
    Fault::ALL.iter().map(|fault| fault.name()).collect()
}

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
