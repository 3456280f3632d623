//! Stands between the code that logs and the reader of the log: a bounded queue, and a thread that writes.
//!
//! Standard error may be a pipe that nobody reads, a terminal that is held, a disk that is full. No thread that serves
//! callers waits for it: lines for which there is no room are dropped and counted, and the log says so when it flows
//! again. (tracing-appender bounds lines, not bytes, and says nothing of lines that it dropped.)

use std::{
    io::{self, ErrorKind, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{Dispatch, dispatcher};
use tracing_subscriber::fmt::MakeWriter;

use super::{Config, Telemetry};

/// Bytes that may wait to be written: some two hundred lines, one and a half times what a pipe holds.
const ROOM: usize = 96 * 1024;

/// Whole lines are written together up to this size, POSIX's `PIPE_BUF` on Linux: other writers to the same pipe never
/// tear apart a write of at most so many bytes.
const AT_ONCE: usize = 4096;

/// How long the process's end waits for the last lines; where somebody reads, they are written in less than a
/// millisecond.
pub(crate) const LAST_LINES: Duration = Duration::from_millis(500);

/// A sink that does not block says when it is full. Then we try again after this time.
const FULL: Duration = Duration::from_millis(10);

/// How many log lines were dropped since the start. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DroppedLines(Arc<AtomicU64>);

impl DroppedLines {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A log that is being written. When it is dropped, at the process's end, the last lines are waited for, though not for
/// long.
#[derive(Debug)]
#[must_use = "dropped, it waits for the lines so far"]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    arrived: Condvar,
    /// Nothing is left to write.
    written: Condvar,
    dropped: DroppedLines,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Bytes that have left the queue and are not written yet.
    in_hand: usize,
    /// Lines that were dropped and that the log has not told of.
    untold: u64,
}

impl Config {
    /// As `dispatch`, but the code that logs never waits for `sink`.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn queued<S>(&self, sink: S, telemetry: &Telemetry) -> io::Result<(Dispatch, Log)>
    where
        S: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
    {
        let shared = Arc::<Shared>::default();
        // What the thread itself has to tell bypasses the queue, which may be full.
        let own = self.dispatch(sink.clone(), telemetry);
        let served = Arc::clone(&shared);
        let run = move || dispatcher::with_default(&own, || served.carry(&sink));
        std::thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok((self.dispatch(Arc::clone(&shared), telemetry), Log(shared)))
    }
}

impl Log {
    pub fn dropped_lines(&self) -> DroppedLines {
        self.0.dropped.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A thread that is stuck in a write ends with the process.
        self.0.wait_until_written(LAST_LINES);
    }
}

/// Each call has a whole line.
impl Write for &Shared {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.waiting.len() + queue.in_hand + line.len() > ROOM {
            self.count_dropped(&mut queue, 1);
        } else {
            queue.waiting.extend_from_slice(line);
            self.arrived.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Writes what arrives, for as long as there is a process.
    fn carry<S: for<'a> MakeWriter<'a>>(&self, sink: &S) {
        let mut is_torn = false;
        loop {
            let lines = self.next();
            // After a line that broke off, the next line begins on a line of its own all the same.
            let mended = if is_torn { write(&mut sink.make_writer(), b"\n") } else { Ok(()) };
            let done = mended.map_err(|_| 0).and_then(|()| write(&mut sink.make_writer(), &lines));
            let mut queue = self.lock();
            match done {
                Ok(()) => {
                    is_torn = false;
                    let untold = std::mem::take(&mut queue.untold);
                    drop(queue);
                    if untold > 0 {
                        let total = self.dropped.count();
                        tracing::warn!(
                            lines = untold,
                            total,
                            "log lines were dropped: they could not be written in time"
                        );
                    }
                }
                // A disk that is full, or nobody at the other end.
                Err(written) => {
                    is_torn = if written == 0 { is_torn } else { lines[written - 1] != b'\n' };
                    let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count();
                    self.count_dropped(&mut queue, lost as u64);
                }
            }
        }
    }

    /// Waits for lines and takes as many as are written at once.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        queue.in_hand = 0;
        while queue.waiting.is_empty() {
            self.written.notify_all();
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let length = at_once(&queue.waiting);
        queue.in_hand = length;
        queue.waiting.drain(..length).collect()
    }

    fn wait_until_written(&self, patience: Duration) {
        let is_behind = |queue: &mut Queue| queue.in_hand > 0 || !queue.waiting.is_empty();
        let _ = self.written.wait_timeout_while(self.lock(), patience, is_behind);
    }

    fn count_dropped(&self, queue: &mut Queue, lines: u64) {
        queue.untold += lines;
        self.dropped.0.fetch_add(lines, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic in the middle leaves a count that is off, or half a line.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes of `waiting` are written together: whole lines up to `AT_ONCE`, or one that is longer.
fn at_once(waiting: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let short = &waiting[..waiting.len().min(AT_ONCE)];
    let last = short.iter().rposition(is_end).or_else(|| waiting.iter().position(is_end));
    last.map_or(waiting.len(), |end| end + 1)
}

/// Writes all of `bytes`, or tells how many of them were written.
fn write(sink: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(some) => written += some,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the sink has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::telemetry::{Format, Level};

    /// What a sink answers to one write.
    type Answer = io::Result<usize>;

    /// A sink that answers as the test says, write by write, and then takes everything.
    #[derive(Clone)]
    struct Sink {
        answers: Arc<Mutex<mpsc::Receiver<Answer>>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Blocks until the test has an answer; without the test it takes everything.
            let taken = match self.answers.lock().unwrap().recv() {
                Ok(answer) => answer?.min(bytes.len()),
                Err(_) => bytes.len(),
            };
            self.taken.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        answers: mpsc::Sender<Answer>,
        taken: Arc<Mutex<Vec<u8>>>,
        dispatch: Dispatch,
        log: Log,
    }

    fn bench() -> Bench {
        let (answers, scripted) = mpsc::channel();
        let taken = Arc::default();
        let sink = Sink { answers: Arc::new(Mutex::new(scripted)), taken: Arc::clone(&taken) };
        let config = Config { format: Format::Json, level: "info".parse::<Level>().unwrap(), priorities: false };
        let (dispatch, log) = config.queued(move || sink.clone(), &Telemetry::default()).unwrap();
        Bench { answers, taken, dispatch, log }
    }

    impl Bench {
        /// Logs `n` lines.
        fn log(&self, n: usize) {
            dispatcher::with_default(&self.dispatch, || (0..n).for_each(|n| tracing::info!(n, "a line")));
        }

        /// What was written, once nothing stands in its way.
        fn lines(self) -> Vec<serde_json::Value> {
            drop(self.answers);
            self.log.0.wait_until_written(Duration::from_secs(60));
            let text = String::from_utf8(self.taken.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
        }
    }

    fn count(lines: &[serde_json::Value]) -> usize {
        lines.iter().filter(|line| line["message"] == "a line").count()
    }

    #[test]
    fn in_the_normal_case_every_line_is_written_in_order() {
        let bench = bench();
        bench.log(200);
        let dropped = bench.log.dropped_lines();
        let lines = bench.lines();
        let numbers: Vec<_> = lines.iter().map(|line| line["n"].as_u64().unwrap()).collect();
        assert_eq!((numbers, dropped.count()), ((0..200).collect(), 0));
    }

    #[test]
    fn what_a_blocked_sink_has_no_room_for_is_dropped_and_told_of_afterwards() {
        let bench = bench();
        bench.log(5000);
        let dropped = bench.log.dropped_lines();
        let lines = bench.lines();
        assert!(dropped.count() > 0);
        assert_eq!(count(&lines) as u64 + dropped.count(), 5000);
        let told: Vec<_> = lines.iter().filter(|line| line["level"] == "WARN").collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (told[0]["lines"].as_u64(), told[0]["total"].as_u64()),
            (Some(dropped.count()), Some(dropped.count()))
        );
    }

    #[test]
    fn the_bytes_that_wait_are_bounded() {
        let shared = Shared::default();
        let line = [b'x'; 1024];
        for _ in 0..2 * ROOM / line.len() {
            (&shared).write_all(&line).unwrap();
        }
        let queue = shared.lock();
        assert_eq!((queue.waiting.len(), queue.untold), (ROOM, (ROOM / line.len()) as u64));
        drop(queue);
        assert_eq!(shared.next().len() + shared.lock().waiting.len(), ROOM);
        (&shared).write_all(&line).unwrap();
        assert_eq!(shared.dropped.count(), (ROOM / line.len()) as u64 + 1, "what is in the writer's hand counts");
    }

    #[test]
    fn the_end_does_not_wait_for_a_sink_that_is_stuck() {
        let Bench { answers, dispatch, log, .. } = bench();
        dispatcher::with_default(&dispatch, || tracing::info!("a line"));
        drop(log);
        // Only now.
        drop(answers);
    }

    #[test]
    fn what_a_broken_sink_does_not_take_is_dropped_and_the_next_line_stands_for_itself() {
        let bench = bench();
        bench.answers.send(Ok(10)).unwrap();
        bench.answers.send(Err(ErrorKind::Interrupted.into())).unwrap();
        bench.answers.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        bench.answers.send(Err(ErrorKind::StorageFull.into())).unwrap();
        bench.log(1);
        let dropped = bench.log.dropped_lines();
        while dropped.count() == 0 {
            std::thread::yield_now();
        }
        bench.log(1);
        let lines = bench.lines();
        assert!(lines[0].as_str().is_some_and(|torn| torn.len() == 10), "{lines:?}");
        assert_eq!((count(&lines), dropped.count()), (1, 1), "{lines:?}");
        assert_eq!((&lines[2]["level"], &lines[2]["lines"]), (&"WARN".into(), &1.into()));
    }

    #[test]
    fn whole_lines_are_written_together_as_far_as_a_pipe_keeps_them_together() {
        let long = "x".repeat(AT_ONCE);
        for (waiting, expected) in [
            ("a\n".to_owned(), 2),
            ("a\nb\n".to_owned(), 4),
            (format!("a\n{long}\n"), 2),
            (format!("{long}\na\n"), AT_ONCE + 1),
            (format!("{}\n{}\n", &long[..AT_ONCE - 3], "b"), AT_ONCE),
            (format!("{}\n{}\n", &long[..AT_ONCE - 2], "b"), AT_ONCE - 1),
        ] {
            assert_eq!(at_once(waiting.as_bytes()), expected, "{} bytes", waiting.len());
        }
    }
}
