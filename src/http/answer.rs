//! Answers that carry a link: what every one of them says besides the link itself.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

use crate::{
    clock::{self, Clock},
    links::{Lookup, Times},
    source::SourceUrl,
    web::{
        cache_status::{CACHE_STATUS, CacheStatus},
        record::Served,
    },
};

/// A link as `/v1/` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct LinkView<'a> {
    source_url: &'a str,
    url: &'a str,
    /// RFC 3339, UTC, whole seconds, rounded down.
    expires_at: String,
}

impl<'a> LinkView<'a> {
    /// `times` tells how long the link lives.
    pub(crate) fn new(source: &'a SourceUrl, lookup: &'a Lookup, times: &Times, clock: &Clock) -> LinkView<'a> {
        // Not `lookup.now`: a batch's first link may have waited for its last, and the wall clock has gone on.
        let end = clock.wall_at(times.ends_at, clock.now());
        LinkView { source_url: source.as_str(), url: lookup.entry.link.as_str(), expires_at: clock::rfc3339(end) }
    }
}

/// `body` with the headers that tell where the link came from and how long it may be used.
///
/// No `Age`: `max-age` counts from now, and a cache would take `Age` off it a second time (RFC 9111 section 4.2.3). No
/// `stale-*` directive: a link is alive or dead.
pub(crate) fn with_link(source: SourceUrl, lookup: &Lookup, status: StatusCode, body: Body) -> Response {
    let times = &lookup.times;
    let to_deadline = lookup.now.until(times.deadline).as_secs();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let life = HeaderValue::try_from(format!("private, max-age={to_deadline}")).expect("a number fits into a header");
    headers.insert(header::CACHE_CONTROL, life);
    let status = CacheStatus::Link { found: lookup.found, forced: lookup.forced, ttl: to_deadline };
    headers.insert(&CACHE_STATUS, status.header());
    let life_left = lookup.now.until(times.ends_at);
    response.extensions_mut().insert(Served { source, found: lookup.found, life_left });
    response
}
