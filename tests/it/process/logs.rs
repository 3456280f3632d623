//! What it prints while it serves: one line an event, for machines or for people.

use serde_json::Value;

use super::child::{Child, Run, link_path};
use crate::support::{Answer, FakeKie, SOURCE, encode, eventually};

fn is_rfc_3339_utc(text: &str) -> bool {
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

/// The lines about requests, once there are `n` of them.
async fn requests(child: &Child, n: usize) -> Vec<Value> {
    eventually(&format!("{n} requests are logged"), async || child.log_lines("request").len() >= n).await;
    child.log_lines("request")
}

#[tokio::test]
async fn a_mint_is_one_line_of_json_with_all_that_is_known() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let mut wire = child.connect().await;
    wire.send(&format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\nx-request-id: from-the-caller\r\n\r\n",
        link_path(SOURCE)
    ))
    .await;
    assert_eq!(wire.reply().await.header("x-request-id"), "from-the-caller");
    let line = requests(&child, 1).await.remove(0);
    assert!(is_rfc_3339_utc(line["timestamp"].as_str().unwrap()), "{line}");
    for (field, expected) in [
        ("level", "INFO"),
        ("message", "request"),
        ("request_id", "from-the-caller"),
        ("source_host", "tempfile.aiquickdraw.com"),
        ("outcome", "miss"),
        ("method", "GET"),
        ("endpoint", "/v1/link"),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    assert_eq!(line["status"], 200);
    assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
    let hash = line["source_hash"].as_str().unwrap();
    assert!(hash.len() == 12 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
    for line in child.log() {
        assert!(is_rfc_3339_utc(line["timestamp"].as_str().unwrap()), "{line}");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    assert_eq!(child.stdout(), "");
}

#[tokio::test]
async fn at_info_hits_and_probes_are_silent_and_at_debug_they_are_not() {
    let kie = FakeKie::start();
    for (level, expected) in [
        ("info", vec![("INFO", "/v1/link", "miss")]),
        (
            "debug",
            vec![
                ("INFO", "/v1/link", "miss"),
                ("DEBUG", "/v1/link", "hit"),
                ("DEBUG", "/healthz", ""),
                ("DEBUG", "/livez", ""),
                ("DEBUG", "/readyz", ""),
                ("DEBUG", "/startupz", ""),
            ],
        ),
    ] {
        let child = Run::serving(&kie, &["--log-level", level]).ready().await;
        for path in [&link_path(SOURCE), &link_path(SOURCE), "/healthz"] {
            assert_eq!(child.get(path).await.status, 200);
        }
        for path in ["/livez", "/readyz", "/startupz"] {
            assert_eq!(child.get_admin(path).await.status, 200);
        }
        child.terminate();
        assert_eq!(child.ended().await, Some(0));
        let lines = child.log_lines("request");
        let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let seen: Vec<_> =
            lines.iter().map(|line| (text(line, "level"), text(line, "endpoint"), text(line, "outcome"))).collect();
        let seen: Vec<_> = seen.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        assert_eq!(seen, expected, "{level}");
    }
}

#[tokio::test]
async fn the_hash_tells_files_apart_and_is_the_same_in_every_process_with_the_key() {
    let kie = FakeKie::start();
    let other = format!("{SOURCE}?other");
    let mut seen = Vec::new();
    for key in [None, None, Some("another-key")] {
        let run = Run::serving(&kie, &[]);
        let child = match key {
            None => run,
            Some(key) => run.env("KIE_API_KEY", key),
        };
        let child = child.ready().await;
        for source in [SOURCE, &other] {
            assert_eq!(child.link(source).await.status, 200);
        }
        let lines = requests(&child, 2).await;
        seen.push([lines[0]["source_hash"].clone(), lines[1]["source_hash"].clone()]);
    }
    assert_ne!(seen[0][0], seen[0][1]);
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0][0], seen[2][0]);
}

#[tokio::test]
async fn failures_are_warnings_with_their_cause_and_refusals_are_not() {
    let kie = FakeKie::start();
    kie.answer(Answer::echo_key(500));
    let child = Run::serving(&kie, &["--set", "upstream.attempts=1"]).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 502);
    assert_eq!(child.link("https://elsewhere.example/a.png?secret=1").await.status, 422);
    let lines = requests(&child, 2).await;
    for (line, level, outcome, problem, status) in
        [(&lines[0], "WARN", "error", "upstream-error", 502), (&lines[1], "INFO", "refused", "source-not-allowed", 422)]
    {
        assert_eq!(line["level"], level, "{line}");
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(line["problem"], problem, "{line}");
        assert_eq!(line["status"], status, "{line}");
    }
    assert!(lines[0]["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{}", lines[0]);
    assert!(!child.stderr().contains("secret=1"), "{}", child.stderr());
}

#[tokio::test]
async fn no_level_shows_a_key_a_signature_or_a_whole_source_url() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--log-level", "trace"]).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    let path = format!("/v1/redirect?url={}", encode(SOURCE));
    assert_eq!(child.get(&path).await.status, 302);
    kie.answer(Answer::html(503));
    assert_eq!(child.link(&format!("{SOURCE}?more")).await.status, 502);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    // The rest is searched for when the child is dropped.
    for mark in ["/s/a.png", "X-Amz", "Bearer", "%2Fs%2Fa.png"] {
        assert!(!child.stderr().contains(mark), "{mark}: {}", child.stderr());
    }
    assert!(child.log().iter().any(|line| line["level"] == "DEBUG"));
}

#[tokio::test]
async fn the_start_says_what_it_runs_with() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "cache.margin=5s"]).ready().await;
    let start = child.log_lines("kielink starts").remove(0);
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["key_source"], "KIE_API_KEY");
    assert_eq!(start["key_fingerprint"].as_str().map(str::len), Some(12));
    assert_eq!(start["base_url"], format!("{}/", kie.base_url()));
    let warned = child.log_lines("risky configuration");
    assert_eq!((warned.len(), &warned[0]["level"]), (1, &Value::from("WARN")));
}

#[tokio::test]
async fn text_is_for_people_and_has_no_colours() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--log-format", "text"]).start();
    eventually("it listens", async || child.stderr().contains("listening (admin)")).await;
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    let text = child.stderr();
    assert!(!text.contains('\u{1b}') && !text.starts_with('{'), "{text}");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        assert!(words.next().is_some_and(is_rfc_3339_utc), "{line}");
        assert!(matches!(words.next(), Some("INFO" | "WARN")), "{line}");
    }
    assert!(text.contains("stopping signal=\"SIGTERM\""), "{text}");
}

#[tokio::test]
async fn at_level_error_a_good_day_is_silent() {
    let kie = FakeKie::start();
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("admin.sock").display());
    let child = Run::serving(&kie, &["--log-level", "error"])
        .env("KIELINK__ADMIN__LISTEN", "unix:/overridden")
        .arguments(&["--set", &format!("admin.listen={socket}")])
        .start();
    let ready = Run::new(&["wait", "--admin-listen", &socket]).finished().await;
    assert_eq!(ready.code, Some(0), "{ready:?}");
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    assert_eq!(child.stderr(), "");
}
