//! Certificates and keys in PEM files as they occur in practice: with a byte order mark, with
//! foreign line ends, swapped, encrypted. Errors name the unusable file and the remedy.

use std::io::Read;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::CredentialsError;
use super::x509::Decoded;

/// Far more than any authority's list; a larger file is something else.
const MOST_BYTES: u64 = 4 << 20;
/// The labels of blocks with a usable private key.
const KEYS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

/// All certificates in a file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let bad = |why: String| CredentialsError::File { path: path.into(), why };
    let text = text(path, "x509")?;
    let blocks = blocks(&text);
    if !blocks.contains(&"CERTIFICATE") {
        return Err(bad(no_certificate(&blocks)));
    }
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| bad(format!("holds no usable certificate: {error}")))?;
    for (index, certificate) in found.iter().enumerate() {
        // Decode it here, so that the error names the file.
        if let Err(error) = Decoded::new(certificate) {
            return Err(bad(format!("certificate {} in it is damaged: {error}", index + 1)));
        }
    }
    if found.is_empty() { Err(bad(no_certificate(&blocks))) } else { Ok(found) }
}

/// The private key in a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let bad = |why: String| CredentialsError::File { path: path.into(), why };
    let text = text(path, "pkey")?;
    let blocks = blocks(&text);
    if blocks.contains(&"ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(bad(format!(
            "the key in it is encrypted, and nobody is there to be asked for its passphrase: take \
             off the encryption (openssl pkey -in {} -out NEW) and let nobody else read it",
            path.display()
        )));
    }
    match blocks.iter().filter(|block| KEYS.contains(block)).count() {
        0 => return Err(bad(no_key(&blocks))),
        1 => {}
        many => return Err(bad(format!("holds {many} private keys: leave the certificate's own"))),
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
    key.map_err(|error| bad(format!("holds no usable private key: {error}")))
}

fn no_certificate(blocks: &[&str]) -> String {
    let has = |block: &str| blocks.contains(&block);
    if blocks.iter().any(|block| block.ends_with("PRIVATE KEY")) {
        "holds a private key and no certificate: are `certificate` and `key` swapped?".to_owned()
    } else if has("CERTIFICATE REQUEST") || has("NEW CERTIFICATE REQUEST") {
        "holds a request for a certificate: have the authority issue it".to_owned()
    } else if has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        "holds a certificate in a form of OpenSSL's own: write it again with `openssl x509`"
            .to_owned()
    } else {
        format!("holds no certificate in PEM, {}", found(blocks, "CERTIFICATE"))
    }
}

fn no_key(blocks: &[&str]) -> String {
    let has = |block: &str| blocks.contains(&block);
    if has("CERTIFICATE") {
        "holds a certificate and no private key: are `certificate` and `key` swapped?".to_owned()
    } else if has("PUBLIC KEY") {
        "holds a public key: the private one is wanted".to_owned()
    } else if has("OPENSSH PRIVATE KEY") {
        "holds a key of OpenSSH's form: write it again with `ssh-keygen -p -m PKCS8`".to_owned()
    } else {
        format!("holds no private key in PEM, {}", found(blocks, "PRIVATE KEY"))
    }
}

fn found(blocks: &[&str], wanted: &str) -> String {
    match blocks.first() {
        None => format!("which begins with the line -----BEGIN {wanted}-----"),
        Some(block) => format!("only {block:?}"),
    }
}

/// A file's text without byte order marks.
fn text(path: &Path, tool: &str) -> Result<String, CredentialsError> {
    let bad = |why: String| CredentialsError::File { path: path.into(), why };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| CredentialsError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(bad("is larger than any file of certificates and keys".to_owned()));
    }
    if bytes.is_empty() {
        return Err(bad("is empty".to_owned()));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(bad("is text in UTF-16: save it as UTF-8".to_owned()));
    }
    // In DER, all of them are sequences of more than 127 bytes.
    if matches!(bytes[..], [0x30, length, ..] if length >= 0x80) {
        return Err(bad(format!(
            "is DER, and PEM is wanted: convert it (openssl {tool} -inform DER -in {} -out NEW)",
            path.display()
        )));
    }
    // Any text may surround the blocks. In joined files, byte order marks are in the middle.
    Ok(String::from_utf8_lossy(&bytes).replace('\u{feff}', ""))
}

/// The labels of its blocks, in order.
fn blocks(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim_end);
    lines.filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")).collect()
}
