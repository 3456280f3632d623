//! Traces over OTLP: one span a request, one a mint, linked for those who joined it; and none where nobody asked for them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::collector::{Collector, Span};
use crate::{
    process::child::{Child, Run, link_path},
    support::{Answer, FakeKie, Reply, SOURCE, eventually},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

/// kielink that sends what it has every tenth of a second.
fn traced(kie: &FakeKie, collector: &Collector) -> Run {
    Run::serving(kie, &[])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
}

async fn ask(child: &Child, source: &str, headers: &str) -> Reply {
    let mut wire = child.connect().await;
    wire.send(&format!("GET {} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n", link_path(source))).await;
    wire.reply().await
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_miss_is_a_span_with_its_mint_below_it_in_the_callers_trace() {
    let kie = FakeKie::start();
    for (protocol, collector) in [("http/protobuf", Collector::http().await), ("grpc", Collector::grpc().await)] {
        let child = traced(&kie, &collector).env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).ready().await;
        let reply = ask(&child, SOURCE, &format!("traceparent: {}\r\n", traceparent())).await;
        assert_eq!(reply.status, 200);
        let spans = collector.wait_for(2).await;
        let request = named(&spans, "GET /v1/link")[0];
        let mint = named(&spans, "mint")[0];
        assert_eq!((request.trace.as_str(), request.parent.as_str()), (TRACE, CALLER));
        assert_eq!(request.kind, SpanKind::Server);
        for (name, value) in [
            ("http.request.method", "GET"),
            ("http.route", "/v1/link"),
            ("http.response.status_code", "200"),
            ("kielink.outcome", "miss"),
            ("kielink.source_host", "tempfile.aiquickdraw.com"),
        ] {
            assert_eq!(request.attribute(name), value, "{request:?}");
        }
        assert_eq!((mint.trace.as_str(), mint.parent.as_str()), (TRACE, request.id.as_str()));
        assert_eq!((mint.kind, mint.attribute("kielink.reason")), (SpanKind::Client, "miss"));
        assert_eq!(mint.attribute("kielink.result"), "ok");
        // kie.ai hears of the mint's place.
        let asked = kie.requests();
        let heard = asked.last().unwrap().header("traceparent").unwrap();
        assert_eq!(heard, format!("00-{TRACE}-{}-01", mint.id));
        // So does whoever reads the log.
        child.wait_for_log("request").await;
        let line = child.log_lines("request").remove(0);
        assert_eq!(line["trace_id"], TRACE);
        assert_eq!(collector.resource()["service.name"], "kielink");
        let shown = format!("{spans:?}");
        assert!(!shown.contains("/s/a.png") && !shown.contains("X-Amz"), "no path and no link: {shown}");
    }
}

#[tokio::test]
async fn a_request_that_joined_shows_the_mint_it_waited_for() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = traced(&kie, &collector).ready().await;
    kie.hold();
    let (leader, joiner, ()) = tokio::join!(
        ask(&child, SOURCE, ""),
        async {
            eventually("the mint is under way", async || kie.in_flight() == 1).await;
            ask(&child, SOURCE, &format!("traceparent: {}\r\n", traceparent())).await
        },
        async {
            let both = "kielink_requests_in_flight 2";
            eventually("both wait", async || child.get_admin("/metrics").await.body.contains(both)).await;
            kie.release();
        },
    );
    assert!(leader.header("cache-status").contains("stored"), "{leader:?}");
    assert!(joiner.header("cache-status").contains("collapsed"), "{joiner:?}");
    let spans = collector.wait_for(3).await;
    let mint = named(&spans, "mint")[0];
    let requests = named(&spans, "GET /v1/link");
    let of = |outcome: &str| *requests.iter().find(|span| span.attribute("kielink.outcome") == outcome).unwrap();
    assert_eq!(mint.parent, of("miss").id);
    assert_eq!(of("joined").trace, TRACE);
    assert_eq!(of("joined").links, [(mint.trace.clone(), mint.id.clone())]);
    assert_ne!(mint.trace, TRACE);
}

#[tokio::test]
async fn failures_and_retries_are_told_without_what_kie_ai_said() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = traced(&kie, &collector).env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip").ready().await;
    kie.answer(Answer::envelope(500, "see https://secret.example/x"));
    assert_eq!(ask(&child, SOURCE, "").await.status, 502);
    let spans = collector.wait_for(2).await;
    let (request, mint) = (named(&spans, "GET /v1/link")[0], named(&spans, "mint")[0]);
    assert!(request.is_error && mint.is_error);
    assert_eq!((request.attribute("error.type"), mint.attribute("error.type")), ("upstream-error", "upstream-error"));
    assert_eq!(mint.events, ["retry", "retry"]);
    assert!(!format!("{spans:?}").contains("secret.example"));
}

