//! Searches for the highest rate that meets the objectives: doubles the rate until it misses one,
//! then bisects a few times. Each step is a separate run.

use super::driver::Pace;
use super::result::Step;
use super::scenario::Scenario;

/// The search ends when the gap between the highest rate that held and the lowest that did not is
/// this share.
const PRECISION: f64 = 0.05;

/// The most steps of a search.
const MOST_STEPS: usize = 24;

/// The next rate to try after these steps, starting with `first`; `None` when the search is done.
pub fn next_rate(first: f64, steps: &[Step]) -> Option<f64> {
    let held = highest(steps).unwrap_or(0.0);
    let broke = steps.iter().filter(|step| step.missed.is_some()).map(|step| step.rate);
    match (steps.len(), broke.min_by(f64::total_cmp)) {
        (0, _) => Some(first),
        (MOST_STEPS.., _) => None,
        (_, None) => Some(held * 2.0),
        (_, Some(broke)) if broke - held <= PRECISION * broke => None,
        // Also search below the first rate, but not without end.
        (_, Some(broke)) if held == 0.0 => (broke > first / 64.0).then_some(broke / 2.0),
        (_, Some(broke)) => Some(f64::midpoint(held, broke)),
    }
}

/// The highest rate that held, if one did.
pub fn highest(steps: &[Step]) -> Option<f64> {
    let held = steps.iter().filter(|step| step.missed.is_none()).map(|step| step.rate);
    held.max_by(f64::total_cmp)
}

/// The scenario with another rate.
pub fn at_rate(scenario: &Scenario, rate: f64) -> Scenario {
    let mut scenario = scenario.clone();
    if let Pace::Open { rate: own, .. } = &mut scenario.plan.pace {
        *own = rate;
    }
    scenario.settings.rate = Some(rate);
    scenario
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of a search in which every rate up to `limit` holds.
    fn find(first: f64, limit: f64) -> (f64, usize) {
        let mut steps: Vec<Step> = Vec::new();
        while let Some(rate) = next_rate(first, &steps) {
            let missed = (rate > limit).then(|| "too much".to_owned());
            steps.push(Step { rate, throughput_ops_s: rate, p50_ms: 1.0, p99_ms: 1.0, missed });
        }
        (highest(&steps).unwrap_or(0.0), steps.len())
    }

    #[test]
    fn the_highest_rate_is_found_in_few_steps() {
        for (first, limit) in [(100.0, 12_345.0), (100.0, 100.0), (1_000.0, 70.0), (7.0, 1e5)] {
            let (found, steps) = find(first, limit);
            assert!(found <= limit && found > limit * 0.94, "{found} for {limit}");
            assert!(steps <= MOST_STEPS, "{steps}");
        }
        assert_eq!(find(100.0, 0.0).0, 0.0, "nothing holds");
    }
}
