//! What kie.ai says in its envelope, and what gateways say without one.

use base64::{Engine as _, engine::general_purpose};
use futures_util::future::join_all;

use super::{ONE_EACH, check};
use crate::support::{Answer, FakeKie, KEY, Problem, SOURCE, Sidecar, encode};

#[tokio::test]
async fn every_code_of_kie_ais_has_its_problem() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for (code, slug) in [
        (401, "key-refused"),
        (402, "credits-exhausted"),
        (403, "key-refused"),
        (404, "source-not-found"),
        (422, "source-refused"),
        (429, "rate-limited"),
        (433, "rate-limited"),
        (455, "upstream-unavailable"),
        (400, "upstream-error"),
        (408, "upstream-error"),
        (409, "upstream-error"),
        (413, "upstream-error"),
        (451, "upstream-error"),
        (500, "upstream-error"),
        (501, "upstream-error"),
        (505, "upstream-error"),
        (531, "upstream-error"),
        (550, "upstream-error"),
        (0, "upstream-error"),
        (201, "upstream-error"),
        (-1, "upstream-error"),
        (9_999, "upstream-error"),
    ] {
        let message = format!("code {code}, says kie.ai");
        let problem = Problem::error(slug, Some(200)).says(code, &message);
        rows.push(check(&kie, message.clone(), Answer::envelope(code, &message), problem));
    }
    join_all(rows).await;
}

#[tokio::test]
async fn codes_may_come_as_real_http_statuses_too() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for (status, code, slug) in [
        (401, 401, "key-refused"),
        (402, 402, "credits-exhausted"),
        (404, 404, "source-not-found"),
        (422, 422, "source-refused"),
        (429, 429, "rate-limited"),
        (503, 455, "upstream-unavailable"),
        (500, 500, "upstream-error"),
        (403, 500, "key-refused"),
        (500, 422, "source-refused"),
    ] {
        let what = format!("HTTP {status}, code {code}");
        let problem = Problem::error(slug, Some(status)).says(code, &what);
        rows.push(check(&kie, what.clone(), Answer::envelope(code, &what).http_status(status), problem));
    }
    join_all(rows).await;
}

#[tokio::test]
async fn without_an_envelope_the_http_status_speaks() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for (what, answer, slug, status) in [
        ("a gateway's page", Answer::html(502), "upstream-error", 502),
        ("another's", Answer::html(503), "upstream-error", 503),
        ("Cloudflare's own", Answer::html(520), "upstream-error", 520),
        ("an empty 500", Answer::empty().http_status(500), "upstream-error", 500),
        ("an unknown path", Answer::spring_404(), "upstream-error", 404),
        ("a page's 404", Answer::html(404), "upstream-error", 404),
        ("a banned agent", Answer::banned(), "key-refused", 403),
        ("a gateway's 401", Answer::html(401), "key-refused", 401),
        ("a gateway's 429", Answer::html(429), "rate-limited", 429),
        ("a page under 200", Answer::html(200), "upstream-error", 200),
        ("nothing at all", Answer::empty(), "upstream-error", 200),
        ("white space", Answer::body(" \r\n\t"), "upstream-error", 200),
        ("no content", Answer::empty().http_status(204).with_header("content-length", "0"), "upstream-error", 204),
        (
            "half of it",
            Answer::body("{\"code\":200,\"msg\":\"success\",\"data\":\"https://x.example"),
            "upstream-error",
            200,
        ),
        ("two of it", Answer::body("{\"code\":200,\"data\":\"https://x.example/a\"}{}"), "upstream-error", 200),
        ("a list", Answer::body("[200, \"https://x.example/a\"]"), "upstream-error", 200),
        ("a bare link", Answer::body("\"https://x.example/a\""), "upstream-error", 200),
        ("not UTF-8", Answer::body(b"{\"code\":200,\"data\":\"https://x.example/\xff\"}"), "upstream-error", 200),
        ("no code", Answer::body("{\"data\":\"https://x.example/a\"}"), "upstream-error", 200),
    ] {
        rows.push(check(&kie, what.to_owned(), answer, Problem::error(slug, Some(status))));
    }
    join_all(rows).await;
}

#[tokio::test]
async fn a_message_about_credits_is_believed_more_than_its_code() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for message in ["Credits insufficient, please top up", "Insufficient credits", "Your credits are not enough"] {
        let problem = Problem::error("credits-exhausted", Some(200)).says(500, message);
        rows.push(check(&kie, message.to_owned(), Answer::envelope(500, message), problem));
    }
    join_all(rows).await;
}

