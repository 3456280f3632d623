//! Files of kie.ai's 4o image API, which are asked for with the task that generated them.

use serde_json::{Value, json};

use super::{COMPAT, COMPAT_4O};
use crate::support::{Answer, FakeKie, Problem, Reply, SOURCE, Sidecar, encode, eventually};

const TASK: &str = "task12345";

async fn post_4o(sidecar: &Sidecar, body: Value) -> Reply {
    sidecar.send(sidecar.client().post(format!("{}{COMPAT_4O}", sidecar.base_url())).body(body.to_string())).await
}

async fn download_url_4o(sidecar: &Sidecar, task: &str) -> Reply {
    post_4o(sidecar, json!({ "taskId": task, "url": SOURCE })).await
}

fn query(task: &str) -> String {
    format!("?url={}&task_id={}", encode(SOURCE), encode(task))
}

/// Where kie.ai was asked, and for which task.
fn asked(kie: &FakeKie) -> Vec<(String, Option<String>)> {
    kie.requests().into_iter().map(|request| (request.path, request.task)).collect()
}

fn of_task(task: &str) -> (String, Option<String>) {
    (COMPAT_4O.to_owned(), Some(task.to_owned()))
}

#[tokio::test]
async fn kie_ai_s_own_contract_is_served_and_asked() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let first = download_url_4o(&sidecar, TASK).await;
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.json(), json!({ "code": 200, "msg": "success", "data": kie.links_given()[0] }));
    assert!(first.header("cache-status").starts_with("kielink; fwd=miss; stored; ttl="), "{first:?}");
    let sent: Value = serde_json::from_slice(&kie.requests()[0].body).unwrap();
    assert_eq!(sent, json!({ "taskId": TASK, "url": SOURCE }));

    let again = post_4o(&sidecar, json!({ "url": format!("{SOURCE}#top"), "more": [1], "taskId": TASK })).await;
    assert!(again.header("cache-status").starts_with("kielink; hit; ttl="), "{again:?}");
    assert_eq!(again.json(), first.json());
    assert_eq!(asked(&kie), [of_task(TASK)]);
    assert!(!sidecar.get_admin("/metrics").await.body.contains(TASK));
}

#[tokio::test]
async fn every_way_with_the_task_leads_to_its_link_and_none_without() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let own = download_url_4o(&sidecar, TASK).await.json()["data"].as_str().unwrap().to_owned();
    let view = sidecar.get(&format!("/v1/link{}", query(TASK))).await.json();
    let expected = json!({ "source_url": SOURCE, "task_id": TASK, "url": own, "expires_at": view["expires_at"] });
    assert_eq!(view, expected);
    for path in ["/v1/redirect", "/v1/redirect/a.png"] {
        assert_eq!(sidecar.get(&format!("{path}{}", query(TASK))).await.header("location"), own, "{path}");
    }
    let spelled = sidecar.get(&format!("/v1/link?taskId={TASK}&url={}", encode(SOURCE))).await;
    assert_eq!(spelled.json()["url"], own);
    assert_eq!(kie.mints(), 1);

    // Another file to kie.ai, though the address is the same.
    let plain = sidecar.link(SOURCE).await.json();
    assert!(plain["url"] != own && plain.get("task_id").is_none(), "{plain}");
    let other = download_url_4o(&sidecar, "task54321").await.json();
    assert!(other["data"] != own && other["data"] != plain["url"], "{other}");
    assert_eq!(sidecar.download_url(SOURCE).await.json()["data"], plain["url"]);
    assert_eq!(asked(&kie), [of_task(TASK), (COMPAT.to_owned(), None), of_task("task54321")]);
}

#[tokio::test]
async fn an_item_of_a_batch_may_have_a_task_and_its_answer_tells_it() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let own = download_url_4o(&sidecar, TASK).await.json()["data"].clone();
    let urls = json!([
        { "url": SOURCE, "task_id": TASK },
        SOURCE,
        { "url": SOURCE, "taskId": TASK },
        SOURCE,
        { "url": SOURCE, "task_id": "no task" },
        { "url": "nonsense", "task_id": TASK },
        { "url": SOURCE, "task_id": "task54321" },
    ]);
    let ask = async |accept: &str| {
        let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).header("accept", accept);
        sidecar.send(request.body(json!({ "urls": urls }).to_string())).await
    };
    let items = ask("*/*").await.json()["links"].take();
    let items = items.as_array().unwrap();
    let tasks: Vec<_> = items.iter().map(|item| item["task_id"].as_str()).collect();
    let (one, other) = (Some(TASK), Some("task54321"));
    assert_eq!(tasks, [one, None, one, None, Some("no task"), one, other], "{items:?}");
    assert_eq!((&items[0]["url"], &items[2]["url"], &items[1]["url"]), (&own, &own, &items[3]["url"]));
    assert_ne!(items[1]["url"], own);
    let problem = |item: &Value| item["error"]["type"].as_str().map(|kind| kind.rsplit(':').next().unwrap().to_owned());
    assert_eq!(problem(&items[4]).as_deref(), Some("malformed-request"));
    assert_eq!(
        (problem(&items[5]).as_deref(), &items[5]["source_url"]),
        (Some("invalid-source-url"), &json!("nonsense"))
    );
    // They go at once, and arrive in any order.
    let mut asked = asked(&kie);
    asked.sort_unstable();
    assert_eq!(asked, [(COMPAT.to_owned(), None), of_task(TASK), of_task("task54321")]);

    let lines = ask("application/x-ndjson").await.body;
    let told = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = told.map(|item| (item["task_id"].clone(), item["url"].clone())).collect();
    for item in items {
        assert!(told.contains(&(item["task_id"].clone(), item["url"].clone())), "{item} is not in {lines}");
    }
    assert_eq!(kie.mints(), 3);
}

