//! Reads the heads of requests that hyper may never see. Keeps the last one: a client's next head hardly ever differs from it in
//! more than its target.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request::Parts};
use httparse::Status;
use memchr::{memchr, memchr2};

/// A head with more headers than this is hyper's.
const MOST_HEADERS: usize = 32;

/// SECURITY: a head of more bytes than this, its request line aside, is not kept. Every connection may keep one.
const KEPT_BYTES: usize = 1024;

/// The last head that was read.
#[derive(Debug, Default)]
pub(super) struct LastHead {
    /// The lines behind its request line, as they came, to the empty one.
    lines: Vec<u8>,
    head: Option<Parts>,
}

impl LastHead {
    /// Head and body of a request over HTTP/1.1; `None` where it is one for hyper, or none.
    ///
    /// Where the lines behind the request line are those of the last head, byte for byte, they say the same.
    pub(super) fn read<'a>(&mut self, request: &'a [u8]) -> Option<(&Parts, &'a [u8])> {
        let request = without_empty_lines(request);
        let (line, rest) = request.split_at(memchr(b'\n', request)? + 1);
        let (method, uri) = request_line(line)?;
        if self.head.is_none() || !rest.starts_with(&self.lines) {
            self.head = None;
            let (length, headers) = headers(rest)?;
            let (mut head, ()) = Request::new(()).into_parts();
            head.headers = headers;
            self.head = Some(head);
            self.lines.clear();
            self.lines.extend_from_slice(&rest[..length]);
        }
        let head = self.head.as_mut()?;
        (head.method, head.uri) = (method, uri);
        Some((head, &rest[self.lines.len()..]))
    }

    /// To be called once what was read is not needed any more.
    pub(super) fn forget_if_large(&mut self) {
        if self.lines.len() > KEPT_BYTES {
            *self = LastHead::default();
        }
    }
}

/// Whether `bytes`, in which no head ends, may be the beginning of a head, and are not worth an answer of hyper's already.
pub(super) fn is_begun(bytes: &[u8]) -> bool {
    let mut found = [httparse::EMPTY_HEADER; MOST_HEADERS];
    matches!(httparse::Request::new(&mut found).parse(bytes), Ok(Status::Partial))
}

/// Empty lines before a request line are passed over (RFC 9112 section 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    bytes
}

/// `line` ends with CRLF.
fn request_line(line: &[u8]) -> Option<(Method, Uri)> {
    let line = line.strip_suffix(b" HTTP/1.1\r\n")?;
    let (method, target) = line.split_at(memchr(b' ', line)?);
    // SECURITY: what is more lenient than hyper's parser where a URI is made (http 1.5): DEL, and everything behind a `#`.
    let target = Some(&target[1..]).filter(|target| memchr2(b'#', 0x7f, target).is_none())?;
    Some((Method::from_bytes(method).ok()?, Uri::try_from(target).ok()?))
}

