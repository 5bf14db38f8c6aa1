//! Shows the results of a load as text.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::durations::{Durations, Quantiles};
use crate::load::number::{grouped, rounded};
use crate::load::result::run::{Run, Site, rounded_share};
use crate::load::result::{Event, Found, Outcome, Spread};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_head(f)?;
        if let Some(found) = &self.found {
            writeln!(f)?;
            return fmt_found(found, f);
        }
        for (number, run) in (1..).zip(&self.runs) {
            if self.runs.len() > 1 {
                writeln!(f, "\nrun {number}")?;
            }
            writeln!(f)?;
            run.fmt(f)?;
        }
        if self.runs.len() > 1 {
            self.fmt_spread(f)?;
        }
        self.slo_missed.iter().try_for_each(|words| writeln!(f, "MISSED: {words}"))
    }
}

impl Outcome {
    fn fmt_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let protocol = match self.is_local {
            true => config.protocol.as_deref().unwrap_or("epaxos"),
            false => "a running cluster",
        };
        write!(f, "isonomy {} · {protocol} · {} replicas", self.version, self.replicas)?;
        if let Some(sites) = &self.sites {
            write!(f, " at {}", sites.join(", "))?;
        }
        match (config.rate, config.clients) {
            (Some(rate), _) => {
                let arrivals = config.arrivals.as_deref().unwrap_or("poisson");
                write!(f, " · open loop, {rate}/s, {arrivals} arrivals")?;
            }
            (None, clients) => {
                write!(f, " · closed loop, {} clients at each", clients.unwrap_or_default())?;
            }
        }
        writeln!(f)?;
        if let Some(title) = &config.title {
            writeln!(f, "{title}")?;
        }
        let machine = &self.machine;
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        let kernel = machine.kernel.as_deref().unwrap_or("unknown kernel");
        let memory = machine.memory_bytes.map_or(0, |bytes| bytes >> 20);
        writeln!(f, "{} cores of {cpu}, {memory} MiB, {kernel}", machine.cores)
    }

    fn fmt_spread(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} runs{:>17}{:>12}{:>12}", self.runs.len(), "median", "least", "most")?;
        for (name, Spread { median, min, max }) in &self.spread {
            writeln!(f, "{name:<16}{median:>10.3}{min:>12.3}{max:>12.3}")?;
        }
        Ok(())
    }
}

fn fmt_found(found: &Found, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{:>12}{:>12}{:>11}{:>11}", "offered/s", "answered/s", "p50 ms", "p99 ms")?;
    for step in &found.steps {
        let [rate, answered] = [step.rate, step.throughput_ops_s].map(rounded);
        write!(f, "{rate:>12}{answered:>12}{:>11.2}{:>11.2}", step.p50_ms, step.p99_ms)?;
        match &step.missed {
            Some(why) => writeln!(f, "   broke: {why}")?,
            None => writeln!(f, "   held")?,
        }
    }
    match found.rate {
        Some(rate) => writeln!(f, "highest rate that held: {}/s", rounded(rate)),
        None => writeln!(f, "MISSED: no rate that was tried held"),
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early = if self.interrupted { " (interrupted)" } else { "" };
        let [answered, offered] = [self.answered, self.offered].map(grouped);
        let rate = rounded(self.throughput_ops_s);
        writeln!(
            f,
            "{answered} of {offered} operations answered in {:.1} s{early}: {rate} operations/s",
            self.seconds
        )?;
        writeln!(
            f,
            "errors {} · dropped {} · unanswered {} · started late {}",
            grouped(self.errors),
            grouped(self.dropped),
            grouped(self.unanswered as u64),
            grouped(self.generator.late)
        )?;
        for (words, count) in &self.error_words {
            writeln!(f, "  {}: {words}", grouped(*count))?;
        }
        self.fmt_latency(f)?;
        self.fmt_cluster(f)?;
        self.fmt_generator(f)?;
        if !self.events.is_empty() {
            self.fmt_series(f)?;
        }
        self.fmt_verdicts(f)
    }
}

