//! The encoding of users' commands and outputs (postcard). It is used only where typed values meet
//! the opaque payloads that the engine carries.

use bytes::Bytes;
use postcard::ser_flavors::Size;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that cannot be encoded, or bytes that are not a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Its `Serialize` failed, or the encoding has no form for it.
    #[error("the value cannot be encoded: {0}")]
    Encode(postcard::Error),
    /// The bytes are incomplete or do not fit the type.
    #[error("the bytes are not such a value: {0}")]
    Decode(postcard::Error),
    /// More bytes follow the value.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
}

/// Most commands and outputs are no longer than this. They are encoded on the stack, and then
/// copied into one allocation of the right size.
const SHORT: usize = 256;

/// Encodes a command or output.
///
/// # Errors
/// If the type's `Serialize` fails; derived implementations of plain data do not.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    match postcard::to_slice(value, &mut [0; SHORT]) {
        Ok(short) => Ok(Bytes::copy_from_slice(short)),
        Err(postcard::Error::SerializeBufferFull) => {
            postcard::to_stdvec(value).map(Bytes::from).map_err(CodecError::Encode)
        }
        Err(error) => Err(CodecError::Encode(error)),
    }
}

/// The number of bytes that [`encode`] would produce. Nothing is allocated, and byte strings are
/// not read.
///
/// # Errors
/// As [`encode`].
pub fn encoded_len<T: Serialize>(value: &T) -> Result<usize, CodecError> {
    postcard::serialize_with_flavor(value, Size::default()).map_err(CodecError::Encode)
}

/// An encoding, or the length that it would have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Encoded {
    /// The encoding; it is within the limit.
    Whole(Bytes),
    /// The length in bytes; it exceeds the limit, and nothing was encoded.
    TooLarge(usize),
}

/// [`encode`], unless the encoding is longer than `limit`. Then only its length is computed, and
/// nothing is allocated.
pub(super) fn encode_within<T: Serialize>(value: &T, limit: usize) -> Result<Encoded, CodecError> {
    let mut short = [0; SHORT];
    let bytes = match postcard::to_slice(value, &mut short) {
        Ok(short) if short.len() <= limit => Bytes::copy_from_slice(short),
        Ok(short) => return Ok(Encoded::TooLarge(short.len())),
        Err(postcard::Error::SerializeBufferFull) => {
            let len = encoded_len(value)?;
            if len > limit {
                return Ok(Encoded::TooLarge(len));
            }
            let whole = postcard::to_extend(value, Vec::with_capacity(len));
            whole.map(Bytes::from).map_err(CodecError::Encode)?
        }
        Err(error) => return Err(CodecError::Encode(error)),
    };
    Ok(Encoded::Whole(bytes))
}

/// The inverse of [`encode`]. All bytes must be used; otherwise one value could have several
/// encodings.
///
/// # Errors
/// If the bytes are not exactly one value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(CodecError::Decode)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::TrailingBytes(rest.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Covers every kind of element that an encoding has.
        #[test]
        fn a_length_that_is_computed_is_the_encodings(
            value in proptest::collection::vec(
                (any::<u64>(), any::<i32>(), any::<Option<String>>(), any::<(bool, char)>()), 0..40,
            ),
            blob in proptest::collection::vec(any::<u8>(), 0..600),
            limit in 0..800usize,
        ) {
            let value = (value, Bytes::from(blob));
            let encoded = encode(&value).expect("plain data");
            prop_assert_eq!(encoded_len(&value), Ok(encoded.len()));
            let within = encode_within(&value, limit).expect("plain data");
            if encoded.len() > limit {
                prop_assert_eq!(within, Encoded::TooLarge(encoded.len()));
            } else {
                prop_assert_eq!(within, Encoded::Whole(encoded));
            }
        }
    }

    /// It would take 64 GiB if it were encoded.
    #[test]
    fn what_is_too_large_is_never_made() {
        let blob = Bytes::from(vec![7; 1 << 20]);
        let many = vec![blob; 1 << 16];
        let len = encoded_len(&many).expect("plain data");
        assert!(len > 1 << 36);
        assert_eq!(encode_within(&many, 1 << 30), Ok(Encoded::TooLarge(len)));
    }

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
