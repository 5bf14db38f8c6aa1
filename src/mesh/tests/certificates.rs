//! Unusable certificates and keys are refused at the start, with errors that say what to do. Usable
//! ones in unusual files are read.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use rcgen::ExtendedKeyUsagePurpose as Usage;

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
