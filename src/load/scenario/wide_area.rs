//! A wide area network as a scenario file describes it: sites, round trips, jitter, loss. Reading
//! it gives errors that name the line. It becomes the emulated paths of the mesh before the
//! replicas start. `settings` reads the files and their other contents.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::input::{Flaw, flaw};
use crate::mesh::WanControl;
use crate::types::{MAX_REPLICAS, Quorums};

/// The longest accepted round trip, in milliseconds.
const MAX_RTT_MS: f64 = 10_000.0;

/// Two measurements of one round trip are both accepted if they differ by at most this many
/// milliseconds, or by the share below.
const MAX_SKEW_MS: f64 = 1.0;
const MAX_SKEW: f64 = 0.1;

/// The longest round trip within a site, in milliseconds, that is treated as zero.
const MAX_INSIDE_MS: f64 = 5.0;

/// Sites and the paths between them.
#[derive(Clone, PartialEq, Debug)]
pub struct WideArea {
    /// The sites' names, at least one. Replica `i` is at the `i`-th.
    pub sites: Vec<String>,
    /// The round trips in milliseconds between any two sites: symmetric, and zero from a site to
    /// itself.
    pub rtt_ms: Vec<Vec<f64>>,
    /// The largest random extra delay of a packet, in milliseconds.
    pub jitter_ms: f64,
    /// The percentage of packets that are lost.
    pub loss_percent: f64,
    /// Notes on corrections of the table, for people.
    pub notes: Vec<String>,
}

/// The file's fields about the wide area network.
#[derive(Deserialize)]
struct Written {
    sites: Spanned<Vec<String>>,
    rtt_ms: Spanned<Vec<Spanned<Vec<f64>>>>,
    jitter_ms: Option<Spanned<f64>>,
    loss_percent: Option<Spanned<f64>>,
}

impl WideArea {
    pub(super) fn parse(text: &str) -> Result<WideArea, Flaw> {
        let mut written: Written = toml::from_str(text).map_err(|error| flaw(&error))?;
        let mut notes = Vec::new();
        for name in written.sites.get_mut() {
            let clean = one_line(name);
            if clean != *name {
                notes.push(format!("sites: {name:?} is called {clean:?}: a name has one line"));
                *name = clean;
            }
        }
        check_sites(&written.sites)?;
        let sites = written.sites.into_inner();
        check_matrix(&sites, &written.rtt_ms)?;
        let rtt_ms = written.rtt_ms.into_inner().into_iter().map(Spanned::into_inner).collect();
        let rtt_ms = mend_matrix(&sites, rtt_ms, &mut notes);
        let jitter_ms = check_range("jitter_ms", written.jitter_ms, 1_000.0)?;
        let loss_percent = check_range("loss_percent", written.loss_percent, 50.0)?;
        Ok(WideArea { sites, rtt_ms, jitter_ms, loss_percent, notes })
    }

    /// The emulated paths. The seed determines jitter and loss.
    pub fn control(&self, seed: u64) -> WanControl {
        let control = WanControl::from_rtt_ms(seed, &self.rtt_ms);
        let sites = self.sites.len();
        for (from, to) in (0..sites).flat_map(|a| (0..sites).map(move |b| (a, b))) {
            if from != to {
                control.set_jitter(from, to, Duration::from_secs_f64(self.jitter_ms / 1_000.0));
                control.set_loss(from, to, self.loss_percent / 100.0);
            }
        }
        control
    }

    /// The lower bound for commits of leaderless protocols at a site, in milliseconds, if a replica
    /// is at each of the first `n` sites: the round trip to the farthest member of the nearest fast
    /// quorum.
    ///
    /// # Panics
    /// If `site` is not below `n`, or there are fewer sites than `n`.
    pub fn lower_bound_ms(&self, site: usize, n: usize) -> f64 {
        let quorums = Quorums::new(n).expect("as many replicas as sites at most");
        let mut near = self.rtt_ms[site][..n].to_vec();
        near.sort_by(f64::total_cmp);
        near[quorums.fast() - 1]
    }
}

