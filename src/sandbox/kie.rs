//! The simulated kie.ai: `POST /api/v1/common/download-url` and `GET /api/v1/chat/credit`, as awkward as the real
//! ones.
//!
//! A gateway in front (HTML when it fails) and an application behind it (HTTP 200 whatever happens, the truth in the
//! body). It does not know which files exist: a made-up URL on a result host gets a link, as with kie.ai.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, Uri, header},
    response::Response,
    routing::get,
};
use serde_json::Value;
use url::Url;

use super::{World, answer::Answer, control, world::Failure};

const DOWNLOAD_URL: &str = "/api/v1/common/download-url";
const CREDIT: &str = "/api/v1/chat/credit";

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

/// Room for any URL, and no more.
const LONGEST_BODY: usize = 64 * 1024;

/// kie.ai, and `/sandbox` to play with it.
pub fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/sandbox", get(control::show).post(control::change))
        .fallback(serve)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(world)
}

async fn serve(State(world): State<Arc<World>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let answer = if headers.contains_key(header::USER_AGENT) {
        tokio::time::sleep(world.config().latency).await;
        decide(&world, &method, uri.path(), &headers, &body)
    } else {
        Answer::Banned
    };
    if uri.path() == DOWNLOAD_URL {
        world.count(answer.code(), matches!(answer, Answer::Link(_)));
    }
    answer.into_response(&world, uri.path())
}

fn decide(world: &World, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    if world.outage_left().is_some() {
        return Answer::BadGateway;
    }
    let handler = match path {
        DOWNLOAD_URL if method == Method::POST => mint,
        CREDIT if method == Method::GET => credit,
        DOWNLOAD_URL => return Answer::WrongMethod { allow: "POST" },
        CREDIT => return Answer::WrongMethod { allow: "GET" },
        _ => return Answer::NotFound,
    };
    match world.failure() {
        Some(Failure::BadGateway) => return Answer::BadGateway,
        Some(Failure::EmptyBody) => return Answer::Empty,
        Some(Failure::ServerError) => {
            return Answer::Refused(500, "Server exception, please try again later");
        }
        None => {}
    }
    if !bearer(headers).is_some_and(|key| world.accepts(key)) {
        return Answer::Unauthorized;
    }
    if !world.take_from_quota() {
        return Answer::Refused(429, "Your call frequency is too high. Please try again later.");
    }
    handler(world, body)
}

fn mint(world: &World, body: &[u8]) -> Answer {
    // What kie.ai says to a body that is no JSON is not known; 400 is among its codes.
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return Answer::Refused(400, "request body is not readable");
    };
    // No `url`, as from callers that send `imageUrl` or `musicId`, is a wrong one.
    let source = body.get("url").and_then(Value::as_str).unwrap_or_default();
    match Url::parse(source) {
        Ok(source) if is_result(&source) => Answer::Link(world.mint(&source)),
        Ok(_) | Err(_) => Answer::Refused(422, "url is wrong"),
    }
}

fn credit(_: &World, _: &[u8]) -> Answer {
    // The documentation says an integer; real values have decimals.
    Answer::Credits(5916.25)
}

