//! What stands where the link should.

use base64::{Engine as _, engine::general_purpose};
use futures_util::future::join_all;
use serde_json::json;

use super::check;
use crate::support::{Answer, FakeKie, KEY, Problem, encode};

#[tokio::test]
async fn a_good_code_without_a_usable_link_is_an_upstream_error() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    let endless_host = format!("https://x.example/{}", "a".repeat(9 * 1024));
    let with_key = format!("https://x.r2.cloudflarestorage.com/a?token={KEY}");
    let with_encoded_key = format!("https://x.r2.cloudflarestorage.com/a?token={}", encode(KEY));
    let data = [
        json!(null),
        json!({"url": "https://x.example/a"}),
        json!(7),
        json!(true),
        json!(["https://x.example/a"]),
        json!(""),
        json!(" "),
        json!("success"),
        json!("/a"),
        json!("//x.example/a"),
        json!("javascript:alert(1)"),
        json!("data:text/html,x"),
        json!("http://x.r2.cloudflarestorage.com/a"),
        json!("ftp://x.r2.cloudflarestorage.com/a"),
        json!("https:x.example/a"),
        json!("https://"),
        json!("https://user:password@x.example/a"),
        json!("https://x.example\\@attacker.example/a"),
        json!("https://x.example/a\r\nSet-Cookie: a=b"),
        json!("https://x.example/a\nb"),
        json!("https://x.example/a\u{0}"),
        json!("\thttps://x.example/a"),
        json!("https://127.0.0.1/a"),
        json!("https://127.1/a"),
        json!("https://2130706433/a"),
        json!("https://localhost/a"),
        json!("https://10.0.0.7/a"),
        json!("https://172.16.0.1/a"),
        json!("https://192.168.1.1/a"),
        json!("https://169.254.169.254/latest/meta-data"),
        json!("https://[::1]/a"),
        json!("https://[fd00::1]/a"),
        json!("https://[::ffff:10.0.0.7]/a"),
        json!("https://metadata.google.internal/a"),
        json!("https://168.63.129.16/a"),
        json!("https://[2001:10::1]/a"),
        json!("https://files.corp/a"),
        json!("https://{127.0.0.1,x.y}/a"),
        json!("https://127.0.0.1;.example.com/a"),
        json!("https://x..example/a"),
        json!(endless_host),
        json!(with_key),
        json!(with_encoded_key),
        json!(format!("https://x.r2.cloudflarestorage.com/a?token={}", KEY.to_uppercase())),
        json!(format!("https://x.r2.cloudflarestorage.com/{}/a", general_purpose::URL_SAFE.encode(KEY))),
        json!(format!("https://x.r2.cloudflarestorage.com/a?part={}", &KEY[..20])),
    ];
    for data in data {
        let what = data.to_string();
        let what = what.get(..60).unwrap_or(&what).replace("canary", "");
        let problem = Problem::error("upstream-error", Some(200)).code(200);
        rows.push(check(&kie, what.clone(), Answer::data(data), problem));
    }
    let no_data = Answer::body("{\"code\":200,\"msg\":\"success\"}");
    rows.push(check(&kie, "no data".to_owned(), no_data, Problem::error("upstream-error", Some(200)).code(200)));
    let under_500 = Answer::link().http_status(500);
    rows.push(check(
        &kie,
        "a link under HTTP 500".to_owned(),
        under_500,
        Problem::error("upstream-error", Some(500)).code(200),
    ));
    join_all(rows).await;
}
