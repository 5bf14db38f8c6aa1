//! Decodes the records of a log from its start to its end: each epoch has vectors of its own
//! length. For `start`, which continues a log, and `backup`, which only reads it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::replica::epochs::Record;
use crate::types::Membership;
use crate::wire::{FIRST_EPOCH, Limits, Wire, decode_record, record_epoch};

/// Decodes records in the order of their log.
pub(super) struct Records {
    /// The limits of each epoch whose list was found so far.
    limits: BTreeMap<u32, Limits>,
}

impl Records {
    /// For the records after a snapshot, or of a whole log: `lists` has the list of the epoch in
    /// which they begin.
    pub(super) fn after<'a>(lists: impl IntoIterator<Item = &'a Membership>) -> Records {
        let mut records = Records { limits: BTreeMap::new() };
        lists.into_iter().for_each(|list| records.learn(list));
        records
    }

    /// Decodes the next record, and returns its epoch. The error says what is wrong.
    pub(super) fn decode<R: Wire>(&mut self, record: &[u8]) -> Result<(u32, Record<R>), String> {
        // A separate copy for each record: payloads are slices of it and keep it alive.
        let record = Bytes::copy_from_slice(record);
        let number = record_epoch(&record).map_err(|error| error.to_string())?;
        let epoch = number.checked_sub(FIRST_EPOCH).ok_or("it is of no epoch")?;
        // A list of members has no vector, so any limits decode it.
        let limits = self.limits.get(&epoch).copied().unwrap_or_default();
        let (_, decoded) = decode_record(record, &limits).map_err(|error| error.to_string())?;
        if let Record::Start(list) | Record::Joining(list) | Record::Joined(list) = &decoded {
            self.learn(list);
        }
        Ok((epoch, decoded))
    }

    fn learn(&mut self, list: &Membership) {
        self.limits.insert(list.epoch(), Limits::new(list.len()));
    }
}
