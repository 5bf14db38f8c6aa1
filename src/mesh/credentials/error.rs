//! Credentials that can't be used: the file or name that is to blame, and what to do.

use std::path::PathBuf;

/// Credentials that can't be used, and which file or name is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can be read, and is not what is wanted.
    #[error("{} {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The rest of the sentence: what is wrong with it, and what to do.
        why: String,
    },
    /// An authority's certificate is no usable root of trust.
    #[error("the authority's certificate cannot be used: {0}")]
    Root(rustls::Error),
    /// The own certificate cannot be used for what it has to be.
    #[error("{certificate} cannot be used as {name}: {why}")]
    Own {
        /// The name it is used under.
        name: String,
        /// The certificate, by its file if it comes from one.
        certificate: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A certificate could not be made or an authority could not be read back.
    #[error("{0}")]
    Issue(String),
}
