//! Embedding a replicated state machine of one's own: what a program that uses the crate writes.

/// The first embed, as it stands in the README: 40 lines at most.
mod first {
    use std::collections::BTreeMap;

    use isonomy::LocalCluster;
    use isonomy::machine::{RestoreError, StateMachine, decode, encode};
    use isonomy::types::Footprint;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    enum Command {
        Put(String, u64),
        Get(String),
    }

    #[derive(Default)]
    struct Numbers(BTreeMap<String, u64>);

    impl StateMachine for Numbers {
        type Command = Command;
        type Output = Option<u64>;
        fn footprint(command: &Command) -> Footprint {
            match command {
                Command::Put(key, _) => Footprint::write(key.as_bytes()),
                Command::Get(key) => Footprint::read(key.as_bytes()),
            }
        }
        fn apply(&mut self, command: Command) -> Option<u64> {
            match command {
                Command::Put(key, value) => self.0.insert(key, value),
                Command::Get(key) => self.0.get(&key).copied(),
            }
        }
        fn snapshot(&self) -> Vec<u8> {
            encode(&self.0).expect("plain data has an encoding").into()
        }
        fn restore(snapshot: &[u8]) -> Result<Numbers, RestoreError> {
            Ok(Numbers(decode(snapshot)?))
        }
    }

    #[tokio::test]
    async fn a_put_at_one_replica_and_a_get_at_another() -> Result<(), Box<dyn std::error::Error>> {
        let cluster = LocalCluster::<Numbers>::start(3).await?;
        cluster.replica(1).propose(Command::Put("answer".into(), 42)).await?;
        let answer = cluster.replica(2).propose(Command::Get("answer".into())).await?;
        assert_eq!(answer, Some(42));
        Ok(())
    }
}
