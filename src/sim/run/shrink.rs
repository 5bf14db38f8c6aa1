//! Makes a failing world smaller: fewer kinds of faults, clients, commands and replicas, and less
//! time. Used by `runner`.

use crate::sim::plan::{Overrides, Plan};
use crate::sim::report::Violation;

/// The most worlds tried for one failure.
const ATTEMPTS: usize = 150;

/// The smallest overrides found under which the seed still fails, and how it fails then.
///
/// Greedy: each kind of reduction is tried in turn, and kept if `fails` says that the world still
/// fails in any way. Each attempt is a different world, so a smaller one may fail for another
/// reason; that is as good a lead.
pub(super) fn shrink(
    seed: u64,
    from: &Overrides,
    violation: &Violation,
    mut fails: impl FnMut(&Overrides) -> Option<Violation>,
) -> (Overrides, Violation) {
    let mut best = (from.clone(), violation.clone());
    let mut attempts = 0;
    loop {
        let mut smaller = false;
        for candidate in candidates(seed, &best.0) {
            if attempts == ATTEMPTS {
                return best;
            }
            attempts += 1;
            if let Some(violation) = fails(&candidate) {
                best = (candidate, violation);
                smaller = true;
                break;
            }
        }
        if !smaller {
            return best;
        }
    }
}

/// Slightly smaller worlds, the boldest reduction first.
fn candidates(seed: u64, from: &Overrides) -> Vec<Overrides> {
    let plan = Plan::draw(seed, from);
    let mut found = Vec::new();
    let change = |found: &mut Vec<Overrides>, change: &dyn Fn(&mut Overrides)| {
        let mut smaller = from.clone();
        change(&mut smaller);
        found.push(smaller);
    };
    let unrest = u64::try_from(plan.unrest.as_millis()).unwrap_or(u64::MAX);
    for millis in [unrest / 4, unrest / 2, unrest * 3 / 4] {
        if millis < unrest {
            change(&mut found, &|it| it.millis = Some(millis));
        }
    }
    for clients in [plan.workload.clients / 2, plan.workload.clients - 1] {
        if (1..plan.workload.clients).contains(&clients) {
            change(&mut found, &|it| it.clients = Some(clients));
        }
    }
    for commands in [plan.workload.commands / 2, plan.workload.commands - 1] {
        if (1..plan.workload.commands).contains(&commands) {
            change(&mut found, &|it| it.commands = Some(commands));
        }
    }
    for (fault, _) in &plan.faults {
        change(&mut found, &|it| it.without.insert(*fault));
    }
    for replicas in [3, 4, 5] {
        if replicas < plan.replicas {
            change(&mut found, &|it| it.replicas = Some(replicas));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::Fault;
    use crate::sim::report::Broken;
    use crate::types::Time;

    fn violation(detail: &str) -> Violation {
        Violation { broken: Broken::Order, detail: detail.to_owned(), at: Time::ZERO }
    }

    #[test]
    fn what_does_not_matter_goes() {
        // Fails as long as replicas can be paused and there are three commands.
        let fails = |it: &Overrides| {
            let enough = it.commands.is_none_or(|commands| commands >= 3);
            (enough && !it.without.contains(Fault::Pause)).then(|| violation("smaller"))
        };
        let seed = (0..).find(|seed| {
            let plan = Plan::draw(*seed, &Overrides::default());
            plan.faults.len() > 4 && plan.faults.iter().any(|(it, _)| *it == Fault::Pause)
        });
        let seed = seed.expect("such seeds are common");
        let (found, _) = shrink(seed, &Overrides::default(), &violation("at first"), fails);
        assert_eq!((found.commands, found.clients, found.millis), (Some(3), Some(1), Some(0)));
        let plan = Plan::draw(seed, &found);
        assert_eq!(plan.faults.iter().map(|(it, _)| *it).collect::<Vec<_>>(), [Fault::Pause]);
    }

    #[test]
    fn what_cannot_shrink_stays() {
        let from = Overrides::default();
        let (found, why) = shrink(1, &from, &violation("as it was"), |_| None);
        assert_eq!((found, why.detail.as_str()), (from, "as it was"));
    }
}
