//! The encoding of users' commands and outputs (postcard): at the edges only, where types meet
//! the payloads that the engine carries without looking.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that cannot be encoded, or bytes that are not a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Its `Serialize` refused, or it holds what the encoding has no form for.
    #[error("the value cannot be encoded: {0}")]
    Encode(postcard::Error),
    /// The bytes are cut short or do not fit the type.
    #[error("the bytes are not such a value: {0}")]
    Decode(postcard::Error),
    /// A value, and then something else.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
}

/// Most commands and outputs are no longer than this: they are encoded on the stack, and one piece
/// of memory of the right size holds the result.
const SHORT: usize = 256;

/// A command or output as it travels.
///
/// # Errors
/// When the type's `Serialize` fails; derived implementations of plain data do not.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    match postcard::to_slice(value, &mut [0; SHORT]) {
        Ok(short) => Ok(Bytes::copy_from_slice(short)),
        Err(postcard::Error::SerializeBufferFull) => {
            postcard::to_stdvec(value).map(Bytes::from).map_err(CodecError::Encode)
        }
        Err(error) => Err(CodecError::Encode(error)),
    }
}

/// The inverse of [`encode`]. All bytes must be used: two payloads that mean the same would
/// otherwise differ in their bytes.
///
/// # Errors
/// When the bytes are not exactly one value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(CodecError::Decode)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::TrailingBytes(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_encoding_whether_it_is_short_or_long() {
        for len in [0, 1, SHORT - 3, SHORT - 2, SHORT - 1, SHORT, SHORT + 1, 10 * SHORT] {
            let value = Bytes::from(vec![7; len]);
            let encoded = encode(&value).expect("plain data");
            assert_eq!(encoded, postcard::to_stdvec(&value).expect("plain data"), "{len}");
            assert_eq!(decode(&encoded), Ok(value), "{len}");
        }
    }
}
