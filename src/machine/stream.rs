//! Encoded values one after another in a stream, so that a state can be written and read in pieces.
//! `codec` is for values that are in memory as a whole.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{RestoreError, decode};

/// Writes the length of a value (4 bytes, little-endian) and then the value. `space` is a buffer to
/// reuse.
pub(super) fn put<T: Serialize>(
    to: &mut dyn Write,
    value: &T,
    space: &mut Vec<u8>,
) -> io::Result<()> {
    space.clear();
    space.extend([0; 4]);
    let mut bytes = postcard::to_extend(value, std::mem::take(space)).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&bytes)?;
    *space = bytes;
    Ok(())
}

/// Reads a value that [`put`] wrote, and nothing after it. Memory grows with the bytes that are
/// there, not with the length.
pub(super) fn take<T: DeserializeOwned>(
    from: &mut dyn Read,
    space: &mut Vec<u8>,
) -> Result<T, RestoreError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    take_bytes(from, u32::from_le_bytes(length).into(), space)?;
    Ok(decode(space)?)
}

/// Reads this many bytes into `space`.
pub(super) fn take_bytes(
    from: &mut dyn Read,
    length: u64,
    space: &mut Vec<u8>,
) -> Result<(), RestoreError> {
    space.clear();
    if from.take(length).read_to_end(space)? as u64 != length {
        return Err(RestoreError::new("it ends within a value"));
    }
    Ok(())
}

/// Reads a varint, which is how [`encode`](super::encode) writes the length of a list or of bytes.
pub(super) fn take_varint(from: &mut dyn Read) -> Result<u64, RestoreError> {
    let mut value = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        let [byte] = byte;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RestoreError::new("a number that does not fit 64 bits"))
}

/// Writes a varint.
pub(super) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

/// Checks that nothing follows.
pub(super) fn finish(from: &mut dyn Read) -> Result<(), RestoreError> {
    match from.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(RestoreError::new("it goes on behind its end")),
        Err(error) => Err(error.into()),
    }
}
