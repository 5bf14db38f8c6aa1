//! When certificates expire. Warns at the start and daily, while there is time to act.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use tracing::warn;
use x509_cert::der::DateTime;

use super::error::CredentialsError;
use super::pem;
use super::x509::Decoded;
use crate::types::MemberId;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAY_SECONDS: i64 = 24 * 3600;
/// How many days before its end a certificate causes warnings.
pub const WARN_DAYS: i64 = 30;

/// A certificate that expires soon or has expired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expiring {
    what: String,
    /// In seconds since 1970.
    ends: i64,
    now: i64,
}

impl Expiring {
    /// Whole days until the end; negative after it.
    pub fn days_left(&self) -> i64 {
        (self.ends - self.now).div_euclid(DAY_SECONDS)
    }
}

impl fmt::Display for Expiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Expiring { what, ends, .. } = self;
        let date = date(*ends);
        match self.days_left() {
            ..0 => write!(f, "{what} has expired on {date}: renew it"),
            0 => write!(f, "{what} expires within a day, on {date}: renew it"),
            days => write!(f, "{what} expires in {days} days, on {date}: renew it"),
        }
    }
}

/// The day on which the first certificate in a PEM file expires, as year-month-day, and the whole
/// days from `now` until then; negative after the end.
///
/// # Errors
/// [`CredentialsError`] if the file has no usable certificate.
pub fn certificate_end(path: &Path, now: SystemTime) -> Result<(String, i64), CredentialsError> {
    let certificates = pem::certificates(path)?;
    let ends = certificates.first().and_then(|it| end_of(it)).unwrap_or_default();
    Ok((date(ends), (ends - seconds(now)).div_euclid(DAY_SECONDS)))
}

/// A certificate and its end, in seconds since 1970.
#[derive(Clone, Debug)]
pub(in crate::mesh) struct Dated {
    pub(super) what: String,
    pub(super) ends: i64,
}

/// The own and the authorities' certificates to warn of at this time.
pub(super) fn expiring(own: &[Dated], authorities: &[Dated], now: SystemTime) -> Vec<Expiring> {
    let now = seconds(now);
    let soon = |it: &&Dated| it.ends - now < WARN_DAYS * DAY_SECONDS;
    let mut found: Vec<&Dated> = own.iter().filter(soon).collect();
    // An old authority's certificate beside its successor is a leftover, so it causes no warning.
    let all_over = authorities.iter().all(|it| it.ends <= now);
    let counts = |it: &&Dated| soon(it) && (all_over || it.ends > now);
    found.extend(authorities.iter().filter(counts).min_by_key(|it| it.ends));
    let expiring = |it: &Dated| Expiring { what: it.what.clone(), ends: it.ends, now };
    found.into_iter().map(expiring).collect()
}

/// Warns of certificates that expire soon, now and once a day.
pub(in crate::mesh) async fn keep_warning(us: MemberId, own: Vec<Dated>, authorities: Vec<Dated>) {
    loop {
        for certificate in expiring(&own, &authorities, SystemTime::now()) {
            warn!(%us, "{certificate}");
        }
        tokio::time::sleep(DAY).await;
    }
}

/// The end of a certificate, in seconds since 1970.
pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    Decoded::new(certificate).ok().map(|it| it.ends())
}

/// A date for people.
pub(super) fn date(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    match DateTime::from_unix_duration(since) {
        Ok(at) => format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.day()),
        Err(_) => "a day beyond all calendars".to_owned(),
    }
}

pub(super) fn seconds(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        // A clock before 1970 is wrong, but no reason to fail.
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dated(what: &str, days: i64) -> Dated {
        Dated { what: what.to_owned(), ends: days * DAY_SECONDS + 5 }
    }

    fn at(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(days * DAY.as_secs())
    }

    fn said(own: &[Dated], authorities: &[Dated], days: u64) -> Vec<String> {
        expiring(own, authorities, at(days)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_certificate_is_spoken_of_from_thirty_days_before_its_end() {
        let own = [dated("1.pem", 100)];
        assert_eq!(said(&own, &[], 69), [""; 0]);
        assert_eq!(said(&own, &[], 71), ["1.pem expires in 29 days, on 1970-04-11: renew it"]);
        let last = said(&own, &[], 100);
        assert_eq!(last, ["1.pem expires within a day, on 1970-04-11: renew it"]);
        assert_eq!(said(&own, &[], 101), ["1.pem has expired on 1970-04-11: renew it"]);
    }

    #[test]
    fn of_authorities_the_next_to_end_is_spoken_of_and_no_leftover() {
        let (old, new) = (dated("the old one", 10), dated("the new one", 100));
        let both = [old.clone(), new];
        assert_eq!(
            said(&[], &both, 0),
            ["the old one expires in 10 days, on 1970-01-11: renew it"]
        );
        assert_eq!(said(&[], &both, 20), [""; 0]);
        assert_eq!(said(&[], &both, 90).len(), 1);
        assert_eq!(said(&[], &[old], 20), ["the old one has expired on 1970-01-11: renew it"]);
    }
}
