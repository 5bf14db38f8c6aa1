//! Limits repeated lines of a log. A stranger may cause the same line again and again; it must
//! neither displace important lines nor fill a disk. Beside `lines`, which writes them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The most lines from one place in the code that are written in an interval; the rest are counted.
const MOST: u32 = 20;
/// The length of an interval.
const WHILE: Duration = Duration::from_secs(10);
/// How much of a line's text is shown with the count of its repetitions.
const SHOWN: usize = 100;

/// Lets only some of many lines from one place through, and reports how many it suppressed. Lines
/// below INFO are not limited, because they are for readers who want all of them.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// One entry for each place in the code.
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u32,
    suppressed: u64,
    level: Level,
    /// The text of the first suppressed line.
    text: String,
}

/// Suppressed lines of one place.
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

    /// Whether to write a line; `text` returns its text.
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
        // Suppressed lines are reported before a new interval starts.
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

    /// The lines suppressed in intervals that have ended.
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

    /// Logs how many lines were suppressed. Call it regularly.
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

/// The layer, which shares its state with the caller of [`Repeats::tell`].
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

/// The start of an event's message, without its other fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = start_of(value);
        }
    }
}

fn start_of(message: &dyn Debug) -> String {
    format!("{message:?}").chars().take(SHOWN).collect()
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
        // A few lines are all written, however long it goes on.
        assert!((2..100).all(|number| admit(WHILE * number)));
    }

    #[test]
    fn a_long_text_is_shown_in_part() {
        assert_eq!(start_of(&"ä".repeat(500)).chars().count(), SHOWN);
    }
}
