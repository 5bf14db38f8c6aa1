//! Reads the fields of a certificate, for messages, warnings and renewal. Only rustls decides
//! whether a certificate is trusted.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::time::Time;

/// A decoded certificate. `Raw`, because authorities in use write serial numbers and dates that the
/// standard's profile does not allow, and rustls accepts them.
pub(in crate::mesh) struct Decoded(CertificateInner<Raw>);

impl Decoded {
    /// # Errors
    /// If it is not a DER certificate, or if bytes follow it.
    pub(in crate::mesh) fn new(certificate: &CertificateDer<'_>) -> Result<Decoded, der::Error> {
        CertificateInner::from_der(certificate).map(Decoded)
    }

    /// When it becomes valid, in seconds since 1970.
    pub(in crate::mesh) fn begins(&self) -> i64 {
        seconds(&self.0.tbs_certificate().validity().not_before)
    }

    /// When it expires, in seconds since 1970.
    pub(in crate::mesh) fn ends(&self) -> i64 {
        seconds(&self.0.tbs_certificate().validity().not_after)
    }

    /// The name of the authority that issued it.
    pub(in crate::mesh) fn issuer(&self) -> String {
        self.0.tbs_certificate().issuer().to_string()
    }

    /// Whether it belongs to an authority.
    pub(in crate::mesh) fn is_authority(&self) -> bool {
        let constraints = self.0.tbs_certificate().get_extension::<BasicConstraints>();
        matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    }

    /// The names it is issued for, as text; at most five.
    pub(in crate::mesh) fn names(&self) -> String {
        let names = self.0.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten();
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let names = names.iter().take(5).map(in_words).collect::<Vec<_>>().join(", ");
        if names.is_empty() { "no name".to_owned() } else { names }
    }

    /// Its public key: a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// If it cannot be encoded again.
    #[cfg(feature = "authority")]
    pub(in crate::mesh) fn public_key(&self) -> Result<Vec<u8>, der::Error> {
        der::Encode::to_der(self.0.tbs_certificate().subject_public_key_info())
    }
}

fn seconds(time: &Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

fn in_words(name: &GeneralName) -> String {
    match name {
        GeneralName::DnsName(name)
        | GeneralName::Rfc822Name(name)
        | GeneralName::UniformResourceIdentifier(name) => name.to_string(),
        GeneralName::DirectoryName(name) => name.to_string(),
        GeneralName::IpAddress(address) => match *address.as_bytes() {
            [a, b, c, d] => Ipv4Addr::new(a, b, c, d).to_string(),
            ref bytes => match <[u8; 16]>::try_from(bytes) {
                Ok(bytes) => Ipv6Addr::from(bytes).to_string(),
                Err(_) => "an address that is none".to_owned(),
            },
        },
        GeneralName::RegisteredId(id) => id.to_string(),
        GeneralName::OtherName(_) | GeneralName::EdiPartyName(_) => {
            "a name of another kind".to_owned()
        }
    }
}
