//! Formats numbers for people, and computes medians.

/// A number with its thousands separated.
pub(super) fn grouped(number: u64) -> String {
    apart(&number.to_string())
}

/// The nearest whole number, in the same format.
pub(super) fn rounded(number: f64) -> String {
    apart(&format!("{number:.0}"))
}

/// A number with at most two decimals, and fewer if it is large, in the same format.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 10.0 => 2,
        middle if middle < 1_000.0 => 1,
        _ => 0,
    };
    let plain = format!("{value:.digits$}");
    match plain.split_once('.') {
        Some((whole, rest)) => match rest.trim_end_matches('0') {
            "" => apart(whole),
            rest => format!("{}.{rest}", apart(whole)),
        },
        None => apart(&plain),
    }
}

fn apart(digits: &str) -> String {
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let follows_digit = out.ends_with(|c: char| c.is_ascii_digit());
        if follows_digit && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The median of a sample that is not empty: the middle value, or the mean of the two middle ones.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let shown = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(rounded(12_345.6), "12,346");
    }

    #[test]
    fn numbers_as_people_read_them() {
        let cases = [
            (0.0, "0"),
            (0.128, "0.13"),
            (9.5, "9.5"),
            (70.5, "70.5"),
            (99.96, "100"),
            (1_234.4, "1,234"),
            (-1_234_567.0, "-1,234,567"),
            (-123.0, "-123"),
        ];
        for (value, wanted) in cases {
            assert_eq!(number(value), wanted);
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[9.0]), 9.0);
    }
}
