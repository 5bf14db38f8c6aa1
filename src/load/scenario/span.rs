//! Times as users write them: `5s`, `250ms`, `1.5s`, `2m`; a bare number means seconds.

use std::time::Duration;

/// The longest accepted time, in seconds.
const LONGEST: f64 = 30.0 * 86_400.0;

/// Parses a time.
///
/// # Errors
/// A text, if it is not a time, is negative, or exceeds 30 days.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write it like 5s, 250ms, 1.5s or 2m");
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let scale = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..text.len() - unit.len()].parse().map_err(|_| wrong())?;
    let seconds = number * scale;
    match (0.0..=LONGEST).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("{text:?} is too long: at most 30 days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, millis) in [("5s", 5_000), ("250ms", 250), ("1.5", 1_500), ("2m", 120_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)));
        }
        for wrong in ["", "s", "-1s", "5 parsecs", "1e3s", "31000h"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
