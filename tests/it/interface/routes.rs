//! Paths, methods, probes: what is there and what is not.

use reqwest::Method;

use super::COMPAT;
use crate::support::{FakeKie, Problem, Reply, SOURCE, Sidecar, document, encode, eventually};

#[tokio::test]
async fn what_is_not_there_is_a_404_in_the_form_of_its_place() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let not_found = Problem::refused("not-found");
    for path in [
        "/v1",
        "/v1/",
        "/v1/link/",
        "/v1/redirect/",
        "/v1/redirect/a/b.png",
        "/V1/link",
        "/v1/nothing",
        "/v2/link",
        "/index.html",
        "/livez",
        "/readyz",
        "/metrics",
        "/apis",
        "/v1/link%2F",
        "//v1/link",
    ] {
        not_found.assert_document(path, &sidecar.get(path).await);
    }
    let compat = document()["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api/"));
    let served: Vec<_> = compat
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |it| (it.to_uppercase(), path)))
        .filter(|(method, _)| method != "HEAD")
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    assert!(served.contains(&format!("POST {COMPAT}")), "{served:?}");
    for path in ["/api", "/api/", "/api/v1", "/api/v1/common", "/api/v1/common/download-url/", "/api/v1/chat/credits"] {
        let reply = sidecar.get(path).await;
        not_found.assert_envelope(path, &reply);
        let (serves, others) =
            reply.body.split_once(". Send all others to kie.ai").expect("what is served here, and where");
        assert!(served.iter().all(|call| serves.contains(call)), "{reply:?}");
        assert!(others.contains("with a key of your own"), "{reply:?}");
    }
    // A base URL with a slash at its end.
    let doubled = format!("/{COMPAT}");
    let reply = sidecar.get(&doubled).await;
    not_found.assert_envelope(&doubled, &reply);
    assert!(reply.body.contains("at the end of the base URL"), "{reply:?}");
    let post = |path: &str| sidecar.client().post(format!("{}{path}", sidecar.base_url())).body("{}");
    not_found.assert_envelope("POST", &sidecar.send(post("/api/v1/jobs/createTask")).await);
    assert_eq!(kie.requests().len(), 0, "it is no proxy");
}

#[tokio::test]
async fn the_front_doors_lead_to_what_there_is() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (reply, place) in [(sidecar.get("/").await, "/docs"), (sidecar.get_admin("/").await, "/status")] {
        assert_eq!((reply.status, reply.header("location")), (307, place), "{reply:?}");
    }
}

