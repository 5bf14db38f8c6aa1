//! Objectives of a run: `p99<50ms`, `errors<1%`, `rate>1000`.

use std::str::FromStr;
use std::time::Duration;

use super::span::parse_time;
use crate::load::durations::Durations;

/// One objective.
#[derive(Clone, PartialEq, Debug)]
pub struct Slo {
    figure: Figure,
    bound: f64,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Figure {
    /// A quantile, from 0 to 1, is below a time in seconds.
    Quantile(f64),
    /// The share of operations without an answer is below a share.
    Errors,
    /// The answers per second are above a number.
    Rate,
}

/// The figures that objectives refer to.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// From the intended start to the answer.
    pub latency: &'a Durations,
    /// The share of operations without an answer, from 0 to 1: errors, dropped and unanswered ones.
    pub errors: f64,
    /// Answers per second.
    pub rate: f64,
}

impl Slo {
    /// How the objective was missed, as text; `None` if it was met. A latency counts as missed if
    /// the quantile falls among the operations without an answer.
    pub fn missed(&self, measured: &Measured<'_>) -> Option<String> {
        let (is_met, found) = match self.figure {
            Figure::Quantile(share) => {
                // An operation without an answer counts as slower than any other.
                let answered = 1.0 - measured.errors;
                if share > answered || measured.latency.count() == 0 {
                    let lost = 100.0 * measured.errors;
                    return Some(format!("{}: {lost:.2}% of operations have no answer", self.text));
                }
                let took = measured.latency.quantile(share / answered);
                (took.as_secs_f64() < self.bound, format!("{:.3} ms", took.as_secs_f64() * 1e3))
            }
            Figure::Errors => {
                (measured.errors < self.bound, format!("{:.3}%", 100.0 * measured.errors))
            }
            Figure::Rate => (measured.rate > self.bound, format!("{:.0}/s", measured.rate)),
        };
        (!is_met).then(|| format!("{}: it is {found}", self.text))
    }
}

impl FromStr for Slo {
    /// What is wrong, and what to do.
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        let flaw = |what: &str| format!("{text:?}: {what}");
        let written: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let at = written.find(['<', '>']);
        let at = at.ok_or_else(|| flaw("write it like p99<50ms, errors<1% or rate>1000"))?;
        let (name, bound) = (&written[..at], &written[at + 1..]);
        let share = || Some(bound.strip_suffix('%')?.parse::<f64>().ok()? / 100.0);
        let seconds = || parse_time(bound).as_ref().map(Duration::as_secs_f64).ok();
        let (figure, sign, bound, what) = match name {
            "errors" => (Figure::Errors, '<', share(), "the bound is a percentage, such as 1%"),
            "rate" => {
                let rate = bound.trim_end_matches("/s").parse().ok();
                (Figure::Rate, '>', rate, "the bound is a number of operations a second")
            }
            _ => {
                let percent = match name {
                    "max" => Some(100.0),
                    _ => name.strip_prefix('p').and_then(|digits| digits.parse::<f64>().ok()),
                };
                let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
                let what = "take p50, p90, p99, p99.9, p99.99 or the like, max, errors or rate";
                let share = percent.ok_or_else(|| flaw(what))? / 100.0;
                (Figure::Quantile(share), '<', seconds(), "the bound is a time, such as 50ms")
            }
        };
        if !written[at..].starts_with(sign) {
            return Err(flaw(&format!("{name} is bounded with {sign}")));
        }
        let bound = bound.filter(|bound| bound.is_finite() && *bound >= 0.0);
        Ok(Slo { figure, bound: bound.ok_or_else(|| flaw(what))?, text: text.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(text: &str, errors: f64) -> Option<String> {
        let mut latency = crate::node::Latency::default();
        (1..=100).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let slo: Slo = text.parse().unwrap_or_else(|error| panic!("{error}"));
        slo.missed(&Measured { latency: &latency.into(), errors, rate: 1_000.0 })
    }

    #[test]
    fn what_is_missed_is_said_with_what_it_is() {
        for met in ["p50<51ms", "p99<100ms", "max<0.2s", "errors<1%", "rate>999", "p99.9 < 1s"] {
            assert_eq!(missed(met, 0.0), None, "{met}");
        }
        for (text, word) in [
            ("p50<50ms", "it is 50"),
            ("p99.99<99ms", "it is 100"),
            ("max<99ms", "it is 100"),
            ("rate>1000", "it is 1000/s"),
        ] {
            let words = missed(text, 0.0).expect(text);
            assert!(words.starts_with(text) && words.contains(word), "{words}");
        }
        assert!(missed("errors<1%", 0.02).is_some_and(|words| words.contains("2.000%")));
    }

    #[test]
    fn an_operation_without_an_answer_is_slower_than_any() {
        assert_eq!(missed("p50<101ms", 0.4), None);
        assert!(missed("p99<101ms", 0.4).is_some_and(|words| words.contains("40.00%")));
        // If another 100 have no answer, the median of all is the slowest of the 100 answers.
        assert!(missed("p50<99ms", 0.5).is_some());
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, word) in [
            ("p99", "write it like"),
            ("p101<5ms", "take p50"),
            ("p99>5ms", "bounded with <"),
            ("rate<5", "bounded with >"),
            ("p99<fast", "a time"),
            ("errors<1", "a percentage"),
            ("rate>many", "a number"),
        ] {
            let error = text.parse::<Slo>().expect_err(text);
            assert!(error.contains(text) && error.contains(word), "{error}");
        }
    }
}
