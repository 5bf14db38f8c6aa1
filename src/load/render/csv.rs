//! The time series of a load as files: CSV for tables and plots, and HdrHistogram's interval log,
//! which contains the whole distribution of each interval.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::load::result::{Outcome, Run};
use crate::load::scenario::input::FileError;

/// The columns of the CSV, followed by one for each replica's answers.
const COLUMNS: &str = "run,at_s,seconds,rate,errors,p50_ms,p99_ms,max_ms";

/// Writes the series of all runs, with one row for each interval.
///
/// # Errors
/// If the writer fails.
pub fn write_csv(outcome: &Outcome, to: impl Write) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    write!(to, "{COLUMNS}")?;
    let sites = outcome.runs.first().map_or(&[][..], |run| &run.sites);
    for site in sites {
        write!(to, ",answers_{}", site.replica)?;
    }
    writeln!(to)?;
    for (number, run) in (1..).zip(&outcome.runs) {
        for row in &run.series {
            write!(to, "{number},{},{},{},{}", row.at_s, row.seconds, row.rate, row.errors)?;
            write!(to, ",{},{},{}", row.p50_ms, row.p99_ms, row.max_ms)?;
            row.by_site.iter().try_for_each(|answers| write!(to, ",{answers}"))?;
            writeln!(to)?;
        }
    }
    to.flush()
}

/// Writes each run's log: the first to `path`, the others next to it, with `.2` and so on appended.
///
/// # Errors
/// If a file cannot be created or written.
pub fn write_hdr(runs: &[Run], path: &Path) -> Result<(), FileError> {
    for (number, run) in (1..).zip(runs) {
        let mut name = path.as_os_str().to_owned();
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let path = PathBuf::from(name);
        let written = std::fs::write(&path, &run.hdr_log);
        written.map_err(|error| FileError::system("write", &path, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::durations::Durations;
    use crate::load::result::{Row, Site};
    use crate::load::scenario::Scenario;
    use crate::load::scenario::settings::{ScenarioFile, Settings};
    use crate::node::Latency;

    #[test]
    fn a_row_an_interval_of_each_run() {
        let mut latency = Latency::default();
        (0..5).for_each(|_| latency.record(Duration::from_micros(1_500)));
        let answers = Durations::from(latency);
        let length = Duration::from_millis(250);
        let row = |end| Row::of(length, end, length, &answers, 2, vec![5, 0]);
        let site = |replica| Site { replica, ..Site::default() };
        let run = || Run {
            sites: vec![site(1), site(3)],
            series: vec![row(Duration::from_micros(500_040)), row(3 * length)],
            ..Run::default()
        };
        let scenario = Scenario::new(&Settings::default(), &ScenarioFile::default(), None, None);
        let scenario = scenario.expect("defaults make sense");
        let mut csv = Vec::new();
        write_csv(&Outcome::new(&scenario, vec![run(), run()], None), &mut csv).expect("room");
        let columns = "run,at_s,seconds,rate,errors,p50_ms,p99_ms,max_ms,answers_1,answers_3";
        let rows = |run| {
            let rest = "0.25,20,2,1.5,1.5,1.5,5,0";
            format!("{run},0.25,{rest}\n{run},0.5,{rest}\n")
        };
        let wanted = format!("{columns}\n{}{}", rows(1), rows(2));
        assert_eq!(String::from_utf8(csv).expect("text"), wanted);
    }
}