#[tokio::test]
async fn a_redirect_may_have_a_name_for_whoever_saves_the_file() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let query = format!("?url={}", encode(SOURCE));
    let plain = sidecar.get(&format!("/v1/redirect{query}")).await;
    for name in ["sunrise.png", "a%20b%2Fc.png", "%C3%BC.png", ".."] {
        let named = sidecar.get(&format!("/v1/redirect/{name}{query}")).await;
        if name == ".." {
            // Clients resolve it before they send.
            assert_eq!(named.status, 404, "{named:?}");
            continue;
        }
        assert_eq!((named.status, named.header("location")), (302, plain.header("location")), "{name}: {named:?}");
    }
    let without = sidecar.get("/v1/redirect/sunrise.png").await;
    Problem::refused("malformed-request").assert_document("without a source URL", &without);
    assert_eq!(kie.mints(), 1, "names are no part of what is asked for");
    let metrics = sidecar.get_admin("/metrics").await.body;
    assert!(!metrics.contains("sunrise") && metrics.contains(r#"endpoint="/v1/redirect""#), "{metrics}");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let wrong = Problem::refused("method-not-allowed");
    let query = format!("?url={}", encode(SOURCE));
    for (path, allow, methods) in [
        (format!("/v1/link{query}"), "GET,HEAD", &["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "LINK"][..]),
        (format!("/v1/redirect{query}"), "GET,HEAD", &["POST", "OPTIONS"]),
        ("/healthz".to_owned(), "GET,HEAD", &["POST", "DELETE"]),
        (COMPAT.to_owned(), "POST", &["GET", "HEAD", "PUT", "OPTIONS"]),
    ] {
        for method in methods {
            let what = format!("{method} {path}");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let head = method == Method::HEAD;
            let reply = sidecar.send(sidecar.client().request(method, format!("{}{path}", sidecar.base_url()))).await;
            assert_eq!(reply.header("allow").replace(' ', ""), allow, "{what}");
            if head {
                wrong.assert_head(&what, &reply);
                assert_eq!(reply.body, "");
            } else if path.starts_with("/api") {
                wrong.assert_envelope(&what, &reply);
            } else {
                wrong.assert_document(&what, &reply);
            }
        }
    }
    assert_eq!(kie.mints(), 0);
}

fn assert_probe(what: &str, reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{what}: {reply:?}");
    assert_eq!(reply.header("cache-control"), "no-store", "{what}");
    assert!(!reply.header("cache-status").is_empty() && !reply.header("x-request-id").is_empty(), "{what}: {reply:?}");
    assert_eq!(reply.header("retry-after").is_empty(), status == 200, "{what}: {reply:?}");
}

#[tokio::test]
async fn probes_answer_on_the_admin_listener_and_one_of_them_to_callers() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    // Its admin listener is there a moment before the other one.
    eventually("it is ready", async || sidecar.get_admin("/readyz").await.status == 200).await;
    for path in ["/livez", "/readyz", "/healthz", "/startupz"] {
        let reply = sidecar.get_admin(path).await;
        assert_probe(path, &reply, 200);
        assert_eq!(reply.body, "ok\n", "{path}");
        let reply = sidecar.send(sidecar.client().head(format!("{}{path}", sidecar.admin_url()))).await;
        assert_probe(path, &reply, 200);
        assert_eq!(reply.body, "", "{path}");
        let verbose = format!("{path}?verbose");
        let reply = sidecar.get_admin(&verbose).await;
        assert_probe(&verbose, &reply, 200);
        assert!(reply.body.lines().all(|line| line.starts_with("[+]") || line.ends_with(" check passed")), "{reply:?}");
    }
    for reply in [sidecar.get("/healthz?verbose").await, sidecar.get_admin("/readyz?verbose=1").await] {
        assert!(reply.body.starts_with("[+]key loaded, not tried yet\n"), "{reply:?}");
        assert!(reply.body.contains("[+]upstream not asked yet\n"), "{reply:?}");
    }
    assert_probe("for callers", &sidecar.get("/healthz").await, 200);
    let lines = sidecar.log_lines("request");
    assert!(!lines.is_empty() && lines.iter().all(|line| line["level"] == "DEBUG"), "probes are logged at debug only");
    let wrong = sidecar.send(sidecar.client().post(format!("{}/readyz", sidecar.admin_url()))).await;
    Problem::refused("method-not-allowed").assert_document("POST /readyz", &wrong);
    let nothing = sidecar.get_admin(&format!("/v1/redirect?url={}", encode(SOURCE))).await;
    Problem::refused("not-found").assert_document("links are for callers", &nothing);
}

#[tokio::test]
async fn the_state_of_kie_ai_never_changes_a_probe() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    kie.stop_listening();
    let reply = sidecar.link(SOURCE).await;
    Problem::error("upstream-unreachable", None).assert_document("kie.ai is away", &reply);
    for path in ["/livez", "/readyz", "/healthz", "/startupz"] {
        assert_probe(path, &sidecar.get_admin(path).await, 200);
    }
    assert_probe("/healthz", &sidecar.get("/healthz").await, 200);
}

#[tokio::test]
async fn while_it_drains_it_is_alive_and_started_but_not_ready() {
    let kie = FakeKie::start();
    kie.hold();
    let mut sidecar = Sidecar::start(&kie);
    let url = format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE));
    let waiting = sidecar.client().get(url).send();
    let drain = async {
        kie.wait_for_mints(1).await;
        sidecar.stop();
        eventually("it is not ready", async || sidecar.get_admin("/readyz").await.status == 503).await;
        let reply = sidecar.get_admin("/readyz").await;
        assert_probe("/readyz", &reply, 503);
        assert!(
            reply.body.contains("[+]key loaded, not tried yet\n") && reply.body.contains("[-]not-draining failed\n"),
            "{reply:?}"
        );
        assert_probe("/livez", &sidecar.get_admin("/livez").await, 200);
        assert_probe("/startupz", &sidecar.get_admin("/startupz").await, 200);
        kie.release();
    };
    let (reply, ()) = tokio::join!(waiting, drain);
    assert_eq!(reply.unwrap().status(), 200, "what was accepted is finished");
}
