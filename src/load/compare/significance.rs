//! Tests whether two sets of repeats differ by more than chance: the rank test of Mann, Whitney and
//! Wilcoxon, which assumes no distribution. Pure arithmetic.

/// The test is exact up to this many assignments of ranks; beyond it, the normal approximation is
/// good.
const EXACT: u64 = 1_000_000;

/// The result of the rank test of two samples.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Test {
    /// The two-sided probability of ranks at least this extreme if both samples have one
    /// distribution.
    pub p: f64,
    /// The smallest possible `p` for samples of these sizes: with few repeats even a large
    /// difference is not significant.
    pub least_p: f64,
}

/// Compares two samples, neither of which may be empty.
///
/// It counts every assignment of ranks, including ties, if there are at most a million. Otherwise
/// it uses the normal approximation, corrected for ties.
///
/// # Panics
/// If a sample is empty or contains a value that is not finite.
pub fn rank_test(a: &[f64], b: &[f64]) -> Test {
    assert!(!a.is_empty() && !b.is_empty(), "both sides have been measured");
    let ranks = ranks(a, b);
    let ways = ways(ranks.len() as u64, a.len() as u64);
    let least_p = ways.map_or(0.0, |ways| (2.0 / ways as f64).min(1.0));
    let p = match ways {
        Some(_) => exact(&ranks, a.len()),
        None => approximate(&ranks, a.len()),
    };
    Test { p, least_p }
}

/// Twice the rank of each value among all, those of `a` first; equal values share their mean rank.
fn ranks(a: &[f64], b: &[f64]) -> Vec<u64> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    assert!(all.iter().all(|value| value.is_finite()), "figures are numbers");
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| *other < value).count();
        let equal = all.iter().filter(|other| *other == value).count();
        (2 * below + equal + 1) as u64
    };
    all.iter().map(rank).collect()
}

/// The number of ways to choose `k` of `n`, if it is small enough for the exact test.
fn ways(n: u64, k: u64) -> Option<u64> {
    let mut ways = 1_u64;
    for i in 1..=k.min(n - k) {
        ways = ways * (n + 1 - i) / i;
        if ways > EXACT {
            return None;
        }
    }
    Some(ways)
}

/// The share of all assignments of ranks in which the first sample's sum is at least as far from
/// the middle.
fn exact(ranks: &[u64], first: usize) -> f64 {
    let total: u64 = ranks.iter().sum();
    let most = usize::try_from(total).expect("a sum of few ranks");
    // The number of ways to choose some of the ranks so far with a given sum.
    let mut dealt = vec![vec![0.0_f64; most + 1]; first + 1];
    dealt[0][0] = 1.0;
    for rank in ranks {
        let rank = usize::try_from(*rank).expect("a rank among few");
        for taken in (1..=first).rev() {
            for sum in (rank..=most).rev() {
                dealt[taken][sum] += dealt[taken - 1][sum - rank];
            }
        }
    }
    let distance = |sum: u64| (sum * ranks.len() as u64).abs_diff(total * first as u64);
    let seen = distance(ranks[..first].iter().sum());
    let all: f64 = dealt[first].iter().sum();
    let far = dealt[first].iter().enumerate().filter(|(sum, _)| distance(*sum as u64) >= seen);
    far.map(|(_, ways)| ways).sum::<f64>() / all
}

/// The same with a normal distribution of the same mean and variance.
fn approximate(ranks: &[u64], first: usize) -> f64 {
    let (n, k) = (ranks.len() as f64, first as f64);
    let halves = |rank: &u64| *rank as f64 / 2.0;
    let mean = ranks.iter().map(halves).sum::<f64>() / n;
    let variance = ranks.iter().map(|rank| (halves(rank) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let sum: f64 = ranks[..first].iter().map(halves).sum();
    let deviation = (variance * k * (n - k) / n).sqrt();
    if deviation == 0.0 {
        return 1.0;
    }
    // Half a rank is half the step between two sums (continuity correction).
    let z = ((sum - k * mean).abs() - 0.5).max(0.0) / deviation;
    libm::erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(a: &[f64], b: &[f64]) -> f64 {
        rank_test(a, b).p
    }

    fn close(found: f64, wanted: f64, within: f64) {
        assert!((found - wanted).abs() < within, "{found} instead of {wanted}");
    }

    #[test]
    fn samples_that_lie_apart_have_the_smallest_p_there_is() {
        let known = [(1, 2.0), (2, 6.0), (3, 20.0), (4, 70.0), (5, 252.0), (10, 184_756.0)];
        for (count, ways) in known {
            let a: Vec<f64> = (0..count).map(f64::from).collect();
            let b: Vec<f64> = (0..count).map(|i| f64::from(i) + 100.0).collect();
            let test = rank_test(&a, &b);
            close(test.p, (2.0_f64 / ways).min(1.0), 1e-12);
            close(test.least_p, test.p, 1e-12);
            assert_eq!(test, rank_test(&b, &a), "from both sides");
        }
    }

    #[test]
    fn known_samples_have_their_known_p() {
        // Counted by hand: of the 20 ways to choose 3 of 6 ranks, those with sums 6, 7, 14 and 15.
        close(p(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]), 4.0 / 20.0, 1e-12);
        // Hollander and Wolfe's table for 5 and 5: a sum of 19 or less has 0.0476 on one side.
        close(p(&[1.0, 2.0, 3.0, 4.0, 9.0], &[5.0, 6.0, 7.0, 8.0, 10.0]), 0.0952, 5e-5);
        // Four against four with a U of 1.
        close(p(&[1.0, 2.0, 3.0, 5.0], &[4.0, 6.0, 7.0, 8.0]), 4.0 / 70.0, 1e-12);
    }

    #[test]
    fn equal_values_prove_nothing() {
        close(p(&[7.0; 5], &[7.0; 5]), 1.0, 1e-12);
        close(p(&[7.0; 40], &[7.0; 40]), 1.0, 1e-12);
        // Of the assignments of 1 1 | 1 2, the 2 is equally often on either side.
        close(p(&[1.0, 1.0], &[1.0, 2.0]), 1.0, 1e-12);
    }

    #[test]
    fn large_samples_are_judged_by_the_normal_distribution() {
        let interleaved: (Vec<f64>, Vec<f64>) =
            (0..40).map(|i| (f64::from(2 * i), f64::from(2 * i + 1))).unzip();
        assert!(p(&interleaved.0, &interleaved.1) > 0.8);
        let moved: Vec<f64> = interleaved.0.iter().map(|value| value + 30.0).collect();
        assert!(p(&moved, &interleaved.1) < 0.01);
        // Where both are possible, they agree.
        let a: Vec<f64> = [1, 2, 5, 6, 9, 11, 13, 14].map(f64::from).to_vec();
        let b: Vec<f64> = [3, 4, 7, 8, 10, 12, 15, 16].map(f64::from).to_vec();
        let ranks = ranks(&a, &b);
        close(approximate(&ranks, a.len()), exact(&ranks, a.len()), 0.02);
    }
}
