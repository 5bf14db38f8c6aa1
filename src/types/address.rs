//! The address of a replica: a host and a UDP port. A host name is kept as a name: the mesh
//! resolves it at each dial, so a replica may move.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// The longest name in DNS, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// The longest label between two dots, in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// A host, as an IP address or a name, and a UDP port: `10.0.0.1:7400`, `[fd00::1]:7400`,
/// `r1.example.com:7400`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(Host);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Host {
    /// Never an IPv4-mapped IPv6 address: each address has one form.
    Number(SocketAddr),
    /// In lower case, because names are compared without case.
    Name(String, u16),
}

/// The text is not an [`Address`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not HOST:PORT: {why}")]
pub struct BadAddress {
    text: String,
    why: &'static str,
}

impl Address {
    /// An address from a host name or an IP address in text form.
    ///
    /// # Errors
    /// [`BadAddress`] if `host` is neither.
    pub fn new(host: &str, port: u16) -> Result<Address, BadAddress> {
        let bad = |why| BadAddress { text: host.to_owned(), why };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Address::from(SocketAddr::new(ip, port)));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.is_empty() {
            return Err(bad("the host is missing"));
        }
        if name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
            return Err(bad("the host is neither an IP address nor a name in DNS"));
        }
        // Resolvers read "10.1" as 10.0.0.1, which is hardly ever meant.
        if name.split('.').next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(bad("the host looks like an IP address, and is none"));
        }
        Ok(Address(Host::Name(host.to_ascii_lowercase(), port)))
    }

    /// The socket address, if the host is an IP address.
    pub fn socket(&self) -> Option<SocketAddr> {
        match &self.0 {
            Host::Number(addr) => Some(*addr),
            Host::Name(..) => None,
        }
    }

    /// The host's name, if the host is a name.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Host::Number(_) => None,
            Host::Name(name, _) => Some(name),
        }
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        match &self.0 {
            Host::Number(addr) => addr.port(),
            Host::Name(_, port) => *port,
        }
    }

    /// The same host at another port.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Address {
        let mut other = self.clone();
        match &mut other.0 {
            Host::Number(addr) => addr.set_port(port),
            Host::Name(_, its) => *its = port,
        }
        other
    }

    /// Checks that the address can be dialled.
    ///
    /// # Errors
    /// The end of a sentence that begins with the address, such as "has port 0, …".
    pub fn check_reachable(&self) -> Result<(), &'static str> {
        if self.port() == 0 {
            return Err("has port 0, which nobody can be reached at");
        }
        match self.socket().map(|addr| addr.ip()) {
            Some(ip) if ip.is_unspecified() => Err("stands for every address of a machine, so \
                                                    nobody can be reached there: name one"),
            Some(IpAddr::V6(ip))
                if ip.is_unicast_link_local()
                    && matches!(self.socket(), Some(SocketAddr::V6(it)) if it.scope_id() == 0) =>
            {
                Err("is link-local and names no interface: write it as in [fe80::1%2]:7400")
            }
            Some(ip) if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) => {
                Err("stands for many machines, not for one")
            }
            _ => Ok(()),
        }
    }
}

fn is_label(label: &str) -> bool {
    // Host names have no underscores, but container names do.
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl From<SocketAddr> for Address {
    fn from(mut addr: SocketAddr) -> Address {
        addr.set_ip(addr.ip().to_canonical());
        Address(Host::Number(addr))
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bad = |why| BadAddress { text: text.to_owned(), why };
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Address::from(addr));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        if text.parse::<IpAddr>().is_ok() || host.contains([':', '[', ']']) {
            return Err(bad("an IPv6 address stands in brackets, as in [::1]:7400"));
        }
        let port = port.parse().map_err(|_| bad("the port is no number from 0 to 65535"))?;
        Address::new(host, port).map_err(|BadAddress { why, .. }| bad(why))
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Address, BadAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Host::Number(addr) => addr.fmt(f),
            Host::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, BadAddress> {
        text.parse()
    }

    #[test]
    fn numbers_and_names_are_told_apart() {
        for (text, shown) in [
            ("127.0.0.1:7401", "127.0.0.1:7401"),
            ("[::1]:7401", "[::1]:7401"),
            ("[fe80::1%3]:7401", "[fe80::1%3]:7401"),
            ("[::ffff:10.0.0.1]:7401", "10.0.0.1:7401"),
        ] {
            let address = parse(text).unwrap();
            assert!(address.socket().is_some() && address.name().is_none(), "{text}");
            assert_eq!((address.to_string().as_str(), address.port()), (shown, 7401));
        }
        for text in ["localhost:1", "R1.Example.COM:1", "a_b.svc:1", "1st.example:1", "r1.fqdn.:1"]
        {
            let address = parse(text).unwrap();
            assert_eq!(address.socket(), None, "{text}");
            assert_eq!(address.to_string(), text.to_lowercase());
            assert_eq!(parse(&address.to_string()), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let long = format!("{}:1", "a".repeat(64));
        for (text, why) in [
            ("", "port is missing"),
            ("nowhere", "port is missing"),
            ("127.0.0.1", "port is missing"),
            (":7400", "host is missing"),
            ("host:", "no number"),
            ("host:65536", "no number"),
            ("host:-1", "no number"),
            ("::1:7400", "in brackets"),
            ("::1", "in brackets"),
            ("[::1:7400", "in brackets"),
            ("[::1]", "in brackets"),
            ("127.0.1:7400", "looks like an IP"),
            ("127.0.0.256:7400", "looks like an IP"),
            ("10:7400", "looks like an IP"),
            ("two words:7400", "neither"),
            ("-a:7400", "neither"),
            ("a..b:7400", "neither"),
            ("http://host:7400", "in brackets"),
            (&long, "neither"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_at_which_nobody_can_be_is_known() {
        for text in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:0",
            "name:0",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
        ] {
            assert!(parse(text).unwrap().check_reachable().is_err(), "{text}");
        }
        for text in ["10.0.0.1:1", "[::1]:1", "[fe80::1%2]:1", "name:1"] {
            assert_eq!(parse(text).unwrap().check_reachable(), Ok(()), "{text}");
        }
    }
}
