//! The targets of a load: a cluster in this process (`local`), one in virtual time, or a running
//! cluster, with one client for each replica that prefers it. A client numbers its commands and
//! retries at other replicas by itself.

pub(super) mod local;
pub(super) mod virtual_time;

use crate::client::{Client, ClientConfig, ConnectError};
use crate::load::driver::{Endpoint, Manner, Trouble};
use crate::machine::{Kv, KvCommand, KvOutput};

/// One client for each replica in the configuration.
///
/// # Errors
/// If a client reaches no replica at all.
pub(super) async fn connect(config: &ClientConfig) -> Result<Vec<Client<Kv>>, ConnectError> {
    let mut all = Vec::new();
    for replica in config.replicas.keys() {
        let config = ClientConfig { prefer: Some(*replica), ..config.clone() };
        all.push(Client::connect(config).await?);
    }
    Ok(all)
}

impl Endpoint for Client<Kv> {
    async fn ask(&self, command: KvCommand, manner: Manner) -> Result<KvOutput, Trouble> {
        let answer = match manner {
            Manner::Once(_) => self.execute(command).await,
            Manner::Read(consistency) => self.read(command, consistency).await,
        };
        answer.map_err(|error| Trouble::Failed(error.to_string()))
    }
}
