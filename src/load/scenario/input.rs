//! Files that people write, and where they are wrong: scenarios, wide areas, comparisons.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file that cannot be used, where it is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        what: String,
    },
}

/// What is wrong, and where in the text.
pub(in crate::load) type Flaw = (Range<usize>, String);

impl FileError {
    /// Of the file with this text.
    pub(in crate::load) fn of(path: &Path, text: &str, (at, what): Flaw) -> FileError {
        FileError::Line { path: path.into(), line: line_of(text, at.start), what }
    }
}

/// The whole file.
pub(in crate::load) fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.into(), source })
}

/// The line that this place is in, from 1.
pub(in crate::load) fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    1 + before.bytes().filter(|byte| *byte == b'\n').count()
}

/// What the parser found.
pub(in crate::load) fn flaw(error: &toml::de::Error) -> Flaw {
    (error.span().unwrap_or(0..0), error.message().to_owned())
}
