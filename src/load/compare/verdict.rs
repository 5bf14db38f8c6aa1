//! Compares two comparisons: which figures changed, and whether by more than chance. The last step
//! of `isonomy compare A.json B.json`.

use std::fmt::Write;

use super::figures::{Better, Figure};
use super::kept::{Comparison, Point};
use super::significance::{Test, rank_test};
use crate::load::number::number;
use crate::load::result::Spread;

/// When a difference counts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Strictness {
    /// Differences whose probability by chance is higher are ignored.
    pub significance: f64,
    /// Differences of the medians below this share are ignored.
    pub least: f64,
}

impl Default for Strictness {
    fn default() -> Strictness {
        Strictness { significance: 0.05, least: 0.02 }
    }
}

/// The change of one figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The contender.
    pub who: String,
    /// The load.
    pub point: Point,
    /// The figure.
    pub figure: Figure,
    /// Its values before.
    pub before: Spread,
    /// Its values after.
    pub after: Spread,
    /// The significance test.
    pub test: Test,
    /// The verdict on it.
    pub verdict: Verdict,
}

/// The verdict on a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Significantly better.
    Better,
    /// Significantly worse.
    Worse,
    /// Too small to matter, or chance.
    Same,
    /// It may be better or worse, but with so few repeats nothing is significant.
    TooFew,
}

/// All changes of figures that both sides have, and descriptions of what only one side has.
pub fn changes(
    before: &Comparison,
    after: &Comparison,
    strictness: Strictness,
) -> (Vec<Change>, Vec<String>) {
    let (mut changes, mut missing) = (Vec::new(), Vec::new());
    for (one, other, side) in [(before, after, "the second"), (after, before, "the first")] {
        for (who, point) in pairs(one) {
            if other.repeats(who, point).next().is_none() {
                missing.push(format!("{who} at {point} is not in {side}"));
            }
        }
    }
    for (who, point) in pairs(before) {
        changes.extend(Figure::OVERALL.into_iter().filter_map(|figure| {
            let [from, to] = [before, after].map(|of| of.values(who, point, figure));
            let (before, after) = (Spread::of(&from)?, Spread::of(&to)?);
            let test = rank_test(&from, &to);
            let verdict = judge(figure, before, after, test, strictness);
            Some(Change { who: who.into(), point, figure, before, after, test, verdict })
        }));
    }
    (changes, missing)
}

/// The pairs of contender and load that have runs.
fn pairs(of: &Comparison) -> Vec<(&str, Point)> {
    let all = of.whos().into_iter().flat_map(|who| of.points().into_iter().map(move |p| (who, p)));
    all.filter(|(who, point)| of.repeats(who, *point).next().is_some()).collect()
}

fn judge(figure: Figure, from: Spread, to: Spread, test: Test, strictness: Strictness) -> Verdict {
    let differs = (to.median - from.median).abs() > strictness.least * from.median.abs();
    if !differs {
        return Verdict::Same;
    }
    if test.least_p > strictness.significance {
        return Verdict::TooFew;
    }
    if test.p > strictness.significance {
        return Verdict::Same;
    }
    match (to.median > from.median) == (figure.better() == Better::Higher) {
        true => Verdict::Better,
        false => Verdict::Worse,
    }
}

/// Whether a figure is significantly worse. Sizes of components do not decide, because they vary.
pub fn is_worse(changes: &[Change]) -> bool {
    let mut deciding = changes.iter().filter(|it| it.figure != Figure::LargestComponent);
    deciding.any(|it| it.verdict == Verdict::Worse)
}

