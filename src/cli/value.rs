//! Values as a shell passes them: an argument, standard input or a file. Any bytes are kept
//! unchanged.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::mesh::ConnectionLimits;

/// The argument that means standard input.
pub(super) const STDIN: &str = "-";

/// The source of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Argument(OsString),
    Stdin,
    File(PathBuf),
}

impl Source {
    /// An argument; `-` means standard input.
    pub(super) fn of(argument: OsString) -> Source {
        if argument == STDIN { Source::Stdin } else { Source::Argument(argument) }
    }

    /// Reads all its bytes.
    pub(super) fn read(self) -> anyhow::Result<Bytes> {
        match self {
            Source::Argument(text) => Ok(bytes(text)),
            Source::Stdin => all(std::io::stdin().lock()).context("standard input"),
            Source::File(path) => file(&path),
        }
    }
}

/// An argument's bytes: on Unix exactly those passed by the shell.
pub(super) fn bytes(argument: OsString) -> Bytes {
    argument.into_encoded_bytes().into()
}

fn file(path: &Path) -> anyhow::Result<Bytes> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    all(file).with_context(|| path.display().to_string())
}

/// Reads at most as much as a request can carry.
fn all(from: impl Read) -> anyhow::Result<Bytes> {
    let most = ConnectionLimits::default().client_frame_bytes;
    let mut value = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut value).context("cannot read the value")?;
    if value.len() > most {
        bail!("the value has more than {most} bytes, which is the limit of a whole command");
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_bounded() {
        let most = ConnectionLimits::default().client_frame_bytes;
        let endless = || std::io::repeat(7);
        assert_eq!(all(endless().take(most as u64)).expect("the limit").len(), most);
        assert!(all(endless()).expect_err("endless").to_string().contains("is the limit"));
    }

    #[test]
    fn a_hyphen_alone_is_standard_input() {
        assert_eq!(Source::of("-".into()), Source::Stdin);
        assert_eq!(Source::of("-5".into()), Source::Argument("-5".into()));
    }
}
