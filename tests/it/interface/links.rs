//! `/v1/link`, `/v1/redirect`, and the headers that every answer has.

use std::time::Duration;

use jiff::Timestamp;
use kielink::app::Ended;

use super::COMPAT;
use crate::support::{Answer, FakeKie, Problem, Reply, SOURCE, Sidecar, encode};

fn max_age(reply: &Reply) -> u64 {
    let seconds = reply.header("cache-control").strip_prefix("private, max-age=");
    seconds.unwrap_or_else(|| panic!("{reply:?}")).parse().unwrap()
}

async fn head(sidecar: &Sidecar, path: &str) -> Reply {
    sidecar.send(sidecar.client().head(format!("{}{path}", sidecar.base_url()))).await
}

#[tokio::test]
async fn a_link_comes_with_its_source_url_and_its_real_end() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let reply = sidecar.link("HTTPS://tempfile.aiquickdraw.com:443/s/./a.png#top").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/json");
    let view = reply.json();
    let expires_at = view["expires_at"].as_str().unwrap();
    let expected = serde_json::json!({"source_url": SOURCE, "url": kie.links_given()[0], "expires_at": expires_at});
    assert_eq!(view, expected);
    assert!(expires_at.len() == 20 && expires_at.ends_with('Z'), "whole seconds, UTC: {expires_at}");
    let date: Timestamp = httpdate::parse_http_date(reply.header("date")).unwrap().try_into().unwrap();
    let left = expires_at.parse::<Timestamp>().unwrap().duration_since(date).as_secs();
    assert!((1150..=1200).contains(&left), "the real end, margin or not: {left}");
    assert!(max_age(&reply) <= left.cast_unsigned() - 59, "the deadline is a margin earlier: {reply:?}");
}

#[tokio::test]
async fn a_redirect_leads_to_the_link() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let reply = sidecar.get(&format!("/v1/redirect?url={}", encode(SOURCE))).await;
    assert_eq!((reply.status, reply.header("location")), (302, kie.links_given()[0].as_str()));
    assert_eq!(reply.body, "");
    assert!(max_age(&reply) > 1000);
}

#[tokio::test]
async fn every_way_to_a_link_tells_the_same_life_and_no_age_that_caches_would_take_off_again() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    sidecar.link(SOURCE).await;
    let query = format!("?url={}", encode(SOURCE));
    for reply in [
        sidecar.link(SOURCE).await,
        sidecar.download_url(SOURCE).await,
        sidecar.get(&format!("/v1/redirect{query}")).await,
        head(&sidecar, &format!("/v1/link{query}")).await,
        head(&sidecar, &format!("/v1/redirect{query}")).await,
    ] {
        let life = max_age(&reply);
        assert!((1000..=1140).contains(&life), "{reply:?}");
        assert_eq!(reply.header("cache-status"), format!("kielink; hit; ttl={life}"));
        assert!(!reply.headers.contains_key("age"), "{reply:?}");
        assert_eq!(reply.headers.get_all("cache-control").iter().count(), 1);
        assert!(!format!("{:?}", reply.headers).contains("stale-"), "alive or dead, never stale: {reply:?}");
        assert_eq!(reply.header("retry-after"), "");
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn a_link_that_was_long_under_way_is_as_old_as_that_and_has_so_much_less_to_live() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    // Life and age count from before the mint was sent, so a slow mint makes an old link.
    kie.answer(Answer::link().after(Duration::from_millis(1100)));
    let reply = sidecar.link(SOURCE).await;
    assert!(max_age(&reply) <= 1138, "{reply:?}");
    let known = sidecar.get_admin(&format!("/v1/explain?url={}", encode(SOURCE))).await.json();
    assert!(known["entry"]["age_seconds"].as_u64() >= Some(1), "{known}");
}

