//! `isonomy compare`: runs protocols against each other and reports the results, or compares two
//! results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Args;

use super::{NO, complain, generate, tell};
use crate::load::compare::keep::{RunStore, read};
use crate::load::compare::kept::Comparison;
use crate::load::compare::plan::{ComparisonPlan, Turn};
use crate::load::compare::series::{objection, run};
use crate::load::compare::verdict::{Strictness, changes, is_worse, table};
use crate::load::render::{reports, tables};
use crate::load::scenario::input::FileError;

/// Compare protocols under the same load, or two results of a comparison.
///
/// With --config: runs the protocols that the file names, in turn and repeatedly, and prints a
/// Markdown table. With --out it also writes the JSON of each run as soon as it ends, and at the
/// end result.json, report.md and report.html, a page that needs no other files.
///
/// With two result.json: prints each figure that both have, how it changed from the first to the
/// second, and whether the change is significant.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isonomy compare --config bench-config/compare-wan-5.toml --virtual
  isonomy compare --config bench-config/compare-wan-5.toml --virtual --out wan5
  isonomy compare before/result.json after/result.json

Exit codes:
  0  all runs were measured; of two results, nothing is significantly worse
  1  a run failed, a figure is significantly worse, or a result was not written
  2  wrong arguments, or a file that cannot be used")]
pub(super) struct Compare {
    /// Two result.json to compare: before and after
    #[arg(value_name = "RESULT", num_args = 2, required_unless_present = "config")]
    #[arg(conflicts_with_all = ["config", "out", "virtual_time"])]
    results: Vec<PathBuf>,
    /// File that says what to compare, such as bench-config/compare-wan-5.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for results and reports; it must hold none yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run in virtual time: no network, no noise, the same result every time
    #[arg(long = "virtual")]
    virtual_time: bool,
    /// Of two results: significance level, between 0 and 1; a change counts if chance alone would
    /// cause it less often than this
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    significance: f64,
    /// Of two results: ignore changes smaller than this, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    least: f64,
}

impl Compare {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match (&self.config, &self.results[..]) {
            (Some(config), _) => self.make(config),
            (None, [before, after]) => self.judge(before, after),
            (None, _) => bail!("name two result.json, or a plan with --config"),
        }
    }

    fn judge(&self, before: &Path, after: &Path) -> anyhow::Result<ExitCode> {
        let Compare { significance, least, .. } = *self;
        let is_level = significance > 0.0 && significance < 1.0;
        ensure!(is_level, "--significance {significance}: take a number between 0 and 1");
        ensure!((0.0..1_000.0).contains(&least), "--least {least}: take 0 to 1000 percent");
        let strictness = Strictness { significance, least: least / 100.0 };
        let (before, after) = (read(before)?, read(after)?);
        let (changes, missing) = changes(&before, &after, strictness);
        ensure!(!changes.is_empty(), "the two results have no figure in common: {missing:?}");
        let printed = tell(table(&changes, &missing, strictness).trim_end());
        let is_good = printed && !is_worse(&changes);
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    fn make(&self, config: &Path) -> anyhow::Result<ExitCode> {
        let plan = ComparisonPlan::read(config)?;
        if let Some(why) = objection(&plan).filter(|_| !self.virtual_time) {
            bail!("{}: {why}", config.display());
        }
        plan.area.notes.iter().for_each(|note| complain(format_args!("note: {note}")));
        // Created first: an error before the runs is better than one after them.
        let mut store = self.out.as_deref().map(RunStore::new).transpose()?;
        let runtime = generate::runtime(1)?;
        let (comparison, ended) = runtime.block_on(self.take_turns(&plan, store.as_mut()));
        // In any case, print the results so far, and store them if possible.
        let printed = tell(tables::markdown(&comparison).trim_end());
        let finished =
            store.as_ref().map_or(Ok(()), |store| store.finish(&comparison, &reports(&comparison)));
        let kept = ended.and(finished);
        let (made, planned) = (comparison.runs.len(), plan.turns().len());
        if made < planned {
            complain(format_args!("only {made} of {planned} runs were made"));
        }
        if let Some(out) = &self.out {
            match &kept {
                Ok(()) => {
                    complain(format_args!("the report is {}", out.join("report.html").display()));
                }
                Err(error) => complain(format_args!(
                    "error: {error}\nWhat there was room for is in {}.",
                    out.display()
                )),
            }
        }
        let is_good = printed && kept.is_ok() && comparison.seen().count() == planned;
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    async fn take_turns(
        &self,
        plan: &ComparisonPlan,
        store: Option<&mut RunStore>,
    ) -> (Comparison, Result<(), FileError>) {
        let stop = tokio::spawn(super::interrupted());
        let bar = generate::progress_bar(plan.turns().len() as u64, "{bar:30} {pos}/{len} {msg}");
        let go_on = |turn: &Turn<'_>, done: usize| {
            bar.set_position(done as u64);
            bar.set_message(format!("{} at {}", turn.contender.who, turn.point));
            !stop.is_finished()
        };
        let done = run(plan, self.virtual_time, store, go_on).await;
        bar.finish_and_clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        compare: Compare,
    }

    fn run(flags: &[&str]) -> anyhow::Result<ExitCode> {
        let all = ["compare"].iter().chain(flags);
        Flags::try_parse_from(all)?.compare.run()
    }

    #[test]
    fn it_takes_two_results_or_a_file() {
        for flags in [&[][..], &["a"], &["a", "b", "c"], &["a", "b", "--config", "c"]] {
            assert!(run(flags).is_err(), "{flags:?}");
        }
        let said = run(&["none.json", "none.json"]).expect_err("no such file").to_string();
        assert!(said.contains("cannot read none.json"), "{said}");
        let said = run(&["--config", "none.toml"]).expect_err("no such file").to_string();
        assert!(said.contains("cannot read none.toml"), "{said}");
    }

    #[test]
    fn what_only_virtual_time_can_do_is_said_beforehand() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plan.toml");
        let text = "title = 't'\nreplicas = 1\nprotocols = ['epaxos']\nconflicts = [0]\n\
                    clients = [1]\nseconds = 1\n";
        for line in ["cpu_us = 5", "crash = { site = 'r1', at_s = 0.1, back_s = 0.2 }"] {
            std::fs::write(&path, format!("{text}{line}\n")).expect("written");
            let path = path.to_str().expect("a path in UTF-8");
            let said = run(&["--config", path]).expect_err(line).to_string();
            assert!(said.contains("--virtual") && said.contains("plan.toml"), "{said}");
        }
    }
}
