//! Writes lines for people on a thread of their own. The reader may be slow or gone, and the
//! callers never wait for it. Used by `serve`, whose log any program may read.
//!
//! Lines that do not fit into the queue are dropped and counted. The count is written once the
//! reader continues. At the end, queued lines are still written as long as the reader takes them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

/// The most lines that wait to be written.
const WAITING: usize = 1024;
/// The longest line in bytes; longer ones are cut.
const LONGEST: usize = 8 << 10;
/// How long the end waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The output for lines. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: Sender<Entry>,
    shared: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines dropped since the last report of them.
    dropped: AtomicU64,
    /// Lines that were written or failed to be.
    done: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Everything before this has been written.
    Flush(Sender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Lines> {
        let (queue, entries) = bounded(WAITING);
        let shared = Arc::new(Counts::default());
        let counts = Arc::clone(&shared);
        let thread = thread::Builder::new().name("isonomy-lines".to_owned());
        // The thread is never joined, because it may never end.
        drop(thread.spawn(move || write(out, &entries, &counts))?);
        Ok(Lines { queue, shared })
    }

    /// Queues a line without its newline; drops it if there is no room. Never blocks.
    pub(super) fn say(&self, line: impl std::fmt::Display) {
        self.queue_line(format!("{line}\n").into_bytes());
    }

    fn queue_line(&self, mut line: Vec<u8>) {
        if line.len() > LONGEST {
            let cut = (LONGEST - 4..=LONGEST).rev().find(|at| line[*at] & 0xc0 != 0x80);
            line.truncate(cut.unwrap_or(LONGEST));
            line.extend_from_slice("…\n".as_bytes());
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Line(line)) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines so far are written, or until a stalled reader has used up its time.
    pub(super) fn flush(&self) {
        let (written, is_written) = bounded(1);
        let mut entry = Entry::Flush(written);
        loop {
            let before = self.shared.done.load(Ordering::Relaxed);
            match self.queue.send_timeout(entry, PATIENCE) {
                Ok(()) => break,
                Err(error) => entry = error.into_inner(),
            }
            if self.shared.done.load(Ordering::Relaxed) == before {
                return;
            }
        }
        loop {
            let before = self.shared.done.load(Ordering::Relaxed);
            match is_written.recv_timeout(PATIENCE) {
                Err(RecvTimeoutError::Timeout)
                    if self.shared.done.load(Ordering::Relaxed) > before => {}
                _ => return,
            }
        }
    }
}

fn write(mut out: impl Write, entries: &Receiver<Entry>, counts: &Counts) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                // The reader is gone or the disk is full, and there is no one to tell.
                let _ = out.write_all(&line).and_then(|()| out.flush());
                counts.done.fetch_add(1, Ordering::Relaxed);
            }
            Entry::Flush(written) => drop(written.send(())),
        }
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(out, "({dropped} lines were not written: nobody read them)");
        }
    }
}

/// The log writes each event as a whole, with its newline.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue_line(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A reader that takes a number of lines and then stalls until it may take more.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<Taken>, Condvar)>);

    #[derive(Default)]
    struct Taken {
        allowed: usize,
        bytes: Vec<u8>,
    }

    impl Reader {
        fn allow(&self, lines: usize) {
            self.0.0.lock().expect("no panic").allowed = lines;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().expect("no panic").bytes.clone()).expect("text")
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.0.0.lock().expect("no panic");
            let mut taken = self.0.1.wait_while(taken, |it| it.allowed == 0).expect("no panic");
            taken.allowed -= 1;
            taken.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_dropped_is_counted() {
        let reader = Reader::default();
        let lines = Lines::to(reader.clone()).expect("a thread");
        for number in 0..WAITING + 500 {
            lines.say(number);
        }
        // It is stalled, so the flush does not wait for it.
        lines.flush();
        assert_eq!(reader.text(), "");
        reader.allow(usize::MAX);
        lines.say("after");
        lines.flush();
        let text = reader.text();
        let dropped = text.lines().find(|line| line.contains("were not written")).expect("said");
        let count: usize = dropped[1..].split(' ').next().and_then(|it| it.parse().ok()).unwrap();
        let written = text.lines().filter(|line| line.parse::<usize>().is_ok()).count();
        let after = text.lines().any(|line| line == "after");
        assert_eq!(count + written + usize::from(after), WAITING + 501, "{text}");
        assert!((499..=502).contains(&count), "{count}");
    }

    #[test]
    fn what_is_said_last_is_written_before_the_end() {
        let reader = Reader::default();
        reader.allow(usize::MAX);
        let lines = Lines::to(reader.clone()).expect("a thread");
        for number in 0..100 {
            lines.say(number);
        }
        lines.flush();
        assert_eq!(reader.text().lines().last(), Some("99"));
    }

    #[test]
    fn a_line_without_end_is_cut_between_two_characters() {
        let reader = Reader::default();
        reader.allow(usize::MAX);
        let lines = Lines::to(reader.clone()).expect("a thread");
        lines.say("ä".repeat(LONGEST));
        lines.say("next");
        lines.flush();
        let text = reader.text();
        let all: Vec<&str> = text.lines().collect();
        assert!(all[0].len() <= LONGEST + 3 && all[0].ends_with("ä…"), "{}", all[0].len());
        assert_eq!(all[1], "next");
    }
}
