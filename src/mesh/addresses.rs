//! Which addresses can work: what a socket can reach, and which lists of replicas are invalid.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::types::{Address, MemberId};

/// A list of replicas that cannot work, with the entry to blame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("replica {} at {address} {why}", replica.number())]
pub struct BadEntry {
    /// The replica of the entry.
    pub replica: MemberId,
    /// The entry's address.
    pub address: Address,
    /// What is wrong, as the rest of the error's sentence.
    pub why: String,
}

/// The address families that a socket can send to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    V4,
    V6,
    Both,
}

impl Reach {
    /// The reach of a socket that [`super::bind::socket`] bound to this address.
    pub(super) fn of(local: SocketAddr) -> Reach {
        match local {
            SocketAddr::V4(_) => Reach::V4,
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => Reach::Both,
            SocketAddr::V6(_) => Reach::V6,
        }
    }

    pub(super) fn covers(self, addr: &SocketAddr) -> bool {
        match self {
            Reach::Both => true,
            Reach::V4 => addr.ip().to_canonical().is_ipv4(),
            Reach::V6 => addr.ip().to_canonical().is_ipv6(),
        }
    }
}

/// Refuses a list with an entry that can never be reached: by a client, or by the replica in `own`,
/// which listens at the address given with it, if known.
///
/// It does not check what host names resolve to, because that may change.
///
/// # Errors
/// [`BadEntry`] for the first entry that cannot work.
pub fn check_addresses(
    replicas: &BTreeMap<MemberId, Address>,
    own: Option<(MemberId, Option<SocketAddr>)>,
) -> Result<(), BadEntry> {
    let mut seen: BTreeMap<&Address, MemberId> = BTreeMap::new();
    for (&replica, address) in replicas {
        let bad = |why: String| BadEntry { replica, address: address.clone(), why };
        let is_own = own.is_some_and(|(own, _)| own == replica);
        if !is_own {
            address.check_reachable().map_err(|why| bad(why.to_owned()))?;
        }
        // With port 0 the system chooses a new port each time, so two entries never collide.
        if address.port() != 0
            && let Some(other) = seen.insert(address, replica)
        {
            let other = other.number();
            return Err(bad(format!("has the address of replica {other}: each needs its own")));
        }
        let listen = own.and_then(|(_, listen)| listen);
        if let (false, Some(listen), Some(addr)) = (is_own, listen, address.socket()) {
            check_from(listen, addr).map_err(bad)?;
        }
    }
    Ok(())
}

/// Whether a replica that listens at `listen` can reach another one at `addr`.
fn check_from(listen: SocketAddr, addr: SocketAddr) -> Result<(), String> {
    if listen == addr {
        return Err("is where this replica itself listens: each needs its own address".to_owned());
    }
    if Reach::of(listen).covers(&addr) {
        return Ok(());
    }
    let port = listen.port();
    Err(format!(
        "cannot be reached from {listen}, where this replica listens: give both addresses of one \
         family, or let this replica listen at [::]:{port}, which reaches IPv4 and IPv6"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str]) -> BTreeMap<MemberId, Address> {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address"));
        MemberId::all(addresses.len()).zip(addresses).collect()
    }

    fn own(listen: &str) -> Option<(MemberId, Option<SocketAddr>)> {
        Some((MemberId::new(1).unwrap(), Some(listen.parse().expect("an address"))))
    }

    #[test]
    fn lists_that_work_pass() {
        for (addresses, own) in [
            (&["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1"][..], None),
            (&["10.0.0.1:1", "[fd00::1]:1", "name:1", "name:2"], None),
            (&["10.0.0.1:1", "10.0.0.2:1", "name:1"], own("10.0.0.1:1")),
            (&["[::1]:1", "[::1]:2"], own("[::1]:1")),
            // Its own entry is where the others find it, so it need not be reachable from itself.
            (&["0.0.0.0:1", "10.0.0.2:1"], own("0.0.0.0:1")),
            (&["10.0.0.1:1", "[fd00::1]:1"], own("[::]:7")),
            (&["10.0.0.1:7400", "10.0.0.2:7400"], own("0.0.0.0:7400")),
        ] {
            assert_eq!(check_addresses(&list(addresses), own), Ok(()), "{addresses:?}");
        }
    }

    #[test]
    fn lists_that_cannot_work_are_refused_with_the_entry() {
        for (addresses, own, replica, why) in [
            (&["10.0.0.1:1", "10.0.0.1:1"][..], None, 2, "has the address of replica 1"),
            (&["name:1", "x:1", "NAME:1"], None, 3, "has the address of replica 1"),
            (&["10.0.0.1:1", "[::ffff:10.0.0.1]:1"], None, 2, "has the address of replica 1"),
            (&["10.0.0.1:1", "10.0.0.1:1"], own("0.0.0.0:9"), 2, "has the address of replica 1"),
            (&["0.0.0.0:1", "x:1"], None, 1, "every address"),
            (&["x:1", "[::]:1"], own("0.0.0.0:1"), 2, "every address"),
            (&["x:1", "y:0"], own("0.0.0.0:1"), 2, "port 0"),
            (&["x:1", "[::1]:2"], own("127.0.0.1:1"), 2, "listen at [::]:1"),
            (&["x:1", "127.0.0.1:2"], own("[::1]:1"), 2, "listen at [::]:1"),
            (&["x:1", "127.0.0.1:2"], own("127.0.0.1:2"), 2, "this replica itself"),
        ] {
            let error = check_addresses(&list(addresses), own).expect_err("it cannot work");
            assert_eq!(error.replica.number(), replica, "{addresses:?}: {error}");
            assert!(error.to_string().contains(why), "{addresses:?}: {error}");
        }
    }
}
