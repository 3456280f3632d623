//! The admin interface beyond probes: what is known of one source URL, and forgetting it.

use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar, encode, eventually};

fn explain_path(source: &str) -> String {
    format!("/v1/explain?url={}", encode(source))
}

#[tokio::test]
async fn it_explains_what_it_knows_of_a_file_and_never_shows_the_link() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.refresh_after", "10ms")]);
    let absent = sidecar.get_admin(&explain_path(SOURCE)).await;
    assert_eq!((absent.status, absent.json()["state"].as_str()), (200, Some("absent")));
    assert_eq!(kie.mints(), 0);

    sidecar.link(SOURCE).await;
    kie.answer(Answer::envelope(500, "oops"));
    eventually("a refresh failed", async || {
        sidecar.link(SOURCE).await;
        let known = sidecar.get_admin(&explain_path(SOURCE)).await.json();
        known["entry"]["failed_refreshes"].as_u64() >= Some(1)
    })
    .await;
    let reply = sidecar.get_admin(&explain_path("HTTPS://TempFile.aiquickdraw.com/s/%61.png")).await;
    let known = reply.json();
    assert_eq!((known["source_url"].as_str(), known["state"].as_str()), (Some(SOURCE), Some("due")));
    let entry = &known["entry"];
    assert!(entry["last_refresh_error"].as_str().unwrap().contains("code 500"), "{entry}");
    assert_eq!(entry["seconds_to_refresh_point"], 0);
    let (deadline, left) = (&entry["seconds_to_deadline"], &entry["life_left_seconds"]);
    assert_eq!(left.as_u64().unwrap() - deadline.as_u64().unwrap(), 60, "{entry}");
    assert!(!reply.body.contains("r2.cloudflarestorage.com"), "{reply:?}");
}

#[tokio::test]
async fn it_explains_a_remembered_refusal() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(Answer::envelope(422, "url is wrong"));
    sidecar.link(SOURCE).await;
    let known = sidecar.get_admin(&explain_path(SOURCE)).await.json();
    assert!(known["refusal"]["error"].as_str().unwrap().contains("url is wrong"), "{known}");
}

#[tokio::test]
async fn a_forgotten_entry_is_minted_anew() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    sidecar.link(SOURCE).await;
    let forget = sidecar.client().delete(format!("{}/v1/link?url={}", sidecar.admin_url(), encode(SOURCE)));
    assert_eq!(sidecar.send(forget.try_clone().unwrap()).await.status, 204);
    assert_eq!(sidecar.send(forget).await.status, 204, "there is nothing left to forget");
    assert!(sidecar.link(SOURCE).await.header("cache-status").contains("fwd=miss"));
    assert_eq!(kie.mints(), 2);
}

#[tokio::test]
async fn how_much_is_logged_can_be_changed_while_it_runs() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("log.level", "info")]);
    let url = format!("{}/log-level", sidecar.admin_url());
    let put = async |body: &'static str| sidecar.send(sidecar.client().put(&url).body(body)).await;
    let probes = || sidecar.log_lines("request").iter().filter(|line| line["endpoint"] == "/healthz").count();
    assert_eq!(sidecar.get_admin("/log-level").await.body, "info\n");
    sidecar.get("/healthz").await;
    assert_eq!(probes(), 0, "they are told at debug");
    let changed = put(" DEBUG\n").await;
    assert_eq!((changed.status, changed.body.as_str()), (200, "debug\n"));
    sidecar.get("/healthz").await;
    assert_eq!(probes(), 1);
    for body in ["", "loud", "info,kielink=debug", "debug debug", "debug                                  "] {
        Problem::refused("malformed-request").assert_document(body, &put(body).await);
    }
    assert_eq!(put("error").await.status, 200);
    sidecar.get("/healthz").await;
    assert_eq!(probes(), 1);
    assert_eq!(sidecar.get_admin("/log-level").await.body, "error\n");
    let told: Vec<_> = sidecar.log_lines("the log level was changed");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((&told[1]["from"], &told[1]["to"]), (&"debug".into(), &"error".into()));
}

#[tokio::test]
async fn the_verbs_of_operators_are_not_for_callers() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    assert_eq!(sidecar.get(&explain_path(SOURCE)).await.status, 404);
    let forget = sidecar.client().delete(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
    assert_eq!(sidecar.send(forget).await.status, 405);
    for path in ["/v1/explain", "/v1/explain?url=nonsense"] {
        let reply = sidecar.get_admin(path).await;
        assert!(reply.status == 400 || reply.status == 422, "{reply:?}");
    }
    let reply = sidecar.get_admin(&format!("/v1/link?url={}", encode(SOURCE))).await;
    assert_eq!((reply.status, reply.header("allow")), (405, "DELETE"));
}

#[tokio::test]
async fn metrics_come_in_both_text_formats() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let plain = sidecar.get_admin("/metrics").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.body.contains("\n# TYPE kielink_key_reloads_total counter\n"), "{}", plain.body);
    let open = sidecar.client().get(format!("{}/metrics", sidecar.admin_url()));
    let open = sidecar.send(open.header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")).await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.contains("# TYPE kielink_key_reloads counter\n") && open.body.ends_with("# EOF\n"));
    for shown in [plain, open] {
        assert!(shown.body.contains("source=\"environment\"} 1\n"), "{}", shown.body);
        assert_eq!(shown.header("cache-control"), "no-store");
    }
    assert_eq!(sidecar.get("/metrics").await.status, 404, "it is on the admin interface alone");
}