fn check_sites(sites: &Spanned<Vec<String>>) -> Result<(), Flaw> {
    let names = sites.as_ref();
    let flaw = |what: String| Err((sites.span(), what));
    if names.is_empty() || names.len() > MAX_REPLICAS {
        return flaw(format!("sites: name between 1 and {MAX_REPLICAS}, not {}", names.len()));
    }
    for (index, name) in names.iter().enumerate() {
        if name.trim().is_empty() {
            return flaw(format!("sites: the name number {} is empty: give it one", index + 1));
        }
        if names[..index].contains(name) {
            return flaw(format!("sites: {name:?} stands there twice: give each its own name"));
        }
    }
    Ok(())
}

fn check_matrix(sites: &[String], matrix: &Spanned<Vec<Spanned<Vec<f64>>>>) -> Result<(), Flaw> {
    let n = sites.len();
    let rows = matrix.as_ref();
    if rows.len() != n {
        let what = format!("rtt_ms: {} rows for {n} sites: give one row a site", rows.len());
        return Err((matrix.span(), what));
    }
    for (a, spanned) in rows.iter().enumerate() {
        let (row, name) = (spanned.as_ref(), &sites[a]);
        let flaw = |what: String| Err((spanned.span(), format!("rtt_ms: {what}")));
        if row.len() != n {
            let what = format!("the row of {name} has {} numbers: give one a site, {n}", row.len());
            return flaw(what);
        }
        for (b, &rtt) in row.iter().enumerate() {
            let other = &sites[b];
            if !(0.0..=MAX_RTT_MS).contains(&rtt) {
                let what = "take milliseconds from 0 to 10000";
                return flaw(format!("{rtt} between {name} and {other}: {what}"));
            }
            if a == b && rtt > MAX_INSIDE_MS {
                return flaw(format!("{rtt} from {name} to itself: write 0"));
            }
            // Earlier rows have been checked to be long enough.
            let back = rows[..a].get(b).map_or(rtt, |row| row.as_ref()[a]);
            if (back - rtt).abs() > MAX_SKEW_MS.max(MAX_SKEW * back.max(rtt)) {
                let what = "a round trip is about the same from both ends";
                return flaw(format!("{rtt} from {name} to {other}, but {back} back: {what}"));
            }
        }
    }
    Ok(())
}

/// Measured tables have two slightly different values for each path, and round trips within a site.
/// Replaces the former by their mean and the latter by zero, with a note.
fn mend_matrix(
    sites: &[String],
    mut rtt_ms: Vec<Vec<f64>>,
    notes: &mut Vec<String>,
) -> Vec<Vec<f64>> {
    let (mut skewed, mut inside) = (Vec::new(), Vec::new());
    for (a, name) in sites.iter().enumerate() {
        for (b, other) in sites[..a].iter().enumerate() {
            let (there, back) = (rtt_ms[a][b], rtt_ms[b][a]);
            if there.to_bits() != back.to_bits() {
                // Rounded to the microsecond, as in a table.
                let mean = ((there + back) / 2.0 * 1e3).round() / 1e3;
                (rtt_ms[a][b], rtt_ms[b][a]) = (mean, mean);
                skewed.push(format!("{other}–{name} {mean}"));
            }
        }
        if std::mem::take(&mut rtt_ms[a][a]) != 0.0 {
            inside.push(name.as_str());
        }
    }
    if !skewed.is_empty() {
        let pairs = skewed.join(", ");
        notes.push(format!("rtt_ms: not the same from both ends, so the mean is taken: {pairs}"));
    }
    if !inside.is_empty() {
        let sites = inside.join(", ");
        notes.push(format!("rtt_ms: the round trip within a site is taken for 0: {sites}"));
    }
    rtt_ms
}

