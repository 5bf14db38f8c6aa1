//! The cryptography of TLS, and the clock that it checks certificates with.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The provider, chosen in this one place. Any code in the process could change a process-wide
/// default.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The SHA-256 of these bytes, in hexadecimal: what two people compare to see that they have the
/// same key.
#[cfg(feature = "authority")]
pub(super) fn digest(bytes: &[u8]) -> String {
    use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    let hash = suite.common.hash_provider.hash(bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The clock for checking certificates. The default clock of rustls panics before 1970, and a
/// machine without a battery may start with such a time. With this clock no certificate is valid
/// then, and the error says so.
#[derive(Debug)]
pub(super) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(SystemTime::now()))
    }
}

/// A time as certificates express it; anything before 1970 becomes 1970.
pub(super) fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "authority")]
    #[test]
    fn a_digest_is_what_other_programs_print() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), abc);
    }

    #[test]
    fn a_clock_before_1970_makes_no_certificate_valid_and_nobody_panic() {
        let before = UNIX_EPOCH - std::time::Duration::from_secs(5);
        assert_eq!(unix_time(before).as_secs(), 0);
        assert_eq!(unix_time(UNIX_EPOCH + std::time::Duration::from_secs(7)).as_secs(), 7);
        let now = Clock.current_time().expect("there is always one");
        assert!(now.as_secs() > 1_600_000_000, "{now:?}");
    }
}
