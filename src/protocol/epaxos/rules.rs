//! The rules that a planted bug can break, by name: the one seam through which `plant` reaches the
//! code. Outside of tests every rule holds, by a constant, and the seam compiles to nothing.

#[cfg(test)]
use super::Plant;

/// Which rules hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    #[cfg(test)]
    pub(super) broken: Option<Plant>,
}
