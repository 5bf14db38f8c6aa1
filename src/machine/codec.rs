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

/// A command or output as it travels.
///
/// # Errors
/// When the type's `Serialize` fails; derived implementations of plain data do not.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    postcard::to_stdvec(value).map(Bytes::from).map_err(CodecError::Encode)
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
