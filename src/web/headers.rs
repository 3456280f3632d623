//! What every answer has: its id, where it came from, and that nobody may guess what the answer does not say.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::{
    cache_status::{CACHE_STATUS, CacheStatus},
    guard,
    problem::Problem,
};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The caller's request id, if it may be repeated, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let own = || format!("{:032x}", fastrand::u128(..));
    guard::sane_request_id(headers).map_or_else(own, str::to_owned)
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
    headers.insert(X_REQUEST_ID.clone(), id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A browser would otherwise guess for how long the answer is fresh.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
