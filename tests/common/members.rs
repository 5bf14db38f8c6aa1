//! A cluster in this process whose members change.

use std::collections::BTreeMap;

use isonomy::Replica;
use isonomy::machine::{Kv, KvCommand, KvOutput};
use isonomy::node::{ProposeError, Rejected};
use isonomy::types::Member;

use super::machines::Machines;
use super::{eventually, id};

/// A cluster whose first members are the first few of its machines; the others join later.
pub struct Cluster {
    pub machines: Machines,
    pub running: BTreeMap<u32, Replica<Kv>>,
}

impl Cluster {
    /// The first members run.
    pub async fn begin(machines: Machines) -> Cluster {
        let members = machines.founders;
        let mut cluster = Cluster { machines, running: BTreeMap::new() };
        for number in 1..=members {
            cluster.run(number).await;
        }
        cluster
    }

    pub async fn run(&mut self, number: u32) {
        let replica = self.machines.start(number).await;
        self.running.insert(number, replica);
    }

    pub fn replica(&self, number: u32) -> &Replica<Kv> {
        &self.running[&number]
    }

    pub fn member(&self, number: u32) -> Member {
        let address = self.machines.addrs[number as usize - 1].into();
        Member { id: id(number), address, directory: 0 }
    }

    /// Has a command executed by a replica, which may have met no quorum yet.
    pub async fn done(&self, at: u32, command: KvCommand) -> KvOutput {
        let mut output = None;
        eventually("a quorum", async || {
            match self.replica(at).propose(command.clone()).await {
                Ok(answer) => output = Some(answer),
                Err(ProposeError::Rejected(Rejected::NoQuorum(_))) => {}
                Err(why) => panic!("{command:?}: {why}"),
            }
            output.is_some()
        })
        .await;
        output.expect("it was executed")
    }
}
