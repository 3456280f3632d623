//! What every answer has: its id, where it came from, and that nobody may guess what the answer does not say.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::{
    cache_status::{CACHE_STATUS, CacheStatus},
    problem::Problem,
    request_id::X_REQUEST_ID,
};

/// What every answer has, whatever it says.
pub(crate) fn sign(headers: &mut HeaderMap, request_id: HeaderValue) {
    headers.insert(&X_REQUEST_ID, request_id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Headers as they stand on the wire, in HTTP/1.1, written behind `head`.
pub(crate) fn push_lines<'a>(head: &mut Vec<u8>, headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
}

pub(super) fn finish(response: &mut Response, path: &str, request_id: &str) {
    let problem = response.extensions().get::<Arc<Problem>>().cloned();
    if let Some(problem) = &problem {
        problem.render(path, request_id, response);
    }
    let headers = response.headers_mut();
    match &problem {
        Some(problem) => drop(headers.insert(&CACHE_STATUS, problem.cache_status().header())),
        None => drop(headers.entry(&CACHE_STATUS).or_insert_with(|| CacheStatus::Bypass.header())),
    }
    let id = HeaderValue::try_from(request_id).expect("a sane request id fits into a header");
    sign(headers, id);
    // A browser would otherwise guess for how long the answer is fresh.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
