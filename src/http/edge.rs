//! The outermost layer: what every request and every answer goes through, in order.
//!
//! In: request id, guard. Out: problems rendered, headers that every answer has, one log line.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    guard,
    metrics::{Answered, Endpoint, Requests, Verdict},
    problem::{self, Kind, Problem},
    unserved,
};
use crate::{
    clock::{Clock, Instant},
    key::LogHash,
    links::{Caller, Outcome},
    readiness::Readiness,
    server::{HeadTooLarge, LastRequest, Peer, Unserved},
    source::SourceUrl,
    telemetry::trace::{Span, TraceId, Tracer},
    upstream::{Chain, Party},
};

/// What the layer needs to know; one for each interface.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) clock: Clock,
    pub(crate) log_hash: LogHash,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) request_timeout: Duration,
    pub(crate) readiness: Readiness,
    /// What is watched; `None` on the admin interface, whose requests are its watchers' own.
    pub(crate) watched: Option<Watched>,
}

/// Where requests of the data interface are counted and traced.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) requests: Requests,
    pub(crate) tracer: Tracer,
}

/// What is known of a request before its handler runs.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: Arc<str>,
    /// No caller waits beyond this.
    pub(crate) deadline: Instant,
    /// Its place in a trace.
    pub(crate) span: Span,
    /// With whom it takes turns where it must wait.
    pub(crate) party: Party,
}

impl Call {
    /// As `links` knows it.
    pub(crate) fn caller(&self) -> Caller {
        Caller { deadline: self.deadline, span: self.span.clone(), party: self.party }
    }
}

/// Attached to an answer that is about one source URL, for whoever watches.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) source: SourceUrl,
    pub(crate) outcome: Outcome,
    /// Of its link, to the real end.
    pub(crate) life_left: Duration,
}

/// Attached to a batch's answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServedBatch;

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(crate) async fn layer(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let began = edge.clock.now();
    let request_id: Arc<str> = request_id(request.headers()).into();
    let (method, version) = (request.method().clone(), request.version());
    let path = request.uri().path().to_owned();
    let span = edge.watched.as_ref().map_or_else(Span::default, |watched| {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let place = header("traceparent");
        // Nothing without the other.
        watched.tracer.request(place, place.and_then(|_| header("tracestate")))
    });
    let deadline = began + edge.request_timeout;
    let party = party(request.extensions().get());
    request.extensions_mut().insert(Call { request_id: Arc::clone(&request_id), deadline, span: span.clone(), party });

    let is_last = request.extensions().get::<LastRequest>().is_some();
    let is_too_large = request.extensions().get::<HeadTooLarge>().is_some();
    let (parts, body) = request.into_parts();
    let method = known(&method);
    let mut caller =
        Waiting { edge: &edge, began, method, path: &path, request_id: &request_id, span: &span, is_there: true };
    let refused = match guard::check(&parts, &edge.allowed_hosts) {
        Err(problem) if problem.kind == Kind::UriTooLong => Some(problem),
        Ok(()) | Err(_) if is_too_large => Some(unserved::problem(Unserved::HeadTooLarge)),
        checked => checked.err(),
    };
    let mut response = match refused {
        None => next.run(Request::from_parts(parts, body)).await,
        Some(problem) => problem.into_response(),
    };
    caller.is_there = false;
    finish(&mut response, &path, &request_id);
    if (is_last || edge.readiness.is_draining()) && version <= Version::HTTP_11 {
        // What follows on this connection could not be told apart; or it drains, and keep-alive peers go elsewhere while
        // there is time. HTTP/2 has its own way, and forbids this one.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let record = Record::of(&response, edge.clock.now().since(began));
    if let Some(watched) = &edge.watched {
        watched.requests.answered(&record.answered(span.sampled_trace_id()));
        record.trace(&span, method);
    }
    record.log(&edge, method, &request_id, &span);
    response
}

/// With whom a request of `peer`'s takes turns.
fn party(peer: Option<&Peer>) -> Party {
    // A machine of IPv6 has as many addresses as it likes in its network of 64 bits.
    let address = match peer.and_then(|peer| peer.address) {
        Some(IpAddr::V4(address)) => u64::from(u32::from(address)),
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => u64::from(u32::from(address)),
            None => u64::try_from(u128::from(address) >> 64).expect("half of the bits fit"),
        },
        None => 0,
    };
    Party { address, connection: peer.map_or(0, |peer| peer.connection), request: fastrand::u64(..) }
}

