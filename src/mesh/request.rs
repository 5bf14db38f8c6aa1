//! A request for a replica's certificate: made where the replica's key is to stay, and read where
//! the authority's key is. After `names` and `crypto`, before `authority`, which signs it.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, KeyPair, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::der::{Decode, Encode};
use x509_cert::request::CertReq;

use super::credentials::CredentialsError;
use super::crypto;
use super::names::{self, check_cluster};
use crate::types::MemberId;

/// A request for the certificate of one replica, with the key that it is for.
pub struct Request {
    key: KeyPair,
    pem: String,
    key_digest: String,
}

impl Request {
    /// Makes a key for replica `id` of `cluster`, and a request for its certificate.
    ///
    /// # Errors
    /// If the cluster's name is not valid in a certificate, or there is no randomness.
    pub fn new(cluster: &str, id: MemberId) -> Result<Request, CredentialsError> {
        check_cluster(cluster).map_err(issue)?;
        let key = KeyPair::generate().map_err(issue)?;
        let name = names::replica_name(cluster, id);
        let mut params = CertificateParams::new(vec![name.clone()]).map_err(issue)?;
        params.distinguished_name = common_name(&name);
        let pem = params.serialize_request(&key).and_then(|it| it.pem()).map_err(issue)?;
        let key_digest = crypto::digest(&read(cluster, &pem)?.key);
        Ok(Request { key, pem, key_digest })
    }

    /// The request in PEM, for the authority. It is not secret.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The private key in PEM. It stays where it is, and only its owner may read the file.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The SHA-256 of the public key, in hexadecimal. Whoever signs the request sees the same one,
    /// unless the request was exchanged on its way.
    pub fn key_digest(&self) -> &str {
        &self.key_digest
    }
}

impl std::fmt::Debug for Request {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("key_digest", &self.key_digest).finish_non_exhaustive()
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: MemberId,
    /// The public key: a `SubjectPublicKeyInfo` in DER.
    pub(super) key: Vec<u8>,
}

/// Reads a request and checks that whoever made it has the key.
pub(super) fn read(cluster: &str, request: &str) -> Result<Asked, CredentialsError> {
    let unreadable = |error: &dyn std::fmt::Display| issue(format!("no usable request: {error}"));
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes());
    let der = der.map_err(|error| unreadable(&error))?;
    // This checks the signature, and takes the kind of the key from that. So the key itself comes
    // from the decoded request.
    let params =
        CertificateSigningRequestParams::from_der(&der).map_err(|e| unreadable(&e))?.params;
    let asked = CertReq::from_der(&der).map_err(|error| unreadable(&error))?;
    let key = asked.info.public_key.to_der().map_err(|error| unreadable(&error))?;
    let other = |what: String| {
        issue(format!("the request is for {what}, and not for a replica of {cluster}"))
    };
    let name = match &params.subject_alt_names[..] {
        [SanType::DnsName(name)] => name.as_str(),
        [] => return Err(other("no name".to_owned())),
        [_] => return Err(other("a name of another kind".to_owned())),
        names => return Err(other(format!("{} names", names.len()))),
    };
    // Only the one spelling of a number is a replica's name.
    let number = name.split('.').next().unwrap_or_default();
    let id = number.parse::<MemberId>().ok();
    let id = id.filter(|id| names::replica_name(cluster, *id) == name);
    let id = id.ok_or_else(|| other(name.to_owned()))?;
    Ok(Asked { id, key })
}

pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    // This field holds 64 characters and identifies nothing here; the alternative names do.
    dn.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    dn
}

pub(super) fn issue(error: impl std::fmt::Display) -> CredentialsError {
    CredentialsError::Issue(error.to_string())
}
