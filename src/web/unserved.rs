//! What is said where there is no request: problems, as the whole answers that `server` sends in the place of a
//! service.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::IntoResponse,
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use jiff::Timestamp;

use super::{
    date, guard, headers,
    problem::{Kind, Problem},
    request_id,
};
use crate::{
    clock::Clock,
    server::{Refuse, Unserved},
};

/// What `server` writes these answers with.
pub(crate) fn refuse(clock: Clock) -> Refuse {
    std::sync::Arc::new(move |why, id| {
        let id = request_id(id);
        let problem = problem(why);
        tracing::debug!(request_id = id, status = problem.kind.status(), "no request came that could be served");
        whole(problem, &id, clock.wall())
    })
}

pub(super) fn problem(why: Unserved) -> Problem {
    match why {
        Unserved::Malformed => Problem::refused(
            Kind::MalformedRequest,
            "What came is no HTTP request, or has a character where none may be. Only plain HTTP is spoken here.",
        ),
        Unserved::TargetTooLong => {
            let detail = format!("The request's URI is longer than {} bytes.", guard::MAX_URI_BYTES);
            Problem::refused(Kind::UriTooLong, detail)
        }
        Unserved::HeadTooLarge => Problem::refused(
            Kind::HeadTooLarge,
            "The request's headers are too many, or too large. kielink needs none of them but Host.",
        ),
        Unserved::TooManyConnections => {
            Problem::refused(Kind::Overloaded, "Too many connections are open. Close some and try again.")
        }
    }
}

/// The id that came with the head, if it may be repeated, else a new one.
fn request_id(found: Option<&[u8]>) -> String {
    let mut headers = HeaderMap::new();
    if let Some(value) = found.and_then(|found| HeaderValue::from_bytes(found).ok()) {
        headers.insert(request_id::X_REQUEST_ID.clone(), value);
    }
    request_id::of(&headers)
}

/// The answer as it stands on the wire, in HTTP/1.1.
fn whole(problem: Problem, id: &str, wall: Timestamp) -> Vec<u8> {
    let mut response = problem.into_response();
    headers::finish(&mut response, "/", id);
    let (parts, body) = response.into_parts();
    let body = body.collect().now_or_never().expect("a problem's body is there").expect("and has no errors").to_bytes();
    let status = parts.status;
    let mut answer =
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
    answer.extend_from_slice(b"date: ");
    date::push(&mut answer, wall);
    answer.extend_from_slice(format!("\r\nconnection: close\r\ncontent-length: {}\r\n", body.len()).as_bytes());
    headers::push_lines(&mut answer, parts.headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH));
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_whole_problem() {
        for (why, status, slug) in [
            (Unserved::Malformed, "400 Bad Request", "malformed-request"),
            (Unserved::TargetTooLong, "414 URI Too Long", "uri-too-long"),
            (Unserved::HeadTooLarge, "431 Request Header Fields Too Large", "head-too-large"),
            (Unserved::TooManyConnections, "503 Service Unavailable", "overloaded"),
        ] {
            let answer = String::from_utf8(refuse(Clock::system())(why, Some(b"from-the-caller"))).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            for line in [
                format!("HTTP/1.1 {status}"),
                "connection: close".to_owned(),
                "content-type: application/problem+json".to_owned(),
                "cache-control: no-store".to_owned(),
                format!("cache-status: kielink; fwd=bypass; detail={slug}"),
                "x-request-id: from-the-caller".to_owned(),
                format!("content-length: {}", body.len()),
            ] {
                assert_eq!(head.split("\r\n").filter(|found| **found == line).count(), 1, "{line:?} in {head}");
            }
            assert_eq!(head.contains("\r\nretry-after: 1"), why == Unserved::TooManyConnections, "{head}");
            let document: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(document["type"], format!("urn:kielink:problem:{slug}"));
            assert_eq!(document["request_id"], "from-the-caller");
        }
    }

    #[test]
    fn an_id_that_may_not_be_repeated_is_replaced() {
        for found in [None, Some(b"".as_slice()), Some(b"a b"), Some(b"\xff"), Some(b"a\0")] {
            assert_eq!(request_id(found).len(), 32, "{found:?}");
        }
    }
}
