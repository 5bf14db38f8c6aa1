//! The values that clients write. Each is unique, has a length from the distribution, and
//! identifies its writer, so that a history can be checked.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A value starts with its number in this many hexadecimal digits; a shorter value has the last
/// ones.
pub const DIGITS: usize = 16;

/// The longest value, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// The lengths of values. A value's number determines its length, so a reader can check it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// All values have this length.
    Fixed(usize),
    /// Uniformly distributed between two lengths, inclusive.
    Uniform(usize, usize),
    /// One of these lengths, in proportion to its weight.
    List(Vec<(usize, u32)>),
}

impl Sizes {
    /// The shortest length.
    pub fn least(&self) -> usize {
        match self {
            Sizes::Fixed(bytes) | Sizes::Uniform(bytes, _) => *bytes,
            Sizes::List(list) => list.iter().map(|(bytes, _)| *bytes).min().unwrap_or(0),
        }
    }

    /// The longest length.
    pub fn most(&self) -> usize {
        match self {
            Sizes::Fixed(bytes) | Sizes::Uniform(_, bytes) => *bytes,
            Sizes::List(list) => list.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
        }
    }

    /// The length of the value with this number.
    fn of(&self, number: u64) -> usize {
        // A hash instead of a random number: the same number always has the same length.
        let within = |most: u64| xxh3_64_with_seed(&number.to_le_bytes(), 1) % most.max(1);
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Uniform(least, most) => {
                let over = within((most - least) as u64 + 1);
                least + usize::try_from(over).expect("below the longest value")
            }
            Sizes::List(list) => {
                let mut left = within(list.iter().map(|(_, weight)| u64::from(*weight)).sum());
                for (bytes, weight) in list {
                    match left.checked_sub(u64::from(*weight)) {
                        Some(less) => left = less,
                        None => return *bytes,
                    }
                }
                self.least()
            }
        }
    }
}

/// A written value as a number, unique to its write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Written(pub u64);

impl Written {
    /// No value.
    pub const NOTHING: Written = Written(0);
    /// A value that no client can have written.
    pub const STRANGE: Written = Written(u64::MAX);

    pub(super) fn first_of(client: u32) -> Written {
        Written((u64::from(client) + 1) << 36)
    }

    /// The value in the store.
    pub fn value(self, sizes: &Sizes) -> Bytes {
        let mut value = format!("{:016x}", self.0).into_bytes();
        let bytes = sizes.of(self.0);
        value.drain(..DIGITS.saturating_sub(bytes));
        value.resize(bytes, b'.');
        value.into()
    }

    /// The inverse of [`Written::value`]; [`Written::STRANGE`] for any other value.
    pub(super) fn of(value: Option<&Bytes>, sizes: &Sizes) -> Written {
        let Some(value) = value else { return Written::NOTHING };
        let digits = value.get(..DIGITS).and_then(|digits| str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.map(Written).filter(|it| it.value(sizes) == value).unwrap_or(Written::STRANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_who_wrote_it() {
        for sizes in [Sizes::Fixed(16), Sizes::Uniform(16, 99), Sizes::List(vec![(20, 1), (64, 3)])]
        {
            for number in [1, 77, u64::MAX - 1] {
                let value = Written(number).value(&sizes);
                assert_eq!(Written::of(Some(&value), &sizes), Written(number));
            }
            for strange in ["", "zz", "0000000000000001x", "000000000000000000"] {
                let strange = Bytes::from(strange);
                assert_eq!(Written::of(Some(&strange), &sizes), Written::STRANGE, "{sizes:?}");
            }
        }
        assert_eq!(Written(0xabcd).value(&Sizes::Fixed(3)), "bcd");
    }

    #[test]
    fn lengths_are_spread_as_asked() {
        let lengths = |sizes: &Sizes| -> Vec<usize> {
            (0..10_000).map(|number| Written(number).value(sizes).len()).collect()
        };
        let uniform = lengths(&Sizes::Uniform(100, 199));
        let mean = uniform.iter().sum::<usize>() as f64 / 10_000.0;
        assert!((148.0..151.0).contains(&mean) && uniform.iter().all(|it| (100..200).contains(it)));
        let listed = lengths(&Sizes::List(vec![(16, 9), (1_024, 1)]));
        let long = listed.iter().filter(|it| **it == 1_024).count();
        assert!((900..1_100).contains(&long), "{long}");
    }
}
