//! A comparison's plan, read from a file with errors that name the line. Before `series`, which
//! runs it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::kept::{Demand, Point};
use crate::load::scenario::input::{self, FileError, Flaw};
use crate::load::scenario::leads;
use crate::load::scenario::wide_area::{WideArea, one_line};
use crate::protocol::ProtocolKind;
use crate::types::MAX_REPLICAS;

/// The round trip between replicas without a wide area, in milliseconds of virtual time.
const SIDE_BY_SIDE_MS: f64 = 0.1;

/// How long a run may last, in seconds.
const SECONDS: RangeInclusive<f64> = 0.1..=86_400.0;

/// A planned comparison.
#[derive(Clone, PartialEq, Debug)]
pub struct ComparisonPlan {
    /// Its title.
    pub title: String,
    /// The text of its file.
    pub text: String,
    /// The sites; one replica is at each.
    pub area: WideArea,
    /// Whether there is no wide area network: all replicas are on one machine or in one room.
    pub side_by_side: bool,
    /// The contenders.
    pub contenders: Vec<Contender>,
    /// The loads.
    pub points: Vec<Point>,
    /// The length of values in bytes.
    pub value_bytes: usize,
    /// How often each contender runs under each load.
    pub repeats: u32,
    /// The seed of the first repeat; each further one uses the next number.
    pub seed: u64,
    /// Operations started this early are not counted.
    pub warm_up: Duration,
    /// The length of the counted time after the warm-up.
    pub time: Duration,
    /// In virtual time, the CPU time of a message for its sender and for its receiver.
    pub cpu: Duration,
    /// In virtual time, the duration of a flush; zero for replicas in memory.
    pub flush: Duration,
    /// A replica that stops.
    pub crash: Option<Stop>,
    /// The site, from 0, whose replica stands in for the leader of leaderless protocols.
    pub stand_in: usize,
}

/// A replica that stops under load.
#[derive(Clone, PartialEq, Debug)]
pub struct Stop {
    /// The site, from 0; `None` for the leader's.
    pub site: Option<usize>,
    /// When it stops.
    pub at: Duration,
    /// When it is back; `None` if never.
    pub back: Option<Duration>,
    /// If only separate runs have the stop: their load and the length of their counted time.
    pub own: Option<(Point, Duration)>,
}

/// A contender of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contender {
    /// Its name in reports.
    pub who: String,
    /// The protocol.
    pub protocol: ProtocolKind,
    /// The site, from 0, of the preferred leader.
    pub leader: Option<usize>,
}

/// One planned run.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The contender.
    pub contender: &'a Contender,
    /// The load.
    pub point: Point,
    /// The number of the repeat, from 1.
    pub repeat: u32,
    /// The seed.
    pub seed: u64,
}

/// The file's fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: String,
    wide_area: Option<PathBuf>,
    replicas: Option<Spanned<usize>>,
    protocols: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    leaders: Vec<Spanned<String>>,
    conflicts: Spanned<Vec<Spanned<f64>>>,
    #[serde(default)]
    clients: Vec<Spanned<u32>>,
    #[serde(default)]
    rates: Vec<Spanned<f64>>,
    value_bytes: Option<Spanned<usize>>,
    repeats: Option<Spanned<u32>>,
    seed: Option<u64>,
    warm_up_s: Option<Spanned<f64>>,
    seconds: Spanned<f64>,
    jitter_ms: Option<Spanned<f64>>,
    cpu_us: Option<Spanned<f64>>,
    flush_ms: Option<Spanned<f64>>,
    crash: Option<WrittenCrash>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCrash {
    site: Spanned<String>,
    at_s: Spanned<f64>,
    back_s: Option<Spanned<f64>>,
    conflicts: Option<Spanned<f64>>,
    clients: Option<Spanned<u32>>,
    rate: Option<Spanned<f64>>,
    seconds: Option<Spanned<f64>>,
}

impl ComparisonPlan {
    /// Reads a file such as `bench-config/compare-wan-5.toml`.
    ///
    /// # Errors
    /// If the file or the wide area that it names cannot be read or is invalid.
    pub fn read(path: &Path) -> Result<ComparisonPlan, FileError> {
        ComparisonPlan::parse(path, &input::read(path)?)
    }

    /// The plan of a file with this text.
    pub(super) fn parse(path: &Path, text: &str) -> Result<ComparisonPlan, FileError> {
        let line = |flaw: Flaw| FileError::of(path, text, flaw);
        let written: Written = toml::from_str(text).map_err(|error| line(input::flaw(&error)))?;
        let area = match &written.wide_area {
            Some(file) => WideArea::read(&path.parent().unwrap_or(Path::new("")).join(file))?,
            None => side_by_side(written.replicas.as_ref()).map_err(line)?,
        };
        written.plan(text, area).map_err(line)
    }

