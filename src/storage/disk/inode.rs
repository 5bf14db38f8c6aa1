//! One file of the faulty disk: what a reader sees, and what a power failure leaves of it.

use rand::{Rng, RngExt};

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// A file in memory.
///
/// Invariant: without a failed flush, `live` is `durable` with `pending` written over it in order.
/// A failed flush breaks that on purpose: the system forgets that there was something to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    /// A file that is on the platters already.
    pub(super) fn durable(bytes: Vec<u8>) -> Inode {
        Inode { live: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    /// How many bytes longer a write would make the file.
    pub(super) fn growth(&self, offset: usize, bytes: usize) -> u64 {
        (offset + bytes).saturating_sub(self.live.len()) as u64
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.live, offset, bytes);
        self.pending.push((offset, bytes.to_vec()));
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.live.truncate(len);
        self.durable.truncate(len);
    }

    /// Everything written is durable.
    pub(super) fn sync(&mut self) {
        for (offset, bytes) in self.pending.drain(..) {
            overwrite(&mut self.durable, offset, &bytes);
        }
    }

    /// Some sectors of what was not flushed reach the platters, the rest is forgotten; a reader
    /// sees no difference until the power fails.
    pub(super) fn sync_some(&mut self, rng: &mut impl Rng) {
        // Sometimes none at all and sometimes everything, which a coin for each would never show.
        let chance = match rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => rng.random_range(0.0..1.0),
        };
        for (offset, bytes) in self.pending.drain(..) {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                if rng.random_bool(chance) {
                    overwrite(&mut self.durable, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }

    /// The power fails: some of what was not flushed is there afterwards.
    pub(super) fn lose_power(&mut self, rng: &mut impl Rng) {
        self.sync_some(rng);
        self.live.clone_from(&self.durable);
    }

    /// One bit turns over, in the cache and on the platters.
    pub(super) fn flip(&mut self, offset: usize, mask: u8) {
        for bytes in [&mut self.live, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }
}

fn overwrite(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}