#[tokio::test]
async fn what_is_no_task_is_refused_and_kie_ai_is_not_asked() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    let long = "t".repeat(257);
    for task in ["", " ", "a b", "t\u{e9}", "t\n", &long] {
        malformed.assert_envelope(task, &download_url_4o(&sidecar, task).await);
        malformed.assert_document(task, &sidecar.get(&format!("/v1/link{}", query(task))).await);
        malformed.assert_document(task, &sidecar.get(&format!("/v1/redirect{}", query(task))).await);
        malformed.assert_document(task, &sidecar.get_admin(&format!("/v1/explain{}", query(task))).await);
    }
    for body in [
        json!({ "url": SOURCE }),
        json!({ "taskId": TASK }),
        json!({ "taskId": 12345, "url": SOURCE }),
        json!({ "taskId": null, "url": SOURCE }),
        json!({ "taskId": TASK, "imageUrl": SOURCE }),
    ] {
        let reply = post_4o(&sidecar, body).await;
        malformed.assert_envelope("a body", &reply);
        assert!(
            reply.json()["msg"].as_str().unwrap().ends_with(r#"Send {"taskId": "…", "url": "https://…"}."#),
            "{reply:?}"
        );
    }
    let nonsense = post_4o(&sidecar, json!({ "taskId": TASK, "url": "nonsense" })).await;
    Problem::refused("invalid-source-url").assert_envelope("nonsense", &nonsense);
    let foreign = post_4o(&sidecar, json!({ "taskId": TASK, "url": "https://example.com/x" })).await;
    Problem::refused("source-not-allowed").assert_envelope("a foreign host", &foreign);
    assert_eq!(kie.requests().len(), 0);
    // The contract of all other files has no task: as kie.ai does, it is ignored there.
    assert_eq!(sidecar.post(json!({ "taskId": long, "url": SOURCE }).to_string()).await.status, 200);
    let longest = "t".repeat(256);
    assert_eq!(download_url_4o(&sidecar, &longest).await.status, 200);
    assert_eq!(asked(&kie), [(COMPAT.to_owned(), None), of_task(&longest)]);
}

#[tokio::test]
async fn callers_of_one_task_share_a_mint_and_a_refusal_is_of_that_task_alone() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.hold();
    let callers = (0..20).map(|_| download_url_4o(&sidecar, TASK));
    let ((replies, plain), ()) =
        tokio::join!(async { tokio::join!(futures_util::future::join_all(callers), sidecar.link(SOURCE)) }, async {
            kie.wait_for_mints(2).await;
            kie.release();
        });
    let links: Vec<_> = replies.iter().map(|reply| reply.json()["data"].clone()).collect();
    assert!(links[0].is_string() && links.iter().all(|link| *link == links[0]), "{links:?}");
    assert_ne!(plain.json()["url"], links[0]);
    assert_eq!((kie.mints(), kie.max_in_flight_per_source()), (2, 1));

    kie.answer(Answer::envelope(422, "no image of task54321"));
    for asked_before in [false, true] {
        let refused = download_url_4o(&sidecar, "task54321").await;
        assert_eq!((refused.status, &refused.json()["code"]), (422, &json!(422)));
        let is_negative = refused.header("cache-status") == "kielink; hit; detail=negative";
        assert_eq!(is_negative, asked_before, "{refused:?}");
        // Not what a caller wrote.
        assert_eq!(refused.json()["msg"], "no image of [task]");
    }
    assert_eq!(kie.mints(), 3);
    let known = sidecar.get_admin(&format!("/v1/explain{}", query("task54321"))).await.json();
    assert_eq!((&known["task_id"], &known["state"]), (&json!("task54321"), &json!("absent")));
    assert!(known["refusal"]["error"].is_string(), "{known}");
    assert!(download_url_4o(&sidecar, TASK).await.header("cache-status").starts_with("kielink; hit; "));
}

#[tokio::test]
async fn it_is_renewed_and_forgotten_by_its_task() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.refresh_after", "10ms")]);
    download_url_4o(&sidecar, TASK).await;
    sidecar.link(SOURCE).await;
    eventually("it is renewed", async || {
        download_url_4o(&sidecar, TASK).await;
        asked(&kie).iter().filter(|asked| **asked == of_task(TASK)).count() >= 2
    })
    .await;
    let state = async |query: &str| sidecar.get_admin(&format!("/v1/explain{query}")).await.json()["state"].clone();
    let url = format!("{}/v1/link{}", sidecar.admin_url(), query(TASK));
    assert_eq!(sidecar.send(sidecar.client().delete(url)).await.status, 204);
    assert_eq!(state(&query(TASK)).await, "absent");
    assert_ne!(state(&format!("?url={}", encode(SOURCE))).await, "absent", "it is another file");
}
