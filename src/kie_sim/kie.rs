//! Which answer is due from the simulated kie.ai: `POST /api/v1/common/download-url`, the same call of the 4o image
//! API, and `GET /api/v1/chat/credit`, as awkward as the real ones.
//!
//! A gateway in front (HTML when it fails) and an application behind it (HTTP 200 whatever happens, the truth in the
//! body). It does not know which files exist: a made-up URL on a result host gets a link, as with kie.ai.

use url::Url;

use super::{
    World,
    answer::Answer,
    request::Request,
    world::{State, accepts},
};
use crate::clock::Instant;

pub const DOWNLOAD_URL: &str = "/api/v1/common/download-url";
pub const DOWNLOAD_URL_4O: &str = "/api/v1/gpt4o-image/download-url";
pub const CREDIT: &str = "/api/v1/chat/credit";

/// Where kie.ai keeps its results. `cdn.kie.ai` was recorded as refused. Uploads (`tempfile.redpandaai.co`) are
/// refused too: the documentation grants links to generated files only, and whether kie.ai is that strict is not
/// known.
const RESULT_HOSTS: [&str; 7] = [
    "tempfile.aiquickdraw.com",
    "tempfileb.aiquickdraw.com",
    "templateb.aiquickdraw.com",
    "static.aiquickdraw.com",
    "file.aiquickdraw.com",
    "musicfile.kie.ai",
    "file.kie.ai",
];

impl Request {
    pub fn is_mint(&self) -> bool {
        self.method == "POST" && matches!(self.path(), DOWNLOAD_URL | DOWNLOAD_URL_4O)
    }
}

pub(super) fn choose(world: &World, request: &Request, is_kept: bool) -> Answer {
    let now = world.clock.now();
    let mut state = world.state();
    let answer = decide(&mut state, request, is_kept, now);
    if matches!(request.path(), DOWNLOAD_URL | DOWNLOAD_URL_4O) {
        state.record.counts.count(answer.counts_as());
    }
    answer
}

fn decide(state: &mut State, request: &Request, is_kept: bool, now: Instant) -> Answer {
    if let Some(answer) = state.script.kept.as_ref().filter(|_| is_kept) {
        return answer.clone();
    }
    if request.header("user-agent").is_none_or(str::is_empty) {
        return Answer::banned();
    }
    if state.outage_end > now {
        return Answer::html(502);
    }
    let (answer, method): (fn(&mut State, &Request, Instant) -> Answer, _) = match request.path() {
        DOWNLOAD_URL | DOWNLOAD_URL_4O => (mint, "POST"),
        CREDIT => (|state, _, now| credit(state, now), "GET"),
        _ => return Answer::spring_404(),
    };
    if request.method != method {
        return Answer::spring_405(method);
    }
    if let Some(failure) = state.failure() {
        return failure;
    }
    let keys = state.script.keys.as_deref();
    if !bearer(request).is_some_and(|key| keys.is_none_or(|keys| accepts(keys, key))) {
        return state.script.refusal.clone();
    }
    if let Some(answer) = &state.script.account {
        return answer.clone();
    }
    if !state.quota.take(now) {
        return Answer::too_frequent();
    }
    answer(state, request, now)
}

fn credit(state: &State, now: Instant) -> Answer {
    state.script.credit.clone().unwrap_or_else(|| Answer::credits(state.balance.left(now)))
}

fn mint(state: &mut State, request: &Request, now: Instant) -> Answer {
    if state.balance.left(now) <= 0.0 {
        return Answer::code(402);
    }
    // What kie.ai says to a body that is no JSON is not known; 400 is among its codes.
    if !request.is_json {
        return Answer::envelope(400, "request body is not readable");
    }
    // A missing `url`, as from callers that send `imageUrl` or `musicId`, counts as a wrong one.
    let is_wanted = |source: &&String| state.config.takes_any_source || is_result(source);
    let names_a_task = request.path() != DOWNLOAD_URL_4O || request.task.is_some();
    let Some(source) = request.source.as_ref().filter(|source| names_a_task && is_wanted(source)) else {
        return Answer::code(422);
    };
    let script = &mut state.script;
    let next = script.next.pop_front();
    next.unwrap_or_else(|| script.by_source.get(source).unwrap_or(&script.usual).clone())
}

