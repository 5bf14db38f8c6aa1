//! The settings of a load from flags and scenario files, all optional, and the files' format, with
//! errors that name the line. All of `bench-config/` has this format. A file may also describe a
//! wide area network or name another file that does (`wide_area`). `scenario` interprets the
//! settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::input::{self, FileError};
use super::wide_area::{WideArea, one_line};

/// A number, or a text for a time or a range.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "write a number, or a text such as \"5s\"")]
pub enum Text {
    /// A whole number.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// A text.
    Text(String),
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Whole(number) => write!(f, "{number}"),
            Text::Number(number) => write!(f, "{number}"),
            Text::Text(text) => f.write_str(text),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::Text(text.to_owned())
    }
}

/// The settings that describe a wide area network, in the same files.
const AREA: &[&str] = &["sites", "rtt_ms", "jitter_ms", "loss_percent"];

/// Passes the list of all settings to a macro: of each its explanation, name and type, and in
/// brackets the clap attributes of its flag. `cli` makes flags of it, and help of the explanations.
#[rustfmt::skip] // It would indent the list further, and long lines would not fit.
macro_rules! all_settings {
    ($to:ident) => { $to! {
        /// What the scenario shows, in one line
        title: String [skip],
        /// Protocol to start: epaxos, multi-paxos, fast-paxos or paxos [default: epaxos]
        protocol: String [long, help_heading = "Cluster", value_name = "NAME"],
        /// Preferred leader, for a protocol that has one: a replica's number, or its site's name
        leader: Text [long, help_heading = "Cluster", value_name = "R", conflicts_with = "cluster"],
        /// Replicas to start, 1 to 63 [default: 3]
        replicas: usize [skip],
        /// The file of a wide area network to emulate, relative to the file that names it
        wan: PathBuf [skip],
        /// What a replica's vote must survive before the replica sends it [default: memory]
        durability: String
            [long, help_heading = "Cluster", value_name = "MODE", value_parser = durability()],
        /// Send proposals before they are durable, in slots reserved beforehand [default: on]
        reserved_slots: bool
            [long, help_heading = "Cluster", value_name = "on|off", value_parser = on_or_off],
        /// Answer commands before their commits are durable [default: off]
        silent_orphans: bool
            [long, help_heading = "Cluster", value_name = "on|off", value_parser = on_or_off],
        /// Open loop: operations a second, over all replicas
        rate: f64 [long, help_heading = "Pace", value_name = "N"],
        /// Open loop: spacing of operations, poisson or constant [default: poisson]
        arrivals: String [long, help_heading = "Pace", value_name = "NAME"],
        /// Open loop: most operations in flight at a replica, 1 to 1000000 [default: 10000]
        outstanding: u32 [long, help_heading = "Pace", value_name = "N"],
        /// Closed loop: clients at each replica, 1 to 10000 [default: 16]
        clients: u32 [long, help_heading = "Pace", value_name = "N"],
        /// Closed loop: pause between an answer and the client's next operation [default: 0s]
        think: Text [long, help_heading = "Pace", value_name = "TIME"],
        /// Warm-up, not counted [default: 2s]
        warm_up: Text [long, help_heading = "Pace", value_name = "TIME"],
        /// Measured time after the warm-up, at least 0.1s [default: 10s]
        duration: Text [long, help_heading = "Pace", value_name = "TIME"],
        /// Stop after N measured operations, instead of after --duration
        count: u64 [long, help_heading = "Pace", value_name = "N"],
        /// Seed of arrivals, workload and emulated network [default: 1]
        seed: u64 [long, help_heading = "Pace", value_name = "N"],
        /// Repeat the run N times, 1 to 1000, and report median and spread [default: 1]
        repeats: u32 [long, help_heading = "Pace", value_name = "N"],
        /// Commands on hot keys, in percent; all others use keys of one client [default: 2]
        conflicts: f64 [long, help_heading = "Workload", value_name = "PERCENT"],
        /// Number of hot keys, 1 to 1024 [default: 1]
        hot_keys: u32 [long, help_heading = "Workload", value_name = "N"],
        /// Choose keys from a table, by Zipf's law with this exponent, 0 to 10
        zipf: f64 [long, help_heading = "Workload", value_name = "THETA"],
        /// Choose keys from a table, all with the same probability
        uniform: bool [long, help_heading = "Workload", action = ArgAction::SetTrue],
        /// Choose keys from a table with a hot spot: 5/80 is 80% of commands on 5% of keys
        hot_spot: String [long, help_heading = "Workload", value_name = "KEYS/COMMANDS"],
        /// Number of keys in the table [default: 1000]
        records: u32 [long, help_heading = "Workload", value_name = "N"],
        /// YCSB workload, a to f: sets keys, mix of operations, values of 1000 bytes, and --preload
        ycsb: String [long, help_heading = "Workload", value_name = "LETTER"],
        /// Operations that read, in percent [default: 50]
        reads: f64 [long, help_heading = "Workload", value_name = "PERCENT"],
        /// Read each replica's own state, which may be stale, without asking the others
        local_reads: bool [long, help_heading = "Workload", action = ArgAction::SetTrue],
        /// Keys in each get and put [default: 1]
        keys_per_command: u32 [long, help_heading = "Workload", value_name = "N"],
        /// Length of values, up to 1048576: fixed (16), a range (16-1024), or lengths with weights
        /// (16:9,1024:1) [default: 16]
        value_size: Text [long, help_heading = "Workload", value_name = "BYTES"],
        /// Write every key of the table before the run
        preload: bool [long, help_heading = "Workload", action = ArgAction::SetTrue],
        /// Operation timeout [default: 10s]
        timeout: Text
            [long, help_heading = "Pace", value_name = "TIME", display_order = AFTER_COUNT],
        /// Interval of the time series, at least 10ms [default: 1s]
        interval: Text
            [long, help_heading = "Output", value_name = "TIME", display_order = AFTER_SLO],
        /// Check that the clients' history is linearizable; hot keys are then replaced every 250 ms
        verify: bool [long, help_heading = "Workload", action = ArgAction::SetTrue],
        /// Objective, such as 'p99<50ms', 'errors<1%' or 'rate>1000'; may be given more than once
        slo: Vec<String> [long, help_heading = "Output", value_name = "BOUND"],
        /// Inject a fault, as listed below; may be given more than once
        fault: Vec<String> [long, help_heading = "Cluster", value_name = "FAULT"],
    } };
}
#[cfg(feature = "cli")]
pub(crate) use all_settings;

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty [$($flag:tt)*],)*) => {
        /// The settings of a load; `None` means the default.
        #[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
        pub struct Settings {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<$kind>,
            )*
        }

        impl Settings {
            /// The names of all settings in files.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// These settings, completed by `others` where they are not given.
            pub(super) fn or(self, others: Settings) -> Settings {
                Settings { $($name: self.$name.or(others.$name),)* }
            }

            /// These settings without those of these names.
            fn without(self, names: &[&str]) -> Settings {
                Settings { $($name: self.$name.filter(|_| !names.contains(&stringify!($name))),)* }
            }

            /// Whether this setting is given.
            pub(super) fn has(&self, name: &str) -> bool {
                $((name == stringify!($name) && self.$name.is_some()))||*
            }
        }
    };
}