    /// All turns in order: A B A B under the first load, then under the next.
    pub fn turns(&self) -> Vec<Turn<'_>> {
        let mut turns = Vec::new();
        for point in &self.points {
            for repeat in 1..=self.repeats {
                let seed = self.seed.wrapping_add(u64::from(repeat) - 1);
                let turn = |contender| Turn { contender, point: *point, repeat, seed };
                turns.extend(self.contenders.iter().map(turn));
            }
        }
        turns
    }

    /// The length of the counted time under a load.
    pub fn time_of(&self, point: Point) -> Duration {
        let own = self.crash.as_ref().and_then(|stop| stop.own);
        own.filter(|(own, _)| *own == point).map_or(self.time, |(_, time)| time)
    }
}

/// Replicas with almost no distance between them.
fn side_by_side(replicas: Option<&Spanned<usize>>) -> Result<WideArea, Flaw> {
    let Some(replicas) = replicas else {
        return Err((0..0, "name a `wide_area` file, or say how many `replicas`".into()));
    };
    let n = *replicas.as_ref();
    if !(1..=MAX_REPLICAS).contains(&n) {
        return Err((replicas.span(), format!("replicas: take between 1 and {MAX_REPLICAS}")));
    }
    let rtt = |a: usize, b: usize| if a == b { 0.0 } else { SIDE_BY_SIDE_MS };
    Ok(WideArea {
        sites: (1..=n).map(|number| format!("r{number}")).collect(),
        rtt_ms: (0..n).map(|a| (0..n).map(|b| rtt(a, b)).collect()).collect(),
        jitter_ms: 0.0,
        loss_percent: 0.0,
        notes: Vec::new(),
    })
}

impl Written {
    fn plan(self, text: &str, mut area: WideArea) -> Result<ComparisonPlan, Flaw> {
        let contenders = self.contenders(&area)?;
        let stand_in = self.leaders.first().map(|name| site_of(&area, name)).transpose()?;
        area.jitter_ms = within_or(area.jitter_ms, "jitter_ms", &self.jitter_ms, 0.0..=1_000.0)?;
        let time = Duration::from_secs_f64(within("seconds", &self.seconds, SECONDS)?);
        let crash = self.crash.as_ref().map(|crash| crash.read(&area, time)).transpose()?;
        let points = self.points(crash.as_ref())?;
        let repeats = within_or(3, "repeats", &self.repeats, 1..=1_000)?;
        let value_bytes = within_or(16, "value_bytes", &self.value_bytes, 16..=1_048_576)?;
        let number = |name, value: &_, most| within_or(0.0, name, value, 0.0..=most);
        Ok(ComparisonPlan {
            text: text.to_owned(),
            side_by_side: self.wide_area.is_none(),
            contenders,
            points,
            value_bytes,
            repeats,
            seed: self.seed.unwrap_or(1),
            warm_up: Duration::from_secs_f64(number("warm_up_s", &self.warm_up_s, 3_600.0)?),
            time,
            cpu: Duration::from_secs_f64(number("cpu_us", &self.cpu_us, 1e6)? / 1e6),
            flush: Duration::from_secs_f64(number("flush_ms", &self.flush_ms, 1e4)? / 1e3),
            title: one_line(&self.title),
            area,
            crash,
            stand_in: stand_in.unwrap_or(0),
        })
    }

    fn contenders(&self, area: &WideArea) -> Result<Vec<Contender>, Flaw> {
        let mut contenders = Vec::new();
        for written in self.protocols.as_ref() {
            let name = written.as_ref();
            let Ok(protocol) = name.parse() else {
                return Err((written.span(), format!("there is no protocol {name:?}")));
            };
            if !leads(protocol) || self.leaders.is_empty() {
                contenders.push(Contender { who: name.clone(), protocol, leader: None });
                continue;
            }
            for leader in &self.leaders {
                let site = site_of(area, leader)?;
                let who = format!("{name} ({} leads)", leader.as_ref());
                contenders.push(Contender { who, protocol, leader: Some(site) });
            }
        }
        match contenders.is_empty() {
            true => Err((self.protocols.span(), "protocols: name at least one".into())),
            false => Ok(contenders),
        }
    }

