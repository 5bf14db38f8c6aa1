//! The format of a segment. Pure; after `disk`, and before everything else of the log.
//!
//! A segment is a file of fixed length. It starts with two copies of its header, each in its own
//! sector, so that one survives whatever happens to the other. From [`FIRST_GROUP`] on there are
//! *groups*, without gaps. A group is what one flush made durable:
//!
//! ```text
//! magic 4 | header crc 4 | kind 1, zero 3 | records 4 | body length 4 | position 8 | body crc 4
//! body: records × (length 4 | bytes)
//! ```
//!
//! Both checksums start from the segment's salt, which is random and new at every use of the file.
//! The header's checksum also covers the offset. So bytes from an earlier use of the file, from
//! another place in it, or out of a client's payload never pass for a group. All numbers are
//! little-endian.
//!
//! A group has one checksum, and not one for each record, because it is one write. After a power
//! failure any of its sectors may be missing, and a record after the gap must not look like an
//! acknowledged one. A valid group header also proves that everything before it was flushed,
//! because it was written only then. So damage before a valid header is damage to acknowledged
//! records. Two kinds of groups hold no records and serve only as this proof. A [`Kind::Seal`] is
//! written right after a flush, without a flush of its own, and the next group overwrites it. A
//! [`Kind::Next`] is flushed before the first group of the following segment.

use crc32fast::Hasher;

use crate::storage::StorageError;

/// The version of this format.
const VERSION: u32 = 1;
/// Where the first group starts, after the header sectors and room for later versions.
pub(super) const FIRST_GROUP: usize = 4096;
/// The length of a group without its body.
pub(super) const GROUP_HEADER: usize = 32;
/// What a record takes besides its bytes.
pub(super) const RECORD_HEADER: usize = 4;

const SECTOR: usize = 512;
const SEGMENT_MAGIC: [u8; 8] = *b"isonolog";
const GROUP_MAGIC: [u8; 4] = *b"\x93grp";
const SEGMENT_HEADER: usize = 56;

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// The segment's number, as in its name.
    pub(super) number: u64,
    /// The length of the file in bytes.
    pub(super) bytes: u64,
    /// The value from which the checksums of this use of the file start.
    pub(super) salt: u64,
    /// The position of the first record.
    pub(super) base: u64,
    /// The directory that the segment belongs to.
    pub(super) directory: u64,
}

/// What a file's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heading {
    /// In use as this segment.
    Live(SegmentHeader),
    /// Never used, or left from a use under another number: it holds no records.
    Spare,
    /// Neither copy can be read.
    Damaged,
    /// Of a format unknown here.
    Version(u32),
}

impl SegmentHeader {
    /// Encodes both copies.
    pub(super) fn encode(&self) -> [u8; 2 * SECTOR] {
        let mut copy = [0; SECTOR];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [self.number, self.bytes, self.salt, self.base, self.directory];
        for (at, number) in numbers.into_iter().enumerate() {
            copy[12 + 8 * at..20 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&copy[..SEGMENT_HEADER - 4]);
        copy[SEGMENT_HEADER - 4..SEGMENT_HEADER].copy_from_slice(&crc.to_le_bytes());
        let mut both = [0; 2 * SECTOR];
        both[..SECTOR].copy_from_slice(&copy);
        both[SECTOR..].copy_from_slice(&copy);
        both
    }
}

/// Reads the header of the file with this number; too few bytes count as damage.
pub(super) fn heading(number: u64, file: &[u8]) -> Heading {
    let copies = [copy(file, 0), copy(file, SECTOR)];
    let own = |heading: &&Heading| matches!(heading, Heading::Live(h) if h.number == number);
    if let Some(live) = copies.iter().find(own) {
        return *live;
    }
    if let Some(version) = copies.iter().find(|copy| matches!(copy, Heading::Version(_))) {
        return *version;
    }
    // A readable copy with another number is left from before the file was recycled.
    if copies.iter().all(|copy| *copy == Heading::Damaged) {
        return Heading::Damaged;
    }
    Heading::Spare
}

fn copy(file: &[u8], at: usize) -> Heading {
    let Some(bytes) = file.get(at..at + SEGMENT_HEADER) else { return Heading::Damaged };
    if bytes.iter().all(|byte| *byte == 0) {
        return Heading::Spare;
    }
    let crc = u32_at(bytes, SEGMENT_HEADER - 4);
    if bytes[..8] != SEGMENT_MAGIC || crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]) != crc {
        return Heading::Damaged;
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Heading::Version(version);
    }
    Heading::Live(SegmentHeader {
        number: u64_at(bytes, 12),
        bytes: u64_at(bytes, 20),
        salt: u64_at(bytes, 28),
        base: u64_at(bytes, 36),
        directory: u64_at(bytes, 44),
    })
}

