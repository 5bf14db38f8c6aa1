//! A running cluster as the target of a load, with one client for each replica that prefers it.

use crate::client::{Client, ClientConfig, ConnectError};
use crate::load::driver::{Endpoint, Trouble};
use crate::machine::{Kv, KvCommand, KvOutput};
use crate::types::{Consistency, RequestId};

/// A client that prefers one replica. It numbers its commands and retries at other replicas.
#[derive(Clone, Debug)]
pub(in crate::load) struct Remote(Client<Kv>);

impl Remote {
    /// One client for each replica in the configuration.
    ///
    /// # Errors
    /// If a client reaches no replica at all.
    pub(in crate::load) async fn connect(
        config: &ClientConfig,
    ) -> Result<Vec<Remote>, ConnectError> {
        let mut all = Vec::new();
        for replica in config.replicas.keys() {
            let config = ClientConfig { prefer: Some(*replica), ..config.clone() };
            all.push(Remote(Client::connect(config).await?));
        }
        Ok(all)
    }

    pub(in crate::load) async fn close(self) {
        self.0.close().await;
    }
}

impl Endpoint for Remote {
    async fn submit(&self, _: RequestId, _: u64, command: KvCommand) -> Result<KvOutput, Trouble> {
        self.0.execute(command).await.map_err(|error| Trouble::Failed(error.to_string()))
    }

    async fn read(
        &self,
        command: KvCommand,
        consistency: Consistency,
    ) -> Result<KvOutput, Trouble> {
        let answer = self.0.read(command, consistency).await;
        answer.map_err(|error| Trouble::Failed(error.to_string()))
    }
}