/// The changes as a Markdown table, with a note on the test.
pub fn table(changes: &[Change], missing: &[String], strictness: Strictness) -> String {
    let mut text = String::new();
    text.push_str("| who | load | figure | before | after | change | p | verdict |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for change in changes {
        let Change { who, point, figure, before, after, test, verdict } = change;
        let name = figure.name();
        let percent = percent(before.median, after.median);
        let verdict = match verdict {
            Verdict::Better => "**better**",
            Verdict::Worse => "**WORSE**",
            Verdict::Same => "same",
            Verdict::TooFew => "too few repeats",
        };
        let p = test.p;
        let row = format!("{before} | {after} | {percent} | {p:.3} | {verdict}");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {who} | {point} | {name} | {row} |");
    }
    for line in missing {
        let _ = writeln!(text, "\n{line}: not compared.");
    }
    let _ = writeln!(text, "\n{}", caveat(changes, strictness));
    text
}

fn percent(before: f64, after: f64) -> String {
    match before == 0.0 {
        true if after == 0.0 => "0%".into(),
        true => "–".into(),
        false => format!("{:+.1}%", 100.0 * (after - before) / before.abs()),
    }
}

/// A note on what the test can and cannot show.
fn caveat(changes: &[Change], strictness: Strictness) -> String {
    let Strictness { significance, least } = strictness;
    let tested = changes.iter().filter(|it| it.test.least_p <= significance).count();
    let few = changes.iter().filter(|it| it.test.least_p > significance).count();
    let mut text = format!(
        "Medians with extremes. p: two-sided Mann–Whitney rank test over the repeats, exact where \
         there are few. A change counts if p is at most {significance} and the medians differ by \
         more than {}%.",
        number(100.0 * least)
    );
    if tested > 0 {
        let expected = number(tested as f64 * significance);
        let _ = write!(
            text,
            " {tested} figures were tested, so if nothing had changed, up to {expected} would have \
             such a p by chance; figures of one run also move together."
        );
    }
    if few > 0 {
        let _ = write!(
            text,
            " {few} figures have too few repeats for any difference to be significant: take at \
             least 4 on each side, better 5 or more."
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::compare::fixture::{comparison, scaled};

    fn compare(factor: f64, repeats: u32) -> (Vec<Change>, Vec<String>) {
        let before = comparison(repeats);
        changes(&before, &scaled(&before, factor), Strictness::default())
    }

    fn verdict(changes: &[Change], figure: Figure) -> Verdict {
        changes.iter().find(|it| it.figure == figure).expect("it was measured").verdict
    }

    #[test]
    fn slower_is_worse_and_faster_is_better() {
        let (slower, missing) = compare(1.5, 5);
        assert!(is_worse(&slower) && missing.is_empty());
        assert_eq!(verdict(&slower, Figure::execution(50)), Verdict::Worse);
        let (faster, _) = compare(0.5, 5);
        assert!(!is_worse(&faster));
        assert_eq!(verdict(&faster, Figure::execution(99)), Verdict::Better);
    }

    #[test]
    fn a_run_is_as_good_as_itself_or_one_percent_off() {
        for factor in [1.0, 1.01] {
            let (same, _) = compare(factor, 5);
            assert!(same.iter().all(|it| it.verdict == Verdict::Same), "{same:?}");
        }
    }

    #[test]
    fn three_repeats_prove_nothing_and_four_do() {
        let (few, _) = compare(2.0, 3);
        assert!(!is_worse(&few));
        assert_eq!(verdict(&few, Figure::execution(50)), Verdict::TooFew);
        let text = table(&few, &[], Strictness::default());
        assert!(text.contains("take at least 4"), "{text}");
        assert!(is_worse(&compare(2.0, 4).0));
    }

    #[test]
    fn what_only_one_side_has_is_named() {
        let both = comparison(4);
        let mut one = both.clone();
        one.runs.retain(|run| run.who == "EPaxos");
        let (_, missing) = changes(&both, &one, Strictness::default());
        assert!(!missing.is_empty() && missing.iter().all(|it| it.contains("the second")));
        let (changes, missing) = changes(&one, &both, Strictness::default());
        let text = table(&changes, &missing, Strictness::default());
        assert!(text.contains("is not in the first: not compared"), "{text}");
    }
}
