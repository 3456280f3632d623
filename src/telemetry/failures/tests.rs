use std::{io, time::Duration};

use super::*;
use crate::{
    clock::testing::VirtualTime,
    telemetry::{Config, Format, Telemetry, limiter::Limiter},
};

/// A log like kielink's own, from `level` on, which nobody reads.
fn logged(level: &str, telemetry: &Telemetry, act: impl FnOnce()) {
    let config = Config { format: Format::Json, level: level.parse().unwrap(), priorities: false };
    tracing::dispatcher::with_default(&config.dispatch(io::sink, telemetry), act);
}

fn telemetry(time: &Arc<VirtualTime>) -> Telemetry {
    let (failures, limiter) = (Failures::on(time.clock()), Limiter::on(time.clock()));
    Telemetry { failures, limiter, ..Telemetry::default() }
}

fn mint(severity: Severity, error: &str) -> Failed {
    let what = What::Mint { reason: "miss", is_awaited: true };
    Failed { severity, what, error: Some(error.to_owned()), source_host: Some("a.example".to_owned()) }
}

#[test]
fn a_failure_that_repeats_is_one_with_the_last_one_s_host_and_times() {
    let time = VirtualTime::new();
    let failures = Failures::on(time.clock());
    for n in 0..1000 {
        failures.note(Failed { source_host: (n < 900).then(|| format!("{n}.example")), ..mint(Severity::Warn, "502") });
        time.suspend(Duration::from_secs(1));
    }
    let recent = failures.recent(5);
    assert_eq!(recent.len(), 1);
    assert_eq!((recent[0].count, recent[0].severity), (1000, Severity::Warn));
    assert_eq!((recent[0].error.as_deref(), recent[0].source_host.as_deref()), (Some("502"), Some("899.example")));
    assert!(recent[0].first_at < recent[0].last_at, "{recent:?}");
}

#[test]
fn what_differs_in_anything_but_kie_ais_own_words_is_another_failure() {
    let failures = Failures::on(VirtualTime::new().clock());
    for n in 0..5 {
        failures.note(mint(Severity::Warn, &format!("kie.ai failed: HTTP 200, code 500, \"trace {n}\"")));
    }
    let recent = failures.recent(9);
    assert_eq!((recent.len(), recent[0].count), (1, 5));
    assert!(recent[0].error.as_ref().is_some_and(|error| error.ends_with("\"trace 4\"")), "{recent:?}");
    let one = mint(Severity::Warn, "HTTP 502");
    for other in [
        mint(Severity::Warn, "HTTP 503"),
        mint(Severity::Error, "HTTP 502"),
        Failed { what: What::Mint { reason: "forced", is_awaited: true }, ..one.clone() },
        Failed { what: What::Request { problem: Kind::UpstreamError }, ..one.clone() },
        Failed { error: None, ..one.clone() },
        one,
    ] {
        failures.note(other);
    }
    assert_eq!(failures.recent(9).len(), 1 + 6);
}

#[test]
fn a_line_that_is_not_written_is_noted_all_the_same() {
    let time = VirtualTime::new();
    let telemetry = telemetry(&time);
    logged("error", &telemetry, || {
        for _ in 0..50 {
            tracing::warn!(error = "HTTP 502", "the root certificates in use go on");
            tracing::info!(problem = "overloaded", "request");
        }
        tracing::error!("kie.ai refuses the key");
    });
    let mut counts: Vec<_> = telemetry.failures.recent(9).iter().map(|f| (f.severity, f.count)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(Severity::Warn, 50), (Severity::Error, 1)]);
}

#[test]
fn a_line_of_what_is_noted_already_is_not_noted_once_more() {
    let time = VirtualTime::new();
    let telemetry = telemetry(&time);
    logged("info", &telemetry, || {
        for _ in 0..50 {
            tracing::warn!(target: NOTED, error = "HTTP 502", "mint failed");
        }
        // A line that sums up others is no failure either.
        let stop = tokio_util::sync::CancellationToken::new();
        stop.cancel();
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(telemetry.limiter.clone().sum_up(stop));
    });
    assert_eq!(telemetry.failures.recent(9), []);
}

#[test]
fn memory_is_bounded_and_the_severe_ones_stay() {
    let time = VirtualTime::new();
    let failures = Failures::on(time.clock());
    failures.note(mint(Severity::Error, "kie.ai refuses the key"));
    for n in 0..3 * MOST {
        time.suspend(Duration::from_millis(1));
        failures.note(mint(Severity::Warn, &format!("cause {n}")));
    }
    let recent = failures.recent(2 * MOST);
    assert_eq!(recent.len(), MOST);
    assert_eq!(recent[0].error, Some(format!("cause {}", 3 * MOST - 1)), "the newest first");
    assert!(recent.iter().any(|failure| failure.severity == Severity::Error), "{recent:?}");
}

#[test]
fn machines_are_told_in_one_form_whatever_it_is() {
    let failures = Failures::on(VirtualTime::new().clock());
    let told = |what| {
        failures.note(Failed { severity: Severity::Warn, what, error: None, source_host: None });
        let text = serde_json::to_string(&failures.recent(9).last()).unwrap();
        failures.lock().clear();
        let (what, rest) = text.split_once(",\"error\":null,\"count\":1,\"first_at\":\"").unwrap();
        assert!(rest.ends_with("Z\",\"source_host\":null}"), "{rest}");
        what.to_owned()
    };
    assert_eq!(
        told(What::Mint { reason: "miss", is_awaited: true }),
        r#"{"level":"warn","message":"mint failed","problem":null,"reason":"miss""#
    );
    assert_eq!(
        told(What::Request { problem: Kind::Timeout }),
        r#"{"level":"warn","message":"request","problem":"timeout","reason":null"#
    );
    assert_eq!(
        told(What::Line { message: "BatchSpanProcessor".to_owned(), reason: Some("full".to_owned()) }),
        r#"{"level":"warn","message":"BatchSpanProcessor","problem":null,"reason":"full""#
    );
}
