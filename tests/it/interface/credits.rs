//! The credits left: asked for at the start, told as last seen, and once for all who ask.

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Answer, FakeKie, KEY, Reply, SOURCE, Sidecar, eventually};

const CREDIT: &str = "/api/v1/chat/credit";

/// As users have it.
const BY_DEFAULT: [(&str, &str); 1] = [("upstream.credits_every", "5m")];

/// Calls for the credits that kie.ai has heard.
fn asked(kie: &FakeKie) -> usize {
    kie.requests().iter().filter(|request| request.path == CREDIT).count()
}

/// The value of a metric; `None` where there is none.
async fn metric(sidecar: &Sidecar, name: &str) -> Option<String> {
    let metrics = sidecar.get_admin("/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.to_owned())
}

async fn seen(sidecar: &Sidecar) {
    eventually("the credits are known", async || metric(sidecar, "kielink_credits").await.is_some()).await;
}

#[tokio::test]
async fn they_are_asked_for_at_the_start_and_told_as_last_seen() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &BY_DEFAULT);
    seen(&sidecar).await;
    let request = kie.requests().into_iter().find(|request| request.path == CREDIT).unwrap();
    assert_eq!((request.method.as_str(), request.body.len()), ("GET", 0));
    assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    kie.answer_credit(Answer::data(json!(1)));
    for _ in 0..3 {
        let reply = sidecar.get(CREDIT).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"code":200,"msg":"success","data":5916.25}"#));
        assert!(reply.header("cache-status").starts_with("kielink; hit; ttl=29"), "{reply:?}");
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    assert_eq!(asked(&kie), 1);
    assert_eq!(metric(&sidecar, "kielink_credits").await.as_deref(), Some("5916.25"));
    assert_eq!(metric(&sidecar, r#"kielink_credits_requests_total{result="ok"}"#).await.as_deref(), Some("1"));
    let status = sidecar.get_admin("/status.json").await.json();
    assert_eq!(status["credits"]["left"], 5916.25);
    // They are no link, whatever became of the call.
    let requests = r#"kielink_requests_total{endpoint="/api/v1/chat/credit",outcome="none",status="200"}"#;
    assert_eq!(metric(&sidecar, requests).await.as_deref(), Some("3"));
    assert!(status["outcomes"].as_object().unwrap().values().all(|count| *count == 0), "{status}");
}

#[tokio::test]
async fn many_callers_at_once_are_one_call_and_whoever_hangs_up_does_not_end_it() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    assert_eq!(metric(&sidecar, "kielink_credits").await, None, "nobody has asked");
    kie.hold();
    let url = format!("{}{CREDIT}", sidecar.base_url());
    let mut callers = JoinSet::new();
    let first = sidecar.client().get(&url).timeout(std::time::Duration::from_millis(300)).send().await;
    assert!(first.is_err(), "it has hung up");
    for _ in 0..20 {
        let request = sidecar.client().get(&url);
        callers.spawn(async move { request.send().await.unwrap().status() });
    }
    eventually("all wait", async || metric(&sidecar, "kielink_requests_in_flight").await.as_deref() == Some("20.0"))
        .await;
    kie.release();
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(asked(&kie), 1);
}

#[tokio::test]
async fn what_goes_wrong_is_told_as_for_links_and_harms_none() {
    for (answer, status, code) in [
        (Answer::unauthorized(), 401, 401),
        (Answer::bare(403), 401, 401),
        (Answer::code(402), 402, 402),
        (Answer::credits_insufficient(), 402, 500),
        (Answer::too_frequent(), 429, 429),
        (Answer::bare(429).with_header("Retry-After", "7"), 429, 429),
        (Answer::code(455), 503, 455),
        (Answer::code(505), 502, 505),
        (Answer::code(422), 502, 422),
        (Answer::spring_404(), 502, 502),
        (Answer::html(502), 502, 502),
        (Answer::empty(), 502, 502),
        (Answer::data(json!(null)), 502, 502),
        (Answer::data(json!({ "left": 7 })), 502, 502),
        (Answer::close(), 502, 502),
        (Answer::echo_key(500), 502, 500),
    ] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        kie.answer_credit(answer.clone());
        let told = |reply: &Reply| (reply.status, reply.json()["code"].clone());
        let reply = sidecar.get(CREDIT).await;
        assert_eq!(told(&reply), (status, json!(code)), "{answer:?}: {reply:?}");
        assert_eq!(reply.json()["data"], json!(null));
        // It is not repeated for the next caller, who hears the same, and when to come back.
        let calls = asked(&kie);
        let again = sidecar.get(CREDIT).await;
        assert_eq!((told(&again), asked(&kie)), (told(&reply), calls), "{answer:?}: {again:?}");
        assert!(!again.header("retry-after").is_empty(), "{answer:?}: {again:?}");
        assert_eq!(metric(&sidecar, "kielink_credits").await, None);
        // Mints find out for themselves: whoever asks for credits cannot stop them.
        let link = sidecar.link(SOURCE).await;
        assert_eq!((link.status, kie.mints()), (200, 1), "{answer:?}: {link:?}");
        let ready = sidecar.get_admin("/readyz?verbose").await.body;
        assert!(ready.contains("[+]key ok") && ready.contains("[+]upstream "), "{answer:?}: {ready}");
    }
}

#[tokio::test]
async fn whoever_waits_for_room_in_the_rate_gets_the_credits_in_time() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.rate", "5"), ("upstream.burst", "1")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let reply = sidecar.get(CREDIT).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_wrong_key_is_known_before_the_first_caller_and_a_good_one_is_found_good() {
    let kie = FakeKie::start();
    kie.accept_only(&["another-key"]);
    let sidecar = Sidecar::with(&kie, &BY_DEFAULT);
    let ready = async || sidecar.get_admin("/readyz?verbose").await;
    eventually("it is known", async || ready().await.body.contains("the key is refused")).await;
    assert_eq!(ready().await.status, 200, "readiness does not depend on it");
    let link = sidecar.link(SOURCE).await;
    assert_eq!((link.status, link.slug().as_str(), kie.mints()), (502, "key-refused", 1), "{link:?}");
    let lines = sidecar.log_lines("the credits left are not known");
    assert!(lines.iter().all(|line| line["level"] == "ERROR") && !lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn a_kie_ai_that_says_nothing_delays_neither_the_start_nor_the_end() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::with(&kie, &BY_DEFAULT);
    eventually("it is ready", async || sidecar.get_admin("/readyz").await.status == 200).await;
    eventually("kie.ai is asked", async || asked(&kie) == 1).await;
    // Within its grace.
    sidecar.ended().await;
}
