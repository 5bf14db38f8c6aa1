//! The proposer: forwards own proposals to the leader (§M2).
//!
//! It forwards a proposal to each new leader, and again to the same one until an Accept of that
//! leader shows it. The leader recognises a proposal in its log by the name. If it has already
//! dropped the first copy, a second one is decided twice and executed once.

use super::message::{Proposal, take_run};
use super::step::Step;
use super::{Message, Path};
use crate::protocol::log::weight;
use crate::types::{Slot, Value};

/// Forwards a new proposal to the leader. If none is known, it waits until a leader is heard.
pub(super) fn forward_new(s: &mut Step<'_>, proposal: Proposal) {
    if let Some(leader) = s.promised.leader() {
        s.fx.hit(Path::Forwarded);
        let proposals = vec![proposal];
        s.fx.answer(s.proposals.written(), leader, Message::Forward { proposals });
    }
}

/// A leader was found: forwards all waiting proposals to it.
pub(super) fn forward_all(s: &mut Step<'_>) {
    let unseen = s.proposals.unseen_counts(s.promised.ballot());
    forward(s, &unseen);
}

/// Forwards proposals again that no Accept has shown for too long.
pub(super) fn forward_again(s: &mut Step<'_>) {
    let promised = s.promised.ballot();
    let Some(overdue) = s.proposals.overdue(s.cx, s.view, promised) else { return };
    if s.promised.leader().is_some() && !overdue.is_empty() {
        s.fx.hit(Path::ForwardedAgain);
        forward(s, &overdue);
    }
    s.proposals.look_again(s.cx, s.view, promised);
}

fn forward(s: &mut Step<'_>, counts: &[Slot]) {
    let (me, now) = (s.cx.me(), s.view.now);
    let Some(leader) = s.promised.leader().filter(|leader| *leader != me) else { return };
    let proposals = counts.iter().map(|count| s.proposals.forward(me, *count, now));
    let proposals: Vec<Proposal> = proposals.collect();
    let mut proposals = proposals.into_iter().peekable();
    while proposals.peek().is_some() {
        let proposals = take_run(&mut proposals, |it| weight(&Value::Batch(it.batch.clone())));
        s.fx.hit(Path::Forwarded);
        s.fx.answer(s.proposals.written(), leader, Message::Forward { proposals });
    }
}
