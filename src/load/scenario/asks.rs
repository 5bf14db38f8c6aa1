//! Interprets the settings for clients: what they ask, and when.

use std::time::Duration;

use super::settings::Settings;
use crate::load::driver::{ArrivalProcess, Pace};
use crate::load::workload::{Flaw, Keys, Mix, Sizes, Sort, Workload};

/// How long a hot key is used if histories are checked, so that its history stays short.
const CHECKED_AGE: Duration = Duration::from_millis(250);

pub(super) fn workload(settings: &Settings) -> Result<Workload, Flaw> {
    let checked = settings.verify == Some(true);
    let records = settings.records.unwrap_or(1_000);
    let mut patterns = Vec::new();
    if let Some(percent) = settings.conflicts {
        let age = checked.then_some(CHECKED_AGE);
        let hot = settings.hot_keys.unwrap_or(1);
        patterns.push(("conflicts", Keys::Conflict { percent, hot, age }));
    }
    patterns.extend(settings.zipf.map(|theta| ("zipf", Keys::Zipf { keys: records, theta })));
    if settings.uniform == Some(true) {
        patterns.push(("uniform", Keys::Uniform { keys: records }));
    }
    if let Some(text) = &settings.hot_spot {
        patterns.push(("hot_spot", hot_spot(text, records)?));
    }
    if let [_, (name, _), ..] = patterns[..] {
        let what = "choose one of conflicts, zipf, uniform and hot_spot";
        return Err((name, what.to_owned()));
    }
    let preset = settings.ycsb.as_deref().map(|letter| ycsb(letter, records)).transpose()?;
    let keys = patterns.first().map(|(_, keys)| *keys).or(preset.as_ref().map(|(keys, _)| *keys));
    let mix = match (settings.reads, preset) {
        (None, Some((_, mix))) => mix,
        (reads, _) => Mix::reads(reads.unwrap_or(50.0)),
    };
    let values = settings.value_size.as_ref().map(|text| sizes(&text.to_string()));
    let values = values.unwrap_or(Ok(Sizes::Fixed(16))).map_err(|what| ("value_size", what))?;
    Ok(Workload {
        keys: keys.unwrap_or(Keys::Conflict { percent: 2.0, hot: 1, age: None }),
        mix,
        keys_per_command: settings.keys_per_command.unwrap_or(1),
        values,
        seed: settings.seed.unwrap_or(1),
        checked,
        namespace: 0,
    })
}

fn hot_spot(text: &str, keys: u32) -> Result<Keys, Flaw> {
    let parse = |text: &str| text.trim().trim_end_matches('%').parse::<f64>().ok();
    let pair = text.split_once('/');
    let pair = pair.and_then(|(keys, commands)| Some((parse(keys)?, parse(commands)?)));
    let (keys_percent, commands_percent) = pair.ok_or_else(|| {
        ("hot_spot", format!("{text:?}: write it like 5/80, for 80% of commands on 5% of keys"))
    })?;
    Ok(Keys::HotSpot { keys, keys_percent, commands_percent })
}

/// The core workloads of YCSB. A scan is one command that reads consecutive keys.
fn ycsb(letter: &str, keys: u32) -> Result<(Keys, Mix), Flaw> {
    let zipf = Keys::Zipf { keys, theta: 0.99 };
    let latest = Keys::Latest { keys, theta: 0.99 };
    Ok(match letter.to_ascii_lowercase().as_str() {
        "a" => (zipf, Mix::reads(50.0)),
        "b" => (zipf, Mix::reads(95.0)),
        "c" => (zipf, Mix::reads(100.0)),
        "d" => (latest, Mix(vec![(Sort::Get, 95.0), (Sort::Insert, 5.0)])),
        "e" => (zipf, Mix(vec![(Sort::Insert, 5.0), (Sort::Scan, 95.0)])),
        "f" => (zipf, Mix(vec![(Sort::Get, 50.0), (Sort::Modify, 50.0)])),
        _ => return Err(("ycsb", format!("{letter:?} is none of a, b, c, d, e and f"))),
    })
}

fn sizes(text: &str) -> Result<Sizes, String> {
    let wrong = || format!("{text:?}: write 16, or 16-1024, or 16:9,1024:1 with weights");
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
    if text.contains(':') {
        let one = |part: &str| {
            let (bytes, weight) = part.split_once(':').ok_or_else(wrong)?;
            Ok((number(bytes)?, weight.trim().parse::<u32>().map_err(|_| wrong())?))
        };
        let list = text.split(',').map(one).collect::<Result<Vec<_>, String>>()?;
        let is_empty = list.iter().all(|(_, weight)| *weight == 0);
        return if is_empty { Err(wrong()) } else { Ok(Sizes::List(list)) };
    }
    match text.split_once('-') {
        Some((least, most)) => {
            let (least, most) = (number(least)?, number(most)?);
            if least > most { Err(wrong()) } else { Ok(Sizes::Uniform(least, most)) }
        }
        None => Ok(Sizes::Fixed(number(text)?)),
    }
}

pub(super) fn pace(settings: &Settings, think: Option<Duration>) -> Result<Pace, Flaw> {
    let Some(rate) = settings.rate else {
        let clients = settings.clients.unwrap_or(16);
        if !(1..=10_000).contains(&clients) {
            return Err(("clients", format!("{clients} at each replica: between 1 and 10000")));
        }
        return Ok(Pace::Closed { clients, think: think.unwrap_or_default() });
    };
    if settings.clients.is_some() || think.is_some() {
        let what = "a rate is an open loop, clients that think are a closed one: choose";
        return Err(("rate", what.to_owned()));
    }
    if !(0.001..=10_000_000.0).contains(&rate) {
        return Err(("rate", format!("{rate}: take between 0.001 and 10 million a second")));
    }
    let outstanding = settings.outstanding.unwrap_or(10_000);
    if !(1..=1_000_000).contains(&outstanding) {
        return Err(("outstanding", format!("{outstanding}: take between 1 and a million")));
    }
    let spread = match settings.arrivals.as_deref() {
        None | Some("poisson") => ArrivalProcess::Poisson,
        Some("constant") => ArrivalProcess::Constant,
        Some(other) => {
            return Err(("arrivals", format!("{other:?} is neither poisson nor constant")));
        }
    };
    Ok(Pace::Open { rate, spread, outstanding })
}