/// Attaches the matched route, which the outermost layer cannot see, to the answer.
pub(crate) async fn note_endpoint(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(path) = path {
        response.extensions_mut().insert(path);
    }
    response
}

/// The one body for a panic: the payload may hold anything.
pub(crate) fn panicked(_payload: Box<dyn std::any::Any + Send + 'static>) -> Response {
    Problem::internal("kielink failed on this request. Its log tells more.").into_response()
}

pub(crate) async fn not_found(uri: Uri) -> Problem {
    // Whoever sends all of kie.ai's calls here finds out by this one.
    let detail = if problem::is_compat(uri.path()) {
        "Of kie.ai's calls, kielink serves POST /api/v1/common/download-url. Send all others to kie.ai, with a key of your own."
    } else {
        "There is nothing at this path."
    };
    Problem::refused(Kind::NotFound, detail)
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::refused(Kind::MethodNotAllowed, "This path does not take this method; Allow names those that it takes.")
}

/// The caller's, if it may be repeated, else a new one.
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
    let bypass = HeaderValue::from_static("kielink; fwd=bypass");
    match &problem {
        Some(problem) => {
            let status = HeaderValue::try_from(problem.cache_status()).unwrap_or(bypass);
            headers.insert(CACHE_STATUS.clone(), status);
        }
        None => drop(headers.entry(CACHE_STATUS.clone()).or_insert(bypass)),
    }
    let id = HeaderValue::try_from(request_id).expect("a sane request id fits into a header");
    headers.insert(X_REQUEST_ID.clone(), id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A browser would otherwise guess a freshness.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// A caller that waits for its answer. Dropped while it is there, its connection has gone, and with it whoever would have
/// counted, traced and logged the answer.
struct Waiting<'a> {
    edge: &'a Edge,
    began: Instant,
    method: &'static str,
    path: &'a str,
    request_id: &'a str,
    span: &'a Span,
    is_there: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(watched) = self.edge.watched.as_ref().filter(|_| self.is_there) else { return };
        // The route that matches is not known out here.
        let endpoint = Endpoint::of(Some(self.path));
        watched.requests.abandoned(endpoint);
        if self.span.is_recording() {
            name(self.span, self.method, endpoint);
            self.span.failed("abandoned");
            self.span.end();
        }
        let trace_id = self.span.trace_id().map(tracing::field::display);
        let duration_ms = self.edge.clock.now().since(self.began).as_micros() as f64 / 1000.0;
        let (request_id, method, endpoint) = (self.request_id, self.method, endpoint.as_str());
        tracing::debug!(request_id, trace_id, method, endpoint, duration_ms, "the caller hung up");
    }
}

/// The method's name. Those that HTTP does not know are of any length and of callers' choice: they are `_OTHER` to whoever watches,
/// as OpenTelemetry's conventions have it.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// By OpenTelemetry's conventions for HTTP.
fn name(span: &Span, method: &'static str, endpoint: Endpoint) {
    let route = endpoint.as_str();
    span.name(format!("{} {route}", if method == "_OTHER" { "HTTP" } else { method }));
    span.note("http.request.method", method);
    span.note("http.route", route);
}

/// One request and its answer, as metrics, trace and log tell of it.
struct Record<'a> {
    /// The route that matched.
    route: Option<&'a str>,
    served: Option<&'a Served>,
    is_batch: bool,
    problem: Option<&'a Problem>,
    source: Option<&'a SourceUrl>,
    outcome: Option<Outcome>,
    status: StatusCode,
    took: Duration,
}

