//! Metrics, status, log and traces tell the same story.

use super::collector::Collector;
use crate::{
    process::child::Run,
    support::{Answer, FakeKie, KEY, SOURCE, Sidecar, encode, eventually},
};

/// The value of a series in `/metrics`, as text; the labels in any order.
fn value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    })?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

#[tokio::test]
async fn nine_requests_for_three_files_are_three_misses_and_six_hits_everywhere() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = Run::serving(&kie, &["--log-level", "debug"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .ready()
        .await;
    for _ in 0..3 {
        for file in ["a", "b", "c"] {
            assert_eq!(child.link(&format!("https://file.kie.ai/{file}")).await.status, 200);
        }
    }
    let metrics = child.get_admin("/metrics").await.body;
    let requests = |outcome| {
        let labels = [("endpoint", "/v1/link"), ("outcome", outcome), ("status", "200")];
        value(&metrics, "kielink_requests_total", &labels)
    };
    assert_eq!((requests("miss"), requests("hit")), (Some(3.0), Some(6.0)), "{metrics}");
    let count = |name, outcome| value(&metrics, name, &[("outcome", outcome)]);
    assert_eq!(count("kielink_request_duration_seconds_count", "hit"), Some(6.0));
    assert_eq!(value(&metrics, "kielink_link_life_left_seconds_count", &[]), Some(9.0));
    assert_eq!(value(&metrics, "kielink_link_life_left_seconds_bucket", &[("le", "60")]), Some(0.0));
    assert_eq!(value(&metrics, "kielink_mints_total", &[("reason", "miss"), ("result", "ok")]), Some(3.0));
    assert_eq!(value(&metrics, "kielink_mint_duration_seconds_count", &[]), Some(3.0));
    assert_eq!(value(&metrics, "kielink_cache_entries", &[]), Some(3.0));

    let status = child.get_admin("/status.json").await.json();
    assert_eq!((&status["outcomes"]["miss"], &status["outcomes"]["hit"]), (&3.into(), &6.into()), "{status}");
    assert_eq!(status["mints"]["results"][0]["count"], 3);
    assert_eq!(status["links"]["entries"], 3);

    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    let logged = |outcome| child.log_lines("request").iter().filter(|line| line["outcome"] == outcome).count();
    assert_eq!((logged("miss"), logged("hit")), (3, 6));
    assert_eq!(child.log_lines("minted").len(), 3);
    let spans = collector.spans();
    let traced = |outcome| spans.iter().filter(|span| span.attribute("kielink.outcome") == outcome).count();
    assert_eq!((traced("miss"), traced("hit")), (3, 6));
    assert_eq!(spans.iter().filter(|span| span.name == "mint").count(), 3);
}

#[tokio::test]
async fn the_same_numbers_come_in_both_text_formats_and_only_one_has_exemplars() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let asked = sidecar.client().get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
    sidecar.send(asked.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))).await;
    let plain = sidecar.get_admin("/metrics").await;
    assert!(plain.header("content-type").starts_with("text/plain; version=0.0.4"), "{plain:?}");
    assert!(!plain.body.contains(trace) && !plain.body.contains("# EOF"));
    let open = sidecar.client().get(format!("{}/metrics", sidecar.admin_url()));
    let open = sidecar.send(open.header("accept", "application/openmetrics-text; version=1.0.0")).await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text"), "{open:?}");
    assert!(open.body.ends_with("# EOF\n"));
    for histogram in ["kielink_request_duration_seconds_bucket", "kielink_mint_duration_seconds_bucket"] {
        let exemplar = format!("# {{trace_id=\"{trace}\"}}");
        let found = open.body.lines().any(|line| line.starts_with(histogram) && line.contains(&exemplar));
        assert!(found, "{histogram}: {}", open.body);
    }
}

#[tokio::test]
async fn no_label_has_anything_that_a_caller_chose() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let marker = "chosen-by-a-caller";
    sidecar.get(&format!("/{marker}")).await;
    sidecar.link(&format!("https://{marker}.example/")).await;
    sidecar.link(&format!("https://{marker}.kie.ai/{marker}")).await;
    let odd = reqwest::Method::from_bytes(b"CHOSEN").unwrap();
    sidecar.send(sidecar.client().request(odd, format!("{}/v1/link", sidecar.base_url()))).await;
    let metrics = sidecar.get_admin("/metrics").await.body;
    assert!(!metrics.to_lowercase().contains("chosen"), "{metrics}");
    let of = |labels: &[(&str, &str)]| value(&metrics, "kielink_requests_total", labels);
    assert_eq!(of(&[("endpoint", "other"), ("status", "404")]), Some(1.0), "{metrics}");
    assert_eq!(of(&[("endpoint", "/v1/link"), ("outcome", "refused"), ("status", "422")]), Some(1.0), "{metrics}");
}

