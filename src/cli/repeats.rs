//! Limits repeated lines of a log: what a stranger can make a replica say, again and again, must
//! neither push out what matters nor fill a disk. Beside `lines`, which writes them.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// So many lines from one place in the code are written in a while; the rest is counted.
const MOST: u32 = 20;
/// How long that while is.
const WHILE: Duration = Duration::from_secs(10);
/// How much of a line's text is repeated with the count of those like it.
const SHOWN: usize = 100;

/// Lets through only some of many lines from one place, and says how many it did not. Lines below
/// INFO are for those who want all of them.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// As many as there are places in the code.
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u32,
    suppressed: u64,
    level: Level,
    /// What the first suppressed line said.
    text: String,
}

/// Lines that were not written.
#[derive(Clone, PartialEq, Eq, Debug)]
struct More {
    count: u64,
    level: Level,
    text: String,
}

impl Repeats {
    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line is written; `text` says what it is about.
    fn admit(
        &self,
        now: Instant,
        id: Identifier,
        level: Level,
        text: impl FnOnce() -> String,
    ) -> bool {
        let mut places = self.places();
        let fresh = || Place { since: now, lines: 0, suppressed: 0, level, text: String::new() };
        let place = places.entry(id).or_insert_with(fresh);
        // What was suppressed is told before the count begins anew.
        if place.suppressed == 0 && now.duration_since(place.since) >= WHILE {
            (place.since, place.lines) = (now, 0);
        }
        if place.lines < MOST {
            place.lines += 1;
            return true;
        }
        if place.suppressed == 0 {
            place.text = text();
        }
        place.suppressed += 1;
        false
    }

    /// What was suppressed in whiles that are over.
    fn over(&self, now: Instant) -> Vec<More> {
        let mut places = self.places();
        let over =
            |place: &&mut Place| place.suppressed > 0 && now.duration_since(place.since) >= WHILE;
        let tell = |place: &mut Place| {
            let count = std::mem::take(&mut place.suppressed);
            (place.since, place.lines) = (now, 0);
            More { count, level: place.level, text: std::mem::take(&mut place.text) }
        };
        places.values_mut().filter(over).map(tell).collect()
    }

    /// Says how many lines were not written. To be called now and then.
    pub(super) fn tell(&self) {
        for More { count, level, text } in self.over(Instant::now()) {
            let seconds = WHILE.as_secs();
            match level {
                Level::ERROR => tracing::error!("{count} more like {text:?} in {seconds} s"),
                Level::WARN => tracing::warn!("{count} more like {text:?} in {seconds} s"),
                _ => tracing::info!("{count} more like {text:?} in {seconds} s"),
            }
        }
    }
}

/// The layer: shared with whoever calls [`Repeats::tell`].
#[derive(Debug)]
pub(super) struct Limited(pub(super) std::sync::Arc<Repeats>);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata: &Metadata<'_> = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let text = || {
            let mut text = Text(String::new());
            event.record(&mut text);
            text.0
        };
        self.0.admit(Instant::now(), metadata.callsite(), *metadata.level(), text)
    }
}

/// What an event says, without the rest of its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(Short(&mut self.0), "{value:?}");
        }
    }
}

/// Takes no more than is to be shown.
struct Short<'a>(&'a mut String);

impl fmt::Write for Short<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = SHOWN.saturating_sub(self.0.chars().count());
        self.0.extend(text.chars().take(room));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite;
    use tracing::subscriber::Interest;

    use super::*;

    struct Here;

    impl Callsite for Here {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nothing is said from here")
        }
    }

    static ONE: Here = Here;

    #[test]
    fn many_lines_from_one_place_become_a_count() {
        let repeats = Repeats::default();
        let id = || Identifier(&ONE);
        let start = Instant::now();
        let admit = |after| {
            repeats.admit(start + after, id(), Level::WARN, || "a stranger knocks".to_owned())
        };
        let written = (0..500).filter(|_| admit(Duration::ZERO)).count();
        assert_eq!(written, MOST as usize);
        assert_eq!(repeats.over(start + WHILE / 2), [], "the while is not over");
        let more = More { count: 480, level: Level::WARN, text: "a stranger knocks".to_owned() };
        assert_eq!(repeats.over(start + WHILE), [more]);
        assert_eq!(repeats.over(start + WHILE), [], "it is told once");
        assert!(admit(WHILE), "and then it begins anew");
        // Few of them are all written, however long it goes on.
        assert!((2..100).all(|number| admit(WHILE * number)));
    }

    #[test]
    fn a_long_text_is_shown_in_part() {
        let mut text = String::new();
        write!(Short(&mut text), "{}", "ä".repeat(500)).expect("a string takes it");
        write!(Short(&mut text), "more").expect("a string takes it");
        assert_eq!(text.chars().count(), SHOWN);
    }
}
