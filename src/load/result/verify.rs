//! Checks the recorded history for linearizability, and reports how much was checked.

use serde::Serialize;

use crate::load::driver::record::Finished;
use crate::sim::linearizability::{BUDGET, Verdict, check};

/// The extent of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Checked {
    /// Operations recorded and checked.
    pub operations: usize,
    /// Keys they used.
    pub keys: usize,
    /// One key in this many was recorded with all its operations; 1 means all.
    pub one_key_in: u32,
}

/// Whether the record is linearizable (`None` if undecided), and the extent of the check.
/// Violations are added to `failures` as text.
pub(in crate::load) fn judge(
    finished: &Finished,
    failures: &mut Vec<String>,
) -> (Option<bool>, Checked) {
    let mut checked = Checked { one_key_in: finished.one_key_in(), ..Checked::default() };
    let mut linearizable = Some(true);
    for piece in finished.pieces() {
        checked.operations += piece.len();
        checked.keys += 1 + piece.windows(2).filter(|two| two[0].key != two[1].key).count();
        match check(&piece, BUDGET) {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => {
                failures.push(format!("the history is not linearizable: {violation}"));
                linearizable = Some(false);
            }
            Verdict::TooHard { key } => {
                let key = String::from_utf8_lossy(&key).into_owned();
                failures.push(format!("key {key} has a history too entangled to be checked"));
                linearizable = linearizable.filter(|good| !good);
            }
        }
    }
    (linearizable, checked)
}
