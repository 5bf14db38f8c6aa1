//! A run against a server with known latencies: checks every figure of its report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::*;
use crate::load::durations::Quantiles;
use crate::load::result::Outcome;
use crate::load::scenario::settings::{ScenarioFile, Settings};
use crate::machine::KvOutput;

/// Nine of ten answers take 20 ms and one takes 120 ms; every fiftieth request fails.
#[derive(Clone, Default)]
struct Server(Arc<AtomicU64>);

impl Endpoint for Server {
    async fn ask(&self, _: KvCommand, _: Manner) -> Result<KvOutput, Trouble> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let millis = if number % 10 == 9 { 120 } else { 20 };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        match number % 50 {
            0 => Err(Trouble::Failed("out of order".to_owned())),
            _ => Ok(KvOutput::Done),
        }
    }
}

/// Runs these settings against a server.
async fn serve<E: Endpoint + Clone>(
    server: E,
    settings: &Settings,
    watch: &mut dyn FnMut(Live),
) -> Outcome {
    let scenario = Scenario::new(settings, &ScenarioFile::default(), None, None);
    let (scenario, pending) = (scenario.expect("a good scenario"), std::future::pending());
    let ran = session(&scenario, vec![server], None, watch, pending).await.expect("it runs");
    Outcome::new(&scenario, vec![ran], None)
}

fn settings() -> Settings {
    Settings {
        replicas: Some(1),
        rate: Some(500.0),
        arrivals: Some("constant".to_owned()),
        warm_up: Some("300ms".into()),
        duration: Some("2s".into()),
        interval: Some("200ms".into()),
        slo: Some(vec!["p50<80ms".into(), "p95<60ms".into(), "errors<1%".into()]),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_says_what_the_server_did() {
    let mut looks = 0;
    let outcome = serve(Server::default(), &settings(), &mut |_| looks += 1).await;
    let ran = &outcome.runs[0];
    // A busy machine may take longer. 300 ms are one and a half rows, so the first row is short for
    // a row to end with the warm-up.
    assert!((8..=12).contains(&looks), "{looks}");
    assert!((900..=1_100).contains(&ran.offered), "{}", ran.offered);
    assert_eq!((ran.answered + ran.errors, ran.dropped, ran.unanswered), (ran.offered, 0, 0));
    assert!((17..=23).contains(&ran.errors) && ran.error_words[0].0 == "out of order");
    let quantiles = Quantiles::of(&ran.latency);
    assert!((20.0 * 0.999..120.0).contains(&quantiles.p50), "most are quick: {quantiles:?}");
    assert!(quantiles.p99 >= 120.0 * 0.999, "some are not: {quantiles:?}");
    assert!(quantiles.p90 <= quantiles.p99 && quantiles.p99 <= quantiles.max, "{quantiles:?}");
    let kinds: u64 = ran.kinds.values().map(Durations::count).sum();
    assert_eq!((kinds, ran.kinds.len()), (ran.answered, 2));
    assert!((300.0..550.0).contains(&ran.throughput_ops_s), "{}", ran.throughput_ops_s);

    // The log has the answers that came after the warm-up while the clients worked, and its
    // intervals are contiguous from there.
    let text = std::str::from_utf8(&ran.hdr_log).expect("text");
    let (mut logged, mut end) = (0, Duration::ZERO);
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        if let LogEntry::Interval(interval) = entry.expect("a line that is understood") {
            let encoded = base64::engine::general_purpose::STANDARD
                .decode(interval.encoded_histogram())
                .expect("base64");
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut &encoded[..]).expect("a histogram");
            logged += histogram.len();
            let (start, length) = (interval.start_timestamp(), interval.duration());
            assert!(start >= end && !length.is_zero(), "{start:?} for {length:?} after {end:?}");
            assert!(start - end < Duration::from_millis(100), "{start:?} after {end:?}");
            end = start + length;
        }
    }
    let counted = ran.series.iter().filter(|row| row.counts());
    let seen: u64 = counted.flat_map(|row| &row.by_site).sum();
    assert_eq!(logged, seen);

    assert!(!outcome.is_good());
    let [late, errors] = &outcome.slo_missed[..] else { panic!("{:?}", outcome.slo_missed) };
    assert!(late.starts_with("p95<60ms: it is ") && errors.starts_with("errors<1%"), "{late}");
    let shown = outcome.to_string();
    assert!(shown.contains("MISSED: p95<60ms") && shown.contains("not known"), "{shown}");
}

/// A limited run that takes less time than an interval.
async fn count(server: Server, count: u64) -> Outcome {
    let settings = Settings {
        rate: None,
        clients: Some(4),
        warm_up: Some("100ms".into()),
        duration: None,
        count: Some(count),
        interval: Some("10s".into()),
        slo: Some(vec!["rate>20".into()]),
        arrivals: None,
        ..settings()
    };
    serve(server, &settings, &mut |_| {}).await
}

#[tokio::test]
async fn a_count_that_is_done_within_an_interval_has_its_rate() {
    let outcome = count(Server::default(), 40).await;
    let run = &outcome.runs[0];
    assert_eq!((run.offered, run.answered + run.errors), (40, 40));
    // Four clients, 20 ms each, sometimes 120.
    assert!((20.0..220.0).contains(&run.throughput_ops_s), "{}", run.throughput_ops_s);
    let in_rows: u64 = run.series.iter().flat_map(|row| &row.by_site).sum();
    assert!(in_rows >= run.answered, "the last answers are in the series, too");
    assert!(outcome.is_good(), "{:?}", outcome.slo_missed);
}

#[tokio::test]
async fn a_run_without_an_answer_is_not_good() {
    /// Fails every request.
    #[derive(Clone)]
    struct Broken;

    impl Endpoint for Broken {
        async fn ask(&self, _: KvCommand, _: Manner) -> Result<KvOutput, Trouble> {
            Err(Trouble::Failed("broken".to_owned()))
        }
    }

    let settings = Settings {
        warm_up: Some("0s".into()),
        duration: Some("200ms".into()),
        clients: Some(1),
        ..Settings::default()
    };
    let outcome = serve(Broken, &settings, &mut |_| {}).await;
    assert!(!outcome.is_good());
    assert!(outcome.to_string().contains("FAILED: none of "), "{outcome}");
}

#[test]
fn a_row_ends_with_the_warm_up() {
    let first = |warm_up, interval| {
        first_row(Duration::from_millis(warm_up), Duration::from_millis(interval)).as_millis()
    };
    assert_eq!(
        [first(300, 200), first(2_000, 1_000), first(0, 50), first(30, 50)],
        [100, 1_000, 50, 30]
    );
}
