//! Virtual time is exact, so most tests compare with `==`.

use std::time::{Duration, Instant};

use super::{Crash, Exact, Load, Measured, Setup, SharedKey, measure};
use crate::protocol::Protocol;
use crate::protocol::epaxos::EPaxos;
use crate::protocol::multipaxos::MultiPaxos;
use crate::protocol::paxos::Paxos;
use crate::types::Optimisations;

/// VA, CA, OR, JP, EU: the five sites of the EPaxos paper, AWS 2020.
const FIVE: [[f64; 5]; 5] = [
    [0.0, 59.9, 72.5, 152.4, 70.5],
    [59.9, 0.0, 21.1, 111.7, 141.2],
    [72.5, 21.1, 0.0, 100.9, 127.3],
    [152.4, 111.7, 100.9, 0.0, 204.4],
    [70.5, 141.2, 127.3, 204.4, 0.0],
];
/// The round trip to the second-nearest site.
const BOUND: [f64; 5] = [70.5, 59.9, 72.5, 111.7, 127.3];

fn five() -> Setup {
    let rows: Vec<Vec<f64>> = FIVE.iter().map(|row| row.to_vec()).collect();
    let (warm_up, time) = (Duration::from_secs(1), Duration::from_secs(3));
    Setup { warm_up, time, ..Setup::from_rtt_ms(&rows) }
}

/// Sites in a row, with 10 ms of round trip between neighbours.
fn in_a_row(sites: usize) -> Setup {
    let rtt = |a: usize, b: usize| 10.0 * a.abs_diff(b) as f64;
    let rows: Vec<Vec<f64>> = (0..sites).map(|a| (0..sites).map(|b| rtt(a, b)).collect()).collect();
    let (warm_up, time) = (Duration::from_millis(200), Duration::from_secs(1));
    Setup { warm_up, time, ..Setup::from_rtt_ms(&rows) }
}

fn epaxos(setup: &Setup, share: f64) -> Measured {
    measure(setup, EPaxos::new, &mut SharedKey::new(share, 16, setup.seed))
}

fn ms(duration: Option<Duration>) -> f64 {
    duration.expect("something was measured").as_nanos() as f64 / 1e6
}

fn p(exact: &Exact, share: f64) -> f64 {
    ms(exact.quantile(share))
}

