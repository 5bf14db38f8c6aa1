//! Scenarios from settings, and from every file in the repository.

use std::path::Path;

use super::*;
use crate::load::driver::{ArrivalProcess, Pace};
use crate::load::workload::{Keys, Mix, Sizes, Sort};

fn scenario(change: impl FnOnce(&mut Settings)) -> Result<Scenario, String> {
    let mut settings = Settings::default();
    change(&mut settings);
    let made = Scenario::new(&settings, &ScenarioFile::default(), None, None);
    made.map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_a_closed_loop_on_three_replicas() {
    let usual = scenario(|_| {}).expect("defaults make sense");
    let Target::Local(local) = &usual.target else { panic!("{:?}", usual.target) };
    assert_eq!((local.replicas, local.durability), (3, Durability::Memory));
    assert_eq!(usual.plan.pace, Pace::Closed { clients: 16, think: Duration::ZERO });
    assert_eq!(usual.duration, Some(Duration::from_secs(10)));
    let config = serde_json::to_value(&usual.settings).expect("settings have a JSON form");
    assert_eq!((&config["seed"], &config["protocol"]), (&1.into(), &"epaxos".into()));
}

#[test]
fn settings_become_what_they_say() {
    let open = scenario(|it| (it.rate, it.count) = (Some(500.0), Some(100))).expect("good");
    assert!(matches!(
        open.plan.pace,
        Pace::Open { rate: 500.0, spread: ArrivalProcess::Poisson, .. }
    ));
    assert_eq!((open.duration, open.plan.count), (None, Some(100)));
    let sizes = |text: &str| {
        let made = scenario(|it| it.value_size = Some(text.into()));
        made.map(|it| it.plan.workload.values)
    };
    assert_eq!(sizes("64"), Ok(Sizes::Fixed(64)));
    assert_eq!(sizes("16-1024"), Ok(Sizes::Uniform(16, 1_024)));
    assert_eq!(sizes("16:9,1024:1"), Ok(Sizes::List(vec![(16, 9), (1_024, 1)])));
    let spot = scenario(|it| it.hot_spot = Some("5/80".to_owned())).expect("good");
    let wanted = Keys::HotSpot { keys: 1_000, keys_percent: 5.0, commands_percent: 80.0 };
    assert_eq!(spot.plan.workload.keys, wanted);
}

#[test]
fn the_presets_of_ycsb_are_its_own() {
    for (letter, reads) in [("a", 50.0), ("b", 95.0), ("c", 100.0), ("d", 95.0), ("f", 50.0)] {
        let made = scenario(|it| it.ycsb = Some(letter.to_owned())).expect("a preset");
        assert_eq!(made.plan.workload.mix.share(Sort::Get), reads, "{letter}");
        assert!(made.preload && made.plan.workload.values == Sizes::Fixed(1_000));
    }
    let scans = scenario(|it| it.ycsb = Some("E".to_owned())).expect("a preset");
    assert_eq!(scans.plan.workload.mix.share(Sort::Scan), 95.0);
    let changed = scenario(|it| {
        (it.ycsb, it.reads) = (Some("a".to_owned()), Some(10.0));
        it.zipf = Some(0.5);
    });
    let changed = changed.expect("a changed preset").plan.workload;
    assert_eq!(changed.mix, Mix::reads(10.0));
    assert_eq!(changed.keys, Keys::Zipf { keys: 1_000, theta: 0.5 });
}

#[test]
fn what_makes_no_sense_is_refused_by_the_flag_that_says_it() {
    type Change = fn(&mut Settings);
    let cases: [(Change, &str); 20] = [
        (|it| it.protocol = Some("raft".into()), "--protocol: there is no protocol \"raft\""),
        (|it| it.replicas = Some(64), "--replicas: "),
        (|it| it.leader = Some(Text::Whole(4)), "--leader: \"4\": name a replica, from 1 to 3"),
        (|it| it.leader = Some("VA".into()), "--leader: \"VA\""),
        (|it| it.durability = Some("disk".into()), "--durability: "),
        (|it| (it.rate, it.clients) = (Some(5.0), Some(5)), "--rate: a rate is an open loop"),
        (|it| it.rate = Some(0.0), "--rate: "),
        (|it| (it.rate, it.arrivals) = (Some(5.0), Some("bursts".into())), "--arrivals: "),
        (|it| it.clients = Some(0), "--clients: "),
        (|it| it.think = Some("soon".into()), "--think: \"soon\" is no time"),
        (|it| it.duration = Some(Text::Whole(0)), "--duration: "),
        (|it| it.conflicts = Some(101.0), "--conflicts: 101 is no percentage"),
        (|it| (it.zipf, it.uniform) = (Some(1.0), Some(true)), "--uniform: choose one"),
        (|it| it.hot_spot = Some("a lot".into()), "--hot-spot: "),
        (|it| it.ycsb = Some("g".into()), "--ycsb: "),
        (|it| it.value_size = Some("9-5".into()), "--value-size: "),
        (|it| (it.verify, it.value_size) = (Some(true), Some(Text::Whole(8))), "--value-size: "),
        (|it| it.slo = Some(vec!["p99".into()]), "--slo: "),
        (|it| it.fault = Some(vec!["kill 9 at 1s".into()]), "there is no replica 9"),
        (|it| it.fault = Some(vec!["restart 1 at 1s".into()]), "cannot come back"),
    ];
    for (change, words) in cases {
        let said = scenario(change).expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_makes_no_difference_is_refused_as_a_flag_and_said_of_a_file() {
    type Change = fn(&mut Settings);
    let cases: [(Change, &str); 8] = [
        (|it| it.arrivals = Some("poisson".into()), "--arrivals: only an open loop"),
        (|it| it.outstanding = Some(5), "--outstanding: only an open loop"),
        (|it| it.records = Some(5), "--records: there is no table"),
        (|it| (it.zipf, it.hot_keys) = (Some(0.9), Some(2)), "--hot-keys: only with conflicts"),
        (|it| it.leader = Some(Text::Whole(2)), "--leader: nobody leads under epaxos"),
        (|it| it.silent_orphans = Some(true), "--silent-orphans: makes no difference in memory"),
        (|it| it.reserved_slots = Some(false), "--reserved-slots: makes no difference in memory"),
        (
            |it| {
                (it.protocol, it.durability) = (Some("paxos".into()), Some("os".into()));
                it.reserved_slots = Some(true);
            },
            "--reserved-slots: makes no difference under paxos",
        ),
    ];
    for (change, words) in cases {
        let said = scenario(change).expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
        let mut settings = Settings::default();
        change(&mut settings);
        let mut file = ScenarioFile::default();
        std::mem::swap(&mut file.settings, &mut settings);
        let made = Scenario::new(&Settings::default(), &file, None, None).expect(words);
        assert_eq!(made.notes.len(), 1, "{words}: {:?}", made.notes);
    }
    // Without a leader, faults for the leader target the named replica.
    let stands_in = scenario(|it| {
        (it.leader, it.fault) = (Some(Text::Whole(2)), Some(vec!["kill leader at 1s".into()]));
    });
    assert!(stands_in.is_ok());
}

#[test]
fn the_leader_is_named_by_its_number_or_its_site() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench-config");
    let file = ScenarioFile::read(&dir.join("wan-5.toml")).expect("a good file");
    let leader = |text: Text, replicas| {
        let protocol = Some("multi-paxos".to_owned());
        let flags = Settings { leader: Some(text), replicas, protocol, ..Settings::default() };
        let made = Scenario::new(&flags, &file, None, None).map_err(|error| error.to_string())?;
        let Target::Local(local) = made.target else { panic!("a cluster is started") };
        Ok(local.leader.map(ReplicaId::number))
    };
    assert_eq!(leader(Text::Whole(4), None), Ok(Some(4)));
    assert_eq!(leader("JP".into(), None), Ok(Some(4)));
    let said: String = leader("JP".into(), Some(3)).expect_err("nobody is there");
    assert!(said.contains("a site of [\"VA\", \"CA\", \"OR\"]"), "{said}");
}

#[test]
fn every_scenario_that_is_shipped_can_be_run_and_explains_itself() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench-config");
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).expect("the directory") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("compare-") {
            // Those files are for `isonomy compare` and tested there.
            continue;
        }
        let file = ScenarioFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let made = Scenario::new(&Settings::default(), &file, None, None);
        let made = made.unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(made.target, Target::Local(_)), "{name}");
        assert!(made.notes.is_empty(), "{name}: {:?}", made.notes);
        assert!(text.starts_with("# ") && text.contains(&format!("bench-config/{name}")), "{name}");
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