fn is_result(source: &str) -> bool {
    Url::parse(source).is_ok_and(|source| {
        let on_result_host = source.host_str().is_some_and(|host| RESULT_HOSTS.contains(&host));
        matches!(source.scheme(), "http" | "https") && on_result_host
    })
}

fn bearer(request: &Request) -> Option<&str> {
    let (scheme, key) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{
        super::{
            Config, Host,
            connection::tests::ask,
            world::tests::{Bench, KEY},
        },
        *,
    };

    const SUNRISE: &str = r#"{"url":"https://tempfile.aiquickdraw.com/s/sunrise.png"}"#;

    async fn mint(bench: &Bench, body: &str) -> String {
        let reply = bench.ask("POST", DOWNLOAD_URL, body).await;
        assert_eq!(reply.status, 200);
        reply.text().to_owned()
    }

    #[tokio::test]
    async fn a_mint_is_kies_envelope_with_a_bare_link_and_kies_headers() {
        let reply = Bench::new().ask("POST", DOWNLOAD_URL, SUNRISE).await;
        assert_eq!((reply.status, &reply.json()["code"], &reply.json()["msg"]), (200, &json!(200), &json!("success")));
        let link = reply.json()["data"].as_str().unwrap().to_owned();
        assert!(link.starts_with("http://127.0.0.1:40001/tempfile.aiquickdraw.com/s/sunrise.png?"), "{link}");
        assert!(link.contains("X-Amz-Date=20250415T101007Z") && link.contains("X-Amz-Expires=1200"), "{link}");
        assert_eq!(reply.header("content-type"), "application/json;charset=UTF-8");
        assert_eq!((reply.header("server"), reply.header("cf-cache-status")), ("cloudflare", "DYNAMIC"));
        assert_eq!(reply.header("date"), "Tue, 15 Apr 2025 10:10:07 GMT");
        let cookie = reply.header("set-cookie");
        assert!(cookie.starts_with("JSESSIONID=") && cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
    }

    #[tokio::test]
    async fn only_urls_on_result_hosts_get_a_link_whether_the_file_exists_or_not() {
        let bench = Bench::new();
        let wrong = r#"{"code":422,"msg":"url is wrong","data":null}"#;
        let unreadable = r#"{"code":400,"msg":"request body is not readable","data":null}"#;
        let table = [
            (r#"{"url":"https://musicfile.kie.ai/made-up.wav"}"#, None),
            (r#"{"url":"https://FILE.aiquickdraw.com/a b?c=d#e","more":1}"#, None),
            (r#"{"url":"https://cdn.kie.ai/files/x.png"}"#, Some(wrong)),
            (r#"{"url":"https://file.kie.ai.example.com/x"}"#, Some(wrong)),
            (r#"{"url":"https://tempfile.redpandaai.co/kieai/1/x"}"#, Some(wrong)),
            (r#"{"url":"ftp://file.kie.ai/x"}"#, Some(wrong)),
            (r#"{"url":"s/sunrise.png"}"#, Some(wrong)),
            (r#"{"url":7}"#, Some(wrong)),
            (r#"{"imageUrl":"https://file.kie.ai/x"}"#, Some(wrong)),
            ("url=https://file.kie.ai/x", Some(unreadable)),
            ("", Some(unreadable)),
        ];
        for (body, expected) in table {
            let answer = mint(&bench, body).await;
            match expected {
                Some(expected) => assert_eq!(answer, expected, "{body}"),
                None => assert!(answer.starts_with(r#"{"code":200"#), "{body}: {answer}"),
            }
        }
    }

    #[tokio::test]
    async fn the_4o_image_api_wants_a_task_too() {
        let bench = Bench::new();
        for (body, code) in [
            (r#"{"taskId":"task12345","url":"https://tempfile.aiquickdraw.com/v/x.png"}"#, 200),
            (r#"{"url":"https://tempfile.aiquickdraw.com/v/x.png"}"#, 422),
            (r#"{"taskId":"task12345"}"#, 422),
        ] {
            assert_eq!(bench.ask("POST", DOWNLOAD_URL_4O, body).await.json()["code"], code, "{body}");
        }
    }

    #[tokio::test]
    async fn without_the_key_it_is_401_in_the_body_and_without_data() {
        let bench = Bench::new();
        for credentials in ["", "Bearer", "Bearer wrong", "Basic the-only-key"] {
            for (method, path) in [("POST", DOWNLOAD_URL), ("GET", CREDIT)] {
                let head = format!("User-Agent: test\r\nAuthorization: {credentials}\r\n");
                let reply = ask(&bench.world, Host::Kie, method, path, &head, SUNRISE).await;
                assert_eq!((reply.status, &reply.json()["code"]), (200, &json!(401)));
                assert!(reply.json().get("data").is_none());
            }
        }
    }

    #[tokio::test]
    async fn credits_have_decimals_and_other_paths_are_springs() {
        let bench = Bench::new();
        let reply = bench.ask("GET", CREDIT, "").await;
        assert_eq!(reply.text(), r#"{"code":200,"msg":"success","data":5916.25}"#);

        let reply = bench.ask("GET", "/api/v2/nothing?a=b", "").await;
        let expected = json!({
            "timestamp": "2025-04-15T10:10:07.000+00:00",
            "status": 404,
            "error": "Not Found",
            "message": "No message available",
            "path": "/api/v2/nothing",
        });
        assert_eq!((reply.status, reply.json()), (404, expected));

        let reply = bench.ask("GET", "/api/v1/common/download-url?taskId=1", "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, "POST"));
    }

    #[tokio::test]
    async fn a_caller_without_a_user_agent_is_banned() {
        let head = format!("Authorization: Bearer {KEY}\r\n");
        let reply = ask(&Bench::new().world, Host::Kie, "POST", DOWNLOAD_URL, &head, SUNRISE).await;
        assert_eq!((reply.status, reply.text()), (403, "error code: 1010"));
    }

    #[tokio::test]
    async fn over_the_quota_it_is_429_in_the_body_until_a_moment_has_passed() {
        let bench = Bench::with(Config { latency: Duration::ZERO, quota: 2, ..Config::GOOD_DAY });
        let refused = r#"{"code":429,"msg":"Your call frequency is too high. Please try again later.","data":null}"#;
        for good in [true, true, false] {
            assert_eq!(mint(&bench, SUNRISE).await != refused, good);
        }
        bench.pass(Duration::from_millis(500));
        assert_ne!(mint(&bench, SUNRISE).await, refused);
    }

    #[tokio::test]
    async fn failures_for_no_reason_are_html_an_error_code_or_nothing_at_all() {
        let bench = Bench::with(Config { latency: Duration::ZERO, failure_rate: 1.0, ..Config::GOOD_DAY });
        for _ in 0..50 {
            let reply = bench.ask("POST", DOWNLOAD_URL, SUNRISE).await;
            let body = reply.text();
            if reply.status == 502 {
                assert!(body.starts_with("<html>"), "{body}");
                continue;
            }
            assert_eq!((reply.status, reply.header("content-type").is_empty()), (200, body.is_empty()));
            assert!(body.is_empty() || body.starts_with(r#"{"code":500,"#), "{body}");
        }
        let counts = bench.world.state().record.counts.clone();
        assert_eq!((counts.mints, counts.refused), (0, 50));
        let codes: Vec<&str> = counts.by_code.keys().map(String::as_str).collect();
        assert_eq!(codes, ["500", "502", "empty"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_as_long_as_the_latency_says() {
        let bench = Bench::with(Config::GOOD_DAY);
        let before = tokio::time::Instant::now();
        assert!(mint(&bench, SUNRISE).await.starts_with(r#"{"code":200"#));
        assert_eq!(before.elapsed(), Duration::from_millis(325));
    }
}
