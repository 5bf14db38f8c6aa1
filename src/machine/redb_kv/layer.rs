//! Changes in memory that lie over the file: each layer hides what is below it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::CowMap;

/// The memory that an entry takes beside its key and its value, about.
const ENTRY: usize = 128;

/// The changes between two checkpoints. A clone shares all that neither of the two changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    /// The number of the checkpoint that it ends with; 0 before there is one.
    pub(super) number: u64,
    /// The new values; `None` for keys that were removed.
    pub(super) entries: CowMap<Bytes, Option<Bytes>>,
    /// About the memory that it takes.
    pub(super) bytes: usize,
}

impl Layer {
    pub(super) fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let (key_bytes, new) = (key.len(), length(&value));
        match self.entries.insert(key, value) {
            Some(old) => self.bytes -= length(&old),
            None => self.bytes += ENTRY + key_bytes,
        }
        self.bytes += new;
    }
}

/// All changes in these layers, oldest first, sorted by key.
pub(super) fn merged(layers: &[Arc<Layer>]) -> BTreeMap<&Bytes, Option<&Bytes>> {
    let all = layers.iter().flat_map(|layer| layer.entries.unordered());
    all.map(|(key, value)| (key, value.as_ref())).collect()
}