fn is_result(source: &Url) -> bool {
    let on_result_host = source.host_str().is_some_and(|host| RESULT_HOSTS.contains(&host));
    matches!(source.scheme(), "http" | "https") && on_result_host
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{
        body::Body,
        http::{HeaderValue, Request, StatusCode},
    };
    use http_body_util::BodyExt;
    use serde_json::json;
    use tower::ServiceExt;

    use super::{
        super::{
            Config,
            world::tests::{Bench, KEY},
        },
        *,
    };

    const SUNRISE: &str = r#"{"url":"https://tempfile.aiquickdraw.com/s/sunrise.png"}"#;

    async fn send(bench: &Bench, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let response = router(Arc::clone(&bench.world)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (parts.status, parts.headers, body)
    }

    fn request(method: &str, path: &str, body: &str) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::USER_AGENT, "test")
            .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
            .body(Body::from(body.to_owned()))
            .unwrap()
    }

    async fn mint(bench: &Bench, body: &str) -> (StatusCode, String) {
        let (status, _, body) = send(bench, request("POST", DOWNLOAD_URL, body)).await;
        (status, body)
    }

    #[tokio::test]
    async fn a_mint_is_kies_envelope_with_a_bare_link_and_kies_headers() {
        let bench = Bench::new();
        let (status, headers, body) = send(&bench, request("POST", DOWNLOAD_URL, SUNRISE)).await;
        assert_eq!(status, StatusCode::OK);
        let start =
            r#"{"code":200,"msg":"success","data":"http://127.0.0.1:40001/tempfile.aiquickdraw.com/s/sunrise.png?"#;
        assert!(body.starts_with(start), "{body}");
        assert!(body.contains("X-Amz-Date=20250415T101007Z"), "{body}");
        assert!(body.contains("X-Amz-Expires=1200"), "{body}");
        assert_eq!(headers["content-type"], "application/json;charset=UTF-8");
        assert_eq!(headers["server"], "cloudflare");
        assert_eq!(headers["cf-cache-status"], "DYNAMIC");
        assert_eq!(headers["date"], "Tue, 15 Apr 2025 10:10:07 GMT");
        let cookie = headers["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("JSESSIONID="), "{cookie}");
        assert!(cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
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
            let (status, answer) = mint(&bench, body).await;
            assert_eq!(status, StatusCode::OK);
            match expected {
                Some(expected) => assert_eq!(answer, expected, "{body}"),
                None => assert!(answer.starts_with(r#"{"code":200"#), "{body}: {answer}"),
            }
        }
    }

    #[tokio::test]
    async fn without_the_key_it_is_401_in_the_body_and_without_data() {
        let bench = Bench::new();
        for credentials in ["", "Bearer", "Bearer wrong", "Basic the-only-key"] {
            for (method, path) in [("POST", DOWNLOAD_URL), ("GET", CREDIT)] {
                let mut request = request(method, path, SUNRISE);
                let credentials = HeaderValue::from_static(credentials);
                request.headers_mut().insert(header::AUTHORIZATION, credentials);
                let (status, _, body) = send(&bench, request).await;
                assert_eq!(status, StatusCode::OK);
                let body: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body["code"], 401);
                assert!(body.get("data").is_none());
            }
        }
    }

    #[tokio::test]
    async fn credits_have_decimals_and_other_paths_are_springs() {
        let bench = Bench::new();
        let (_, _, body) = send(&bench, request("GET", CREDIT, "")).await;
        assert_eq!(body, r#"{"code":200,"msg":"success","data":5916.25}"#);

        let (status, _, body) = send(&bench, request("GET", "/api/v2/nothing?a=b", "")).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let expected = json!({
            "timestamp": "2025-04-15T10:10:07.000+00:00",
            "status": 404,
            "error": "Not Found",
            "message": "No message available",
            "path": "/api/v2/nothing",
        });
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);

        let wrong_call = request("GET", "/api/v1/common/download-url?taskId=1", "");
        let (status, headers, _) = send(&bench, wrong_call).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers["allow"], "POST");
    }

    #[tokio::test]
    async fn a_caller_without_a_user_agent_is_banned() {
        let bench = Bench::new();
        let mut request = request("POST", DOWNLOAD_URL, SUNRISE);
        request.headers_mut().remove(header::USER_AGENT);
        let (status, _, body) = send(&bench, request).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(body, "error code: 1010");
    }

    #[tokio::test]
    async fn over_the_quota_it_is_429_in_the_body_until_a_moment_has_passed() {
        let bench = Bench::with(Config { latency: Duration::ZERO, quota: 2, ..Config::GOOD_DAY });
        let refused = r#"{"code":429,"msg":"Your call frequency is too high. Please try again later.","data":null}"#;
        for good in [true, true, false] {
            let (status, body) = mint(&bench, SUNRISE).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(body != refused, good, "{body}");
        }
        bench.pass(Duration::from_millis(500));
        let (_, body) = mint(&bench, SUNRISE).await;
        assert_ne!(body, refused);
    }

    #[tokio::test]
    async fn failures_for_no_reason_are_html_an_error_code_or_nothing_at_all() {
        let bench = Bench::with(Config { latency: Duration::ZERO, failure_rate: 1.0, ..Config::GOOD_DAY });
        for _ in 0..50 {
            let (status, headers, body) = send(&bench, request("POST", DOWNLOAD_URL, SUNRISE)).await;
            if status == StatusCode::BAD_GATEWAY {
                assert!(body.starts_with("<html>"), "{body}");
                continue;
            }
            assert_eq!(status, StatusCode::OK);
            let has_type = headers.contains_key(header::CONTENT_TYPE);
            assert_eq!(has_type, !body.is_empty());
            assert!(body.is_empty() || body.starts_with(r#"{"code":500,"#), "{body}");
        }
        let counts = bench.world.counts();
        assert_eq!((counts.mints, counts.refused), (0, 50));
        let codes: Vec<&str> = counts.by_code.keys().map(String::as_str).collect();
        assert_eq!(codes, ["500", "502", "empty"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_as_long_as_the_latency_says() {
        let bench = Bench::with(Config::GOOD_DAY);
        let before = tokio::time::Instant::now();
        let (_, body) = mint(&bench, SUNRISE).await;
        assert!(body.starts_with(r#"{"code":200"#), "{body}");
        assert_eq!(before.elapsed(), Duration::from_millis(325));
    }
}
