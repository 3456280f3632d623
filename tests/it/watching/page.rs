//! The page for people.

use crate::support::{Answer, FakeKie, SOURCE, Sidecar, eventually};

/// The number that the page's table has for an outcome.
fn shown(page: &str, outcome: &str) -> Option<u64> {
    let (_, row) = page.split_once(&format!("data-outcome=\"{outcome}\""))?;
    let (_, number) = row.split_once("<td class=\"number\">")?;
    number.split('<').next()?.parse().ok()
}

#[tokio::test]
async fn the_page_has_the_headline_and_the_counts_that_the_json_has() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    eventually("it is ready", async || sidecar.get_admin("/readyz").await.status == 200).await;
    let fresh = sidecar.get_admin("/status").await;
    assert_eq!((fresh.status, fresh.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(fresh.header("content-security-policy").starts_with("default-src 'none'; style-src 'sha256-"), "{fresh:?}");
    assert_eq!(fresh.header("cache-control"), "no-store");
    assert!(fresh.body.contains("<title>kielink: ready; nobody has asked for a link yet</title>"), "{}", fresh.body);

    for _ in 0..3 {
        sidecar.link(SOURCE).await;
    }
    let json = sidecar.get_admin("/status.json").await.json();
    let page = sidecar.get_admin("/status").await.body;
    for (outcome, count) in json["outcomes"].as_object().unwrap() {
        assert_eq!(shown(&page, outcome), count.as_u64(), "{outcome}: {page}");
    }
    assert_eq!((shown(&page, "hit"), shown(&page, "miss")), (Some(2), Some(1)));
    assert!(page.contains(json["key"]["fingerprint"].as_str().unwrap()), "{page}");
    eventually("both say the same of the last minute", async || {
        let json = sidecar.get_admin("/status.json").await.json();
        let page = sidecar.get_admin("/status").await.body;
        page.contains(&format!("</span> {}</h1>", json["headline"]["text"].as_str().unwrap()))
    })
    .await;
    assert_eq!(sidecar.get("/status").await.status, 404, "it is on the admin interface alone");
}

#[tokio::test]
async fn what_kie_ai_says_is_shown_and_is_no_markup() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(Answer::envelope(402, "<script> no \"credits\""));
    sidecar.link(SOURCE).await;
    let page = sidecar.get_admin("/status").await.body;
    assert!(page.contains("&lt;script&gt; no "), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "our own: {page}");
}

#[tokio::test]
async fn a_call_that_failed_and_its_request_are_one_failure_though_neither_is_logged() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("log.level", "error"), ("upstream.attempts", "1")]);
    kie.answer(Answer::envelope(500, "oops"));
    assert_eq!(sidecar.link(SOURCE).await.slug(), "upstream-error");
    assert!(sidecar.log_lines("mint failed").is_empty() && sidecar.log_lines("request").is_empty());
    let failures = &sidecar.get_admin("/status.json").await.json()["failures"];
    let told = |message: &str| {
        let found = failures.as_array().unwrap().iter().find(|failure| failure["message"] == message);
        found.unwrap_or_else(|| panic!("{message}: {failures}"))
    };
    let (mint, request) = (told("mint failed"), told("request"));
    assert_eq!((&mint["reason"], &mint["problem"]), (&"miss".into(), &serde_json::Value::Null));
    assert_eq!((&request["reason"], &request["problem"]), (&serde_json::Value::Null, &"upstream-error".into()));
    for same in ["level", "error", "count", "source_host"] {
        assert_eq!(mint[same], request[same], "{failures}");
    }
    assert_eq!(failures.as_array().unwrap().len(), 2, "each once: {failures}");
    let page = sidecar.get_admin("/status").await.body.replace('\u{a0}', " ");
    assert!(page.contains("Mint failed (miss)</span> <code>upstream-error</code>"), "{page}");
    assert!(page.contains("1 request without a link") && !page.contains("Request without a link"), "{page}");
}

#[tokio::test]
async fn the_headline_has_cause_and_effect_and_says_when_it_is_over() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    let headline = async || {
        let status = sidecar.get_admin("/status.json").await.json();
        status["headline"]["text"].as_str().unwrap().replace('\u{a0}', " ")
    };
    kie.answer(Answer::html(502));
    for file in ["a", "b"] {
        assert_eq!(sidecar.link(&format!("https://file.kie.ai/{file}")).await.status, 502);
    }
    // What no caller could get an answer to is in no share.
    assert_eq!(sidecar.link("nonsense").await.status, 422);
    assert_eq!(headline().await, "kie.ai fails: 0 of 2 calls worked, HTTP 502. 100 % of callers got no link");
    let ready = sidecar.get_admin("/readyz?verbose").await.body;
    assert!(ready.contains("[-]upstream 0 of the last 2 calls worked: HTTP 502 (does not count)\n"), "{ready}");
    assert!(ready.contains("[+]key loaded, not tried yet\n"), "{ready}");
    kie.answer(Answer::link());
    assert_eq!(sidecar.link("https://file.kie.ai/c").await.status, 200);
    let over = headline().await;
    assert!(over.starts_with("It has been over since "), "{over}");
    assert!(over.ends_with(": kie.ai answers again. 67 % of the last minute's callers got no link"), "{over}");
    assert!(sidecar.get_admin("/readyz?verbose").await.body.contains("[+]key ok\n"));
}

#[tokio::test]
async fn it_leads_to_what_helps() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let docs = sidecar.get_admin("/docs").await;
    assert_eq!((docs.status, docs.header("location")), (307, format!("{}/docs", sidecar.base_url()).as_str()));
    let runbook = sidecar.get_admin("/runbook").await;
    assert_eq!((runbook.status, runbook.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(runbook.body.contains("KielinkKeyRefused"), "{}", runbook.body);
    let page = sidecar.get_admin("/status").await.body;
    for place in ["href=\"docs\"", "href=\"runbook\""] {
        assert!(page.contains(place), "{place}: {page}");
    }
}