    fn points(&self, stop: Option<&Stop>) -> Result<Vec<Point>, Flaw> {
        let rates = self.rates.iter().map(|of| rate("rates", of));
        let loads = self.clients.iter().map(clients).chain(rates);
        let loads: Vec<Demand> = loads.collect::<Result<_, _>>()?;
        if loads.is_empty() {
            let what = "say how many `clients` a site, or at what `rates` operations come";
            return Err((0..0, what.into()));
        }
        let mut points = Vec::new();
        for conflicts in self.conflicts.as_ref() {
            let conflict_percent = within("conflicts", conflicts, 0.0..=100.0)?;
            let crash = stop.is_some_and(|stop| stop.own.is_none());
            points.extend(loads.iter().map(|load| Point { conflict_percent, load: *load, crash }));
        }
        if points.is_empty() {
            return Err((self.conflicts.span(), "conflicts: name at least one share".into()));
        }
        points.extend(stop.and_then(|stop| stop.own).map(|(point, _)| point));
        Ok(points)
    }
}

impl WrittenCrash {
    fn read(&self, area: &WideArea, usual: Duration) -> Result<Stop, Flaw> {
        let is_leader = self.site.as_ref() == "leader";
        let site = site_of(area, &self.site).map(Some);
        let site = if is_leader { site.unwrap_or(None) } else { site? };
        let at = within("at_s", &self.at_s, 0.0..=86_400.0)?;
        let back = self.back_s.as_ref().map(|it| within("back_s, after at_s", it, at..=86_400.0));
        let back = back.transpose()?;
        let (at, back) = (Duration::from_secs_f64(at), back.map(Duration::from_secs_f64));
        Ok(Stop { site, at, back, own: self.own(usual)? })
    }

    /// The load and the counted time of separate runs, if any.
    fn own(&self, usual: Duration) -> Result<Option<(Point, Duration)>, Flaw> {
        let load = match (&self.clients, &self.rate) {
            (Some(of), None) => clients(of)?,
            (None, Some(of)) => rate("rate", of)?,
            (Some(_), Some(of)) => {
                return Err((of.span(), "crash: `clients` or a `rate`, not both".into()));
            }
            (None, None) => {
                let spans =
                    [&self.conflicts, &self.seconds].map(|it| it.as_ref().map(Spanned::span));
                return match spans.into_iter().flatten().next() {
                    Some(span) => Err((span, "crash: say how many `clients`, or a `rate`".into())),
                    None => Ok(None),
                };
            }
        };
        let conflict_percent = within_or(0.0, "conflicts", &self.conflicts, 0.0..=100.0)?;
        let seconds = within_or(usual.as_secs_f64(), "seconds", &self.seconds, SECONDS)?;
        let point = Point { conflict_percent, load, crash: true };
        Ok(Some((point, Duration::from_secs_f64(seconds))))
    }
}

fn site_of(area: &WideArea, name: &Spanned<String>) -> Result<usize, Flaw> {
    let wanted = one_line(name.as_ref());
    let site = area.sites.iter().position(|site| *site == wanted);
    site.ok_or_else(|| {
        let what = format!("there is no site {:?}; there are {:?}", name.as_ref(), area.sites);
        (name.span(), what)
    })
}

fn clients(of: &Spanned<u32>) -> Result<Demand, Flaw> {
    within("clients", of, 1..=10_000).map(Demand::Clients)
}

fn rate(name: &str, of: &Spanned<f64>) -> Result<Demand, Flaw> {
    within(name, of, 0.1..=1e7).map(Demand::Rate)
}

fn within<T: Copy + PartialOrd + Display>(
    name: &str,
    value: &Spanned<T>,
    range: RangeInclusive<T>,
) -> Result<T, Flaw> {
    let (number, (least, most)) = (*value.as_ref(), (range.start(), range.end()));
    match range.contains(&number) {
        true => Ok(number),
        false => Err((value.span(), format!("{name}: {number} is not between {least} and {most}"))),
    }
}