/// The canary check at the end of `Sidecar` searches answers and logs.
#[tokio::test]
async fn an_answer_that_echoes_the_key_is_scrubbed() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for (code, slug) in [
        (401, "key-refused"),
        (404, "source-not-found"),
        (422, "source-refused"),
        (429, "rate-limited"),
        (500, "upstream-error"),
    ] {
        let message = "refused: Authorization: Bearer [key]";
        let problem = Problem::error(slug, Some(200)).says(code, message);
        rows.push(check(&kie, format!("code {code}"), Answer::echo_key(code), problem));
    }
    rows.push(check(
        &kie,
        "in the link".to_owned(),
        Answer::echo_key(200),
        Problem::error("upstream-error", Some(200)).code(200),
    ));
    join_all(rows).await;
}

/// Neither in answers nor in logs, on the page for people or where one file is explained.
#[tokio::test]
async fn the_key_passes_in_no_spelling_and_a_signature_in_none() {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let base64 = |text: &str| general_purpose::STANDARD.encode(text);
    let url_safe = |text: &str| general_purpose::URL_SAFE_NO_PAD.encode(text);
    let signature = hex("A signature has 32 bytes, or 64.");
    let told = [
        KEY.to_uppercase(),
        KEY.chars().map(|c| format!("{c} ")).collect(),
        KEY.chars().map(|c| format!("{c}\u{1}")).collect(),
        KEY.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
        (0..5).fold(KEY.to_owned(), |text, _| encode(&text)),
        hex(KEY),
        hex(KEY).to_uppercase(),
        base64(KEY),
        url_safe(&format!("Bearer {KEY}")),
        base64(&hex(&encode(KEY))),
        KEY[4..].to_owned(),
        format!("X-Amz-Signature: {signature}"),
        format!("signature {signature} does not match"),
        format!("signature {} {} does not match", &signature[..32], &signature[32..]),
        signature.chars().map(|c| format!("{c}\n")).collect(),
    ];
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (n, told) in told.iter().enumerate() {
        let source = format!("{SOURCE}?{n}");
        kie.answer_for(&source, Answer::envelope(422, &format!("it is wrong: {told}")));
        for reply in [
            sidecar.link(&source).await,
            sidecar.download_url(&source).await,
            sidecar.get_admin(&format!("/v1/explain?url={}", encode(&source))).await,
            sidecar.get_admin("/status.json").await,
            sidecar.get_admin("/status").await,
        ] {
            assert_has_nothing_of(&reply.body, told);
        }
    }
    let logs = sidecar.logs();
    told.iter().for_each(|told| assert_has_nothing_of(&logs, told));
}

/// Of what was told, sixteen letters in a row: less is a word.
fn assert_has_nothing_of(text: &str, told: &str) {
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    // kie.ai's own words, which may be repeated.
    let told = told.replace("does not match", "");
    let (text, told) = (letters(text), letters(&told));
    for at in 0..=told.len() - 16 {
        assert!(!text.contains(&told[at..at + 16]), "{} of {told} is in {text}", &told[at..at + 16]);
    }
}

#[tokio::test]
async fn messages_are_one_printable_line_of_sane_length() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    let long = "x".repeat(20_000);
    kie.answer(Answer::envelope(500, &format!("a\r\nb\u{0}\u{1b}[31m{long}")));
    let message = sidecar.download_url(SOURCE).await.json()["msg"].as_str().unwrap().to_owned();
    assert!(message.starts_with("a  b") && message.len() < 1000, "{message}");
    assert!(!message.contains(char::is_control), "{message}");
    assert!(sidecar.logs().lines().all(|line| line.len() < 4000), "nor does it flood the log");
}

#[tokio::test]
async fn only_kie_ai_itself_clears_the_account_of_what_two_files_heard_from_a_gateway() {
    let page = "https://file.kie.ai/page";
    let redirect = Answer::html(302).with_header("location", "https://kie.ai/");
    for (between, is_refused) in [
        (Answer::html(200), true),
        (Answer::html(404), true),
        (redirect, true),
        (Answer::envelope(422, "url is wrong"), false),
        (Answer::envelope(200, "success"), false),
        (Answer::link(), false),
    ] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        let ready = async || sidecar.get_admin("/readyz?verbose").await.body;
        kie.answer_for(page, between.clone());
        kie.answer(Answer::html(403));
        sidecar.link("https://file.kie.ai/one").await;
        assert!(ready().await.contains("HTTP 403"), "one file tells nothing of the key: {}", ready().await);
        sidecar.link(page).await;
        sidecar.link("https://file.kie.ai/two").await;
        assert_eq!(ready().await.contains("refuses the account"), is_refused, "{between:?}: {}", ready().await);
    }
}
