//! Ports for replicas that are processes of their own: they bind them by number.

use std::net::UdpSocket;

/// A port with free ones after it, one a replica.
pub(crate) fn free_base(replicas: u16) -> u16 {
    for _ in 0..1_000 {
        let any = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let base = any.local_addr().expect("a bound socket").port();
        let bind = |port| UdpSocket::bind(("127.0.0.1", port));
        // Below the range that the system hands out by itself, so that nobody else is given them.
        let base = base / 3 + 1_024;
        if (1..=replicas).map(|id| bind(base + id)).collect::<Result<Vec<_>, _>>().is_ok() {
            return base;
        }
    }
    panic!("no {replicas} free ports in a row");
}
