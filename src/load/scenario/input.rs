//! Errors of files: scenarios, wide areas and comparisons that users write, and results.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file cannot be used: where it is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system cannot read or write the file or directory.
    #[error("cannot {doing} {}: {source}", path.display())]
    System {
        /// `read` or `write`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong, and what to do.
        what: String,
    },
    /// It is not the right one.
    #[error("{} {what}", path.display())]
    Unfit {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
}

/// What is wrong, and where in the text.
pub(in crate::load) type Flaw = (Range<usize>, String);

impl FileError {
    /// The error of a file with this text.
    pub(in crate::load) fn of(path: &Path, text: &str, (at, what): Flaw) -> FileError {
        FileError::Line { path: path.into(), line: line_of(text, at.start), what }
    }
}

/// Reads the whole file.
pub(in crate::load) fn read(path: &Path) -> Result<String, FileError> {
    let failed = |source| FileError::System { doing: "read", path: path.into(), source };
    std::fs::read_to_string(path).map_err(failed)
}

/// The number of the line that contains this position, from 1.
pub(in crate::load) fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    1 + before.bytes().filter(|byte| *byte == b'\n').count()
}

/// The error of the parser.
pub(in crate::load) fn flaw(error: &toml::de::Error) -> Flaw {
    (error.span().unwrap_or(0..0), error.message().to_owned())
}
