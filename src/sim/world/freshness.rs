//! What a replica knows of itself and the others, so that none of them comes back with an older
//! copy of its disk (`replica::Chain`, `replica::Memory`), and which of it is true. `meetings` uses
//! it to let replicas judge each other.
//!
//! The truth is known here because every record has a unique number. A replica lacks what another
//! has heard of it if its record at that position is missing or has a different number.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use crate::replica::{Memory, Record};
use crate::sim::plan::{Stream, stream};
use crate::sim::report::{Breach, Broken};
use crate::sim::subject::Subject;
use crate::types::{Chain, Known, LogPosition, Presence, ReplicaId};

/// The state that all copies of a world share.
pub(in crate::sim) struct Older {
    pub(in crate::sim) rng: ChaCha8Rng,
    /// Lives and records of all replicas so far; each has a unique number.
    pub(in crate::sim) lives: u64,
    pub(in crate::sim) records: u64,
}

impl Older {
    pub(in crate::sim) fn new(seed: u64) -> Older {
        Older { rng: stream(seed, Stream::OlderDisks), lives: 0, records: 0 }
    }
}

/// The position up to which a replica was heard to be, and the number of the last record there.
pub(in crate::sim) type Heard = Option<(u64, u64)>;

/// What a frame says of its sender.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Said {
    pub(in crate::sim) life: u64,
    pub(in crate::sim) held: u64,
    /// The number of the last record held.
    pub(in crate::sim) record: u64,
}

/// What a replica knows of itself and the others, and which of it is true.
pub(in crate::sim) struct Freshness<P: Subject> {
    pub(in crate::sim) directory: u64,
    pub(in crate::sim) chain: Chain,
    /// What it remembers of the others from what has arrived.
    pub(in crate::sim) register: Memory,
    /// What the others have shown of themselves.
    pub(in crate::sim) shown: Vec<Option<Known>>,
    /// Its disk is a restored copy that no replica has judged yet.
    pub(in crate::sim) is_copy: bool,
    /// The number of each record in its log.
    pub(in crate::sim) records: Vec<u64>,
    /// How far each of the others was heard to be, by what has arrived and by what was acted on.
    pub(in crate::sim) heard: Vec<Heard>,
    pub(in crate::sim) acted: Vec<Heard>,
    /// The value of `acted` after some of its records.
    pub(in crate::sim) rests: Vec<(u64, Vec<Heard>)>,
    /// How much was durable when it last sent or executed something.
    pub(in crate::sim) spoken: u64,
    pub(in crate::sim) copies: Vec<Copy<P>>,
}

/// A copy of a disk.
pub(in crate::sim) struct Copy<P: Subject> {
    pub(in crate::sim) chain: Chain,
    pub(in crate::sim) log: Vec<Record<P::Record>>,
    pub(in crate::sim) records: Vec<u64>,
    pub(in crate::sim) rests: Vec<(u64, Vec<Heard>)>,
    pub(in crate::sim) snapshot: Option<usize>,
    pub(in crate::sim) files: Option<BTreeMap<String, Vec<u8>>>,
}

impl<P: Subject> Clone for Copy<P> {
    fn clone(&self) -> Copy<P> {
        Copy {
            chain: self.chain.clone(),
            log: self.log.clone(),
            records: self.records.clone(),
            rests: self.rests.clone(),
            snapshot: self.snapshot,
            files: self.files.clone(),
        }
    }
}

impl<P: Subject> Freshness<P> {
    pub(in crate::sim) fn new(n: usize, me: ReplicaId) -> Freshness<P> {
        Freshness {
            directory: u64::from(me.number()),
            chain: Chain::default(),
            register: Memory::default(),
            shown: vec![None; n],
            is_copy: false,
            records: Vec::new(),
            heard: vec![None; n],
            acted: vec![None; n],
            rests: Vec::new(),
            spoken: 0,
            copies: Vec::new(),
        }
    }

    /// What it shows of itself, with `held` records durable.
    pub(super) fn presence(&self, held: u64) -> Presence {
        let began = self.chain.present().expect("it lives");
        let held = LogPosition::new(held);
        Presence { directory: self.directory, life: began.life, began: began.at, held }
    }

    /// It takes a step over everything that has arrived.
    pub(super) fn acts(&mut self) {
        self.acted.clone_from(&self.heard);
    }

    /// `kept` records remain in its log.
    pub(in crate::sim) fn keep(&mut self, kept: usize) {
        self.records.truncate(kept);
        self.rests.retain(|(position, _)| *position <= kept as u64);
        self.acted = self.rests.last().map_or(vec![None; self.heard.len()], |it| it.1.clone());
        self.heard.clone_from(&self.acted);
    }
}

/// Whether these can be the records of a replica that was heard to be at `heard`.
pub(in crate::sim) fn has(records: &[u64], heard: Heard) -> bool {
    let Some((held, record)) = heard else { return true };
    let last = usize::try_from(held).expect("what is in memory can be counted") - 1;
    records.get(last) == Some(&record)
}

pub(super) fn breach(detail: String) -> Breach {
    (Broken::Freshness, detail)
}
