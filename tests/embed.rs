//! What a program that uses the crate writes to embed its own replicated state machine.
#![cfg(feature = "authority")]

/// The shortest embedding. The README has one like it.
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

/// Replicas that are built one by one, as processes on several machines would do.
mod apart {
    use std::net::{SocketAddr, UdpSocket};

    use bytes::Bytes;
    use isonomy::Replica;
    use isonomy::machine::{Kv, KvCommand, KvOutput};
    use isonomy::network::Authority;
    use isonomy::node::Durability;
    use isonomy::types::{ClientId, Consistency, MemberId};

    #[tokio::test]
    async fn three_replicas_and_a_session() -> Result<(), Box<dyn std::error::Error>> {
        let authority = Authority::new("example")?;
        // These ports were free a moment ago. A real program takes them from its configuration.
        let free = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addrs: Vec<SocketAddr> = (0..3).map(|_| free()).collect::<Result<_, _>>()?;
        let mut replicas = Vec::new();
        for id in MemberId::all(3) {
            let replica = Replica::builder(Kv::new())
                .cluster("example")
                .id(id.number())
                .peers((1..).zip(addrs.iter().copied()))
                .tls(authority.issue_replica(id)?.credentials()?)
                // A real program uses `.data_dir(…)` instead.
                .durability(Durability::Memory);
            replicas.push(replica.start().await?);
        }
        assert_eq!(replicas[0].local_addr(), addrs[0]);

        let session = replicas[0].session(ClientId(rand::random()));
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        let put = KvCommand::Cas { key: key.clone(), expected: None, value: value.clone() };
        assert_eq!(session.propose(put).await?, KvOutput::Swapped);
        let get = KvCommand::Get { key };
        let seen = replicas[2].read(get, Consistency::Linearizable).await?;
        assert_eq!(seen, KvOutput::Value(Some(value)));
        for replica in replicas {
            replica.shutdown().await;
        }
        Ok(())
    }
}

/// A machine that refuses some of its commands.
mod picky {
    use isonomy::LocalCluster;
    use isonomy::machine::{RestoreError, StateMachine};
    use isonomy::node::Rejected;
    use isonomy::types::{Access, Consistency, Footprint, KeyHash};

    #[tokio::test]
    async fn what_touches_too_much_or_the_machine_refuses_is_not_agreed_on()
    -> Result<(), Box<dyn std::error::Error>> {
        let cluster = LocalCluster::<Wide>::start(1).await?;
        assert_eq!(cluster.replica(1).propose(4096).await, Ok(()));
        let wide = cluster.replica(1).propose(5000).await;
        assert_eq!(wide, Err(Rejected::TooManyKeys { keys: 5000, limit: 4096 }.into()));
        // A command that the machine itself refuses is not agreed on either.
        let odd = cluster.replica(1).propose(13).await;
        assert_eq!(odd, Err(Rejected::BadCommand("13 brings bad luck".to_owned()).into()));
        let read = cluster.replica(1).read(13, Consistency::Local).await;
        assert_eq!(read, Err(Rejected::BadCommand("13 brings bad luck".to_owned()).into()));
        assert_eq!(cluster.replica(1).metrics().await.expect("it runs").proposed, 1);
        Ok(())
    }

    /// A machine whose command is the number of keys it touches.
    #[derive(Default)]
    struct Wide;

    impl StateMachine for Wide {
        type Command = u64;
        type Output = ();

        fn footprint(command: &u64) -> Footprint {
            Footprint::from_keys((0..*command).map(|key| (KeyHash(key), Access::Read)))
        }

        fn check(command: &u64) -> Result<(), String> {
            if *command == 13 { Err("13 brings bad luck".to_owned()) } else { Ok(()) }
        }

        fn apply(&mut self, _: u64) {}

        fn snapshot(&self) -> Vec<u8> {
            Vec::new()
        }

        fn restore(_: &[u8]) -> Result<Wide, RestoreError> {
            Ok(Wide)
        }
    }
}
