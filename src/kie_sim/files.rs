//! The simulated file host: an object store in the manner of S3 and R2, which answers to signed links only.
//!
//! It does not know kie.ai's key or its quota: an outage of kie.ai leaves the links alone.

use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::{
    World,
    answer::Answer,
    encoding::hex,
    range::{Part, part},
    request::Request,
    signature::Refusal,
};

pub(super) fn answer(world: &World, request: &Request) -> Answer {
    if request.method != "GET" && request.method != "HEAD" {
        let message = "The specified method is not allowed against this resource.";
        return error(405, "MethodNotAllowed", message, "").with_header("Allow", "GET, HEAD");
    }
    let now = world.now();
    let host = request.header("host").unwrap_or_default();
    let (path, query) = (request.path(), request.query());
    if let Err(refusal) = world.links().check(&request.method, host, path, query, now) {
        return refuse(refusal, now);
    }
    // Checked only now: a caller without a valid link is not told which files exist.
    let path = percent_decode_str(path).decode_utf8_lossy();
    let Some(content) = world.content(&path) else {
        return error(
            404,
            "NoSuchKey",
            "The specified key does not exist.",
            &format!("<Key>{}</Key>", escape(path.trim_start_matches('/'))),
        );
    };
    let length = content.body.len();
    let digest = ring::digest::digest(&ring::digest::SHA256, &content.body);
    let etag = format!("\"{}\"", hex(&digest.as_ref()[..16]));
    // A part is only for a caller that means this very file (RFC 9110, section 13.1.5).
    let means_this = request.header("if-range").is_none_or(|tag| tag == etag);
    let (status, body, range) = match part(request.header("range").filter(|_| means_this), length) {
        Part::Whole => (200, content.body.clone(), None),
        Part::Bytes(range) => {
            let said = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            (206, content.body.slice(range), Some(said))
        }
        Part::None => {
            let answer = error(416, "InvalidRange", "The requested range is not satisfiable", "");
            return answer.with_header("Content-Range", &format!("bytes */{length}"));
        }
    };
    let answer = Answer::plain(status, content.content_type, body);
    let answer = answer.with_header("Accept-Ranges", "bytes").with_header("ETag", &etag);
    range.into_iter().fold(answer, |answer, range| answer.with_header("Content-Range", &range))
}

fn refuse(refusal: Refusal, now: Timestamp) -> Answer {
    let denied = |message, details: &str| error(403, "AccessDenied", message, details);
    match refusal {
        Refusal::Unsigned => denied("Access Denied", ""),
        Refusal::Malformed => error(
            400,
            "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
             X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            "",
        ),
        Refusal::WrongSignature => error(
            403,
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
fn error(status: u16, code: &str, message: &str, details: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message>{details}</Error>"
    );
    Answer::plain(status, "application/xml", body)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{
        Host,
        answer::Wish,
        connection::tests::{Reply, ask},
        world::tests::Bench,
    };

    const SUNRISE: &str = "https://tempfile.aiquickdraw.com/s/sunrise.png";

    fn minted(bench: &Bench, source: &str) -> String {
        bench.world.links().make(source, &Wish::default(), bench.world.now(), Duration::from_secs(1200))
    }

    /// As a client sends it: the path in the request line, the host in its header.
    async fn fetch(bench: &Bench, method: &str, link: &str, head: &str) -> Reply {
        let target = link.strip_prefix("http://127.0.0.1:40001").unwrap();
        let head = format!("Host: 127.0.0.1:40001\r\n{head}");
        ask(&bench.world, Host::Files, method, target, &head, "").await
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
        for (sample, (content_type, start)) in crate::kie_sim::World::sources().iter().zip(table) {
            let reply = fetch(&bench, "GET", &minted(&bench, sample.source_url), "").await;
            assert_eq!((reply.status, reply.header("content-type")), (200, content_type));
            assert_eq!(reply.header("date"), "Tue, 15 Apr 2025 10:10:07 GMT");
            assert_eq!(reply.header("accept-ranges"), "bytes");
            assert_eq!(reply.header("content-length"), reply.body.len().to_string());
            assert!(reply.body.starts_with(start));
        }
    }

    #[tokio::test]
    async fn a_part_of_a_file_can_be_had_and_the_rest_later() {
        let bench = Bench::new();
        let link = minted(&bench, SUNRISE);
        let whole = fetch(&bench, "GET", &link, "").await;
        let (length, etag) = (whole.body.len(), whole.header("etag").to_owned());
        let half = length / 2;
        let table = [
            (format!("Range: bytes=0-{}\r\n", half - 1), 206, 0..half),
            (format!("Range: bytes={half}-\r\n"), 206, half..length),
            (format!("Range: bytes={half}-\r\nIf-Range: {etag}\r\n"), 206, half..length),
            (format!("Range: bytes={half}-\r\nIf-Range: \"other\"\r\n"), 200, 0..length),
            ("Range: bytes=-7\r\n".to_owned(), 206, length - 7..length),
            ("Range: bytes=0-1,3-4\r\n".to_owned(), 200, 0..length),
        ];
        for (head, status, part) in table {
            let reply = fetch(&bench, "GET", &link, &head).await;
            assert_eq!((reply.status, reply.body.as_slice()), (status, &whole.body[part.clone()]), "{head}");
            let said = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            assert_eq!(reply.header("content-range"), if status == 206 { said.as_str() } else { "" }, "{head}");
        }
        let reply = fetch(&bench, "GET", &link, &format!("Range: bytes={length}-\r\n")).await;
        assert_eq!((reply.status, reply.header("content-range")), (416, &*format!("bytes */{length}")));
        bench.pass(Duration::from_secs(1200));
        assert_eq!(fetch(&bench, "GET", &link, "Range: bytes=0-1\r\n").await.status, 403);
    }

    #[tokio::test]
    async fn a_link_works_to_its_last_second_and_then_says_that_it_has_expired() {
        let bench = Bench::new();
        let link = minted(&bench, SUNRISE);
        bench.pass(Duration::from_secs(1199));
        assert_eq!(fetch(&bench, "GET", &link, "").await.status, 200);
        bench.pass(Duration::from_secs(1));
        let reply = fetch(&bench, "GET", &link, "").await;
        assert_eq!((reply.status, reply.header("content-type")), (403, "application/xml"));
        assert_eq!(
            reply.text(),
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
            let reply = fetch(&bench, method, link, "").await;
            assert_eq!(reply.status, expected, "{method} {link}");
            assert!(reply.text().contains(part), "{method} {link}: {}", reply.text());
            assert_eq!(reply.body.is_empty(), method == "HEAD");
        }
    }
}