#[tokio::test]
async fn head_says_what_get_says_without_the_body() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    sidecar.link(SOURCE).await;
    let good = format!("?url={}", encode(SOURCE));
    for path in [
        format!("/v1/link{good}"),
        format!("/v1/redirect{good}"),
        "/v1/link".to_owned(),
        "/v1/redirect?url=x".to_owned(),
        "/nothing".to_owned(),
    ] {
        let (get, head) = (sidecar.get(&path).await, head(&sidecar, &path).await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        for name in ["content-type", "location", "x-content-type-options"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        for name in ["cache-status", "cache-control"] {
            let word = |reply: &Reply| reply.header(name).split('=').next().map(str::to_owned);
            assert_eq!(word(&head), word(&get), "{path}: {name}");
        }
    }
    let cold = head(&sidecar, &format!("/v1/link?url={}", encode(&format!("{SOURCE}?cold")))).await;
    assert!(cold.header("cache-status").starts_with("kielink; fwd=miss; stored; "), "a HEAD mints, too: {cold:?}");
}

#[tokio::test]
async fn links_can_be_had_over_http_2_as_well() {
    let kie = FakeKie::start();
    let mut sidecar = Sidecar::start(&kie);
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().tls_certs_only([]).build().unwrap();
    let reply = sidecar.send(client.get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)))).await;
    assert_eq!((reply.status, &reply.json()["url"]), (200, &kie.links_given()[0].as_str().into()));
    let reply = sidecar.send(client.get(format!("{}/v1/link", sidecar.base_url()))).await;
    Problem::refused("malformed-request").assert_document("over HTTP/2", &reply);
    // While it waits, this thread cannot tell the server that the client is idle; so not in `drop`.
    assert_eq!(sidecar.stopped().await, Ended::Drained);
}

#[tokio::test]
async fn every_answer_has_what_every_answer_has() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let link = format!("/v1/link?url={}", encode(SOURCE));
    for path in [&link, &link.replace("link", "redirect"), "/v1/link", "/nothing", "/api/nothing", COMPAT, "/healthz"] {
        let request = sidecar.client().get(format!("{}{path}", sidecar.base_url()));
        let reply = sidecar.send(request.header("origin", "http://app.local")).await;
        assert!(reply.header("cache-status").starts_with("kielink; "), "{path}: {reply:?}");
        assert_eq!(reply.header("x-request-id").len(), 32, "{path}: {reply:?}");
        assert!(!reply.header("cache-control").is_empty(), "{path}");
        let names: Vec<_> = reply.headers.keys().map(reqwest::header::HeaderName::as_str).collect();
        assert!(
            !names.iter().any(|name| name.starts_with("access-control-") || *name == "set-cookie"),
            "{path}: {names:?}"
        );
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let long = "a".repeat(128);
    let too_long = "a".repeat(129);
    let ask = async |path: &str, id: &[u8]| {
        let id = reqwest::header::HeaderValue::from_bytes(id).unwrap();
        let request = sidecar.client().get(format!("{}{path}", sidecar.base_url()));
        sidecar.send(request.header("x-request-id", id)).await
    };
    let link = format!("/v1/link?url={}", encode(SOURCE));
    for path in [link.as_str(), "/v1/link", "/api/nothing"] {
        for id in [
            "7",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "Root=1-67891233-abcdef012345678912345678",
            "a.b:c/d+e@f_g",
            &long,
        ] {
            let reply = ask(path, id.as_bytes()).await;
            assert_eq!(reply.header("x-request-id"), id, "{path}");
            if path == "/v1/link" {
                assert_eq!(reply.json()["request_id"], id);
            }
        }
        let mut new = std::collections::HashSet::new();
        for id in ["", "a b", "a\"b", "<script>", "a;b", "{}", "é", "a\tb", &too_long] {
            let reply = ask(path, id.as_bytes()).await;
            let given = reply.header("x-request-id");
            assert!(given.len() == 32 && given.bytes().all(|byte| byte.is_ascii_hexdigit()), "{path} {id}: {given}");
            assert!(new.insert(given.to_owned()), "{id}: never the same twice");
        }
    }
    let admin = sidecar.client().get(format!("{}/livez", sidecar.admin_url())).header("x-request-id", "mine");
    assert_eq!(sidecar.send(admin).await.header("x-request-id"), "mine");
}
