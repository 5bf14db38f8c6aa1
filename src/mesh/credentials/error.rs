//! Errors of credentials: the file or name to blame, and the remedy.

use std::path::PathBuf;

/// Credentials that cannot be used, with the file or name to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file can be read but has the wrong contents.
    #[error("{} {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do, as the rest of the error's sentence.
        why: String,
    },
    /// An authority's certificate is no usable root of trust.
    #[error("the authority's certificate cannot be used: {0}")]
    Root(rustls::Error),
    /// The own certificate cannot be used in its role.
    #[error("{certificate} cannot be used as {name}: {why}")]
    Own {
        /// The name it is used under.
        name: String,
        /// The certificate: its file, if it comes from one.
        certificate: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A certificate could not be made, or an authority could not be read.
    #[error("{0}")]
    Issue(String),
}
