//! The names in certificates: `r2.<cluster>` for a replica, `alice.client.<cluster>` for a client.
//! Built and checked in this one place, so that both ends agree.

use crate::types::MemberId;

/// The longest cluster or client name, in bytes; with its prefix it still fits into a DNS name.
const MAX_NAME_BYTES: usize = 190;

/// A cluster or client name that is not valid in a certificate's DNS name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no usable name: take lower-case letters, digits and hyphens (clusters: also dots)"
)]
pub struct BadName(pub String);

/// The name in a replica's certificate.
pub(super) fn replica_name(cluster: &str, id: MemberId) -> String {
    format!("{id}.{cluster}")
}

/// The name in a client's certificate.
pub(super) fn client_name(cluster: &str, client: &str) -> String {
    format!("{client}.client.{cluster}")
}

/// The name that an administrator's certificate has besides its name as a client. Alone it makes no
/// administrator: a replica of the cluster `admin.<cluster>` has such a name, too.
pub(super) fn administrator_name(cluster: &str, client: &str) -> String {
    format!("{client}.admin.{cluster}")
}

/// Refuses invalid DNS names, and clusters whose replicas could pass for another's clients.
pub(super) fn check_cluster(cluster: &str) -> Result<(), BadName> {
    let ambiguous = cluster == "client" || cluster.starts_with("client.");
    let fits = cluster.len() <= MAX_NAME_BYTES && cluster.split('.').all(is_label);
    // A name of digits and dots would be parsed as an IP address.
    let numeric = cluster.split('.').next_back().is_some_and(|l| l.parse::<u64>().is_ok());
    if fits && !ambiguous && !numeric { Ok(()) } else { Err(BadName(cluster.to_owned())) }
}

/// Refuses a client name that is not one DNS label.
pub(super) fn check_client(client: &str) -> Result<(), BadName> {
    if is_label(client) { Ok(()) } else { Err(BadName(client.to_owned())) }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_names_that_mean_one_thing_pass() {
        for good in ["alpha", "eu-1.alpha", "a", "x.client"] {
            assert_eq!(check_cluster(good), Ok(()), "{good}");
        }
        let long = "a.".repeat(100) + "a";
        for bad in ["", "A", "a..b", "-a", "a-", "a_b", "client", "client.x", "10.0.0.1", &long] {
            assert!(check_cluster(bad).is_err(), "{bad}");
        }
        assert!(check_client("alice").is_ok());
        assert!(check_client("alice.bob").is_err());
    }
}
