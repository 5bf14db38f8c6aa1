//! What one end shows and whom it trusts: a certificate chain, its key, and the authorities' roots.
//! Read from PEM files with errors that name the file, or made by an
//! [`Authority`](super::Authority).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

/// A certificate chain with its private key, and the authorities trusted to vouch for others.
pub struct Credentials {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

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
    /// The file isn't PEM, or not of the kind wanted.
    #[error("{} holds no usable {wanted} in PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The file is well-formed, but has nothing of what was looked for.
    #[error("{} holds no {wanted}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// An authority's certificate is no usable root of trust.
    #[error("the authority's certificate cannot be used: {0}")]
    Root(rustls::Error),
    /// The own certificate isn't valid for the name it must have.
    #[error("the own certificate is not valid as {name}: {source}")]
    Own {
        /// The name it is used under.
        name: String,
        /// What the verifier said: not that name, expired, another authority, …
        source: rustls::Error,
    },
    /// A certificate could not be made or an authority could not be read back.
    #[error("{0}")]
    Issue(String),
}

impl Credentials {
    /// Reads the authority's certificates, the own chain (own certificate first) and its key.
    ///
    /// # Errors
    /// [`CredentialsError`], naming the file that can't be read or holds something else.
    pub fn from_pem_files(
        roots: &Path,
        chain: &Path,
        key: &Path,
    ) -> Result<Credentials, CredentialsError> {
        let roots_der = certificates(roots, &read(roots)?)?;
        let chain_der = certificates(chain, &read(chain)?)?;
        let key_der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| {
            CredentialsError::Pem { path: key.into(), wanted: "private key", source }
        })?;
        Credentials::new(roots_der, chain_der, key_der)
    }

    /// Credentials from parts in DER: the roots to trust, the own chain and its key.
    ///
    /// # Errors
    /// [`CredentialsError::Root`] if a root isn't a certificate.
    pub fn new(
        roots: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Credentials, CredentialsError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(CredentialsError::Root)?;
        }
        Ok(Credentials { roots: Arc::new(store), chain, key })
    }

    /// Whether peers will accept the own certificate under `name`: better told at the start than
    /// by refusals. `as_server` also demands that it may be used by servers.
    pub(super) fn check_own(&self, name: &str, as_server: bool) -> Result<(), CredentialsError> {
        let blame = |source| CredentialsError::Own { name: name.to_owned(), source };
        let (own, intermediates) = self
            .chain
            .split_first()
            .ok_or_else(|| blame(rustls::Error::NoCertificatesPresented))?;
        certificate_has_name(own, name).map_err(blame)?;
        if as_server {
            let provider = super::tls::provider();
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
                    .build()
                    .map_err(|e| CredentialsError::Issue(e.to_string()))?;
            let server_name = server_name(name).map_err(blame)?;
            verifier
                .verify_server_cert(own, intermediates, &server_name, &[], UnixTime::now())
                .map_err(blame)?;
        }
        Ok(())
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Credentials {
        Credentials {
            roots: Arc::clone(&self.roots),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Credentials").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Whether a certificate, already verified to come from a trusted authority, carries `name`.
pub(super) fn certificate_has_name(
    certificate: &CertificateDer<'_>,
    name: &str,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    rustls::client::verify_server_name(&parsed, &server_name(name)?)
}

fn server_name(name: &str) -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| rustls::Error::General(format!("{name} is no DNS name")))
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|source| CredentialsError::Read { path: path.into(), source })
}

fn certificates(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let wanted = "certificate";
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| CredentialsError::Pem { path: path.into(), wanted, source })?;
    if found.is_empty() {
        return Err(CredentialsError::Empty { path: path.into(), wanted });
    }
    Ok(found)
}
