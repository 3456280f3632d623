//! The simulated file host: an object store in the manner of S3 and R2, which answers to signed links only.
//!
//! It does not know kie.ai, its key or its quota: an outage over there leaves the links alone.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::{
    World,
    answer::{http_date, set, typed},
    signature::Refusal,
};

/// The files, below every path.
pub fn router(world: Arc<World>) -> Router {
    Router::new().fallback(serve).with_state(world)
}

async fn serve(State(world): State<Arc<World>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let now = world.now();
    let mut response = answer(&world, &method, &uri, &headers, now);
    set(&mut response, header::DATE, http_date(now));
    response
}

fn answer(world: &World, method: &Method, uri: &Uri, headers: &HeaderMap, now: Timestamp) -> Response {
    if method != Method::GET && method != Method::HEAD {
        let message = "The specified method is not allowed against this resource.";
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message, "");
        set(&mut response, header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let query = uri.query().unwrap_or_default();
    let verdict = world.credential().verify(method.as_str(), host(uri, headers), uri.path(), query, now);
    if let Err(refusal) = verdict {
        return refuse(refusal, now);
    }
    // Only now: whoever has no valid link is not told which files exist.
    let path = percent_decode_str(uri.path()).decode_utf8_lossy();
    let Some(content) = world.content(&path) else {
        return error(
            StatusCode::NOT_FOUND,
            "NoSuchKey",
            "The specified key does not exist.",
            &format!("<Key>{}</Key>", escape(path.trim_start_matches('/'))),
        );
    };
    typed(StatusCode::OK, content.content_type, content.body)
}

/// HTTP/1 has it in a header, HTTP/2 in the URI.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

fn refuse(refusal: Refusal, now: Timestamp) -> Response {
    let denied = |message, details: &str| error(StatusCode::FORBIDDEN, "AccessDenied", message, details);
    match refusal {
        Refusal::Unsigned => denied("Access Denied", ""),
        Refusal::Malformed => error(
            StatusCode::BAD_REQUEST,
            "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
             X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            "",
        ),
        Refusal::WrongSignature => error(
            StatusCode::FORBIDDEN,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and signing \
             method.",
            "",
        ),
        Refusal::Expired { end } => {
            denied("Request has expired", &format!("<Expires>{end}</Expires><ServerTime>{now}</ServerTime>"))
        }
        Refusal::NotYetValid { start: _ } => {
            denied("Request is not valid yet", &format!("<ServerTime>{now}</ServerTime>"))
        }
    }
}

/// `details` is XML already.
fn error(status: StatusCode, code: &str, message: &str, details: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message>{details}</Error>"
    );
    typed(status, "application/xml", body)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use url::Url;

    use super::{super::world::tests::Bench, *};

    const SUNRISE: &str = "https://tempfile.aiquickdraw.com/s/sunrise.png";

    fn minted(bench: &Bench, source: &str) -> String {
        bench.world.mint(&Url::parse(source).unwrap())
    }

    /// As a client sends it: the path in the request line, the host in its header.
    async fn fetch(bench: &Bench, method: &str, link: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let target = link.strip_prefix("http://127.0.0.1:40001").unwrap();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "127.0.0.1:40001")
            .body(Body::empty())
            .unwrap();
        let response = router(Arc::clone(&bench.world)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, body.to_vec())
    }

    #[tokio::test]
    async fn a_link_leads_to_the_file_with_its_type() {
        let bench = Bench::new();
        let table = [
            ("image/png", &b"\x89PNG"[..]),
            ("image/svg+xml", b"<svg"),
            ("audio/wav", b"RIFF"),
            ("text/plain; charset=utf-8", b"This file"),
        ];
        for (sample, (content_type, start)) in bench.world.sources().iter().zip(table) {
            let link = minted(&bench, sample.source_url);
            let (status, headers, body) = fetch(&bench, "GET", &link).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(headers["content-type"], content_type);
            assert_eq!(headers["date"], "Tue, 15 Apr 2025 10:10:07 GMT");
            assert!(body.starts_with(start));
        }
    }

    #[tokio::test]
    async fn a_link_works_to_its_last_second_and_then_says_that_it_has_expired() {
        let bench = Bench::new();
        let link = minted(&bench, SUNRISE);
        bench.pass(Duration::from_secs(1199));
        assert_eq!(fetch(&bench, "GET", &link).await.0, StatusCode::OK);
        bench.pass(Duration::from_secs(1));
        let (status, headers, body) = fetch(&bench, "GET", &link).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(headers["content-type"], "application/xml");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
             <Message>Request has expired</Message><Expires>2025-04-15T10:30:07Z</Expires>\
             <ServerTime>2025-04-15T10:30:07Z</ServerTime></Error>"
        );
    }

    #[tokio::test]
    async fn whoever_has_no_good_link_is_told_why_in_xml() {
        let bench = Bench::new();
        let link = minted(&bench, SUNRISE);
        let (plain, _) = link.split_once('?').unwrap();
        let other_file = link.replacen("sunrise", "sunset", 1);
        let endless = link.replacen("Expires=1200", "Expires=9999", 1);
        let half = link.replacen("X-Amz-Date", "Date", 1);
        let made_up = minted(&bench, "https://file.kie.ai/a%20%3Cb%3E&c.png");
        let table = [
            ("GET", plain, 403, "<Code>AccessDenied</Code>"),
            ("GET", &other_file, 403, "<Code>SignatureDoesNotMatch</Code>"),
            ("GET", &endless, 403, "<Code>SignatureDoesNotMatch</Code>"),
            ("GET", &half, 400, "<Code>AuthorizationQueryParametersError</Code>"),
            ("HEAD", &link, 403, ""), // an answer to HEAD has no body
            ("PUT", &link, 405, "<Code>MethodNotAllowed</Code>"),
            ("GET", &made_up, 404, "<Code>NoSuchKey</Code>"),
            ("GET", &made_up, 404, "<Key>file.kie.ai/a &lt;b&gt;&amp;c.png</Key>"),
        ];
        for (method, link, expected, part) in table {
            let (status, _, body) = fetch(&bench, method, link).await;
            assert_eq!(status.as_u16(), expected, "{method} {link}");
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains(part), "{method} {link}: {body}");
        }
    }
}