#[test]
fn without_conflicts_epaxos_commits_at_the_lower_bound_everywhere() {
    let measured = epaxos(&five(), 0.0);
    for (site, bound) in BOUND.iter().enumerate() {
        for exact in [measured.commit(Some(site)), measured.execute(Some(site))] {
            assert_eq!((p(&exact, 0.0), p(&exact, 1.0)), (*bound, *bound), "site {site}");
        }
    }
    assert_eq!(measured.fast_share(None), Some(1.0));
    assert_eq!(measured.components.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!((measured.unanswered, measured.refused), (0, 0));
}

#[test]
fn multi_paxos_is_led_from_where_it_is_told() {
    for (leader, rtt) in FIVE.iter().enumerate() {
        let setup = Setup { first: Some(leader), ..five() };
        let measured = measure(&setup, MultiPaxos::new, &mut SharedKey::new(0.5, 16, 1));
        let mut near = *rtt;
        near.sort_by(f64::total_cmp);
        for (site, to_leader) in rtt.iter().enumerate() {
            // To the leader and back, and in between from it to a majority and back.
            let commit = measured.commit(Some(site));
            assert_eq!(p(&commit, 0.5), ((to_leader + near[2]) * 1e6).round() / 1e6, "{site}");
        }
    }
}

#[test]
fn one_seed_gives_one_measurement() {
    let jittery = Setup { jitter: Duration::from_millis(2), ..five() };
    let (one, two) = (epaxos(&jittery, 0.25), epaxos(&jittery, 0.25));
    assert!(one == two, "the same seed, the same measurement");
    assert!(one != epaxos(&Setup { seed: 2, ..jittery }, 0.25), "another one, another");
}

#[test]
fn conflicts_cost_round_trips_and_make_components() {
    let measured = epaxos(&five(), 1.0);
    for (site, bound) in BOUND.iter().enumerate() {
        let (commit, execute) = (measured.commit(Some(site)), measured.execute(Some(site)));
        assert!(p(&commit, 0.0) >= *bound, "nobody is faster than light");
        assert!(p(&commit, 0.5) > *bound && p(&execute, 0.5) >= p(&commit, 0.5), "site {site}");
    }
    assert!(measured.fast_share(None) < Some(0.9), "{:?}", measured.fast_share(None));
    assert!(measured.components.keys().any(|size| *size > 1), "{:?}", measured.components);
}

#[test]
fn a_jitter_is_seen_and_bounded() {
    let jitter = Duration::from_millis(3);
    let measured = epaxos(&Setup { jitter, ..five() }, 0.0);
    for (site, bound) in BOUND.iter().enumerate() {
        let commit = measured.commit(Some(site));
        assert!(p(&commit, 0.0) > *bound && p(&commit, 1.0) <= bound + 6.0, "site {site}");
        assert!(p(&commit, 1.0) > p(&commit, 0.0));
    }
}

#[test]
fn thirteen_sites_take_the_same_law() {
    let measured = epaxos(&in_a_row(13), 0.0);
    // A fast quorum of 13 is 10 (PROTOCOL.md §1): the ends reach nine sites to one side.
    assert_eq!(p(&measured.commit(Some(0)), 0.5), 10.0 * (fast(13) - 1) as f64);
    assert_eq!(p(&measured.commit(Some(6)), 0.5), 10.0 * ((fast(13) - 1) as f64 / 2.0).ceil());
}

fn fast(n: usize) -> usize {
    crate::types::Quorums::new(n).expect("a supported size").fast()
}

#[test]
fn a_disk_is_waited_for() {
    let flush = Duration::from_millis(4);
    let optimisations = Optimisations::ALL;
    let slow = Setup { flush, optimisations, load: one_client(), ..in_a_row(3) };
    let commit = epaxos(&slow, 0.0).commit(Some(1));
    // A voter's flush; another one may be under way already.
    assert!((14.0..=18.0).contains(&p(&commit, 0.5)), "{}", p(&commit, 0.5));
}

fn one_client() -> Load {
    Load::Closed { clients: 1, think: Duration::ZERO }
}

#[test]
fn work_takes_time_and_bounds_the_throughput() {
    let load = Load::Closed { clients: 200, think: Duration::ZERO };
    let cpu = Duration::from_micros(50);
    let busy = epaxos(&Setup { load, cpu, ..in_a_row(3) }, 0.0);
    let idle = epaxos(&Setup { load, ..in_a_row(3) }, 0.0);
    assert!(p(&busy.commit(None), 0.5) > p(&idle.commit(None), 0.5));
    assert!(busy.throughput() < idle.throughput());
    assert!(busy.traffic.iter().all(|it| !it.busy.is_zero() && it.busy <= busy.time * 2));
    assert!(idle.traffic.iter().all(|it| it.busy.is_zero()));
}

#[test]
fn an_open_loop_asks_whatever_happens() {
    for poisson in [false, true] {
        let load = Load::Open { rate: 50.0, poisson };
        let measured = epaxos(&Setup { load, time: Duration::from_secs(10), ..in_a_row(3) }, 0.1);
        let asked = measured.samples.len();
        // 1,500 are expected; five standard deviations are 194.
        assert!((1_300..1_700).contains(&asked), "{asked} with poisson {poisson}");
        assert!(poisson || (1_490..1_510).contains(&asked), "{asked} at even distances");
    }
}

#[test]
fn the_others_go_on_when_a_replica_stops() {
    let (at, back) = (Duration::from_secs(4), Some(Duration::from_secs(8)));
    let time = Duration::from_secs(10);
    for back in [None, back] {
        let crash = Some(Crash { site: 4, at, back });
        let measured = epaxos(&Setup { crash, time, ..in_a_row(5) }, 0.0);
        let answers = |site: usize, from: u64, to: u64| {
            let within = Duration::from_secs(from)..Duration::from_secs(to);
            let at = measured.samples.iter().filter(|it| it.site == site);
            at.filter(|it| within.contains(&it.asked)).count()
        };
        assert!(answers(0, 2, 4) > 100 && answers(0, 5, 8) > 150, "they go on");
        assert!(answers(4, 2, 4) > 100);
        assert_eq!(answers(4, 4, 8), 0, "its clients are gone with it");
        assert_eq!(answers(4, 9, 12) > 100, back.is_some(), "they come back with it, or never");
        assert!(measured.unanswered > 0 && measured.unanswered <= 10, "{}", measured.unanswered);
    }
}

#[test]
fn traffic_is_what_the_codec_writes() {
    let lean = epaxos(&in_a_row(3), 0.0);
    let fat = measure(&in_a_row(3), EPaxos::new, &mut SharedKey::new(0.0, 1_016, 1));
    let messages = lean.per_command(|it| it.messages);
    // PreAccept, its answer and Commit, to and from two others, and heartbeats.
    assert!((6.0..8.0).contains(&messages), "{messages} messages a command");
    let (lean, fat) = (lean.per_command(|it| it.bytes), fat.per_command(|it| it.bytes));
    // Two others receive each command once, and two length bytes instead of one.
    assert!((2_000.0..2_010.0).contains(&(fat - lean)), "{lean} and {fat} bytes a command");
}

#[test]
fn quantiles_are_values_that_were_measured() {
    let exact = Exact::new([3, 1, 2, 4].map(Duration::from_millis).to_vec());
    for (share, expected) in [(0.0, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (1.0, 4.0)] {
        assert_eq!(p(&exact, share), expected, "{share}");
    }
    assert_eq!(Exact::default().quantile(0.5), None);
    assert_eq!(ms(exact.mean()), 2.5);
}

#[test]
fn the_five_sites_take_seconds() {
    let began = Instant::now();
    epaxos(&Setup { time: Duration::from_secs(20), ..five() }, 0.25);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Paxos at the five sites: all contend for the same slots. Distant sites hear of them last but
/// must not starve; they once waited for three to five seconds.
#[test]
fn with_paxos_no_site_starves() {
    let setup = Setup { time: Duration::from_secs(10), ..five() };
    for seed in 1..=3 {
        let setup = Setup { seed, ..setup.clone() };
        let measured = measure(&setup, Paxos::new, &mut SharedKey::new(1.0, 16, seed));
        for site in 0..BOUND.len() {
            let slowest = p(&measured.execute(Some(site)), 0.99);
            assert!(slowest < 1_200.0, "seed {seed}, site {site}: {slowest} ms");
        }
        assert!(measured.throughput() > 180.0, "seed {seed}: {}", measured.throughput());
    }
}
