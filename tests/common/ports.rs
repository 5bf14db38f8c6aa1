//! Ports for replicas that are separate processes. Each replica binds its port by number.

use std::net::UdpSocket;

/// A port that is followed by enough free ports, one for each replica.
pub(crate) fn free_base(replicas: u16) -> u16 {
    for _ in 0..1_000 {
        let any = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let base = any.local_addr().expect("a bound socket").port();
        let bind = |port| UdpSocket::bind(("127.0.0.1", port));
        // Choose below the range that the system assigns by itself, so that no other program is
        // given one of these ports.
        let base = base / 3 + 1_024;
        if (1..=replicas).map(|id| bind(base + id)).collect::<Result<Vec<_>, _>>().is_ok() {
            return base;
        }
    }
    panic!("no {replicas} free ports in a row");
}