/// The headers, and the length of their lines.
fn headers(lines: &[u8]) -> Option<(usize, HeaderMap)> {
    let mut found = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let Ok(Status::Complete((length, found))) = httparse::parse_headers(lines, &mut found) else { return None };
    let mut headers = HeaderMap::with_capacity(found.len());
    for header in found {
        headers
            .append(HeaderName::from_bytes(header.name.as_bytes()).ok()?, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some((length, headers))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use axum::{body::Body, http::Response};
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A head's parts, and the body.
    type Found = (Method, Uri, HeaderMap, Vec<u8>);

    fn read(last: &mut LastHead, request: &[u8]) -> Option<Found> {
        let (head, body) = last.read(request)?;
        Some((head.method.clone(), head.uri.clone(), head.headers.clone(), body.to_vec()))
    }

    /// What hyper hands on of it, if anything.
    async fn by_hyper(request: &[u8]) -> Option<Found> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let found = Mutex::new(None);
        let service = service_fn(async |request: Request<hyper::body::Incoming>| {
            let (head, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes().to_vec());
            *found.lock().unwrap() = Some((head.method, head.uri, head.headers, body.unwrap_or_default()));
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
        found.into_inner().unwrap()
    }

    /// Requests as callers send them, or nearly so; with bodies of one byte.
    fn requests() -> impl Strategy<Value = String> {
        const LINES: [&str; 15] = [
            "GET /v1/link?url=https%3A%2F%2Fa HTTP/1.1",
            "GET /v1/link?url=b&c=\"<> HTTP/1.1",
            "POST /x HTTP/1.1",
            "GET http://host/x HTTP/1.1",
            "GET /x?y#z HTTP/1.1",
            "GET /x#\rz HTTP/1.1",
            "GET /x#\x7f HTTP/1.1",
            "GET /x# HTTP/1.0 HTTP/1.1",
            "GET /x#\u{e9} HTTP/1.1",
            "\r\n\r\nGET /x HTTP/1.1",
            "GET * HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /x HTTP/1.0",
            "odd * HTTP/1.1",
        ];
        const HEADERS: [&str; 9] = [
            "host: localhost",
            "Host:\tlocalhost  ",
            "cache-control: no-cache",
            "Cache-Control: max-age=1",
            "x-odd: \u{e9}",
            "x-empty:",
            "x odd: 1",
            "x-odd : 1",
            "no colon",
        ];
        let headers = prop::collection::vec(prop::sample::select(&HEADERS[..]), 0..5);
        (prop::sample::select(&LINES[..]), headers, any::<bool>()).prop_map(|(line, headers, has_body)| {
            let mut text = format!("{line}\r\n");
            headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
            text.push_str(if has_body { "content-length: 1\r\n\r\nx" } else { "\r\n" });
            text
        })
    }

    proptest! {
        #[test]
        fn a_head_is_read_as_hyper_reads_it_and_whatever_came_before(
            requests in prop::collection::vec(requests(), 1..5),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut last = LastHead::default();
            for request in &requests {
                let found = read(&mut last, request.as_bytes());
                prop_assert_eq!(&found, &read(&mut LastHead::default(), request.as_bytes()));
                let by_hyper = runtime.block_on(by_hyper(request.as_bytes()));
                // Where hyper sees no request, it has an answer of its own.
                let is_for_hyper = by_hyper.is_none() || request.contains("HTTP/1.0") || request.contains('#');
                prop_assert_eq!(&found, &by_hyper.filter(|_| !is_for_hyper), "{:?}", request);
            }
        }
    }

    #[tokio::test]
    async fn no_byte_anywhere_is_taken_that_hyper_does_not_take() {
        let request = b"GET http://host:80/path?query HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut taken = 0;
        for at in 0..request.len() {
            // A line feed of its own is refused by `framing`.
            for byte in (0..=u8::MAX).filter(|byte| *byte != b'\n') {
                let mut request = request.to_vec();
                request[at] = byte;
                if let Some(found) = read(&mut LastHead::default(), &request) {
                    taken += 1;
                    assert_eq!(by_hyper(&request).await, Some(found), "{:?}", request.escape_ascii().to_string());
                }
            }
        }
        assert!(taken > 4000, "{taken}");
    }

    #[test]
    fn what_is_no_usual_head_is_left_to_hyper() {
        let many = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        for (request, is_read) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            (&many(MOST_HEADERS), true),
            (&many(MOST_HEADERS + 1), false),
            ("GET / HTTP/1.1\r\na: b\r\n", false),
            ("GET / HTTP/1.1\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("\r\nGET / HTTP/1.1\r\n\r\n", true),
            ("GET /#a HTTP/1.1\r\n\r\n", false),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", true),
            ("GET HTTP/1.1\r\n\r\n", false),
            ("GET  HTTP/1.1\r\n\r\n", false),
            ("G T / HTTP/1.1\r\n\r\n", false),
            (" / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1", false),
            ("", false),
        ] {
            assert_eq!(read(&mut LastHead::default(), request.as_bytes()).is_some(), is_read, "{request:?}");
        }
    }

    #[test]
    fn what_begins_a_head_is_known_from_its_first_byte() {
        let head = "\r\nGET /x HTTP/1.1\r\nhost: h\r\n\r\n";
        assert!((0..head.len()).all(|length| is_begun(&head.as_bytes()[..length])));
        for other in
            [head, "\x16\x03\x01", "GET /x HTTP/3\r\n", "PRI * HTTP/2.0\r\n", "GET /\0", "GET /x HTTP/1.1\r\n a: b"]
        {
            assert!(!is_begun(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_large_head_is_not_kept() {
        for (bytes, is_kept) in [(KEPT_BYTES, true), (KEPT_BYTES + 1, false)] {
            let mut last = LastHead::default();
            let lines = format!("a: {}\r\n\r\n", "b".repeat(bytes - "a: \r\n\r\n".len()));
            assert!(read(&mut last, format!("GET / HTTP/1.1\r\n{lines}").as_bytes()).is_some());
            last.forget_if_large();
            assert_eq!((last.head.is_some(), last.lines.capacity() > 0), (is_kept, is_kept), "{bytes}");
        }
    }

    #[test]
    fn the_same_lines_are_not_read_again() {
        let mut last = LastHead::default();
        let (first, second) = ("GET /a HTTP/1.1\r\nhost: h\r\n\r\n", "POST /b HTTP/1.1\r\nhost: h\r\n\r\nabc");
        assert!(read(&mut last, first.as_bytes()).is_some());
        last.head.as_mut().unwrap().headers.insert("known", HeaderValue::from_static("yes"));
        let (method, uri, headers, body) = read(&mut last, second.as_bytes()).unwrap();
        assert_eq!((method, uri.path(), &*body), (Method::POST, "/b", b"abc".as_slice()));
        assert!(headers.contains_key("known"));
        let longer = "GET /a HTTP/1.1\r\nhost: h\r\nx: y\r\n\r\n";
        assert!(!read(&mut last, longer.as_bytes()).unwrap().2.contains_key("known"));
    }
}
