//! The cryptography that TLS uses, and the clock by which it judges certificates.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The cryptography, named here once: a process-wide default would be anybody's to change.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The time by which certificates are judged. The usual clock of rustls panics before 1970, which a
/// machine without a battery believes it is when it starts: no certificate is valid then, and that
/// is what is said.
#[derive(Debug)]
pub(super) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(SystemTime::now()))
    }
}

/// A moment as certificates have it; before 1970, the beginning of it.
pub(super) fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_makes_no_certificate_valid_and_nobody_panic() {
        let before = UNIX_EPOCH - std::time::Duration::from_secs(5);
        assert_eq!(unix_time(before).as_secs(), 0);
        assert_eq!(unix_time(UNIX_EPOCH + std::time::Duration::from_secs(7)).as_secs(), 7);
        let now = Clock.current_time().expect("there is always one");
        assert!(now.as_secs() > 1_600_000_000, "{now:?}");
    }
}
