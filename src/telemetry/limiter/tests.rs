use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer as _, layer::SubscriberExt};

use super::*;
use crate::clock::testing::VirtualTime;
use crate::telemetry::Level as Least;

/// Runs `act` under a log that is limited; tells how many lines were written.
fn written(limiter: &Limiter, act: impl FnOnce()) -> usize {
    written_at(LevelFilter::INFO, limiter, act)
}

fn written_at(level: LevelFilter, limiter: &Limiter, act: impl FnOnce()) -> usize {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let log_level = LogLevel::default();
    log_level.set(Least(level));
    let limited = limiter.filter(&log_level);
    let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_filter(limited);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
    let text = lines.0.lock().unwrap();
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn a_line_that_repeats_is_written_a_few_times_and_then_counted() {
    let time = VirtualTime::new();
    let limiter = Limiter::on(time.clock());
    let fail = |times: u32| {
        for n in 0..times {
            tracing::warn!(request_id = n, problem = "upstream-error", cause = "HTTP 502", "request");
        }
    };
    assert_eq!(written(&limiter, || fail(1000)), LINES as usize);
    assert!(limiter.take_left_out(false).is_empty(), "its window has not ended");
    time.suspend(WINDOW);
    let left_out = limiter.take_left_out(false);
    assert_eq!(left_out.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1000 - u64::from(LINES)]);
    assert_eq!(written(&limiter, || fail(3)), 3, "a new window");
}

#[test]
fn what_differs_in_its_cause_is_another_line() {
    let limiter = Limiter::on(VirtualTime::new().clock());
    let lines = written(&limiter, || {
        for n in 0..40 {
            tracing::warn!(error = format!("HTTP {}", 500 + n % 4), "mint failed");
            tracing::info!(outcome = "miss", "request");
        }
    });
    assert_eq!(lines, 40 + 40, "four causes, ten times each, and what is no failure");
}

#[test]
fn refused_requests_are_summed_up() {
    let limiter = Limiter::on(VirtualTime::new().clock());
    let lines = written(&limiter, || {
        for _ in 0..50 {
            tracing::info!(problem = "overloaded", "request");
        }
    });
    assert_eq!(lines, 10);
}

#[test]
fn what_is_not_written_is_not_owed() {
    let limiter = Limiter::on(VirtualTime::new().clock());
    let lines = written_at(LevelFilter::ERROR, &limiter, || {
        for _ in 0..50 {
            tracing::warn!(error = "HTTP 502", "mint failed");
        }
        tracing::error!("kie.ai refuses the key");
    });
    assert_eq!(lines, 1);
    assert!(limiter.take_left_out(true).is_empty(), "nothing was left out of what is written");
}

#[test]
fn memory_is_bounded_and_the_severe_ones_stay() {
    let time = VirtualTime::new();
    let limiter = Limiter::on(time.clock());
    let lines = written(&limiter, || {
        tracing::error!("kie.ai refuses the key");
        for n in 0..3 * MOST {
            time.suspend(Duration::from_millis(1));
            tracing::warn!(error = format!("cause {n}"), "mint failed");
            tracing::info!(problem = "overloaded", "request");
        }
    });
    let table = limiter.lock();
    assert_eq!(table.severe.len(), MOST);
    assert!(table.severe.keys().any(|key| key.level == Level::ERROR), "{table:?}");
    assert_eq!(lines, 1 + 3 * MOST + LINES as usize, "the refused ones were summed up all the while");
}

#[test]
fn what_was_pushed_out_is_summed_up_all_the_same() {
    let limiter = Limiter::on(VirtualTime::new().clock());
    written(&limiter, || {
        for _ in 0..50 {
            tracing::warn!(error = "the first", "mint failed");
        }
        for n in 0..MOST {
            tracing::warn!(error = format!("cause {n}"), "mint failed");
        }
    });
    let left_out: Vec<_> = limiter.take_left_out(false).into_iter().map(|(key, count)| (key.error, count)).collect();
    assert_eq!(left_out, [(Some("the first".to_owned()), 40)]);
}

#[test]
fn kie_ais_own_words_make_no_other_line() {
    let limiter = Limiter::on(VirtualTime::new().clock());
    let lines = written(&limiter, || {
        for n in 0..50 {
            tracing::warn!(error = format!("kie.ai failed: HTTP 200, code 500, \"trace {n}\""), "mint failed");
        }
    });
    assert_eq!(lines, LINES as usize);
}

#[test]
fn a_sum_has_the_level_of_what_it_sums_up() {
    let time = VirtualTime::new();
    let limiter = Limiter::on(time.clock());
    written_at(LevelFilter::ERROR, &limiter, || {
        for _ in 0..50 {
            tracing::error!("kie.ai refuses the key");
        }
    });
    time.suspend(WINDOW);
    let left_out = limiter.take_left_out(false);
    assert_eq!(
        left_out.iter().map(|(key, count)| (key.level, *count)).collect::<Vec<_>>(),
        [(Level::ERROR, 50 - u64::from(LINES))]
    );
}