/// The same for a number that may be left out.
fn within_or<T: Copy + PartialOrd + Display>(
    usual: T,
    name: &str,
    value: &Option<Spanned<T>>,
    range: RangeInclusive<T>,
) -> Result<T, Flaw> {
    value.as_ref().map_or(Ok(usual), |value| within(name, value, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ComparisonPlan, FileError> {
        let dir = tempfile::tempdir().expect("a directory");
        let area = "sites = ['a', 'b', 'c']\nrtt_ms = [[0, 5, 6], [5, 0, 7], [6, 7, 0]]\n";
        std::fs::write(dir.path().join("area.toml"), area).expect("written");
        ComparisonPlan::parse(&dir.path().join("compare.toml"), text)
    }

    const GOOD: &str = "\
title = 'two'
wide_area = 'area.toml'
protocols = ['epaxos', 'multi-paxos']
leaders = ['a', 'c']
conflicts = [0, 25]
clients = [1, 10]
seconds = 5
warm_up_s = 1
repeats = 2
crash = { site = 'b', at_s = 2, back_s = 3.5 }
";

    #[test]
    fn a_file_is_a_plan() {
        let plan = read(GOOD).expect("a good file");
        let whos: Vec<&str> = plan.contenders.iter().map(|it| &it.who[..]).collect();
        assert_eq!(whos, ["epaxos", "multi-paxos (a leads)", "multi-paxos (c leads)"]);
        assert_eq!(plan.contenders[2].leader, Some(2));
        assert_eq!(plan.points.len(), 4);
        let (at, back) = (Duration::from_secs(2), Some(Duration::from_millis(3_500)));
        assert_eq!(plan.crash, Some(Stop { site: Some(1), at, back, own: None }));
        assert!(plan.points.iter().all(|point| point.crash), "every run has it");
        assert_eq!((plan.repeats, plan.value_bytes, plan.text == GOOD), (2, 16, true));
    }

    #[test]
    fn all_take_turns() {
        let plan = read(&GOOD.replace("leaders = ['a', 'c']\n", "")).expect("a good file");
        let (turns, (a, b)) = (plan.turns(), (ProtocolKind::EPaxos, ProtocolKind::MultiPaxos));
        let order = turns[4..12].iter().map(|it| (it.contender.protocol, it.point, it.repeat));
        let under = |load| [(a, load, 1), (b, load, 1), (a, load, 2), (b, load, 2)];
        let [_, second, third, _] = plan.points[..] else { panic!("no four loads") };
        assert_eq!(order.collect::<Vec<_>>(), [under(second), under(third)].concat());
        assert!(turns.iter().all(|it| it.seed == u64::from(it.repeat)) && turns.len() == 16);
    }

    #[test]
    fn the_leader_may_stop_in_runs_of_their_own() {
        let crash = "crash = { site = 'leader', at_s = 2, rate = 500, conflicts = 2, seconds = 8 }";
        let (good, _) = GOOD.split_once("crash =").expect("it has one");
        let plan = read(&format!("{good}{crash}")).expect("a good file");
        let [quiet @ .., own] = &plan.points[..] else { panic!("no loads") };
        assert!(quiet.len() == 4 && quiet.iter().all(|point| !point.crash));
        let wanted = Point { conflict_percent: 2.0, load: Demand::Rate(500.0), crash: true };
        assert_eq!((*own, plan.time_of(*own)), (wanted, Duration::from_secs(8)));
        assert_eq!(plan.time_of(quiet[0]), Duration::from_secs(5));
        let stop = plan.crash.as_ref().expect("one stops");
        assert_eq!((stop.site, plan.stand_in), (None, 0), "whoever leads, or the first of those");
    }

    #[test]
    fn replicas_may_stand_side_by_side() {
        let text = GOOD.replace("wide_area = 'area.toml'", "replicas = 3");
        let text = text.replace("['a', 'c']", "['r2']").replace("'b'", "'r3'");
        let plan = read(&text).expect("a good file");
        assert!(plan.side_by_side);
        assert_eq!(plan.area.sites, ["r1", "r2", "r3"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("'epaxos', ", "'raft', ", 3, "no protocol \"raft\""),
            ("'a', 'c'", "'a', 'x'", 4, "no site \"x\""),
            ("[0, 25]", "[0, 125]", 5, "between 0 and 100"),
            ("[0, 25]", "[]", 5, "at least one share"),
            ("[1, 10]", "[0]", 6, "between 1 and"),
            ("clients = [1, 10]", "clients = []", 1, "say how many"),
            ("seconds = 5", "seconds = -5", 7, "between 0.1"),
            ("repeats = 2", "repeats = 0", 9, "between 1"),
            ("back_s = 3.5", "back_s = 1", 10, "after at_s"),
            ("site = 'b'", "site = 'z'", 10, "no site"),
            ("at_s = 2,", "at_s = 2, seconds = 5,", 10, "say how many `clients`"),
            ("at_s = 2,", "at_s = 2, rate = 5, clients = 5,", 10, "not both"),
            ("at_s = 2,", "at_s = 2, rate = 5, conflicts = 101,", 10, "between 0 and 100"),
            ("title = 'two'", "titel = 'two'", 1, "unknown field"),
            ("wide_area = 'area.toml'", "replicas = 0", 2, "between 1 and 63"),
            ("wide_area = 'area.toml'", "", 1, "wide_area"),
        ];
        for (from, to, line, word) in cases {
            let text = GOOD.replace(from, to);
            let said = read(&text).expect_err(&text).to_string();
            let place = format!("compare.toml:{line}: ");
            assert!(said.contains(&place) && said.contains(word), "{to}: {said}");
        }
        let said = read(&GOOD.replace("area.toml", "none.toml")).expect_err("no such file");
        assert!(said.to_string().contains("none.toml"), "{said}");
    }
}
