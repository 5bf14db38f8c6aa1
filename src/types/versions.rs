//! The versions of a format, of which two ends use one.

use std::fmt;

/// The versions of a format that one end understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The lowest.
    pub oldest: u8,
    /// The highest.
    pub newest: u8,
}

impl Versions {
    /// One version.
    pub const fn only(version: u8) -> Versions {
        Versions { oldest: version, newest: version }
    }

    /// The version that two ends use; `None` if there is none that both understand.
    pub fn agreed(self, theirs: Versions) -> Option<u8> {
        let version = self.newest.min(theirs.newest);
        (version >= self.oldest.max(theirs.oldest)).then_some(version)
    }

    /// Whether this is one of them.
    pub const fn contain(self, version: u8) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_use_the_lower_of_their_newest_versions_if_both_understand_it() {
        let of = |oldest, newest| Versions { oldest, newest };
        for (ours, theirs, agreed) in [
            (of(2, 3), of(2, 3), Some(3)),
            (of(2, 3), of(2, 2), Some(2)),
            (of(2, 3), of(3, 4), Some(3)),
            (of(2, 3), of(1, 9), Some(3)),
            (of(2, 3), of(4, 5), None),
            (of(2, 2), of(3, 3), None),
        ] {
            assert_eq!(ours.agreed(theirs), agreed, "{ours} and {theirs}");
            assert_eq!(theirs.agreed(ours), agreed, "either end finds the same");
        }
        assert_eq!(of(2, 3).to_string(), "versions 2 to 3");
        assert_eq!(Versions::only(2).to_string(), "version 2");
    }
}