all_settings!(settings);

/// In each group the settings exclude each other: one flag replaces all that a file gives.
const CHOICES: &[&[&str]] = &[
    &["rate", "arrivals", "outstanding", "clients", "think"],
    &["conflicts", "hot_keys", "zipf", "uniform", "hot_spot", "ycsb"],
    &["duration", "count"],
];

/// A scenario file.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ScenarioFile {
    /// Its settings.
    pub settings: Settings,
    /// The wide area network that it describes or names.
    pub area: Option<WideArea>,
    path: PathBuf,
    /// The line of each setting.
    lines: BTreeMap<String, usize>,
}

/// A setting is invalid: its flag, or its file and line, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSetting(String);

impl ScenarioFile {
    /// Reads a file such as those in `bench-config/`.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML or contains an invalid value.
    /// [`Scenario::new`](super::Scenario::new) reports errors that depend on flags.
    pub fn read(path: &Path) -> Result<ScenarioFile, FileError> {
        ScenarioFile::parse(path, &input::read(path)?, true)
    }

    /// The file with this text, which may name another one for its sites.
    pub(super) fn parse(
        path: &Path,
        text: &str,
        may_name: bool,
    ) -> Result<ScenarioFile, FileError> {
        let wrong = |line, what: &str| Err(FileError::line(path, line, what));
        let toml_flaw = |error| FileError::of(path, text, input::flaw(&error));
        let table = toml::de::DeTable::parse(text).map_err(toml_flaw)?;
        let mut lines = BTreeMap::new();
        for key in table.get_ref().keys() {
            let (name, line) = (key.get_ref(), input::line_of(text, key.span().start));
            if !known().any(|known| known == name) {
                return wrong(line, &unknown(name));
            }
            lines.insert(name.to_string(), line);
        }
        let mut settings: Settings = toml::from_str(text).map_err(toml_flaw)?;
        settings.title = settings.title.map(|title| one_line(&title));
        let has_area = AREA.iter().any(|name| lines.contains_key(*name));
        let area = match &settings.wan {
            Some(_) if has_area => {
                let what = "wan: sites stand here as well: name a file or describe them, not both";
                return wrong(lines["wan"], what);
            }
            Some(_) if !may_name => {
                let what = "wan: this file is named for its sites: describe them here";
                return wrong(lines["wan"], what);
            }
            Some(file) => {
                let file = path.parent().unwrap_or(Path::new("")).join(file);
                let what = format!("wan: {} has no `sites` in it", file.display());
                let named = ScenarioFile::parse(&file, &input::read(&file)?, false)?.area;
                Some(named.ok_or_else(|| FileError::line(path, lines["wan"], what))?)
            }
            None if has_area => {
                Some(WideArea::parse(text).map_err(|flaw| FileError::of(path, text, flaw))?)
            }
            None => None,
        };
        Ok(ScenarioFile { settings, area, path: path.into(), lines })
    }

