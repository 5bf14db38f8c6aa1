//! A cluster's certificate authority, made once by `isonomy init` or temporarily for a test. It
//! alone decides who is `r2`, who is a client and who may change the members; nothing else in the
//! mesh issues identities.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::credentials::{Credentials, CredentialsError, Decoded, Role, certificate_has_name};
use super::crypto;
use super::names::{self, check_client, check_cluster};
use super::request::{self, Asked, common_name, issue};
use crate::types::{MAX_REPLICAS, MemberId, ReplicaId};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clocks differ: a new certificate is already valid for a reader whose clock is a day behind.
const BACKDATE: Duration = DAY;
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// Each replica's certificate expires this much before that of the one before it. If all warnings
/// are ignored, the cluster loses one replica first and keeps running, instead of losing all at
/// once.
const STAGGER: Duration = Duration::from_secs(7 * 24 * 3600);

/// A replica accepts and dials.
const REPLICA: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
/// A client only dials.
const CLIENT: [ExtendedKeyUsagePurpose; 1] = [ExtendedKeyUsagePurpose::ClientAuth];

/// The authority of one cluster: its key signs the certificates of replicas and clients.
pub struct Authority {
    cluster: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, available in PEM for files and as [`Credentials`].
pub struct Issued {
    certificate: Certificate,
    key: KeyPair,
    root: CertificateDer<'static>,
}

/// A certificate for the key of a request.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The replica that asked.
    pub id: MemberId,
    /// Its certificate in PEM.
    pub certificate_pem: String,
    /// The hash of its public key, as [`Request::key_digest`](super::Request::key_digest) tells it
    /// where the request was made.
    pub key_digest: String,
}

