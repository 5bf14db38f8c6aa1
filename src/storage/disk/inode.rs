//! One file of the faulty disk: what a reader sees, and what survives a power failure.

use rand::{Rng, RngExt};

/// The unit that a disk writes completely or not at all.
pub(super) const SECTOR: usize = 512;

/// A file in memory.
///
/// Invariant: without a failed flush, `live` is `durable` with `pending` written over it in order.
/// A failed flush breaks this on purpose: the system forgets the pending writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    /// A file that is already durable.
    pub(super) fn durable(bytes: Vec<u8>) -> Inode {
        Inode { live: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    /// How many bytes a write would add to the file.
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

    /// Makes everything written durable.
    pub(super) fn sync(&mut self) {
        for (offset, bytes) in self.pending.drain(..) {
            overwrite(&mut self.durable, offset, &bytes);
        }
    }

    /// Makes some unflushed sectors durable and forgets the rest. A reader sees no difference until
    /// the power fails.
    pub(super) fn sync_some(&mut self, rng: &mut impl Rng) {
        // Sometimes none and sometimes all, which independent coins would hardly ever give.
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

    /// The power fails: only some of the unflushed sectors survive.
    pub(super) fn lose_power(&mut self, rng: &mut impl Rng) {
        self.sync_some(rng);
        self.live.clone_from(&self.durable);
    }

    /// Flips bits of one byte, in the cache and on the platters.
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
