//! Decoding primitives: a cursor that never reads past the end and never trusts a count.

use bytes::Bytes;

use super::{DecodeError, Flaw, Wire};
use crate::types::{Batch, Command, MAX_REPLICAS, Membership};

/// What a decoder accepts at most. Encoders must respect the same limits.
///
/// They bound counts; the carrier bounds the length of a frame. A decoded message takes memory in
/// proportion to its frame, because a count is refused if the following bytes could not hold as
/// many, and payloads are slices of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Replicas in the cluster, from 1 to [`MAX_REPLICAS`]. Vectors have exactly this many
    /// entries, and replica numbers run from 1 to here.
    pub replicas: usize,
    /// The most commands in a batch.
    pub max_commands: usize,
    /// The most keys in the footprint of one command.
    pub max_keys: usize,
    /// The most interfering instances in one answer to a recovery.
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

impl Limits {
    /// The same with the size of a later epoch, which has this list.
    pub fn of(&self, list: Option<&Membership>) -> Limits {
        Limits { replicas: list.map_or(self.replicas, Membership::len), ..*self }
    }
}

impl Default for Limits {
    /// For callers that do not know the size of the cluster: [`MAX_REPLICAS`].
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
    /// A cursor at the start of `frame`.
    pub fn new(frame: &'a Bytes, limits: &'a Limits) -> Reader<'a> {
        Reader { frame, rest: frame, limits }
    }

    /// The same place of the same frame, with other limits.
    pub(super) fn with_limits<'b>(self, limits: &'b Limits) -> Reader<'b>
    where
        'a: 'b,
    {
        Reader { limits, ..self }
    }

    /// The limits of this reader.
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// The number of bytes read so far.
    pub fn offset(&self) -> usize {
        self.frame.len() - self.rest.len()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// If these bytes are not the encoding of such a value.
    #[inline]
    pub fn read<T: Wire>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    /// Refuses the item that starts at `offset`.
    ///
    /// # Errors
    /// Always.
    #[cold]
    pub fn refuse<T>(&self, offset: usize, flaw: Flaw) -> Result<T, DecodeError> {
        Err(DecodeError::new(offset, flaw))
    }

    /// The next byte, without reading past it.
    ///
    /// # Errors
    /// If there is none; `what` names the item in the error.
    #[inline]
    pub fn peek(&self, what: &'static str) -> Result<u8, DecodeError> {
        match self.rest.first() {
            Some(byte) => Ok(*byte),
            None => self.refuse(self.offset(), Flaw::Truncated { what }),
        }
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// If there is none; `what` names the item in the error.
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

    /// Reads eight bytes: a number that is as likely to be large as small.
    ///
    /// # Errors
    /// If there are fewer; `what` names the item in the error.
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

    /// Reads a number in its shortest form: seven bits in each byte, the lowest first; the top bit
    /// is set in each byte but the last.
    ///
    /// # Errors
    /// If it is truncated, longer than necessary, or above 64 bits.
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

    /// Two bytes or more. Handles the usual slots and sequence numbers without a loop.
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
                // The tenth byte holds the one remaining bit. A last byte of zero adds nothing.
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

    /// Reads a number of at most 32 bits.
    ///
    /// # Errors
    /// As [`Reader::varint`], and if it is larger.
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

    /// Reads the number of items that follow, each at least `least` bytes long (1 or more).
    ///
    /// # Errors
    /// If it is above `limit`, or above what the remaining bytes could hold. So the caller may
    /// reserve that many items.
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

    /// As [`Reader::count`], for a number already read from `start`.
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

    /// Reads a length and as many bytes, as a slice of the frame: nothing is copied, and the slice
    /// keeps the frame alive.
    ///
    /// # Errors
    /// If there are fewer.
    #[inline]
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(what, usize::MAX, 1)?;
        let start = self.offset();
        self.rest = &self.rest[length..];
        Ok(self.frame.slice(start..start + length))
    }

    /// Reads a length and as many bytes of text.
    ///
    /// # Errors
    /// If there are fewer, or they are not UTF-8.
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

    /// Skips `bytes` bytes, which are known to exist.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// Checks that the frame ends here.
    ///
    /// # Errors
    /// If it does not.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => self.refuse(self.offset(), Flaw::Trailing { bytes }),
        }
    }
}