impl Authority {
    /// A new authority for `cluster`, with a new key.
    ///
    /// # Errors
    /// If the name is not valid in certificates (use lower-case DNS labels).
    pub fn new(cluster: &str) -> Result<Authority, CredentialsError> {
        check_cluster(cluster).map_err(issue)?;
        let key = KeyPair::generate().map_err(issue)?;
        let params = authority_params(cluster);
        let certificate = params.self_signed(&key).map_err(issue)?;
        Ok(Authority {
            cluster: cluster.to_owned(),
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority written earlier with [`certificate_pem`](Authority::certificate_pem) and
    /// [`key_pem`](Authority::key_pem).
    ///
    /// # Errors
    /// If either is not PEM, if they do not belong together, or if they belong to another cluster.
    pub fn from_pem(
        cluster: &str,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Authority, CredentialsError> {
        check_cluster(cluster).map_err(issue)?;
        let key = KeyPair::from_pem(key_pem).map_err(issue)?;
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(issue)?;
        let authority = Authority {
            cluster: cluster.to_owned(),
            certificate,
            certificate_pem: certificate_pem.to_owned(),
            issuer: Issuer::new(authority_params(cluster), key),
        };
        // The issuer's name is derived from the cluster's, not read from the certificate. Issue
        // something and check whether the certificate verifies it.
        let probe = MemberId::of(ReplicaId::from_index(0));
        let name = names::replica_name(cluster, probe);
        authority.issue_replica(probe)?.credentials()?.check_own(&name, Role::Replica).map_err(
            |error| {
                CredentialsError::Issue(format!(
                    "this certificate and key are not the authority of cluster {cluster}: {error}"
                ))
            },
        )?;
        Ok(authority)
    }

    /// The authority's cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate. Every replica and client needs it; it is not secret.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key. Anyone who has it can impersonate any replica. Do not store it
    /// on the replicas.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for replica `id`, valid as server and as client.
    ///
    /// # Errors
    /// If no certificate can be made, for example because there is no randomness.
    pub fn issue_replica(&self, id: MemberId) -> Result<Issued, CredentialsError> {
        let name = names::replica_name(&self.cluster, id);
        self.issue(&name, &REPLICA, replica_end(id))
    }

    /// A certificate for the key of a request, which says who asks. Only the key and the name are
    /// taken from it.
    ///
    /// # Errors
    /// If the request cannot be read, if whoever made it does not have its key, or if it does not
    /// ask for the certificate of one replica of this cluster.
    pub fn sign(&self, request: &str) -> Result<Signed, CredentialsError> {
        let Asked { id, key } = request::read(&self.cluster, request)?;
        let name = names::replica_name(&self.cluster, id);
        let key_digest = crypto::digest(&key);
        let key = SubjectPublicKeyInfo::from_der(&key).map_err(issue)?;
        let params = params(vec![name], &REPLICA, replica_end(id))?;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(issue)?.pem();
        Ok(Signed { id, certificate_pem, key_digest })
    }

    /// A certificate for the client `name`, which must be one lower-case DNS label. It is not valid
    /// for servers, so a client cannot impersonate a replica.
    ///
    /// # Errors
    /// If the name is not valid in a certificate, or no certificate can be made.
    pub fn issue_client(&self, name: &str) -> Result<Issued, CredentialsError> {
        check_client(name).map_err(issue)?;
        let name = names::client_name(&self.cluster, name);
        self.issue(&name, &CLIENT, client_end())
    }

    /// As [`Authority::issue_client`], for a client that may also change the members.
    ///
    /// # Errors
    /// As [`Authority::issue_client`].
    pub fn issue_administrator(&self, name: &str) -> Result<Issued, CredentialsError> {
        check_client(name).map_err(issue)?;
        let names = vec![
            names::client_name(&self.cluster, name),
            names::administrator_name(&self.cluster, name),
        ];
        self.issue_as(names, &CLIENT, client_end())
    }

    /// A new certificate for replica `id` that replaces `old` and has the same key, so the private
    /// key does not change. In PEM.
    ///
    /// # Errors
    /// If `old` is not a PEM certificate of that replica.
    pub fn renew_replica(&self, id: MemberId, old: &str) -> Result<String, CredentialsError> {
        self.renew(names::replica_name(&self.cluster, id), None, &REPLICA, replica_end(id), old)
    }

    /// As [`Authority::renew_replica`], for the client `name`. An administrator stays one.
    ///
    /// # Errors
    /// If `old` is not a PEM certificate of that client.
    pub fn renew_client(&self, name: &str, old: &str) -> Result<String, CredentialsError> {
        check_client(name).map_err(issue)?;
        let administrator = names::administrator_name(&self.cluster, name);
        let name = names::client_name(&self.cluster, name);
        self.renew(name, Some(administrator), &CLIENT, client_end(), old)
    }

    /// `kept` is a second name of the new certificate, if the old one has it.
    fn renew(
        &self,
        name: String,
        kept: Option<String>,
        uses: &[ExtendedKeyUsagePurpose],
        not_after: SystemTime,
        old: &str,
    ) -> Result<String, CredentialsError> {
        let old = CertificateDer::from_pem_slice(old.as_bytes()).map_err(issue)?;
        // If files were mixed up, another key would get this name.
        certificate_has_name(&old, &name).map_err(|_| {
            CredentialsError::Issue(format!("the certificate to renew is not that of {name}"))
        })?;
        let kept = kept.filter(|kept| certificate_has_name(&old, kept).is_ok());
        let key = Decoded::new(&old).and_then(|it| it.public_key()).map_err(issue)?;
        let key = SubjectPublicKeyInfo::from_der(&key).map_err(issue)?;
        let params = params([name].into_iter().chain(kept).collect(), uses, not_after)?;
        Ok(params.signed_by(&key, &self.issuer).map_err(issue)?.pem())
    }

    /// A certificate for any name, use and end; tests issue wrong ones with it.
    pub(super) fn issue(
        &self,
        name: &str,
        uses: &[ExtendedKeyUsagePurpose],
        not_after: SystemTime,
    ) -> Result<Issued, CredentialsError> {
        self.issue_as(vec![name.to_owned()], uses, not_after)
    }

    fn issue_as(
        &self,
        names: Vec<String>,
        uses: &[ExtendedKeyUsagePurpose],
        not_after: SystemTime,
    ) -> Result<Issued, CredentialsError> {
        let key = KeyPair::generate().map_err(issue)?;
        let certificate =
            params(names, uses, not_after)?.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(Issued { certificate, key, root: self.certificate.clone() })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Issued {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

impl Issued {
    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key in PEM. Only its owner may read the file.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Credentials that trust only the issuing authority.
    ///
    /// # Errors
    /// [`CredentialsError::Root`] if the authority's certificate is not usable as a root of trust.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Credentials::new(vec![self.root.clone()], vec![self.certificate.der().clone()], key)
    }
}

/// The first of the names also stands in the field for people.
fn params(
    names: Vec<String>,
    uses: &[ExtendedKeyUsagePurpose],
    not_after: SystemTime,
) -> Result<CertificateParams, CredentialsError> {
    let shown = common_name(names.first().map_or("", String::as_str));
    let mut params = CertificateParams::new(names).map_err(issue)?;
    params.distinguished_name = shown;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = uses.to_vec();
    params.not_before = date(not_after.min(SystemTime::now()) - BACKDATE);
    params.not_after = date(not_after);
    Ok(params)
}

fn client_end() -> SystemTime {
    SystemTime::now() + CERTIFICATE_LIFETIME
}

fn replica_end(id: MemberId) -> SystemTime {
    // Numbers grow as members come and go. A certificate must not expire earlier and earlier.
    let steps = (id.number() as usize - 1) % MAX_REPLICAS;
    let earlier = STAGGER * u32::try_from(steps).expect("a cluster has few replicas");
    SystemTime::now() + CERTIFICATE_LIFETIME.saturating_sub(earlier)
}

/// Must always be the same for a cluster, because [`Authority::from_pem`] derives the issuer from
/// it.
fn authority_params(cluster: &str) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("isonomy authority of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now - BACKDATE);
    params.not_after = date(now + AUTHORITY_LIFETIME);
    params
}

fn date(at: SystemTime) -> OffsetDateTime {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