impl Run {
    fn fmt_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:<18}{:>11}{:>9}{:>9}", "latency, ms", "count", "p50", "p90")?;
        writeln!(f, "{:>9}{:>9}{:>9}{:>9}", "p99", "p99.9", "p99.99", "max")?;
        line(f, "all", &self.latency)?;
        fmt_kinds(f, &self.kinds)?;
        for site in &self.sites {
            let name = site.site.as_deref().unwrap_or_default();
            line(f, &format!("at {} {name}", site.replica), &site.latency)?;
            if site.kinds.len() > 1 {
                fmt_kinds(f, &site.kinds)?;
            }
        }
        Ok(())
    }

    fn fmt_cluster(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(cluster) = &self.cluster else {
            return writeln!(
                f,
                "commit, execution and fast path: not known of a cluster that runs elsewhere"
            );
        };
        let (fast, slow) = (&cluster.fast_path, &cluster.slow_path);
        // If all commands took the same path, there is nothing to separate.
        let both = fast.commit.count() > 0 && slow.commit.count() > 0;
        line(f, "commit", &cluster.commit)?;
        if both {
            line(f, "  on the fast path", &fast.commit)?;
            line(f, "  on the slow path", &slow.commit)?;
        }
        for Site { replica, site, commit, lower_bound_ms, .. } in &self.sites {
            if let (Some(commit), Some(bound)) = (commit, lower_bound_ms) {
                let name = site.as_deref().unwrap_or_default();
                line(f, &format!("  at {replica} {name} ≥{bound}"), commit)?;
            }
        }
        line(f, "execution", &cluster.execute)?;
        if both {
            line(f, "  on the fast path", &fast.execute)?;
            line(f, "  on the slow path", &slow.execute)?;
        }
        if let Some(leader) = cluster.leader {
            writeln!(f, "in the end led by replica {leader}{}", self.place(leader))?;
        }
        let counts = &cluster.counts;
        writeln!(
            f,
            "commands on the fast path: {:.1}%; proposed again: {}\n\
             instances, each a batch of commands: {}; not on the fast path: {}; recoveries: {}",
            rounded_share(cluster.commands) * 100.0,
            grouped(counts.resubmitted),
            grouped(counts.instances),
            grouped(counts.slow_instances),
            grouped(counts.recoveries)
        )?;
        let each = |of: u64| of as f64 / self.answered.max(1) as f64;
        writeln!(
            f,
            "each operation: {:.2} messages and {:.0} bytes between replicas",
            each(counts.frames_out),
            each(counts.bytes_out)
        )
    }

    fn fmt_generator(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = &self.generator.busy;
        let percent = |share: Option<f64>| match share {
            Some(share) => format!("{:.0}%", share * 100.0),
            None => "unknown".to_owned(),
        };
        writeln!(
            f,
            "load generator: {} of the machine, its busiest thread {} of a core, starts {:.2} ms \
             late at p99; the whole machine {}",
            percent(busy.generator),
            percent(busy.busiest_thread),
            self.generator.lateness.quantile_ms(0.99),
            percent(busy.machine)
        )
    }

    fn fmt_series(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:>8}{:>11}{:>9}{:>10}{:>10}", "s", "rate", "errors", "p50 ms", "p99 ms")?;
        let mut events = self.events.iter().peekable();
        for row in &self.series {
            let begins = row.at_s - row.seconds;
            while let Some(event) = events.next_if(|event| event.at_s < begins + row.seconds) {
                self.fmt_event(event, f)?;
            }
            let rate = rounded(row.rate);
            write!(f, "{:>8.2}{rate:>11}{:>9}", row.at_s, row.errors)?;
            writeln!(f, "{:>10.2}{:>10.2}", row.p50_ms, row.p99_ms)?;
        }
        events.try_for_each(|event| self.fmt_event(event, f))
    }

    fn fmt_event(&self, event: &Event, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.2}  {}", event.at_s, event.what)?;
        if let Some(replica) = event.replica {
            write!(f, ": replica {replica}{}", self.place(replica))?;
        }
        writeln!(f, "{}", event.failed.as_ref().map_or("", |_| " FAILED"))
    }

    /// The name of a replica's site, if it has one.
    fn place(&self, replica: u8) -> String {
        let site = self.sites.iter().find(|site| site.replica == usize::from(replica));
        let name = site.and_then(|site| site.site.as_deref());
        name.map_or_else(String::new, |name| format!(" ({name})"))
    }

    fn fmt_verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(history) = &self.history {
            let [operations, keys] = [history.operations, history.keys].map(|it| it as u64);
            let share = match history.one_key_in {
                1 => String::new(),
                many => format!(", one key in {many}"),
            };
            writeln!(
                f,
                "history linearizable: {} ({} operations on {} keys{share}); same state \
                 everywhere: {}",
                word(self.linearizable),
                grouped(operations),
                grouped(keys),
                word(self.digests_equal)
            )?;
        }
        self.warnings.iter().try_for_each(|words| writeln!(f, "WARNING: {words}"))?;
        self.failures.iter().try_for_each(|words| writeln!(f, "FAILED: {words}"))
    }
}

fn fmt_kinds(f: &mut fmt::Formatter<'_>, kinds: &BTreeMap<&str, Durations>) -> fmt::Result {
    kinds.iter().try_for_each(|(kind, latency)| line(f, &format!("  {kind}"), latency))
}

/// The result of a check as a word.
pub(super) fn word(is: Option<bool>) -> &'static str {
    match is {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "unknown",
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, durations: &Durations) -> fmt::Result {
    let Quantiles { count, p50, p90, p99, p999, p9999, max, .. } = Quantiles::of(durations);
    write!(f, "{name:<18}{:>11}", grouped(count))?;
    for ms in [p50, p90, p99, p999, p9999, max] {
        match ms < 10.0 {
            true => write!(f, "{ms:>9.2}")?,
            false => write!(f, "{ms:>9.1}")?,
        }
    }
    writeln!(f)
}
