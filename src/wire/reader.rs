//! Taking bytes apart: a cursor that never reads past the end and never believes a count.

use bytes::Bytes;

use super::{DecodeError, Flaw, Wire};
use crate::types::{Batch, Command, MAX_REPLICAS};

/// What a decoder accepts at most. Whoever encodes must keep to the same.
///
/// The bounds are on numbers of things; how long a frame may be is for the carrier to say. A
/// decoded message takes memory in proportion to its frame: no count is believed that the bytes
/// after it could not hold, and payloads are slices of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Replicas in the cluster, from 1 to [`MAX_REPLICAS`]. Vectors have exactly this many
    /// entries, and replica numbers run from 1 to here.
    pub replicas: usize,
    /// Most commands in a batch.
    pub max_commands: usize,
    /// Most keys in the footprint of one command.
    pub max_keys: usize,
    /// Most interfering instances in one answer to a recovery.
    pub max_interfering: usize,
}

impl Limits {
    /// The limits of a cluster of `replicas`: 4,096 commands a batch, 4,096 keys a command, 65,536
    /// interfering instances.
    pub const fn new(replicas: usize) -> Limits {
        Limits {
            replicas,
            max_commands: Batch::MAX_COMMANDS,
            max_keys: Command::MAX_KEYS,
            max_interfering: 65_536,
        }
    }
}

impl Default for Limits {
    /// For who does not know the size of the cluster: [`MAX_REPLICAS`].
    fn default() -> Limits {
        Limits::new(MAX_REPLICAS)
    }
}

/// A cursor over one frame.
///
/// Invariant: `rest` is a suffix of `frame`.
#[derive(Debug)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
    limits: &'a Limits,
}

impl<'a> Reader<'a> {
    /// At the start of `frame`.
    pub fn new(frame: &'a Bytes, limits: &'a Limits) -> Reader<'a> {
        Reader { frame, rest: frame, limits }
    }

    /// What is accepted at most.
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// How many bytes were taken.
    pub fn offset(&self) -> usize {
        self.frame.len() - self.rest.len()
    }

    /// Takes a value.
    ///
    /// # Errors
    /// When the bytes here are no encoding of such a value.
    #[inline]
    pub fn read<T: Wire>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    /// Refuses what starts at `offset`.
    ///
    /// # Errors
    /// Always.
    #[cold]
    pub fn refuse<T>(&self, offset: usize, flaw: Flaw) -> Result<T, DecodeError> {
        Err(DecodeError::new(offset, flaw))
    }

    /// The next byte, which stays.
    ///
    /// # Errors
    /// When there is none; `what` is what it would have belonged to.
    #[inline]
    pub fn peek(&self, what: &'static str) -> Result<u8, DecodeError> {
        match self.rest.first() {
            Some(byte) => Ok(*byte),
            None => self.refuse(self.offset(), Flaw::Truncated { what }),
        }
    }

    /// Takes a byte.
    ///
    /// # Errors
    /// When there is none; `what` is what it would have belonged to.
    #[inline]
    pub fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                Ok(*byte)
            }
            None => self.refuse(self.offset(), Flaw::Truncated { what }),
        }
    }

    /// Takes eight bytes: a number that is as likely to be large as small.
    ///
    /// # Errors
    /// When there are fewer; `what` is what they would have belonged to.
    #[inline]
    pub fn fixed(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.rest.split_first_chunk() {
            Some((eight, rest)) => {
                self.rest = rest;
                Ok(u64::from_le_bytes(*eight))
            }
            None => self.refuse(self.offset(), Flaw::Truncated { what }),
        }
    }

    /// Takes a number in its shortest form: seven bits a byte, the lowest first, the top bit of
    /// each byte but the last set.
    ///
    /// # Errors
    /// When it is cut off, longer than need be, or above 64 bits.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(what),
        }
    }

    /// Two bytes and more; the usual slots and sequence numbers without a loop.
    #[inline(always)]
    fn long_varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let group = |byte: &u8, index: u32| u64::from(byte & 0x7f) << (7 * index);
        match self.rest {
            [a, b @ 1..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(group(a, 0) | group(b, 1))
            }
            [a, b @ 0x80..=0xff, c @ 1..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(group(a, 0) | group(b, 1) | group(c, 2))
            }
            _ => self.any_varint(what),
        }
    }

    #[inline(never)]
    fn any_varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let start = self.offset();
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                // The tenth byte holds the one bit that is left; a last byte of zero adds nothing.
                if *byte == 0 || (index == 9 && *byte > 1) {
                    return self.refuse(start, Flaw::Overlong);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        let long = self.rest.len() >= 10;
        self.refuse(start, if long { Flaw::Overlong } else { Flaw::Truncated { what } })
    }

    /// Takes a number of at most 32 bits.
    ///
    /// # Errors
    /// As [`Reader::varint`], and when it is larger.
    #[inline]
    pub fn varint32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let start = self.offset();
        let found = self.varint(what)?;
        match u32::try_from(found) {
            Ok(small) => Ok(small),
            Err(_) => {
                let limit = u64::from(u32::MAX);
                self.refuse(start, Flaw::TooMany { what, found, limit })
            }
        }
    }

    /// Takes the number of items that follow, each at least `least` bytes long (1 or more).
    ///
    /// # Errors
    /// When it is above `limit`, or above what the bytes that are left could hold: so room may be
    /// made for that many at once.
    #[inline]
    pub fn count(
        &mut self,
        what: &'static str,
        limit: usize,
        least: usize,
    ) -> Result<usize, DecodeError> {
        let start = self.offset();
        let found = self.varint(what)?;
        self.bounded(what, start, found, limit, least)
    }

    /// [`Reader::count`] for a number that was taken already, from `start`.
    #[inline]
    pub(super) fn bounded(
        &self,
        what: &'static str,
        start: usize,
        found: u64,
        limit: usize,
        least: usize,
    ) -> Result<usize, DecodeError> {
        match usize::try_from(found) {
            Ok(count) if count <= limit && count <= self.rest.len() / least => Ok(count),
            Ok(count) if count <= limit => self.refuse(start, Flaw::Truncated { what }),
            _ => self.refuse(start, Flaw::TooMany { what, found, limit: limit as u64 }),
        }
    }

    /// Takes a length and as many bytes, as a slice of the frame: nothing is copied, and the frame
    /// lives for as long as the slice.
    ///
    /// # Errors
    /// When there are fewer.
    #[inline]
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(what, usize::MAX, 1)?;
        let start = self.offset();
        self.rest = &self.rest[length..];
        Ok(self.frame.slice(start..start + length))
    }

    /// Takes a length and as many bytes of text.
    ///
    /// # Errors
    /// When there are fewer, or they are not UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let length = self.count(what, usize::MAX, 1)?;
        let (text, rest) = self.rest.split_at(length);
        match std::str::from_utf8(text) {
            Ok(text) => {
                self.rest = rest;
                Ok(text.to_owned())
            }
            Err(flaw) => self.refuse(self.offset() + flaw.valid_up_to(), Flaw::Text),
        }
    }

    /// Goes on `bytes` further, which are known to be there.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// The frame has to end here.
    ///
    /// # Errors
    /// When it does not.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => self.refuse(self.offset(), Flaw::Trailing { bytes }),
        }
    }
}