/// A name that fits into one line of a table or a terminal.
pub(in crate::load) fn one_line(name: &str) -> String {
    let parts = name.split(|c: char| c.is_whitespace() || c.is_control());
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn check_range(name: &str, value: Option<Spanned<f64>>, most: f64) -> Result<f64, Flaw> {
    let Some(value) = value else { return Ok(0.0) };
    if (0.0..=most).contains(value.as_ref()) {
        return Ok(value.into_inner());
    }
    Err((value.span(), format!("{name}: {} is not between 0 and {most}", value.as_ref())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::settings::ScenarioFile;
    use super::*;

    fn shipped(name: &str) -> WideArea {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench-config").join(name);
        WideArea::read(&path).expect("a shipped file")
    }

    #[test]
    fn the_five_sites_of_the_paper_have_their_lower_bounds() {
        let area = shipped("wan-5.toml");
        let bounds: Vec<f64> = (0..5).map(|site| area.lower_bound_ms(site, 5)).collect();
        assert_eq!(area.sites, ["VA", "CA", "OR", "JP", "EU"]);
        assert_eq!(bounds, [70.5, 59.9, 72.5, 111.7, 127.3]);
        let three = shipped("wan-3.toml");
        let bounds: Vec<f64> = (0..3).map(|site| three.lower_bound_ms(site, 3)).collect();
        assert_eq!(bounds, [59.9, 21.1, 21.1]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = "sites = ['a', 'b']\nrtt_ms = [\n [0, 5],\n [5, 0],\n]\njitter_ms = 1\n";
        assert!(WideArea::parse(good).is_ok());
        let cases = [
            ("'a', 'b'", "'a', 'a'", 1, "twice"),
            ("'a', 'b'", "'a', ''", 1, "empty"),
            ("['a', 'b']", "[]", 1, "between 1 and"),
            ("'a', 'b'", "'a', 'b', 'c'", 2, "one row a site"),
            ("[5, 0]", "[5]", 4, "the row of b"),
            ("[5, 0]", "[50, 0]", 4, "from both ends"),
            ("[5, 0]", "[5, 6]", 4, "write 0"),
            ("[0, 5]", "[0, -5]", 3, "milliseconds from 0"),
            ("[0, 5]", "[0, nan]", 3, "milliseconds from 0"),
            ("[0, 5]", "[0, 'x']", 3, "string"),
            ("jitter_ms = 1", "jitter_ms = 1e9", 6, "between 0 and 1000"),
            ("jitter_ms = 1", "loss_percent = 90", 6, "between 0 and 50"),
            ("jitter_ms = 1", "jitter = 1", 6, "did you mean `jitter_ms`"),
        ];
        for (from, to, line, word) in cases {
            let text = good.replace(from, to);
            let said = ScenarioFile::parse(Path::new("wan.toml"), &text, true);
            let said = said.expect_err(&text).to_string();
            let place = format!("wan.toml:{line}: ");
            assert!(said.contains(&place) && said.contains(word), "{to}: {said}");
        }
    }

    #[test]
    fn a_table_of_measurements_is_mended_and_that_is_said() {
        let text = "sites = ['a', 'b', \"c\\nd\"]\n\
                    rtt_ms = [[0.4, 70.2, 9], [70.5, 0, 9], [9, 9, 0.3]]\n";
        let area = WideArea::parse(text).expect("good enough");
        assert_eq!(area.rtt_ms, [[0.0, 70.35, 9.0], [70.35, 0.0, 9.0], [9.0, 9.0, 0.0]]);
        assert_eq!(area.sites, ["a", "b", "c d"]);
        let said = area.notes.join("\n");
        for word in ["a–b 70.35", "taken for 0: a, c d", "is called \"c d\""] {
            assert!(said.contains(word), "{word} in {said}");
        }
        assert!(WideArea::parse("sites = ['a']\nrtt_ms = [[0]]").expect("good").notes.is_empty());
    }

    #[test]
    fn a_missing_file_is_named() {
        let said = WideArea::read(Path::new("no/such.toml")).expect_err("missing").to_string();
        assert!(said.starts_with("cannot read no/such.toml: "), "{said}");
    }
}