#[tokio::test]
async fn a_refresh_is_a_trace_of_its_own_linked_to_the_request_that_set_it_off() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = traced(&kie, &collector).arguments(&["--set", "cache.refresh_after=1ms"]).ready().await;
    ask(&child, SOURCE, "").await;
    eventually("a refresh has been made", async || {
        ask(&child, SOURCE, "").await;
        kie.mints() >= 2
    })
    .await;
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "what is left is sent before it ends");
    let spans = collector.spans();
    let refresh = *named(&spans, "mint").iter().find(|span| span.attribute("kielink.reason") == "refresh").unwrap();
    let (trace, id) = &refresh.links[0];
    let cause = named(&spans, "GET /v1/link").into_iter().find(|span| span.id == *id).unwrap();
    assert_eq!((cause.trace.as_str(), cause.attribute("kielink.outcome")), (trace.as_str(), "hit-refresh"));
    assert!(refresh.parent.is_empty() && refresh.trace != cause.trace);
}

#[tokio::test]
async fn without_a_collector_there_are_no_spans_and_a_callers_place_is_passed_on() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let endpoint = collector.endpoint();
    for (name, value) in
        [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_off")]
    {
        let child =
            Run::serving(&kie, &[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env(name, value).ready().await;
        assert_eq!(ask(&child, SOURCE, "").await.status, 200);
        child.terminate();
        assert_eq!(child.ended().await, Some(0));
    }
    assert!(collector.spans().is_empty());

    let child = Run::serving(&kie, &[]).ready().await;
    ask(&child, SOURCE, &format!("traceparent: {}\r\ntracestate: vendor=1\r\n", traceparent())).await;
    let asked = kie.requests().pop().unwrap();
    assert_eq!(asked.header("traceparent"), Some(traceparent().as_str()));
    assert_eq!(asked.header("tracestate"), None, "text of the caller's choice goes to no third party");
    child.wait_for_log("request").await;
    assert_eq!(child.log_lines("request").remove(0)["trace_id"], TRACE);
}

#[tokio::test]
async fn a_collector_that_is_not_there_harms_nobody() {
    let kie = FakeKie::start();
    // Nothing listens there: the port was free a moment ago.
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let child = Run::serving(&kie, &[])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .ready()
        .await;
    for n in 0..20 {
        assert_eq!(ask(&child, &format!("{SOURCE}?{n}"), "").await.status, 200);
    }
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
}

#[tokio::test]
async fn variables_that_make_no_sense_cost_the_traces_and_nothing_else() {
    let kie = FakeKie::start();
    for (name, value, is_fatal) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", true),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hidden-word@[bad", true),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999", false),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", false),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy", false),
    ] {
        let child = Run::serving(&kie, &[])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env(name, value)
            .ready()
            .await;
        assert_eq!(ask(&child, SOURCE, "").await.status, 200, "{name}");
        child.terminate();
        assert_eq!(child.ended().await, Some(0), "{name}");
        assert!(!child.stderr().contains("hidden-word"), "{}", child.stderr());
        let said = child.log_lines("there will be no traces");
        assert_eq!(said.len(), usize::from(is_fatal), "{name}: {}", child.stderr());
        assert!(said.iter().all(|line| line["level"] == "ERROR"), "{said:?}");
    }
}

#[tokio::test]
async fn what_callers_choose_names_no_span() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = traced(&kie, &collector).ready().await;
    let mut wire = child.connect().await;
    let method = "CHOSEN".repeat(2000);
    wire.send(&format!("{method} /chosen HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    assert_eq!(wire.reply().await.status, 404);
    let state = format!("traceparent: {}\r\ntracestate: chosen={}\r\n", traceparent(), "x".repeat(600));
    ask(&child, SOURCE, &state).await;
    let spans = collector.wait_for(3).await;
    let unknown = named(&spans, "HTTP other")[0];
    assert_eq!(unknown.attribute("http.request.method"), "_OTHER");
    assert!(!format!("{spans:?}").to_lowercase().contains("chosen"), "{spans:?}");
    assert!(spans.iter().all(|span| span.state.is_empty()));
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_counted_and_its_span_says_so() {
    let (kie, collector) = (FakeKie::start(), Collector::http().await);
    let child = traced(&kie, &collector).arguments(&["--log-level", "debug"]).ready().await;
    kie.hold();
    let mut wire = child.connect().await;
    wire.send(&format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", link_path(SOURCE))).await;
    eventually("the mint is under way", async || kie.in_flight() == 1).await;
    drop(wire);
    let counted = "kielink_requests_abandoned_total{endpoint=\"/v1/link\"} 1";
    eventually("it is counted", async || child.get_admin("/metrics").await.body.contains(counted)).await;
    child.wait_for_log("the caller hung up").await;
    kie.release();
    let spans = collector.wait_for(2).await;
    let request = named(&spans, "GET /v1/link")[0];
    assert_eq!(request.attribute("error.type"), "abandoned", "{request:?}");
}
