//! When and at which site the operations of an open loop should start: a fixed schedule that never
//! waits for answers.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp};

/// How arrivals are distributed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ArrivalProcess {
    /// At equal intervals, at the sites in turn.
    Constant,
    /// At random, like many independent users.
    #[default]
    Poisson,
}

/// The endless schedule of an open loop.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Operations per second.
    rate: f64,
    sites: usize,
    count: u64,
    /// For random intervals: the distribution, the sum so far in seconds, and the generator.
    random: Option<(Exp<f64>, f64, ChaCha8Rng)>,
}

impl Arrivals {
    /// `rate` operations per second over `sites` sites, both above 0.
    pub(super) fn new(spread: ArrivalProcess, rate: f64, sites: usize, seed: u64) -> Arrivals {
        let random = match spread {
            ArrivalProcess::Constant => None,
            ArrivalProcess::Poisson => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                // A different stream from any client's.
                random.set_stream(u64::MAX);
                Some((Exp::new(rate).expect("a rate above 0"), 0.0, random))
            }
        };
        Arrivals { rate, sites, count: 0, random }
    }

    /// The time after the start, and the site, of the next operation.
    pub(super) fn next(&mut self) -> (Duration, usize) {
        let count = self.count;
        self.count += 1;
        match &mut self.random {
            // Computed from the count, so that rounding errors do not add up.
            None => {
                let site = count % self.sites as u64;
                let site = usize::try_from(site).expect("below the number of sites");
                (Duration::from_secs_f64(count as f64 / self.rate), site)
            }
            Some((distance, at, random)) => {
                *at += distance.sample(random);
                (Duration::from_secs_f64(*at), random.random_range(0..self.sites))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_keep_their_distance() {
        let mut arrivals = Arrivals::new(ArrivalProcess::Constant, 300.0, 3, 1);
        for count in 0..3_000_u32 {
            let (at, site) = arrivals.next();
            let wanted = f64::from(count) / 300.0;
            assert!((at.as_secs_f64() - wanted).abs() < 1e-8, "{at:?} for {wanted}");
            assert_eq!(site, count as usize % 3);
        }
    }

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_poisson() {
        let mut arrivals = Arrivals::new(ArrivalProcess::Poisson, 1_000.0, 4, 7);
        let all: Vec<_> = (0..100_000).map(|_| arrivals.next()).collect();
        let end = all.last().expect("many").0.as_secs_f64();
        assert!((99.0..101.0).contains(&end), "{end}");
        let gaps = all.windows(2).map(|two| (two[1].0 - two[0].0).as_secs_f64());
        let variance = gaps.map(|gap| (gap - 1e-3).powi(2)).sum::<f64>() / 1e5;
        assert!((variance / 1e-6 - 1.0).abs() < 0.05, "{variance}");
        for site in 0..4 {
            let share = all.iter().filter(|it| it.1 == site).count();
            assert!((24_000..26_000).contains(&share), "{share}");
        }
        let mut again = Arrivals::new(ArrivalProcess::Poisson, 1_000.0, 4, 7);
        assert!(all[..100].iter().all(|it| *it == again.next()), "the seed decides");
    }
}
