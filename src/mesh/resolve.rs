//! Resolves host names: again at each dial, and never twice at the same time for one name.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::watch;

use super::addresses::Reach;
use super::refusal::Closed;
use crate::types::Address;

/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Answer = Option<Result<Vec<SocketAddr>, String>>;

/// Resolves host names. By default as the system does: its hosts file, then DNS.
///
/// Nothing is cached, so the next dial follows a changed name.
#[derive(Clone)]
pub struct Resolver(Arc<Lookups>);

struct Lookups {
    lookup: Box<Lookup>,
    /// Lookups under way. A lookup cannot be cancelled and may take half a minute. All callers for
    /// the same name wait for one lookup, so that a dead name server does not pile up threads.
    under_way: Mutex<BTreeMap<Address, watch::Receiver<Answer>>>,
}

impl Resolver {
    /// A custom resolver: `lookup` gets the name and the port, and may block.
    pub fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Resolver {
        let (lookup, under_way) = (Box::new(lookup), Mutex::default());
        Resolver(Arc::new(Lookups { lookup, under_way }))
    }

    /// The addresses that `address` resolves to now and that `reach` covers, best first. At least
    /// one.
    pub(super) async fn resolve(
        &self,
        address: &Address,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, Closed> {
        let found = match address.socket() {
            Some(addr) => vec![addr],
            None => self.look_up(address).await?,
        };
        in_turn(address, &found, reach)
    }

    async fn look_up(&self, address: &Address) -> Result<Vec<SocketAddr>, Closed> {
        let failed = |why: String| Closed::Resolve { address: address.to_string(), why };
        let mut answer = self.begin(address).map_err(|error| failed(error.to_string()))?;
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(found))) => Ok(found.clone()),
            Ok(Some(Err(why))) => Err(failed(why.clone())),
            _ => Err(failed("the lookup was broken off".to_owned())),
        }
    }

    /// Joins the lookup of this name that is under way, or starts one. It has its own thread,
    /// because the runtime's end would wait for one of the runtime's.
    fn begin(&self, address: &Address) -> io::Result<watch::Receiver<Answer>> {
        let (sender, answer) = watch::channel(None);
        {
            let mut under_way = self.0.lock();
            if let Some(answer) = under_way.get(address) {
                return Ok(answer.clone());
            }
            under_way.insert(address.clone(), answer.clone());
        }
        let name = address.name().unwrap_or_default().to_owned();
        let ended = Ended { lookups: Arc::clone(&self.0), address: address.clone() };
        let port = address.port();
        // If no thread starts, the closure is dropped, and `ended` with it.
        thread::Builder::new().name("isonomy-names".to_owned()).spawn(move || {
            let found = (ended.lookups.lookup)(&name, port).map_err(|error| error.to_string());
            // In this order: a later caller must get a new lookup.
            drop(ended);
            sender.send_replace(Some(found));
        })?;
        Ok(answer)
    }
}

impl Lookups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Address, watch::Receiver<Answer>>> {
        // The code under this lock cannot panic.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup on its thread. Dropping it removes it from the table, also after a panic of `lookup`.
struct Ended {
    lookups: Arc<Lookups>,
    address: Address,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.lookups.lock().remove(&self.address);
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// The addresses found that can be reached, in the resolver's order but alternating between the
/// families (RFC 8305). So a family that does not work here costs one attempt.
fn in_turn(
    address: &Address,
    found: &[SocketAddr],
    reach: Reach,
) -> Result<Vec<SocketAddr>, Closed> {
    let failed = |why: String| Closed::Resolve { address: address.to_string(), why };
    let canonical = |addr: &SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let mut left: Vec<SocketAddr> = Vec::new();
    for addr in found.iter().filter(|addr| reach.covers(addr)) {
        // Keep the scope of a link-local address.
        let addr = if addr.ip().to_canonical() == addr.ip() { *addr } else { canonical(addr) };
        if !left.contains(&addr) {
            left.push(addr);
        }
    }
    if left.is_empty() {
        return Err(failed(match found.first() {
            None => "it has no address".to_owned(),
            Some(first) => format!(
                "it has only addresses such as {}, and this end's socket is of the other family",
                first.ip()
            ),
        }));
    }
    let mut turns = Vec::new();
    while !left.is_empty() && turns.len() < MOST_ADDRESSES {
        let before = turns.last().map(SocketAddr::is_ipv4);
        let next = left.iter().position(|addr| Some(addr.is_ipv4()) != before).unwrap_or(0);
        turns.push(left.remove(next));
    }
    Ok(turns)
}
