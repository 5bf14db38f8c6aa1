//! Unusable certificates and keys are refused at the start, with errors that say what to do. Usable
//! ones in unusual files are read.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_cert::der::{Decode, Encode};
use x509_cert::request::CertReq;

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const BOTH: [Usage; 2] = [Usage::ServerAuth, Usage::ClientAuth];

/// A directory with a sound authority, certificate and key of replica 1.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("ca.pem", authority().certificate_pem());
        files.issue(authority(), "r1.alpha", &BOTH, SystemTime::now() + YEAR);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn issue(&self, authority: &Authority, name: &str, uses: &[Usage], ends: SystemTime) {
        let issued = authority.issue(name, uses, ends).unwrap();
        self.write("1.pem", issued.certificate_pem());
        self.write("1.key", issued.key_pem());
    }

    fn read(&self) -> Result<Credentials, CredentialsError> {
        let [ca, own, key] = ["ca.pem", "1.pem", "1.key"].map(|name| self.path(name));
        Credentials::from_pem_files(&ca, &own, &key)
    }

    /// The error of a replica that starts with these files.
    async fn start(&self) -> Result<(), String> {
        let mut config = config(1, 1);
        config.credentials = self.read().map_err(|error| error.to_string())?;
        let started = Mesh::start(config, Recorder::default()).await;
        started.map(drop).map_err(|error| error.to_string())
    }

    async fn refused(&self, words: &[&str]) {
        let said = self.start().await.expect_err("it starts");
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_for_all_that_a_replica_does_is_refused() {
    let files = Files::new();
    files.start().await.unwrap();
    let later = SystemTime::now() + YEAR;
    let both = "serverAuth and clientAuth";
    files.issue(authority(), "r1.alpha", &[Usage::ServerAuth], later);
    files.refused(&["1.pem cannot be used as r1.alpha", "not made for clients", both]).await;
    files.issue(authority(), "r1.alpha", &[Usage::ClientAuth], later);
    files.refused(&["1.pem cannot be used as r1.alpha", "not made for servers", both]).await;
    files.issue(authority(), "r2.alpha", &BOTH, later);
    files.refused(&["is made out to r2.alpha", "issue one for r1.alpha"]).await;
    files.issue(authority(), "r1.alpha", &BOTH, SystemTime::now() - YEAR);
    files.refused(&["1.pem", "has expired on 20"]).await;
    files.issue(&Authority::new(CLUSTER).unwrap(), "r1.alpha", &BOTH, later);
    files.refused(&["no authority in", "ca.pem", "isonomy authority of alpha"]).await;
    files.issue(authority(), "r1.alpha", &BOTH, later);
    files.write("1.key", authority().issue_client("alice").unwrap().key_pem());
    files.refused(&["1.pem", "1.key belongs to another certificate"]).await;
    let own = Files::new();
    own.write("1.pem", authority().certificate_pem());
    own.write("1.key", authority().key_pem());
    own.refused(&["are `authority` and `certificate` swapped?"]).await;
}

#[test]
fn a_clients_certificate_is_checked_too() {
    let refusal = |uses: &[Usage], ends| {
        let issued = authority().issue("alice.client.alpha", uses, ends).unwrap();
        let config = ClientConfig::new(CLUSTER, "alice", issued.credentials().unwrap());
        ClientEndpoint::bind(config).map(drop).map_err(|error| error.to_string())
    };
    let later = SystemTime::now() + YEAR;
    assert_eq!(refusal(&[Usage::ClientAuth], later), Ok(()));
    assert!(refusal(&[Usage::ServerAuth], later).unwrap_err().contains("has clientAuth"));
    let expired = refusal(&[Usage::ClientAuth], SystemTime::now() - YEAR).unwrap_err();
    assert!(expired.contains("has expired on"), "{expired}");
}

#[tokio::test]
async fn files_as_people_have_them_are_read() {
    let files = Files::new();
    for name in ["ca.pem", "1.pem", "1.key"] {
        let lines = files.text(name).replace('\n', "\r\n");
        files.write(name, format!("\u{feff}{lines}"));
    }
    files.start().await.unwrap();
    // With other text around it, and with the key in the same file.
    let both = format!("subject: r1\n{}\n{}", files.text("1.key"), files.text("1.pem"));
    files.write("1.pem", &both);
    files.write("1.key", &both);
    files.start().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_something_else_is_named_with_what_to_do() {
    let block = |kind: &str| format!("-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n");
    let sound = Files::new();
    let (own, key) = (sound.text("1.pem"), sound.text("1.key"));
    let der = replica_credentials(1).chain[0].to_vec();
    let utf16: Vec<u8> = "\u{feff}-----".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n\
                  -----END RSA PRIVATE KEY-----\n";
    for (name, contents, words) in [
        ("1.pem", key.clone().into_bytes(), "are `certificate` and `key` swapped?"),
        ("1.key", own.clone().into_bytes(), "are `certificate` and `key` swapped?"),
        ("1.key", block("ENCRYPTED PRIVATE KEY").into(), "openssl pkey -in"),
        ("1.key", legacy.into(), "is encrypted"),
        ("1.key", format!("{key}{key}").into(), "holds 2 private keys"),
        ("1.key", block("PUBLIC KEY").into(), "holds a public key"),
        ("1.key", block("OPENSSH PRIVATE KEY").into(), "ssh-keygen"),
        ("1.key", block("PRIVATE KEY").into(), "1.key is of no use"),
        ("1.key", b"nonsense".to_vec(), "-----BEGIN PRIVATE KEY-----"),
        ("1.pem", block("CERTIFICATE REQUEST").into(), "have the authority issue it"),
        ("1.pem", block("TRUSTED CERTIFICATE").into(), "openssl x509"),
        ("1.pem", block("CERTIFICATE").into(), "certificate 1 in it is damaged"),
        ("1.pem", own[..200].into(), "no usable certificate"),
        ("1.pem", der, "openssl x509 -inform DER"),
        ("ca.pem", utf16, "is text in UTF-16"),
        ("ca.pem", Vec::new(), "is empty"),
        ("ca.pem", b"nonsense".to_vec(), "-----BEGIN CERTIFICATE-----"),
        ("ca.pem", vec![b'x'; 5 << 20], "larger than any"),
    ] {
        let files = Files::new();
        files.write("1.pem", &own);
        files.write("1.key", &key);
        files.write(name, contents);
        files.refused(&[name, words]).await;
    }
}

#[test]
fn what_ends_soon_is_told_by_its_file() {
    let files = Files::new();
    assert_eq!(files.read().unwrap().expiring(SystemTime::now()), []);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600 + 60);
    files.issue(authority(), "r1.alpha", &BOTH, SystemTime::now() + days(10));
    let credentials = files.read().unwrap();
    let [own] = &credentials.expiring(SystemTime::now())[..] else { panic!("one") };
    let said = own.to_string();
    assert!(said.contains("1.pem expires in 10 days, on 20"), "{said}");
    // In nearly twenty years the authority's certificate expires, too: a little over two days are
    // left.
    let both = credentials.expiring(SystemTime::now() + days(20 * 365 - 3));
    assert_eq!(both.len(), 2);
    assert!(both[0].days_left() < 0 && both[1].to_string().contains("ca.pem expires in 2 days"));
}

#[test]
fn certificates_of_one_cluster_do_not_end_in_one_moment() {
    let day = |id| {
        let issued = authority().issue_replica(r(id)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        fs::write(&path, issued.certificate_pem()).unwrap();
        certificate_end(&path, SystemTime::now()).unwrap().1
    };
    // They are issued in different seconds, and days are rounded.
    assert!((6..=8).contains(&(day(1) - day(2))));
    assert!((433..=435).contains(&(day(1) - day(63))));
    assert!(day(63) > 3 * 365);
}

#[tokio::test]
async fn a_renewed_certificate_has_the_old_ones_key_and_name() {
    let files = Files::new();
    files.issue(authority(), "r1.alpha", &BOTH, SystemTime::now() - YEAR);
    files.refused(&["has expired"]).await;
    let old = files.text("1.pem");
    files.write("1.pem", authority().renew_replica(r(1), &old).unwrap());
    files.start().await.unwrap();
    for wrong in [
        authority().renew_replica(r(2), &old),
        authority().renew_client("alice", &old),
        authority().renew_replica(r(1), &files.text("1.key")),
    ] {
        assert!(wrong.is_err());
    }
}

/// Whether the client `name` is an administrator to a replica that sees these credentials.
async fn is_administrator(name: &str, credentials: Credentials) -> bool {
    let node = Node::start(config(1, 1)).await;
    let mut config = ClientConfig::new(CLUSTER, name, credentials);
    config.local = Some(loopback());
    let endpoint = ClientEndpoint::bind(config).unwrap();
    let _channel = endpoint.connect(node.mesh.local_addr(), r(1)).await.unwrap();
    node.seen.client().await.is_administrator()
}

#[tokio::test]
async fn an_administrator_is_one_until_its_certificate_ends() {
    let issued = authority().issue_administrator("alice").unwrap();
    assert!(is_administrator("alice", issued.credentials().unwrap()).await);
    let client = authority().issue_client("alice").unwrap();
    assert!(!is_administrator("alice", client.credentials().unwrap()).await);

    let files = Files::new();
    for (issued, expected) in [(issued, true), (client, false)] {
        let renewed = authority().renew_client("alice", &issued.certificate_pem()).unwrap();
        files.write("1.pem", renewed);
        files.write("1.key", issued.key_pem());
        assert_eq!(is_administrator("alice", files.read().unwrap()).await, expected);
    }
    for bad in ["r1.admin", "", "Alice"] {
        assert!(authority().issue_administrator(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_request_brings_a_certificate_to_a_key_that_stays_where_it_is() {
    let request = Request::new(CLUSTER, r(70)).unwrap();
    let signed = authority().sign(request.pem()).unwrap();
    assert_eq!((signed.id, &*signed.key_digest), (r(70), request.key_digest()));
    let files = Files::new();
    files.write("1.pem", signed.certificate_pem);
    files.write("1.key", request.key_pem());
    let mut config = config(70, 1);
    config.credentials = files.read().unwrap();
    drop(Mesh::start(config, Recorder::default()).await.unwrap());
}

#[test]
fn a_request_gets_no_more_than_the_name_of_one_replica() {
    let key = rcgen::KeyPair::generate().unwrap();
    let ask = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        authority().sign(&params.serialize_request(&key).unwrap().pem().unwrap())
    };
    assert_eq!(ask(&["r4.alpha"]).unwrap().id, r(4));
    for (names, said) in [
        (&[][..], "for no name"),
        (&["r4.beta"], "for r4.beta"),
        (&["alice.client.alpha"], "for alice.client.alpha"),
        (&["alice.admin.alpha"], "for alice.admin.alpha"),
        (&["r0.alpha"], "for r0.alpha"),
        (&["r04.alpha"], "for r04.alpha"),
        (&["4.alpha"], "for 4.alpha"),
        (&["r4.client.alpha"], "for r4.client.alpha"),
        (&["*.alpha"], "for *.alpha"),
        (&["10.0.0.1"], "a name of another kind"),
        (&["r4.alpha", "alice.admin.alpha"], "for 2 names"),
    ] {
        let error = ask(names).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("a replica of alpha"), "{error}");
    }
    // It asks to be an authority.
    let mut params = rcgen::CertificateParams::new(vec!["r4.alpha".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![Usage::CodeSigning];
    let request = params.serialize_request(&key).unwrap();
    let signed = authority().sign(&request.pem().unwrap()).unwrap().certificate_pem;
    let signed = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let decoded = crate::mesh::credentials::Decoded::new(&signed).unwrap();
    assert!(!decoded.is_authority());
    assert_eq!(decoded.names(), "r4.alpha");
}

#[test]
fn a_request_without_its_key_is_refused() {
    let request = Request::new(CLUSTER, r(4)).unwrap();
    let der = CertificateSigningRequestDer::from_pem_slice(request.pem().as_bytes()).unwrap();
    let signed = CertReq::from_der(&der).unwrap().info.to_der().unwrap();
    let at = der.windows(signed.len()).position(|part| part == signed).unwrap();
    // Whichever byte is changed of what is signed, or of the end of the signature.
    for at in (at..at + signed.len()).chain(der.len() - 30..der.len()) {
        let mut other = der.to_vec();
        other[at] ^= 0x01;
        assert!(authority().sign(&as_request(&other)).is_err(), "byte {at}");
    }
    for end in 0..der.len() {
        assert!(authority().sign(&as_request(&der[..end])).is_err(), "cut at {end}");
    }
    let longer = [&der[..], &[0]].concat();
    assert!(authority().sign(&as_request(&longer)).is_err());
    assert!(authority().sign(&as_request(&der)).is_ok());
    for (other, said) in [
        ("", "no usable request"),
        (authority().certificate_pem(), "no usable request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\n", "no usable request"),
    ] {
        let error = authority().sign(other).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

fn as_request(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}