/// The purpose of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It holds records.
    Records,
    /// Everything before it was acknowledged, and nothing was written after it.
    Seal,
    /// Everything before it was acknowledged, and the log continues in the next segment.
    Next,
}

/// A group without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GroupHeader {
    pub(super) kind: Kind,
    pub(super) records: u32,
    pub(super) body_bytes: u32,
    /// The position of the first record, or of the next one to come if there are none.
    pub(super) position: u64,
    body_crc: u32,
}

impl GroupHeader {
    /// The header of a group with this body.
    pub(super) fn records(salt: u64, position: u64, records: u32, body: &[u8]) -> GroupHeader {
        let body_bytes = u32::try_from(body.len()).expect("a segment is shorter than 4 GiB");
        let body_crc = body_crc(salt, body);
        GroupHeader { kind: Kind::Records, records, body_bytes, position, body_crc }
    }

    /// A group without records.
    pub(super) fn mark(kind: Kind, position: u64) -> GroupHeader {
        GroupHeader { kind, records: 0, body_bytes: 0, position, body_crc: 0 }
    }

    pub(super) fn encode(&self, salt: u64, offset: usize) -> [u8; GROUP_HEADER] {
        let mut bytes = [0; GROUP_HEADER];
        bytes[..4].copy_from_slice(&GROUP_MAGIC);
        bytes[8] = match self.kind {
            Kind::Records => 1,
            Kind::Seal => 2,
            Kind::Next => 3,
        };
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.position.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(salt, offset, &bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at an offset of a segment, if it is valid.
    pub(super) fn decode(salt: u64, file: &[u8], offset: usize) -> Option<GroupHeader> {
        let bytes = file.get(offset..offset.checked_add(GROUP_HEADER)?)?;
        if bytes[..4] != GROUP_MAGIC || header_crc(salt, offset, bytes) != u32_at(bytes, 4) {
            return None;
        }
        let kind = match bytes[8] {
            1 => Kind::Records,
            2 => Kind::Seal,
            3 => Kind::Next,
            _ => return None,
        };
        Some(GroupHeader {
            kind,
            records: u32_at(bytes, 12),
            body_bytes: u32_at(bytes, 16),
            position: u64_at(bytes, 20),
            body_crc: u32_at(bytes, 28),
        })
    }

    /// The body of the group at `offset`, if its checksum is right.
    pub(super) fn body<'a>(&self, salt: u64, file: &'a [u8], offset: usize) -> Option<&'a [u8]> {
        let start = offset + GROUP_HEADER;
        let body = file.get(start..start.checked_add(self.body_bytes as usize)?)?;
        (self.kind != Kind::Records || body_crc(salt, body) == self.body_crc).then_some(body)
    }
}

/// The first valid group header at or after an offset.
pub(super) fn find_group(salt: u64, file: &[u8], from: usize) -> Option<(usize, GroupHeader)> {
    let mut at = from;
    while let Some(found) = file.get(at..)?.iter().position(|byte| *byte == GROUP_MAGIC[0]) {
        at += found;
        if let Some(group) = GroupHeader::decode(salt, file, at) {
            return Some((at, group));
        }
        at += 1;
    }
    None
}

/// The records in a body; `None` for a record whose length does not fit.
pub(super) fn records(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = rest.split_first_chunk::<RECORD_HEADER>().and_then(|(length, behind)| {
            behind.split_at_checked(u32::from_le_bytes(*length) as usize)
        });
        let (record, behind) = record.map_or((None, &[][..]), |(r, behind)| (Some(r), behind));
        rest = behind;
        Some(record)
    })
}

/// The name of the segment with this number.
pub(super) fn segment_name(number: u64) -> String {
    format!("log-{number:016}")
}

/// The number in the name of a segment.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    digits.parse().ok().filter(|number| segment_name(*number) == name)
}

/// The error for an unsupported version.
pub(super) fn unknown_version(file: &str, found: u32) -> StorageError {
    StorageError::Format { file: file.to_owned(), found, known: VERSION }
}

fn header_crc(salt: u64, offset: usize, header: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&(offset as u64).to_le_bytes());
    crc.update(&header[8..]);
    crc.finalize()
}

fn body_crc(salt: u64, body: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
