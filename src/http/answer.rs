//! Answers that carry a link: what every one of them says besides the link itself.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use jiff::Timestamp;
use memchr::memchr2;

use crate::{
    clock,
    credits::{self, Given},
    link::Link,
    links::{Found, Lookup},
    source::Source,
    web::{
        cache_status::{CACHE_STATUS, CacheStatus, push_number},
        record::Served,
    },
};

/// What a link was asked for, as a document names it.
pub(crate) enum Named<'a> {
    Source(&'a Source),
    /// A source URL's text that is a `Normal`, in which nothing has to be escaped.
    Normal(&'a str),
}

/// A link as `/v1/` shows it: `{"source_url","url","expires_at"}`, the last in RFC 3339, UTC, whole seconds, rounded
/// down; and `task_id`, where there is one. `ends_at` is when the link's life is over.
pub(crate) fn document(named: Named<'_>, link: &Link, ends_at: Timestamp) -> Vec<u8> {
    let texts = match named {
        Named::Normal(url) => url.len(),
        Named::Source(source) => {
            source.url().len() + source.task().map_or(0, |task| r#","task_id":"""#.len() + task.len())
        }
    };
    // Exact where nothing has to be escaped: a full `Vec` becomes `Bytes` without a reference count (bytes 1.12).
    let frame = r#"{"source_url":"","url":"","expires_at":"2026-11-23T03:40:00Z"}"#;
    let mut json = Vec::with_capacity(texts + link.as_str().len() + frame.len());
    push_document(&mut json, named, link, ends_at);
    json
}

/// The same, written behind `json`.
pub(crate) fn push_document(json: &mut Vec<u8>, named: Named<'_>, link: &Link, ends_at: Timestamp) {
    json.extend_from_slice(br#"{"source_url":"#);
    match named {
        Named::Normal(url) => push_plain(json, url),
        Named::Source(source) => {
            push_text(json, source.url());
            if let Some(task) = source.task() {
                json.extend_from_slice(br#","task_id":"#);
                push_text(json, task);
            }
        }
    }
    json.extend_from_slice(br#","url":"#);
    push_text(json, link.as_str());
    json.extend_from_slice(br#","expires_at":""#);
    clock::push_rfc3339(json, ends_at);
    json.extend_from_slice(br#""}"#);
}

/// A link in kie.ai's own envelope.
pub(crate) fn envelope(link: &Link) -> Vec<u8> {
    let mut json = Vec::with_capacity(link.as_str().len() + r#"{"code":200,"msg":"success","data":""}"#.len());
    json.extend_from_slice(br#"{"code":200,"msg":"success","data":"#);
    push_text(&mut json, link.as_str());
    json.push(b'}');
    json
}

/// A text without control characters, as links and source URLs are. Hardly ever is there anything to escape: to copy it
/// takes a tenth of the time in which a serialiser looks at every letter.
fn push_text(json: &mut Vec<u8>, text: &str) {
    if memchr2(b'"', b'\\', text.as_bytes()).is_none() {
        push_plain(json, text);
    } else {
        serde_json::to_writer(json, text).expect("a text serialises");
    }
}

/// A text in which nothing has to be escaped.
fn push_plain(json: &mut Vec<u8>, text: &str) {
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

/// For how long the link may be used, as `Cache-Control` says it, written behind `text`.
///
/// No `Age` beside it: `max-age` counts from now, and a cache would take `Age` off it a second time (RFC 9111 section
/// 4.2.3). No `stale-*` directive: a link is alive or dead.
pub(crate) fn push_life(text: &mut Vec<u8>, lookup: &Lookup) {
    text.extend_from_slice(b"private, max-age=");
    push_number(text, seconds_to_deadline(lookup));
}

/// The same, as a header.
pub(crate) fn life(lookup: &Lookup) -> HeaderValue {
    let mut text = Vec::new();
    push_life(&mut text, lookup);
    HeaderValue::try_from(text).expect("a number fits into a header")
}

/// Where the link came from.
pub(crate) fn cache_status(lookup: &Lookup) -> CacheStatus {
    CacheStatus::Link { found: lookup.found, forced: lookup.forced, ttl: seconds_to_deadline(lookup) }
}

pub(crate) fn seconds_to_deadline(lookup: &Lookup) -> u64 {
    lookup.now.until(lookup.times.deadline).as_secs()
}

pub(crate) fn location(link: &Link) -> HeaderValue {
    HeaderValue::from_str(link.as_str()).expect("a Link fits into a header")
}

pub(crate) fn json_type(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// `body` with the headers that tell of the link, and a note for those who count and log.
pub(crate) fn with_link(source: Source, lookup: &Lookup, status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, life(lookup));
    headers.insert(&CACHE_STATUS, cache_status(lookup).header());
    let life_left = lookup.now.until(lookup.times.ends_at);
    response.extensions_mut().insert(Served { source, found: lookup.found, life_left });
    response
}

/// The credits left, in kie.ai's own envelope.
pub(crate) fn credits(given: &Given) -> Response {
    let body = format!(r#"{{"code":200,"msg":"success","data":{}}}"#, given.seen.left);
    let mut response = Response::new(Body::from(body));
    json_type(response.headers_mut());
    let found = match given.found {
        credits::Found::Seen => Found::Hit,
        credits::Found::Asked => Found::Miss,
        credits::Found::Joined => Found::Joined,
    };
    let status = CacheStatus::Link { found, forced: false, ttl: given.left.as_secs() };
    response.headers_mut().insert(&CACHE_STATUS, status.header());
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_written_as_serde_writes_it(text in "[ -~]{0,40}|[\\PC\"\\\\]{0,40}") {
            let mut json = Vec::new();
            push_text(&mut json, &text);
            prop_assert_eq!(json, serde_json::to_vec(&text).unwrap());
        }
    }

    #[test]
    fn an_envelope_takes_what_it_is_long() {
        let link = Link::parse("https://h.example/a", &crate::link::Policy::default()).unwrap();
        let json = envelope(&link);
        assert_eq!(json, br#"{"code":200,"msg":"success","data":"https://h.example/a"}"#);
        assert_eq!(json.capacity(), json.len(), "bytes that nobody is charged for");
    }

    #[test]
    fn a_document_takes_what_it_is_long() {
        let link = Link::parse("https://h.example/a", &crate::link::Policy::default()).unwrap();
        let text = "https://file.kie.ai/a.png";
        let alone = Source::parse(text).unwrap();
        let of_task = alone.clone().of_task("t1").unwrap();
        for (named, has_task) in
            [(Named::Normal(text), false), (Named::Source(&alone), false), (Named::Source(&of_task), true)]
        {
            let json = document(named, &link, Timestamp::UNIX_EPOCH);
            let told: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(told.get("task_id").is_some(), has_task);
            assert_eq!(json.capacity(), json.len(), "{told}");
        }
    }
}