#[tokio::test]
async fn a_batch_is_one_request_and_its_items_have_outcomes() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    sidecar.link(SOURCE).await;
    let body = serde_json::json!({ "urls": [SOURCE, "https://file.kie.ai/new", "nonsense"] }).to_string();
    sidecar.send(sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body)).await;
    let metrics = sidecar.get_admin("/metrics").await.body;
    let whole = [("endpoint", "/v1/links"), ("outcome", "batch"), ("status", "200")];
    assert_eq!(value(&metrics, "kielink_requests_total", &whole), Some(1.0), "{metrics}");
    for outcome in ["hit", "miss", "refused"] {
        assert_eq!(value(&metrics, "kielink_batch_items_total", &[("outcome", outcome)]), Some(1.0), "{outcome}");
    }
    let status = sidecar.get_admin("/status.json").await.json();
    assert_eq!(status["outcomes"]["miss"], 2, "the batch's, too: {status}");
}

#[tokio::test]
async fn failures_are_counted_by_their_slug_and_shown_with_their_cause() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(Answer::envelope(500, "oops"));
    assert_eq!(sidecar.link(SOURCE).await.slug(), "upstream-error");
    kie.answer(Answer::envelope(401, &format!("bad key {KEY}")));
    assert_eq!(sidecar.link("https://file.kie.ai/other").await.slug(), "key-refused");
    let metrics = sidecar.get_admin("/metrics").await.body;
    for (result, count) in [("key-refused", 1.0), ("upstream-error", 1.0), ("ok", 0.0)] {
        let labels = [("reason", "miss"), ("result", result)];
        assert_eq!(value(&metrics, "kielink_mints_total", &labels), Some(count), "{result}: {metrics}");
    }
    assert_eq!(value(&metrics, "kielink_mint_retries_total", &[]), Some(2.0));
    // With the mints, all that kie.ai has seen.
    assert_eq!(kie.mints(), 4);
    let status = sidecar.get_admin("/status.json").await.json();
    let failures = status["failures"].as_array().unwrap();
    let with_cause = |text: &str| failures.iter().any(|f| f["error"].as_str().is_some_and(|e| e.contains(text)));
    assert!(with_cause("bad key [key]") && with_cause("oops"), "{status}");
}

#[tokio::test]
async fn gauges_tell_what_is_the_case_now() {
    let kie = FakeKie::start();
    let mut sidecar = Sidecar::with(&kie, &[("server.drain_delay", "1s"), ("upstream.attempts", "1")]);
    let read = async |sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]| {
        value(&sidecar.get_admin("/metrics").await.body, name, labels)
    };
    eventually("it is ready", async || read(&sidecar, "kielink_ready", &[]).await == Some(1.0)).await;
    for (name, labels, expected) in [
        ("kielink_draining", &[][..], 0.0),
        ("kielink_upstream_paused", &[], 0.0),
        ("kielink_breaker_state", &[("state", "closed")], 1.0),
        ("kielink_mints_in_flight", &[], 0.0),
        ("kielink_budget_tokens", &[], 19.0),
        ("kielink_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(read(&sidecar, name, labels).await, Some(expected), "{name}");
    }
    assert!(read(&sidecar, "process_resident_memory_bytes", &[]).await.is_some_and(|bytes| bytes > 1e6));

    kie.hold();
    let waiting = tokio::join!(sidecar.link(SOURCE), async {
        eventually("a mint is under way", async || {
            read(&sidecar, "kielink_mints_in_flight", &[]).await == Some(1.0)
                && read(&sidecar, "kielink_requests_in_flight", &[]).await == Some(1.0)
        })
        .await;
        assert!(read(&sidecar, "kielink_connections", &[]).await >= Some(1.0));
        kie.release();
    });
    assert_eq!(waiting.0.status, 200);

    kie.answer(Answer::envelope(429, "slow down"));
    sidecar.link("https://file.kie.ai/limited").await;
    assert_eq!(read(&sidecar, "kielink_upstream_paused", &[]).await, Some(1.0));

    sidecar.stop();
    eventually("it drains", async || read(&sidecar, "kielink_draining", &[]).await == Some(1.0)).await;
    assert_eq!(read(&sidecar, "kielink_ready", &[]).await, Some(0.0));
}