    /// The combined settings of flags and this file; flags take precedence.
    pub(super) fn under(&self, flags: &Settings) -> Settings {
        let mut mine = self.settings.clone();
        for choice in CHOICES {
            if choice.iter().any(|name| flags.has(name)) {
                mine = mine.without(choice);
            }
        }
        flags.clone().or(mine)
    }

    /// The error of an invalid setting, with its origin.
    pub(super) fn bad(&self, flags: &Settings, name: &str, what: impl fmt::Display) -> BadSetting {
        let name = name.replace('-', "_");
        let flag = format!("--{}", name.replace('_', "-"));
        let place = match self.lines.get(&name) {
            Some(line) if !flags.has(&name) => format!("{}:{line}: {name}", self.path.display()),
            _ => flag.clone(),
        };
        let what = what.to_string();
        // Do not repeat a name that is already at the start.
        let what = what.strip_prefix(&format!("{}: ", &flag[2..])).unwrap_or(&what);
        BadSetting(format!("{place}: {what}"))
    }
}

impl WideArea {
    /// Reads a file such as those in `bench-config/` that describes a wide area network or names
    /// another file that does.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or describes no wide area network.
    pub fn read(path: &Path) -> Result<WideArea, FileError> {
        let what = "no `sites` and no `wan` in it: this describes no wide area";
        ScenarioFile::read(path)?.area.ok_or_else(|| FileError::line(path, 1, what))
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    Settings::NAMES.iter().chain(AREA).copied()
}

/// The message for an unknown name, which suggests the nearest known one.
fn unknown(name: &str) -> String {
    let distance = |known: &&str| match known.starts_with(name) || name.starts_with(known) {
        // A part of a name is nearer than another name of its length.
        true => 1,
        false => strsim::damerau_levenshtein(name, known),
    };
    let nearest = known().min_by_key(distance).unwrap_or_default();
    if distance(&nearest) <= 1 + name.chars().count() / 3 {
        return format!("there is no setting `{name}`: did you mean `{nearest}`?");
    }
    format!("there is no setting `{name}`: `isonomy load --help` has them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ScenarioFile, String> {
        let read = ScenarioFile::parse(Path::new("some.toml"), text, true);
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_and_errors_name_the_line() {
        let file = read("rate = 100\n\nduration = '5s'\nvalue_size = 16\n").expect("a good file");
        assert_eq!((file.settings.rate, &file.lines["duration"]), (Some(100.0), &3));
        for (text, line, word) in [
            ("# one\nrat = 5\n", 2, "did you mean `rate`"),
            ("sits = []\n", 1, "did you mean `sites`"),
            ("xylophone_count = 5\n", 1, "--help"),
            ("rate = 5\nseed = -1\n", 2, "-1"),
            ("rate = 5\nclients = 'many'\n", 2, "string"),
            ("rate = 5\nthink = true\n", 2, "a number, or a text"),
            ("rate = \n", 1, ""),
            ("sites = ['a']\nrtt_ms = [[0]]\nwan = 'x.toml'\n", 3, "not both"),
            ("wan = 'missing.toml'\n", 0, "missing.toml"),
        ] {
            let said = read(text).expect_err(text);
            assert!(line == 0 || said.contains(&format!("some.toml:{line}: ")), "{said}");
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn flags_go_before_files_and_choices_are_replaced_as_a_whole() {
        let file = read("rate = 100\narrivals = 'constant'\nzipf = 0.9\nseed = 3\n").expect("good");
        let flags = Settings { clients: Some(7), seed: Some(4), ..Settings::default() };
        let both = file.under(&flags);
        assert_eq!((both.rate, both.arrivals, both.clients), (None, None, Some(7)));
        assert_eq!((both.zipf, both.seed), (Some(0.9), Some(4)));
        let place = |name| file.bad(&flags, name, "it is wrong").to_string();
        assert!(place("zipf").ends_with("some.toml:3: zipf: it is wrong"), "{}", place("zipf"));
        assert_eq!(place("seed"), "--seed: it is wrong");
        assert_eq!(file.bad(&flags, "hot-keys", "hot-keys: 0").to_string(), "--hot-keys: 0");
    }
}