impl<'a> Record<'a> {
    fn of(response: &'a Response, took: Duration) -> Record<'a> {
        let extensions = response.extensions();
        let problem = extensions.get::<Arc<Problem>>().map(|problem| &**problem);
        let served = extensions.get::<Served>();
        Record {
            route: extensions.get::<MatchedPath>().map(MatchedPath::as_str),
            served,
            is_batch: extensions.get::<ServedBatch>().is_some(),
            problem,
            source: served.map(|served| &served.source).or(problem.and_then(|problem| problem.source.as_ref())),
            outcome: served.map(|served| served.outcome).or(problem.map(|problem| problem.outcome)),
            status: response.status(),
            took,
        }
    }

    fn answered(&self, trace_id: Option<TraceId>) -> Answered {
        let verdict = match self.outcome {
            Some(outcome) => Verdict::Of(outcome),
            None if self.is_batch => Verdict::Batch,
            None => Verdict::None,
        };
        Answered {
            endpoint: Endpoint::of(self.route),
            verdict,
            status: self.status.as_u16(),
            took: self.took,
            life_left: self.served.map(|served| served.life_left),
            trace_id,
        }
    }

    /// Attributes by OpenTelemetry's conventions for HTTP, without the URL: it holds the source URL.
    fn trace(&self, span: &Span, method: &'static str) {
        if span.is_recording() {
            name(span, method, Endpoint::of(self.route));
            span.note("http.response.status_code", i64::from(self.status.as_u16()));
            if let Some(source) = self.source {
                span.note("kielink.source_host", source.host().to_owned());
            }
            if let Some(outcome) = self.outcome {
                span.note("kielink.outcome", outcome.as_str());
            }
            match self.problem {
                // A caller's own mistakes are no failures of the service's (the same conventions).
                Some(problem) if self.status.is_server_error() => span.failed(problem.kind.slug()),
                Some(problem) => span.note("error.type", problem.kind.slug()),
                None => {}
            }
            span.end();
        }
    }

    /// One line a request: hits and probes at `debug`, mints at `info`, failures at `warn`.
    fn log(&self, edge: &Edge, method: &'static str, request_id: &str, span: &Span) {
        let endpoint = self.route.unwrap_or_default();
        let status = self.status.as_u16();
        let duration_ms = self.took.as_micros() as f64 / 1000.0;
        let source_host = self.source.map(SourceUrl::host);
        // The hash is worked out only where the line is written.
        let source_hash = || self.source.map(|source| edge.log_hash.of(source.as_str()));
        let trace_id = span.trace_id().map(tracing::field::display);
        let outcome = self.outcome.map(Outcome::as_str);
        let kind = self.problem.map(|problem| problem.kind.slug());
        let cause = self.problem.and_then(|problem| problem.cause.as_ref()).map(|cause| Chain(&**cause).to_string());
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id,
                    trace_id,
                    method,
                    endpoint,
                    source_host,
                    source_hash = source_hash(),
                    outcome,
                    status,
                    problem = kind,
                    cause,
                    duration_ms,
                    "request",
                )
            };
        }
        match self.outcome {
            Some(Outcome::Error) => line!(warn),
            Some(Outcome::Miss) => line!(info),
            Some(Outcome::Refused | Outcome::Negative) if self.status != StatusCode::NOT_FOUND => line!(info),
            Some(Outcome::Hit | Outcome::HitRefresh | Outcome::Joined | Outcome::Negative | Outcome::Refused)
            | None => {
                line!(debug);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_one_address_and_every_request_its_own() {
        let of = |address: Option<&str>| {
            party(Some(&Peer { address: address.map(|text| text.parse().unwrap()), connection: 7 }))
        };
        let one = of(Some("10.0.0.1"));
        assert_eq!(one.connection, 7);
        assert_ne!(one.request, of(Some("10.0.0.1")).request);
        for (other, same) in [
            (of(Some("10.0.0.1")), true),
            (of(Some("::ffff:10.0.0.1")), true),
            (of(Some("10.0.0.2")), false),
            (of(Some("2001:db8::1")), false),
            (of(None), false),
        ] {
            assert_eq!(one.address == other.address, same);
        }
        assert_eq!(of(Some("2001:db8::1")).address, of(Some("2001:db8::2")).address, "one network of 64 bits");
        assert_ne!(of(Some("2001:db8::1")).address, of(Some("2001:db8:0:1::1")).address);
    }
}
