//! Errors of files: scenarios, wide areas and comparisons that users write, and results.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

/// A file or directory cannot be used: where it is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

/// What is wrong, and where in the text.
pub(in crate::load) type Flaw = (Range<usize>, String);

impl FileError {
    /// The system cannot read or write it.
    pub fn system(doing: &str, path: &Path, error: &std::io::Error) -> FileError {
        FileError(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// It is not what it should be.
    pub(in crate::load) fn unfit(path: &Path, what: impl Display) -> FileError {
        FileError(format!("{} {what}", path.display()))
    }

    /// A line is wrong.
    pub(in crate::load) fn line(path: &Path, line: usize, what: impl Display) -> FileError {
        FileError(format!("{}:{line}: {what}", path.display()))
    }

    /// A line of a file with this text is wrong.
    pub(in crate::load) fn of(path: &Path, text: &str, (at, what): Flaw) -> FileError {
        FileError::line(path, line_of(text, at.start), what)
    }
}

/// Reads the whole file.
pub(in crate::load) fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|error| FileError::system("read", path, &error))
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
