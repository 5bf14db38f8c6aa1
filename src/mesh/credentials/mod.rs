//! What one end presents and whom it trusts: a certificate chain, its key and the authorities'
//! roots. Read from PEM files, with errors that name the file, or made by an
//! [`Authority`](super::Authority).
//!
//! Read the files in this order: `error`, `x509` (the contents of a certificate), `pem` (the
//! files), `expiry`; this file uses them all.

mod error;
mod expiry;
mod pem;
mod x509;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::crypto;
pub use error::CredentialsError;
pub(super) use expiry::keep_warning;
use expiry::{Dated, end_of};
pub use expiry::{Expiring, WARN_DAYS, certificate_end};
pub(super) use x509::Decoded;

/// A certificate chain with its private key, and the authorities that it trusts.
pub struct Credentials {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// When the authorities' certificates end.
    authorities: Vec<Dated>,
    names: Names,
}

/// The names of the parts in errors: the files that they come from.
#[derive(Clone)]
struct Names {
    authority: String,
    certificate: String,
    key: String,
}

/// The use that a certificate must be valid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Replicas accept, and they dial each other.
    Replica,
    /// Clients only dial.
    Client,
}

impl Credentials {
    /// Reads the authorities' certificates, the own chain (own certificate first) and its key.
    ///
    /// # Errors
    /// [`CredentialsError`], which names the file that cannot be read or has the wrong contents.
    pub fn from_pem_files(
        roots: &Path,
        chain: &Path,
        key: &Path,
    ) -> Result<Credentials, CredentialsError> {
        let roots_der = pem::certificates(roots)?;
        let chain_der = pem::certificates(chain)?;
        let key_der = pem::private_key(key)?;
        let [authority, certificate, key] =
            [roots, chain, key].map(|path| path.display().to_string());
        Credentials::named(roots_der, chain_der, key_der, Names { authority, certificate, key })
    }

    /// Credentials from parts in DER: the roots to trust, the own chain and its key.
    ///
    /// # Errors
    /// [`CredentialsError::Root`] if a root is not a certificate.
    pub fn new(
        roots: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Credentials, CredentialsError> {
        let names = Names {
            authority: "the authority's certificate".to_owned(),
            certificate: "the own certificate".to_owned(),
            key: "the own key".to_owned(),
        };
        Credentials::named(roots, chain, key, names)
    }

    fn named(
        roots: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        names: Names,
    ) -> Result<Credentials, CredentialsError> {
        let authorities = dated(&roots, &names.authority);
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(CredentialsError::Root)?;
        }
        Ok(Credentials { roots: Arc::new(store), chain, key, authorities, names })
    }

    /// The own and the authorities' certificates that have expired or expire within thirty days of
    /// `now`.
    pub fn expiring(&self, now: SystemTime) -> Vec<Expiring> {
        expiry::expiring(&self.own_dates(), &self.authorities, now)
    }

    /// The ends of the own certificates and of the authorities', for warnings.
    pub(super) fn dates(&self) -> (Vec<Dated>, Vec<Dated>) {
        (self.own_dates(), self.authorities.clone())
    }

    fn own_dates(&self) -> Vec<Dated> {
        dated(&self.chain, &self.names.certificate)
    }

    /// Whether others will accept the own certificate under `name` in that role. An error at the
    /// start is better than refusals later.
    pub(super) fn check_own(&self, name: &str, role: Role) -> Result<(), CredentialsError> {
        self.check_parts(name, role).map_err(|why| CredentialsError::Own {
            name: name.to_owned(),
            certificate: self.names.certificate.clone(),
            why,
        })
    }

    fn check_parts(&self, name: &str, role: Role) -> Result<(), String> {
        let (own, intermediates) =
            self.chain.split_first().ok_or_else(|| "there is no certificate".to_owned())?;
        let provider = crypto::provider();
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "the key in {} belongs to another certificate: the two are made together",
                    self.names.key
                ),
                error => format!("the key in {} is of no use: {error}", self.names.key),
            },
        )?;
        let now = crypto::unix_time(SystemTime::now());
        if role == Role::Replica {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::clone(&self.roots),
                Arc::clone(&provider),
            );
            let verifier = verifier.build().map_err(|error| error.to_string())?;
            let server = server_name(name).map_err(|error| error.to_string())?;
            let verified = verifier.verify_server_cert(own, intermediates, &server, &[], now);
            verified.map_err(|error| self.explain(own, name, "servers", role, &error))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider);
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        let verified = verifier.verify_client_cert(own, intermediates, now);
        verified.map_err(|error| self.explain(own, name, "clients", role, &error))?;
        certificate_has_name(own, name)
            .map_err(|error| self.explain(own, name, "clients", role, &error))
    }

    /// Explains the verifier's error.
    fn explain(
        &self,
        own: &CertificateDer<'_>,
        name: &str,
        whom: &str,
        role: Role,
        error: &rustls::Error,
    ) -> String {
        use rustls::CertificateError as Bad;
        let rustls::Error::InvalidCertificate(bad) = error else { return error.to_string() };
        let Ok(decoded) = Decoded::new(own) else { return error.to_string() };
        match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => {
                format!("it has expired on {}: renew it", expiry::date(decoded.ends()))
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => format!(
                "it is not valid before {}: is this machine's clock right?",
                expiry::date(decoded.begins())
            ),
            Bad::UnknownIssuer | Bad::BadSignature => format!(
                "no authority in {} has issued it (its issuer is {}): take both from one authority",
                self.names.authority,
                decoded.issuer()
            ),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
                let wanted = match role {
                    Role::Replica => {
                        "serverAuth and clientAuth, as a replica also dials the others"
                    }
                    Role::Client => "clientAuth",
                };
                format!(
                    "it is not made for {whom}: issue one whose extended key usage has {wanted}"
                )
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => format!(
                "it is made out to {}: issue one for {name}, as a DNS name among its alternative \
                 names",
                decoded.names()
            ),
            _ if decoded.is_authority() => {
                "it is an authority's own: are `authority` and `certificate` swapped?".to_owned()
            }
            _ => error.to_string(),
        }
    }
}

fn dated(certificates: &[CertificateDer<'_>], what: &str) -> Vec<Dated> {
    let dated = |certificate| Some(Dated { what: what.to_owned(), ends: end_of(certificate)? });
    certificates.iter().filter_map(dated).collect()
}

impl Clone for Credentials {
    fn clone(&self) -> Credentials {
        Credentials {
            roots: Arc::clone(&self.roots),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            authorities: self.authorities.clone(),
            names: self.names.clone(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Logs must not contain the key.
        f.debug_struct("Credentials").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Whether a certificate carries `name`. It must already be verified to come from a trusted
/// authority.
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
